"""What the frames of a dataset have been through: the chain of steps that one task does with a chunk of frames.

A step adds to the chain of its dataset; the numbers are made by the block functions of the passes, from the frames as
they were read, so that they are those of the durable reduction bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from opticam_dask.flags import UNUSABLE
from opticam_dask.frames.instruments import Instrument
from opticam_dask.kernels.images import masters as masters_kernel
from opticam_dask.kernels.images.stack import PartialStack
from opticam_dask.parameters import ReductionParameters
from opticam_dask.passes import probes as probing
from opticam_dask.passes import sampled_frames, star_profiles
from opticam_dask.passes.calibration import as_masters
from opticam_dask.pipeline.reduction import Setup
from opticam_dask.steps.align import Aligning, reduce_frame
from opticam_dask.steps.background import subtract_sky
from opticam_dask.steps.calibrate import load_image
from opticam_dask.steps.detect import detect_sources
from opticam_dask.steps.frame_steps import FrameProblem, FrameResult, FrameSteps
from opticam_dask.steps.measure import measure_arrays
from opticam_dask.steps.records import block_arrays
from opticam_dask.steps.stack import resampled
from opticam_dask.steps.view import Measuring

#: How far a chain goes, in order.
CALIBRATED, SKY, DETECTED, ALIGNED = range(1, 5)

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
        As of ``as_masters``.
    """

    setup: Setup
    shape: tuple[int, int]
    binning: int
    depth: int = 0
    masters: tuple[str, ...] = ()
    dark_time: float | None = None
    dark_gain: float | None = None

    @classmethod
    def of(cls, instrument: Instrument, shape: tuple[int, int], binning: int) -> Chain:
        """Chain of frames that were read."""
        return cls(Setup(Path(), instrument), shape, binning)

    def further(self, depth: int, *, parameters: Mapping[str, Any] | None = None, **own: Any) -> Chain:
        """The chain with one more step, its parameters and its functions of the user's."""
        known = replace(self.setup.parameters, **(parameters or {}))
        return replace(self, depth=depth, setup=replace(self.setup, parameters=known, **own))

    def steps(self, arrays: Sequence[np.ndarray] = ()) -> FrameSteps:
        """How a task works on frames, with the values of the masters."""
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
    """What the steps need to know of each frame, with its pixels."""
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
    """What a task does with a chunk of frames: everything that a dataset holds of them.

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
            return [_calibrated(self._steps(shared), entry) for entry in entries_of(images, table)]
        return records_of(self.arrays(images, table, shared)[0])

    def _steps(self, shared: Sequence[np.ndarray]) -> FrameSteps:
        return self.chain.steps(shared[: len(self.chain.masters)])

    def alignment(self, shared: Sequence[np.ndarray]) -> Aligning:
        """What it takes to align frames."""
        x, y, flux, facts = shared[len(self.chain.masters) : len(self.chain.masters) + 4]
        known, chosen = np.isfinite(x), self.chain.parameters
        steps = self._steps(shared)
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
        self, images: np.ndarray, table: np.ndarray, shared: Sequence[np.ndarray]
    ) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
        """First-pass arrays of the frames by name, and what was known of each frame."""
        entries, job = entries_of(images, table), None
        if self.chain.depth >= ALIGNED:
            job, entries = self.alignment(shared), self.saturated_where_piled(entries, shared)
        steps = self._steps(shared) if job is None else job.steps
        results = [self.reduced(job, steps, entry) for entry in entries]
        return flat_arrays(steps, results, table), entries

    def saturated_where_piled(
        self, entries: list[dict[str, Any]], shared: Sequence[np.ndarray]
    ) -> list[dict[str, Any]]:
        """The frames with the saturation that the pixels of the reference night show."""
        level, gain = shared[len(self.chain.masters) + 3][2:4]
        if np.isnan(level):
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
    """First-pass arrays of frames by name, as the store has them; of frames where both have a name but sources."""
    manifest = {"scan_flags": table["scan_flags"].astype(np.uint32)}
    groups = block_arrays(steps, results, manifest)
    form = {f"star_{name}": groups["frames"][name] for name in _FORM}
    return groups["frames"] | form | groups.get("background", {}) | groups["sources"]


#: What frames and their sources both have.
_FORM = ("semimajor_sigma", "semiminor_sigma", "orientation")


def records_of(arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Arrays over frames as a record of each frame."""
    n_frames = len(next(iter(arrays.values())))
    return [{name: values[index] for name, values in arrays.items()} for index in range(n_frames)]


@dataclass(frozen=True)
class ProbeTask(FrameTask):
    """Finds the stars of candidates for the reference frame; the table says their places in ``index``."""

    def __call__(self, images: np.ndarray, table: np.ndarray, *shared: np.ndarray) -> list[Any]:
        """Probes of the frames."""
        entries = entries_of(images, table)
        job = probing.ProbeJob(
            self._steps(shared),
            1,
            self.chain.parameters.n_alignment_sources,
            lambda number: {name: [value] for name, value in entries[number].items()},  # type: ignore[misc]
        )
        probes = [probing.probe_frame(job, number) for number in range(len(entries))]
        return [replace(probe, index=int(index)) for probe, index in zip(probes, table["index"].tolist(), strict=True)]


def probed(probes: list[Any], transform_type: Any, n_alignment_sources: int) -> dict[str, Any]:
    """The reference frame among all probes, as a record; NaN where no frame has a source."""
    chosen = probing.choose_reference(probes, functools.partial(probing.count_matches, transform_type))
    piled = probing.find_pile_up(probes)
    record: dict[str, Any] = {
        "reference_facts": [
            np.nan if chosen is None else chosen.fwhm,
            np.nan if chosen is None else chosen.minor_fwhm,
            np.nan if piled is None else piled.level,
            np.nan if piled is None else piled.gain,
        ],
        "reference_index": -1 if chosen is None else chosen.index,
    }
    stars = np.full((n_alignment_sources, 3), np.nan)
    if chosen is not None:
        stars[: len(chosen.xy), :2], stars[: len(chosen.xy), 2] = chosen.xy, chosen.flux
    return record | {f"alignment_{name}": stars[:, column] for column, name in enumerate(("x", "y", "flux"))}


@dataclass(frozen=True)
class StackTask(FrameTask):
    """Adds the frames of a chunk that are stacked, by the groups of the stack that the table gives (-1 for none)."""

    def __call__(self, images: np.ndarray, table: np.ndarray, *shared: np.ndarray) -> list[Any]:
        """One record of the chunk: sums by group, and what is known of each frame by its index."""
        job = self.alignment(shared)
        entries = self.saturated_where_piled(entries_of(images, table), shared)
        stacks: dict[int, PartialStack] = {}
        facts = {}
        for entry in entries:
            result, group = reduce_frame(job, entry), int(entry["stack_group"])
            usable = not result.flags & UNUSABLE
            if group >= 0:
                stack = stacks.setdefault(group, PartialStack(job.reference_shape))
                if usable:
                    stack.add(resampled(job, result))
            facts[int(entry["index"])] = self._facts(job.steps, entry, result, is_stacked=group >= 0 and usable)
        sums = {group: (stack.total, stack.coverage) for group, stack in stacks.items()}
        return [(sums, facts), *[None] * (len(images) - 1)]

    def _facts(
        self, steps: FrameSteps, entry: Mapping[str, Any], result: FrameResult, *, is_stacked: bool
    ) -> dict[str, Any]:
        known = {
            name: float(result.values.get(name, np.nan))
            for name in ("background", "background_rms", "fwhm", "semiminor_sigma")
        }
        level = entry["saturation"] * entry["gain"] * steps.rebin_factor**2 - known["background"]
        transform = result.values.get("transform", np.full((3, 3), np.nan))
        group = int(entry["stack_group"])
        return known | {"level": level, "transform": transform, "is_stacked": is_stacked, "group": group}


def add_stacks(parts: list[Any]) -> Any:
    """Sums of several parts of a stack, and what is known of all of their frames."""
    sums: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    facts: dict[int, dict[str, Any]] = {}
    for of_groups, of_frames in parts:
        for group, (total, coverage) in of_groups.items():
            before = sums.get(group)
            sums[group] = (total, coverage) if before is None else (before[0] + total, before[1] + coverage)
        facts |= of_frames
    return sums, facts


@dataclass(frozen=True)
class MeasureTask(FrameTask):
    """Measures the sources of a catalogue in the frames of a chunk.

    Attributes
    ----------
    photometer : Photometer
        Prepared for the catalogue.
    sources : dict
        ``catalog_xy``, ``catalog_flux``, ``fwhm``, ``profile`` and ``profile_err`` of ``Measuring``.
    rows : ndarray of int
        Sources of the catalogue that are wanted.
    with_added : dict, optional
        As ``sources``, with those that were added by position at the end. Only they are measured so: where somebody
        looks for a source changes no other one.
    """

    LABEL: ClassVar[str] = "steps"

    photometer: Any = None
    sources: Mapping[str, Any] | None = None
    rows: np.ndarray | None = None
    with_added: Mapping[str, Any] | None = None

    def measuring(self, steps: FrameSteps, sources: Mapping[str, Any] | None = None) -> Measuring:
        """What it takes to measure some sources, by default those of the catalogue."""
        photometers = {} if self.photometer is None else {self.LABEL: self.photometer}
        sources = self.sources if sources is None else sources
        assert sources is not None  # given with the task
        return Measuring(steps=steps, photometers=photometers, **sources)

    def __call__(self, images: np.ndarray, table: np.ndarray, *shared: np.ndarray) -> list[dict[str, Any]]:
        """Measurements of each frame, by variable."""
        results, entries = self.arrays(images, table, shared)
        manifest, first, steps = _OfFrames(entries), _of_frame(results), self._steps(shared)

        def measure(sources: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
            arrays, _ = measure_arrays(self.measuring(steps, sources), manifest, first)
            return arrays[f"photometry/{self.LABEL}"]

        measured = measure(self.sources)
        if self.with_added is not None:
            n_known = measured["flux"].shape[1]
            added = measure(self.with_added)
            measured = {name: np.concatenate([v, added[name][:, n_known:]], axis=1) for name, v in measured.items()}
        return [
            {name: values[self.rows] for name, values in record.items()} | {"frame_flags": flags, "fwhm": fwhm}
            for record, flags, fwhm in zip(records_of(measured), results["flags"], results["fwhm"], strict=True)
        ]


def _of_frame(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """First-pass arrays as the second pass takes them: the form is that of the frame's stars."""
    return dict(arrays) | {name: arrays[f"star_{name}"] for name in _FORM}


class _OfFrames(Mapping[str, Any]):
    """What the headers say about some frames, by name; pixels are not copied into one array."""

    def __init__(self, entries: list[dict[str, Any]]) -> None:
        self._entries = entries
        every = set(entries[0]).union(*entries) if entries else {"file"}
        # a frame without pixels is set aside by the first pass, so nobody asks for them
        self._names = sorted(every)

    def __getitem__(self, name: str) -> list[Any]:
        return [entry.get(name) for entry in self._entries]

    def __iter__(self) -> Any:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class RingsTask(MeasureTask):
    """Measures the bright stars of the frames of a chunk for the star profile of the night.

    Attributes
    ----------
    has_profile : bool
        Whether the profile in ``sources`` is one of the first round, by which neighbours are taken off.
    """

    has_profile: bool = False

    def __call__(self, images: np.ndarray, table: np.ndarray, *shared: np.ndarray) -> list[Any]:
        """Index of each frame, its flags, and the sums over its stars."""
        results, entries = self.arrays(images, table, shared)
        job = self.measuring(self._steps(shared))
        measure = star_profiles.star_rings if self.has_profile else star_profiles.first_rings
        found = []
        for entry, result in zip(entries, records_of(_of_frame(results)), strict=True):
            usable = not result["flags"] & np.uint32(UNUSABLE)
            rings = sampled_frames.measure_frame(job, measure, entry, result) if usable else None
            found.append({int(entry["index"]): (usable, rings)})
        return found


def join(found: list[dict[int, Any]]) -> dict[int, Any]:
    """Findings of several frames in one dictionary."""
    return {index: value for one in found for index, value in one.items()}
