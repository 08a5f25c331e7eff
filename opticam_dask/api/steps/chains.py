"""Record of the steps that the frames of a dataset went through, and the task that does them for one chunk.

A step adds to the chain of its dataset; the numbers are made by the block functions of the passes, from the frames as
they were read, so that they are those of the durable reduction bit for bit.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from opticam_dask import schema
from opticam_dask.frames.fits.errors import FrameError
from opticam_dask.frames.fits.read_pixels import ReadPixels
from opticam_dask.frames.instruments import Instrument
from opticam_dask.kernels.images import masters as masters_kernel
from opticam_dask.parameters import ReductionParameters
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

#: What each step makes of frames beside flags, by its depth.
MADE = {
    SKY: ("background", "background_rms", *SURVEYED_MESHES[:2]),
    DETECTED: ("fwhm", "n_sources", *(entry.name for entry in schema.SOURCES)),
    ALIGNED: (
        *("transform", "transform_rms", "n_matched", "form_terms", *(f"star_{name}" for name in FORM)),
        *SURVEYED_MESHES[2:],
    ),
}

#: Mean exposure time of darks (seconds), and their electrons per ADU where the bias is taken off them.
DARK_FACTS = ("dark_exposure_time", "dark_gain")

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
        Shape of a frame as read, ``(ny, nx)``.
    binning : int
        Binning of the frames by the detector.
    depth : int
        The last step: 0 for frames as they were read.
    masters : tuple of str
        Variables of master frames, which tasks get, and `DARK_FACTS`, as far as there are any.
    is_known : bool
        Whether the variables of the steps are computed, so that later steps take them as they are.
    is_coadded : bool
        Whether these are sums of frames.
    errors : str
        Name of the extension with the errors of the pixels; empty without.
    has_overscan : bool
        Whether an overscan was taken off the pixels.
    """

    setup: Setup
    shape: tuple[int, int]
    binning: int
    depth: int = 0
    masters: tuple[str, ...] = ()
    is_known: bool = False
    is_coadded: bool = False
    errors: str = ""
    has_overscan: bool = False

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
        given = dict(zip(self.masters, arrays, strict=True))
        facts = [float(given[name][0]) if name in given else None for name in DARK_FACTS]
        frames = {name: np.reshape(values, self.shape) for name, values in given.items() if name not in DARK_FACTS}
        made = as_masters(frames, *facts)
        return replace(steps, masters=functools.partial(_same, made), has_flat="flat" in self.masters)

    @property
    def parameters(self) -> ReductionParameters:
        """Parameters of its steps."""
        return self.setup.parameters


def _same(made: masters_kernel.Masters) -> masters_kernel.Masters:
    return made


@dataclass(frozen=True)
class FrameTask:
    """Task on a chunk of frames: computes every variable that the dataset holds of them.

    Attributes
    ----------
    chain : Chain
        Steps that the frames go through.
    name : str
        Name of the task, for the dashboard.
    """

    chain: Chain
    name: str = "step"

    def __call__(self, images: np.ndarray, table: np.ndarray, *shared: np.ndarray) -> list[dict[str, Any]]:
        """Records of the frames."""
        if self.chain.depth == CALIBRATED:
            return [_calibrated(self.steps(shared), entry) for entry in self.entries(images, table)]
        return records_of(self.arrays(self.steps(shared), self.entries(images, table), table))

    def entries(self, images: np.ndarray | Iterator[np.ndarray], table: np.ndarray) -> Iterator[dict[str, Any]]:
        """Input of the steps for each frame: header values, and pixels with the errors that the file may hold."""
        names, reads = table.dtype.names or (), self.chain.errors or self.chain.has_overscan
        reader = replace(self.chain, masters=()).steps().reader
        for image, row in zip(images, table, strict=True):
            entry = dict(zip(names, row.tolist(), strict=True))
            if image.size and image.min() != image.max():
                entry["pixels"] = image
            # a frame that could not be read is blank here: its file says why
            if reads and isinstance(images, np.ndarray):  # others were read just now
                with contextlib.suppress(FrameError):
                    read = reader.read(entry["file"])
                    if "pixels" in entry and isinstance(read, ReadPixels):
                        entry["pixels"] = ReadPixels.of(entry["pixels"], read.variance, read.taken)
            yield entry

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
        self, steps: FrameSteps, entries: Iterable[dict[str, Any]], table: np.ndarray, job: Aligning | None = None
    ) -> dict[str, np.ndarray]:
        """First-pass arrays of the frames by name, as far as the chain goes."""
        results = []
        for entry in entries:
            result = self.reduced(job, steps, entry)
            # pixels of one frame at a time
            result.subtracted = result.saturated = result.frame = result.is_whole = result.is_saturated = None
            results.append(result)
        return flat_arrays(steps, results, table)

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
