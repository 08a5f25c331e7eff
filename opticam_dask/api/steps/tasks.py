"""Tasks on one chunk of frames after sky and detection: align, stack, measure."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import cloudpickle
import numpy as np

from opticam_dask.api.steps.chains import ENTRY, FORM, FrameTask, records_of
from opticam_dask.flags import UNUSABLE
from opticam_dask.kernels.images.coadd import ShiftedSum, are_turned, whole_shifts
from opticam_dask.kernels.images.stack import PartialStack, StackSums, added
from opticam_dask.passes import probes as probing
from opticam_dask.steps.align import Aligning
from opticam_dask.steps.background import subtract_sky
from opticam_dask.steps.calibrate import load_image
from opticam_dask.steps.frame_steps import FrameProblem, FrameResult, FrameSteps
from opticam_dask.steps.measure import measure_arrays
from opticam_dask.steps.pixels import KeptPixels, keep_pixels
from opticam_dask.steps.stack import resampled, sharp_pixels
from opticam_dask.steps.view import Measuring, star_form
from opticam_dask.store.camera import photometry_group


@dataclass(frozen=True)
class AlignTask(FrameTask):
    """Task of the first pass on a chunk of frames: transforms, and everything that measuring needs.

    Attributes
    ----------
    names : tuple of str
        Variables of the frames that the task gets, in order.
    """

    names: tuple[str, ...] = ()

    def __call__(self, images: np.ndarray, table: np.ndarray, *given: np.ndarray) -> list[dict[str, Any]]:
        """What was found out about each frame, by variable, and under ``entry`` its headers and pixels."""
        return list(self.each(images, table, *given))

    def each(self, images: np.ndarray, table: np.ndarray, *given: np.ndarray) -> Iterator[dict[str, Any]]:
        """The records one after the other; the pixels of a frame are there as long as its record is."""
        job = self.aligning(given)
        for entry, row in zip(self.piled(images, table, given), table, strict=True):
            yield self.aligned(job, entry, row)

    def aligned(self, job: Aligning, entry: dict[str, Any], row: Any) -> dict[str, Any]:
        """Record of one frame, with its row of the table."""
        (record,) = records_of(self.arrays(job.steps, [entry], np.array([row]), job))
        return record | {ENTRY: entry}

    def piled(self, images: np.ndarray, table: np.ndarray, shared: Sequence[np.ndarray]) -> Iterator[dict[str, Any]]:
        """Headers and pixels of each frame, with the saturation that the pixels of the reference night show."""
        level, gain = shared[len(self.chain.masters) + 3][2:4]
        for entry in self.entries(images, table):
            if np.isnan(level) or self.chain.is_coadded:  # the pixels of a sum pile up nowhere
                yield entry
                continue
            piled = probing.PileUp(float(level), float(gain), float("nan"), 0)
            lowered = piled.lowered(np.array(entry["saturation"]), np.array(entry["gain"]))
            yield entry | {"saturation": float(lowered)}


@dataclass(frozen=True)
class KnownTask(AlignTask):
    """Task like `AlignTask` for frames whose first-pass results are given as input instead of computed."""

    def each(self, images: np.ndarray, table: np.ndarray, *given: np.ndarray) -> Iterator[dict[str, Any]]:
        """As of `AlignTask`."""
        known, shared = given[: len(self.names)], given[len(self.names) :]
        records = records_of(dict(zip(self.names, known, strict=True)))
        for record, entry in zip(records, self.piled(images, table, shared), strict=True):
            yield record | {ENTRY: entry}


@dataclass(frozen=True)
class SurveyedTask(AlignTask):
    """Task like `AlignTask`, which takes over the results of frames that were surveyed."""

    def each(self, images: np.ndarray, table: np.ndarray, *given: np.ndarray) -> Iterator[dict[str, Any]]:
        """As of `AlignTask`; ``given`` are the masters, and at the end a `Kept`."""
        *masters, known = given
        kept: Kept = known.item()
        shared = [*masters, *kept.alignment]
        job = self.aligning(shared)
        for entry, row in zip(self.piled(images, table, shared), table, strict=True):
            record = kept.records.get(name_of_frame(row))
            yield self.aligned(job, entry, row) if record is None else record | {ENTRY: entry}


def name_of_frame(row: Any) -> tuple[Any, ...]:
    """What tells a frame apart, of its row of the table: file, extension and plane."""
    return str(row["file"]), int(row["extension"]), int(row["plane"])


@dataclass(frozen=True)
class ProbeTask(FrameTask):
    """Task that finds the stars of candidates for the reference frame, whose places the table has in ``index``."""

    def __call__(self, images: np.ndarray, table: np.ndarray, *shared: np.ndarray) -> list[Any]:
        """List of the probes of all frames."""
        entries = list(self.entries(images, table))
        job = probing.ProbeJob(
            self.steps(shared),
            1,
            self.chain.parameters.n_alignment_sources,
            lambda number: {name: [value] for name, value in entries[number].items()},  # type: ignore[misc]  # a list serves too
        )
        probes = [probing.probe_frame(job, number) for number in range(len(entries))]
        return [[replace(one, index=int(row)) for one, row in zip(probes, table["index"].tolist(), strict=True)]]


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
    """Sums aligned frames as the table says: ``bin``, ``is_used`` and, for saturated pixels, ``level``."""

    def __call__(self, records: np.ndarray, table: np.ndarray, *shared: np.ndarray) -> list[dict[str, Any]]:
        """Records of the sums: ``image``, and ``n_coadded`` frames in it."""
        steps, found = self.steps(shared), []
        for number in dict.fromkeys(table["bin"].tolist()):
            rows = np.flatnonzero(table["bin"] == number)
            used = rows[table["is_used"][rows]]
            total = _sum_of(steps, records[used])
            image = np.full(steps.image_shape, np.nan) if total is None else total.image(table["level"][rows[0]])
            found.append({"image": image, "n_coadded": 0 if total is None else len(used)})
        return found


def can_be_added(flags: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """Which frames can be in a sum, shape (frame,), by their flags and transforms."""
    is_usable = (flags != 0) & (flags & np.uint32(UNUSABLE) == 0)
    return np.asarray(is_usable & np.isfinite(transform).all(axis=(1, 2)))


def _sum_of(steps: FrameSteps, records: np.ndarray) -> ShiftedSum | None:
    """Sum of frames, moved onto the first; None without frames, or if one of them cannot be added."""
    if not len(records):
        return None
    flags, transform = (np.array([record[name] for record in records]) for name in ("flags", "transform"))
    if not can_be_added(flags, transform).all() or are_turned(transform, transform[0], steps.image_shape).any():
        return None
    places, total = whole_shifts(transform, steps.image_shape), ShiftedSum(steps.image_shape)
    for record, place in zip(records, places, strict=True):
        try:
            image = load_image(steps, record[ENTRY])
        except FrameProblem:  # it was there when the frames were searched: what is left is no sum of theirs
            return None
        dx, dy = np.rint(place - places[0]).astype(int).tolist()
        total.add(image.electrons, (dx, dy), image.saturated, image.cosmic_rays)
    return total


@dataclass(frozen=True)
class SurveyTask(FrameTask):
    """Survey of some frames that are stacked: what was found out about each, and their sum, without their pixels.

    The table says in which group of the stack a frame is summed, whether it ``is_sampled`` for the star profile, and
    whether it ``is_searched`` for bad pixels.

    Attributes
    ----------
    before : AlignTask
        Finds out about the frames.
    keeps : bool
        Whether that is kept for their light curves.
    """

    before: AlignTask | None = None
    keeps: bool = False

    def __call__(self, images: np.ndarray, table: np.ndarray, *given: np.ndarray) -> list[Any]:
        """The survey of all of them."""
        assert self.before is not None
        shared = given[len(self.before.names) :]
        steps, survey = self.steps(shared), Surveyed(alignment=tuple(shared[len(self.chain.masters) :]))
        stacks: dict[int, PartialStack] = {}
        for record, row in zip(self.before.each(images, table, *given), table, strict=True):
            group, index = int(row["stack_group"]), int(row["index"])
            usable = not record["flags"] & np.uint32(UNUSABLE)
            stack = stacks.setdefault(group, PartialStack(steps.image_shape))
            survey.facts[index] = self._facts(steps, record, group, is_stacked=usable)
            if self.keeps:
                found = {name: value for name, value in record.items() if name != ENTRY}
                survey.records[name_of_frame(row)] = found
            if usable:
                subtracted = _subtracted(steps, record)
                stack.add(resampled(steps.image_shape, subtracted))
                if row["is_searched"]:
                    survey.sharp[index] = sharp_pixels(subtracted)
                if row["is_sampled"]:
                    survey.sampled[index] = _sampled(steps, record)
        survey.sums.update({group: stack.sums for group, stack in stacks.items()})
        return [survey]

    def _facts(self, steps: FrameSteps, record: Mapping[str, Any], group: int, *, is_stacked: bool) -> dict[str, Any]:
        entry, names = record[ENTRY], ("background", "background_rms", "fwhm")
        known = {name: float(record[name]) for name in names} | {"flags": record["flags"]}
        known["semiminor_sigma"] = float(record["star_semiminor_sigma"])
        level = entry["saturation"] * entry["gain"] * steps.rebin_factor**2 - known["background"]
        return known | {"level": level, "transform": record["transform"], "is_stacked": is_stacked, "group": group}


@dataclass(frozen=True, eq=False)
class Surveyed:
    """Results of the survey of some frames that are stacked.

    Attributes
    ----------
    alignment : tuple of ndarray
        Stars of the reference frame, and its other numbers, as tasks get them.
    sums : dict of StackSums
        By group of the stack.
    facts : dict of dict
        What is known of each frame, by its index.
    sampled : dict of tuple
        Headers of a frame, what was found out about it, and its pixels around bright stars, by its index.
    sharp : dict of ndarray
        Places of the pixels that are too sharp to be stars, by the index of the frame.
    records : dict of dict
        Records of the frames without their pixels, by `name_of_frame`; none where they are not kept.
    """

    alignment: tuple[np.ndarray, ...]
    sums: dict[int, StackSums] = field(default_factory=dict)
    facts: dict[int, dict[str, Any]] = field(default_factory=dict)
    sampled: dict[int, tuple[dict[str, Any], dict[str, Any], KeptPixels]] = field(default_factory=dict)
    sharp: dict[int, np.ndarray] = field(default_factory=dict)
    records: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)

    @property
    def kept(self) -> Kept:
        """The part of a record that light curves need."""
        return Kept(self.alignment, self.records)


@dataclass(frozen=True, eq=False)
class Kept:
    """``alignment`` and ``records`` of a `Surveyed`."""

    alignment: tuple[np.ndarray, ...]
    records: dict[tuple[Any, ...], dict[str, Any]]


def _sampled(steps: FrameSteps, record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], KeptPixels]:
    """What the star profile needs of a frame."""
    result = {name: value for name, value in record.items() if name != ENTRY}
    result |= {name: record[f"star_{name}"] for name in FORM}
    kept = keep_pixels(steps, record[ENTRY], result, star_form(result, steps.image_shape))
    entry = {name: value for name, value in record[ENTRY].items() if name != "pixels"}
    return entry, result, kept


def _subtracted(steps: FrameSteps, record: Mapping[str, Any]) -> FrameResult:
    """A frame without its sky, which is known."""
    meshes = {name: record[name] for name in ("background_mesh", "background_rms_mesh") if steps.has_mesh}
    result = FrameResult(values={name: record[name] for name in ("transform", "fwhm", "background_rms")}, meshes=meshes)
    subtract_sky(steps, record[ENTRY], result)
    return result


def add_surveys(surveys: list[Surveyed]) -> Surveyed:
    """Surveys of several parts of the frames as one."""
    of_groups: dict[int, list[StackSums]] = {}
    whole = Surveyed(surveys[0].alignment)
    for one in surveys:
        for group, sums in one.sums.items():
            of_groups.setdefault(group, []).append(sums)
        for name in ("facts", "sampled", "sharp", "records"):
            getattr(whole, name).update(getattr(one, name))
    whole.sums.update({group: added(some) for group, some in of_groups.items()})
    return whole


@dataclass(frozen=True)
class MeasureTask(FrameTask):
    """Measures the sources of a catalogue in the frames of a chunk.

    Attributes
    ----------
    prepared : Prepared, optional
        What is measured and how, where the catalogue is in memory. Of a lazy catalogue the task gets it as the array
        behind the masters, or makes it itself.
    prepare : callable, optional
        Makes it from the arrays behind the masters.
    """

    LABEL: ClassVar[str] = "steps"

    prepared: Prepared | None = None
    prepare: Callable[..., Prepared] | None = None

    def __call__(self, records: np.ndarray, table: np.ndarray, *shared: np.ndarray) -> list[dict[str, Any]]:
        """Measurements of each frame, by variable; the table says which ``profile`` its stars have."""
        steps, beside = self.steps(shared), shared[len(self.chain.masters) :]
        prepared = self.prepared
        if prepared is None:
            packed = map(cloudpickle.dumps, (self.prepare, beside))
            prepared = _prepared(*packed) if self.prepare else beside[0][0]
        found: dict[int, dict[str, Any]] = {}
        for number in np.unique(table["profile"]).tolist():
            rows = np.flatnonzero(table["profile"] == number)
            measured = self._measured(records[rows], steps, prepared, prepared.profiles[number])
            found |= dict(zip(rows.tolist(), measured, strict=True))
        return [found[row] for row in range(len(records))]

    def _measured(
        self, records: np.ndarray, steps: FrameSteps, prepared: Prepared, profile: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Measurements of frames whose stars have one profile."""
        first = _first_pass_of(records)
        measuring = Measuring(
            steps=steps, photometers={self.LABEL: prepared.photometer}, **{**prepared.sources, **profile}
        )
        arrays, _ = measure_arrays(measuring, _manifest_of(records), first)
        measured = arrays[photometry_group(self.LABEL)]
        # nights whose profile is certain have no error that is common to all of their frames
        measured.setdefault("flux_err_sys", np.full(measured["flux"].shape, np.nan))
        return [
            {name: prepared.wanted(values) for name, values in record.items()} | {"frame_flags": flags, "fwhm": fwhm}
            for record, flags, fwhm in zip(records_of(measured), first["flags"], first["fwhm"], strict=True)
        ]


@functools.lru_cache(maxsize=4)
def _prepared(prepare: bytes, arrays: bytes) -> Prepared:
    """What a catalogue is measured with, made once for all tasks of a process: it takes as long as half a frame."""
    found: Prepared = pickle.loads(prepare)(*pickle.loads(arrays))
    return found


@dataclass(frozen=True, eq=False)
class Prepared:
    """Sources of a catalogue and a photometer, as frames are measured with them.

    Attributes
    ----------
    photometer : Photometer
        Prepared for the catalogue.
    sources : dict
        ``catalog_xy``, ``catalog_flux``, ``fwhm`` and ``stages`` of ``Measuring``.
    rows : ndarray of int
        Sources that are wanted, in order; -1 for slots of the catalogue that are empty.
    profiles : tuple of dict
        ``profile``, ``profile_err``, ``sampling`` and ``bad_pixels`` of ``Measuring`` by night.
    """

    photometer: Any
    sources: Mapping[str, Any]
    rows: np.ndarray
    profiles: tuple[Mapping[str, Any], ...]

    def wanted(self, values: np.ndarray) -> np.ndarray:
        """Values of the wanted sources out of all; an empty slot has NaN and no flag."""
        found = np.full((len(self.rows), *values.shape[1:]), np.nan if values.dtype.kind == "f" else 0, values.dtype)
        is_there = self.rows >= 0
        found[is_there] = values[self.rows[is_there]]
        return found


def _first_pass_of(records: np.ndarray) -> dict[str, np.ndarray]:
    """What the first pass found of frames as arrays over them, by the names of the store."""
    found = records
    arrays = {name: np.array([record[name] for record in found]) for name in found[0] if name != ENTRY}
    return arrays | {name: arrays[f"star_{name}"] for name in FORM}


def _manifest_of(records: np.ndarray) -> dict[str, Any]:
    """What the headers say about frames, by name, with their pixels; these are not copied into one array."""
    entries = [record[ENTRY] for record in records]
    # a frame without pixels is set aside by the first pass, so nobody asks for them
    return {name: [entry.get(name) for entry in entries] for name in set().union(*entries)}
