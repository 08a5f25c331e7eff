"""Tasks on one chunk of frames after sky and detection: align, stack, measure."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from opticam_dask.api.steps.chains import ENTRY, FORM, FrameTask, entries_of, records_of
from opticam_dask.flags import UNUSABLE
from opticam_dask.kernels.images.coadd import ShiftedSum
from opticam_dask.kernels.images.stack import PartialStack, StackSums, added
from opticam_dask.passes import probes as probing
from opticam_dask.passes import sampled_frames, star_profiles
from opticam_dask.steps.background import subtract_sky
from opticam_dask.steps.calibrate import load_image
from opticam_dask.steps.frame_steps import FrameProblem, FrameResult, FrameSteps
from opticam_dask.steps.measure import measure_arrays
from opticam_dask.steps.stack import resampled
from opticam_dask.steps.view import Measuring
from opticam_dask.store.camera import photometry_group


@dataclass(frozen=True)
class AlignTask(FrameTask):
    """Task of the first pass on a chunk of frames: transforms, and everything that measuring needs."""

    def __call__(self, images: np.ndarray, table: np.ndarray, *shared: np.ndarray) -> list[dict[str, Any]]:
        """What was found out about each frame, by variable, and under ``entry`` its headers and pixels."""
        entries = self.saturated_where_piled(entries_of(images, table), shared)
        job = self.aligning(shared)
        records = records_of(self.arrays(job.steps, entries, table, job))
        return [record | {ENTRY: entry} for record, entry in zip(records, entries, strict=True)]


@dataclass(frozen=True)
class KnownTask(FrameTask):
    """Task with the results of `AlignTask` for frames whose first-pass results are already known.

    Attributes
    ----------
    names : tuple of str
        Variables that are known, in the order of the arrays that the task gets.
    """

    names: tuple[str, ...] = ()

    def __call__(self, images: np.ndarray, table: np.ndarray, *given: np.ndarray) -> list[dict[str, Any]]:
        """As of `AlignTask`."""
        known, shared = given[: len(self.names)], given[len(self.names) :]
        entries = self.saturated_where_piled(entries_of(images, table), shared)
        records = records_of(dict(zip(self.names, known, strict=True)))
        return [record | {ENTRY: entry} for record, entry in zip(records, entries, strict=True)]


@dataclass(frozen=True)
class FoundTask(FrameTask):
    """Task that takes the results out of records of `AlignTask`, without headers and pixels."""

    def __call__(self, records: np.ndarray, table: np.ndarray, *_shared: np.ndarray) -> list[dict[str, Any]]:
        """Records of the frames."""
        return [{name: value for name, value in one.items() if name != ENTRY} for one in records.ravel()]


@dataclass(frozen=True)
class KeptTask(FrameTask):
    """Task with the results of `AlignTask` for frames whose results were kept by `FoundTask`."""

    def __call__(self, images: np.ndarray, table: np.ndarray, *given: np.ndarray) -> list[dict[str, Any]]:
        """As of `AlignTask`."""
        kept, *shared = given
        entries = self.saturated_where_piled(entries_of(images, table), shared)
        return [record | {ENTRY: entry} for record, entry in zip(kept.ravel(), entries, strict=True)]


@dataclass(frozen=True)
class ProbeTask(FrameTask):
    """Task that finds the stars of candidates for the reference frame, whose places the table has in ``index``."""

    def __call__(self, images: np.ndarray, table: np.ndarray, *shared: np.ndarray) -> list[Any]:
        """Probes of the frames."""
        entries = entries_of(images, table)
        job = probing.ProbeJob(
            self.steps(shared),
            1,
            self.chain.parameters.n_alignment_sources,
            lambda number: {name: [value] for name, value in entries[number].items()},  # type: ignore[misc]  # a list serves too
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
class CoaddTask(FrameTask):
    """Sums the frames of a chunk as the table says: ``bin``, ``is_used``, ``shift_x``, ``shift_y`` and ``level``."""

    def __call__(self, images: np.ndarray, table: np.ndarray, *shared: np.ndarray) -> list[dict[str, Any]]:
        """Records of the sums."""
        steps = self.steps(shared)
        entries = self.saturated_where_piled(entries_of(images, table), shared)
        sums = {number: ShiftedSum(steps.image_shape) for number in dict.fromkeys(table["bin"].tolist())}
        levels = dict(zip(table["bin"].tolist(), table["level"].tolist(), strict=True))
        empty = set(sums) - set(table["bin"][table["is_used"]].tolist())
        for entry, row in zip(entries, table, strict=True):
            number = int(row["bin"])
            if not row["is_used"]:
                continue
            try:
                image = load_image(steps, entry)
            except FrameProblem:  # it was there when the frames were searched: what is left is no sum of theirs
                empty.add(number)
                continue
            sums[number].add(
                image.electrons, (int(row["shift_x"]), int(row["shift_y"])), image.saturated, image.cosmic_rays
            )
        nothing = np.full(steps.image_shape, np.nan)
        return [{"image": nothing if n in empty else one.image(levels[n])} for n, one in sums.items()]


@dataclass(frozen=True)
class StackTask(FrameTask):
    """Adds the frames of a chunk that are stacked, by the groups of the stack that the table gives (-1 for none)."""

    def __call__(self, records: np.ndarray, table: np.ndarray, *shared: np.ndarray) -> list[Any]:
        """One record of the chunk: sums by group, and what is known of each frame by its index."""
        steps = self.steps(shared)
        stacks: dict[int, PartialStack] = {}
        facts = {}
        for record, row in zip(records.ravel(), table, strict=True):
            group, index = int(row["stack_group"]), int(row["index"])
            usable = not record["flags"] & np.uint32(UNUSABLE)
            if group >= 0:
                stack = stacks.setdefault(group, PartialStack(steps.image_shape))
                if usable:
                    stack.add(_on_reference(steps, record))
            facts[index] = self._facts(steps, record, group, is_stacked=group >= 0 and usable)
        sums = {group: stack.sums for group, stack in stacks.items()}
        return [(sums, facts), *[None] * (len(records) - 1)]

    def _facts(self, steps: FrameSteps, record: Mapping[str, Any], group: int, *, is_stacked: bool) -> dict[str, Any]:
        entry, names = record[ENTRY], ("background", "background_rms", "fwhm")
        known = {name: float(record[name]) for name in names}
        known["semiminor_sigma"] = float(record["star_semiminor_sigma"])
        level = entry["saturation"] * entry["gain"] * steps.rebin_factor**2 - known["background"]
        return known | {"level": level, "transform": record["transform"], "is_stacked": is_stacked, "group": group}


def _on_reference(steps: FrameSteps, record: Mapping[str, Any]) -> np.ndarray:
    """Image of a frame without its sky, which is known, on the grid of the reference frame, shape (ny, nx)."""
    meshes = {name: record[name] for name in ("background_mesh", "background_rms_mesh") if steps.has_mesh}
    result = FrameResult(values={"transform": record["transform"]}, meshes=meshes)
    subtract_sky(steps, record[ENTRY], result)
    return resampled(steps.image_shape, result)


def add_stacks(parts: list[Any]) -> Any:
    """Sums of several parts of a stack, and what is known of all of their frames."""
    of_parts: dict[int, list[StackSums]] = {}
    facts: dict[int, dict[str, Any]] = {}
    for of_groups, of_frames in parts:
        for group, sums in of_groups.items():
            of_parts.setdefault(group, []).append(sums)
        facts |= of_frames
    return {group: added(some) for group, some in of_parts.items()}, facts


@dataclass(frozen=True)
class MeasureTask(FrameTask):
    """Measures the sources of a catalogue in the frames of a chunk.

    Attributes
    ----------
    photometer : Photometer
        Prepared for the catalogue.
    sources : dict
        ``catalog_xy``, ``catalog_flux``, ``fwhm``, ``profile``, ``profile_err``, ``sampling`` and ``stages`` of
        ``Measuring``.
    rows : ndarray of int
        Sources of the catalogue that are wanted.
    profiles : tuple of dict
        ``profile``, ``profile_err`` and ``sampling`` of the nights.
    """

    LABEL: ClassVar[str] = "steps"

    photometer: Any = None
    sources: Mapping[str, Any] | None = None
    rows: np.ndarray | None = None
    profiles: tuple[Mapping[str, Any], ...] = ()

    def measuring(self, steps: FrameSteps, profile: Mapping[str, Any] | None = None) -> Measuring:
        """Sources and profiles with which the task measures, by default with the star profile of the catalogue."""
        photometers = {} if self.photometer is None else {self.LABEL: self.photometer}
        assert self.sources is not None  # given with the task
        return Measuring(steps=steps, photometers=photometers, **{**self.sources, **(profile or {})})

    def __call__(self, records: np.ndarray, table: np.ndarray, *shared: np.ndarray) -> list[dict[str, Any]]:
        """Measurements of each frame, by variable; the table says which ``profile`` its stars have."""
        steps = self.steps(shared)
        found: dict[int, dict[str, Any]] = {}
        for number in np.unique(table["profile"]).tolist():
            rows = np.flatnonzero(table["profile"] == number)
            found |= dict(zip(rows.tolist(), self._measured(records[rows], steps, self.profiles[number]), strict=True))
        return [found[row] for row in range(len(records))]

    def _measured(self, records: np.ndarray, steps: FrameSteps, profile: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Measurements of frames whose stars have one profile."""
        first = _first_pass_of(records)
        arrays, _ = measure_arrays(self.measuring(steps, profile), _manifest_of(records), first)
        measured = arrays[photometry_group(self.LABEL)]
        # nights whose profile is certain have no error that is common to all of their frames
        measured.setdefault("flux_err_sys", np.full(measured["flux"].shape, np.nan))
        return [
            {name: values[self.rows] for name, values in record.items()} | {"frame_flags": flags, "fwhm": fwhm}
            for record, flags, fwhm in zip(records_of(measured), first["flags"], first["fwhm"], strict=True)
        ]


def _first_pass_of(records: np.ndarray) -> dict[str, np.ndarray]:
    """What the first pass found of frames as arrays over them, by the names of the store."""
    found = records.ravel()
    arrays = {name: np.array([record[name] for record in found]) for name in found[0] if name != ENTRY}
    return arrays | {name: arrays[f"star_{name}"] for name in FORM}


def _manifest_of(records: np.ndarray) -> dict[str, Any]:
    """What the headers say about frames, by name, with their pixels; these are not copied into one array."""
    entries = [record[ENTRY] for record in records.ravel()]
    # a frame without pixels is set aside by the first pass, so nobody asks for them
    return {name: [entry.get(name) for entry in entries] for name in set().union(*entries)}


@dataclass(frozen=True)
class RingsTask(MeasureTask):
    """Measures the bright stars of the frames of a chunk for the star profile of the night.

    Attributes
    ----------
    has_profile : bool
        Whether the profile in ``sources`` is one of the first round, by which neighbours are taken off.
    """

    has_profile: bool = False

    def __call__(self, records: np.ndarray, table: np.ndarray, *shared: np.ndarray) -> list[Any]:
        """Index of each frame, whether it can be used, and the sums over its stars."""
        job = self.measuring(self.steps(shared))
        measure = star_profiles.star_rings if self.has_profile else star_profiles.first_rings
        found = []
        for index, record in zip(table["index"].tolist(), records.ravel(), strict=True):
            usable = not record["flags"] & np.uint32(UNUSABLE)
            result = record | {name: record[f"star_{name}"] for name in FORM}
            rings = sampled_frames.measure_frame(job, measure, record[ENTRY], result) if usable else None
            found.append({int(index): (usable, rings)})
        return found


def join(found: list[dict[int, Any]]) -> dict[int, Any]:
    """Results of several frames in one dictionary."""
    return {index: value for one in found for index, value in one.items()}
