"""Record of the steps that the frames of a dataset went through, and the task that does them for one chunk.

A step adds to the chain of its dataset; the numbers are made by the block functions of the passes, from the frames as
they were read, so that they are those of the durable reduction bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from opticam_dask import schema
from opticam_dask.frames.instruments import Instrument
from opticam_dask.kernels.images import masters as masters_kernel
from opticam_dask.parameters import ReductionParameters
from opticam_dask.passes import probes as probing
from opticam_dask.passes.calibration import as_masters
from opticam_dask.pipeline.reduction import Setup
from opticam_dask.steps.align import Aligning, reduce_frame
from opticam_dask.steps.background import subtract_sky
from opticam_dask.steps.calibrate import load_image
from opticam_dask.steps.detect import detect_sources
from opticam_dask.steps.frame_steps import FrameProblem, FrameResult, FrameSteps
from opticam_dask.steps.records import block_arrays

#: How far a chain goes, in order: frames are in electrons,
CALIBRATED = 1
#: their sky is known,
SKY = 2
#: their sources are known,
DETECTED = 3
#: and their transforms.
ALIGNED = 4

#: Under this name a record of a frame has its headers and pixels.
ENTRY = "entry"

#: What frames and their sources both have.
FORM = ("semimajor_sigma", "semiminor_sigma", "orientation")

#: What the first pass finds of a frame, and its meshes, by the names of datasets.
SURVEYED = (
    *("flags", "message", "background", "background_rms", "fwhm", "n_sources"),
    *("transform", "transform_rms", "n_matched", "form_terms", *(f"star_{name}" for name in FORM)),
)
SURVEYED_MESHES = (
    "background_mesh",
    "background_rms_mesh",
    "background_offset_mesh",
    "background_mean_mesh",
    "background_n_sky",
)

#: Numbers of a reference beside its stars, in the order in which tasks get them.
REFERENCE_FACTS = ("reference_fwhm", "reference_minor_fwhm", "pile_up_level", "pile_up_gain")


@dataclass(frozen=True)
class Chain:
    """Steps that the frames of a dataset have been through, and their parameters.

    Attributes
    ----------
    setup : Setup
        Instrument, parameters and functions of the user's, as of a reduction.
    shape : (int, int)
        Of a frame as read, ``(ny, nx)``.
    binning : int
        Of the frames.
    depth : int
        The last step: 0 for frames as they were read.
    masters : tuple of str
        Variables of master frames, which tasks get.
    dark_time, dark_gain : float, optional
        Mean exposure time of the darks (seconds), and their electrons per ADU where the bias is taken off them.
    is_known : bool
        Whether the variables of the steps are computed, so that later steps take them as they are.
    is_coadded : bool
        Whether these are sums of frames.
    """

    setup: Setup
    shape: tuple[int, int]
    binning: int
    depth: int = 0
    masters: tuple[str, ...] = ()
    dark_time: float | None = None
    dark_gain: float | None = None
    is_known: bool = False
    is_coadded: bool = False

    @classmethod
    def of(cls, instrument: Instrument, shape: tuple[int, int], binning: int) -> Chain:
        """Chain of frames that were read."""
        return cls(Setup(Path(), instrument), shape, binning)

    @property
    def survey_names(self) -> tuple[str, ...]:
        """Variables of aligned frames that stacking and measuring need."""
        mesh = SURVEYED_MESHES if self.setup.background is None else ()
        return (*SURVEYED, *(entry.name for entry in schema.SOURCES), *mesh)

    def further(self, depth: int, *, parameters: Mapping[str, Any] | None = None, **own: Any) -> Chain:
        """The chain with one more step: its parameters, and functions of the user's own."""
        known = replace(self.setup.parameters, **(parameters or {}))
        return replace(self, depth=depth, is_known=False, setup=replace(self.setup, parameters=known, **own))

    def steps(self, arrays: Sequence[np.ndarray] = ()) -> FrameSteps:
        """Settings with which a task works on frames, with the values of the master frames."""
        steps = self.setup.steps(self.shape, self.binning)
        if not self.masters:
            return steps
        known = {name: np.reshape(values, self.shape) for name, values in zip(self.masters, arrays, strict=True)}
        made = as_masters(known, self.dark_time, self.dark_gain)
        return replace(steps, masters=functools.partial(_same, made), has_flat="flat" in self.masters)

    @property
    def parameters(self) -> ReductionParameters:
        """Parameters of its steps."""
        return self.setup.parameters


def _same(made: masters_kernel.Masters) -> masters_kernel.Masters:
    return made


def entries_of(images: np.ndarray, table: np.ndarray) -> list[dict[str, Any]]:
    """Header values and pixels of each frame, as the steps take them."""
    entries, names = [], table.dtype.names or ()
    for image, row in zip(images, table, strict=True):
        entry = dict(zip(names, row.tolist(), strict=True))
        if image.size and image.min() != image.max():
            entry["pixels"] = image
        # a frame that could not be read is blank here: its file says why
        entries.append(entry)
    return entries


@dataclass(frozen=True)
class FrameTask:
    """Task on a chunk of frames: computes every variable that the dataset holds of them.

    Attributes
    ----------
    chain : Chain
        The steps.
    name : str
        Of the task, for the dashboard.
    """

    chain: Chain
    name: str = "step"

    def __call__(self, images: np.ndarray, table: np.ndarray, *shared: np.ndarray) -> list[dict[str, Any]]:
        """Records of the frames."""
        if self.chain.depth == CALIBRATED:
            return [_calibrated(self.steps(shared), entry) for entry in entries_of(images, table)]
        return records_of(self.arrays(self.steps(shared), entries_of(images, table), table))

    def steps(self, shared: Sequence[np.ndarray]) -> FrameSteps:
        """Settings with which the task works on frames."""
        return self.chain.steps(shared[: len(self.chain.masters)])

    def aligning(self, shared: Sequence[np.ndarray]) -> Aligning:
        """Reference stars and limits with which the task aligns frames."""
        x, y, flux, facts = shared[len(self.chain.masters) : len(self.chain.masters) + 4]
        known, chosen = np.isfinite(x), self.chain.parameters
        steps = self.steps(shared)
        return Aligning(
            steps=steps,
            reference_xy=np.column_stack([x[known], y[known]]),
            reference_flux=flux[known],
            reference_fwhm=float(facts[0]),
            reference_minor_fwhm=float(facts[1]),
            reference_shape=steps.image_shape,
            transform_type=chosen.transform_type,
            rotation_limit=chosen.rotation_limit,
            translation_limit=chosen.translation_limit,
            scale_limit=chosen.scale_limit,
            expected_scale=1.0,
            n_alignment_sources=chosen.n_alignment_sources,
        )

    def arrays(
        self, steps: FrameSteps, entries: list[dict[str, Any]], table: np.ndarray, job: Aligning | None = None
    ) -> dict[str, np.ndarray]:
        """First-pass arrays of the frames by name, as far as the chain goes."""
        results = []
        for entry in entries:
            result = self.reduced(job, steps, entry)
            # pixels of one frame at a time
            result.subtracted = result.saturated = result.frame = result.is_whole = result.is_saturated = None
            results.append(result)
        return flat_arrays(steps, results, table)

    def saturated_where_piled(
        self, entries: list[dict[str, Any]], shared: Sequence[np.ndarray]
    ) -> list[dict[str, Any]]:
        """The frames with the saturation that the pixels of the reference night show."""
        level, gain = shared[len(self.chain.masters) + 3][2:4]
        if np.isnan(level) or self.chain.is_coadded:  # the pixels of a sum pile up nowhere
            return entries
        piled = probing.PileUp(float(level), float(gain), float("nan"), 0)
        return [
            entry | {"saturation": float(piled.lowered(np.array(entry["saturation"]), np.array(entry["gain"])))}
            for entry in entries
        ]

    def reduced(self, job: Aligning | None, steps: FrameSteps, entry: dict[str, Any]) -> FrameResult:
        """One frame as far as the chain goes."""
        if job is not None:
            return reduce_frame(job, entry)
        result = FrameResult()
        try:
            rms_image = subtract_sky(steps, entry, result)
            if self.chain.depth >= DETECTED:
                detect_sources(steps, rms_image, result)
        except FrameProblem as problem:
            result.flags |= problem.flag
            result.message = problem.message
        return result


def _calibrated(steps: FrameSteps, entry: dict[str, Any]) -> dict[str, Any]:
    """Electrons and saturated pixels of one frame; NaN and a flag where it cannot be used."""
    try:
        image = load_image(steps, entry)
    except FrameProblem as problem:
        nothing = np.full(steps.image_shape, np.nan)
        flags = int(problem.flag | 1) | int(entry["scan_flags"])
        return {"image": nothing, "saturated": False, "flags": flags, "message": problem.message}
    saturated = False if image.saturated is None else image.saturated
    flags = 1 | int(entry["scan_flags"])
    return {"image": image.electrons, "saturated": saturated, "flags": flags, "message": ""}


def flat_arrays(steps: FrameSteps, results: list[FrameResult], table: np.ndarray) -> dict[str, np.ndarray]:
    """First-pass arrays of frames by name; a name that frames and sources share is that of the sources."""
    manifest = {"scan_flags": table["scan_flags"].astype(np.uint32)}
    groups = block_arrays(steps, results, manifest)
    form = {f"star_{name}": groups["frames"][name] for name in FORM}
    return groups["frames"] | form | groups.get("background", {}) | groups["sources"]


def records_of(arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Arrays over frames as a record of each frame."""
    n_frames = len(next(iter(arrays.values())))
    return [{name: values[index] for name, values in arrays.items()} for index in range(n_frames)]
