"""Master bias, dark, flat and fringes from their frames: tasks over strips of rows, so that memory has a bound.

Bias frames are combined as they are. Dark frames lose the master bias and are divided by their exposure time. Flats
lose bias and dark and are divided by their own median one by one, so that the brightness of the lamp does not matter.
So are fringe frames (exposures of a sky with few stars, between which the telescope was moved), which lose the flat as
well; a single one is a map that is ready.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from opticam_dask.cluster.executors import Executor, InProcess, Work
from opticam_dask.frames.fits.errors import FrameError
from opticam_dask.frames.fits_files import read_header
from opticam_dask.frames.headers.calibrated import steps_done
from opticam_dask.frames.instruments import Instrument
from opticam_dask.kernels.images import bad_columns
from opticam_dask.kernels.images import masters as kernel
from opticam_dask.kernels.images.fringes import only_waves
from opticam_dask.passes.calibration import (
    PLURAL,
    Calibration,
    CalibrationError,
    CalibrationFrames,
    Detector,
    Kind,
    same_exposure,
)
from opticam_dask.pipeline.reduction import Progress, Setup, Silent, WrongParameters, stage
from opticam_dask.pipeline.stages.master_strips import MasterJob, combine_strip, inspect_frame
from opticam_dask.steps.frame_steps import entry_of
from opticam_dask.store.camera import Part
from opticam_dask.store.ownership import check_owner
from opticam_dask.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

#: A column of a bias that is off by this many times the noise of a read-out is not to be relied on.
_NOISY_LEVEL = 3.0
#: A column of a flat whose response is off by this much loses or gains light, which need not be in proportion.
_ODD_RESPONSE = 0.2
#: Bad columns that are told by name.
_MOST_COLUMNS_TOLD = 10

#: What of the table of frames a task needs.
_COLUMNS = (
    *("file", "file_size", "file_mtime", "file_ctime", "file_checksum"),
    *("exposure_time", "gain", "dark_current", "saturation", "linearity_limit"),
)


class Combined(NamedTuple):
    """Frames that were used, their mean and its variance, and the variance of darks among each other."""

    job: MasterJob
    mean: np.ndarray
    variance: np.ndarray
    spread: np.ndarray


def combine_frames(
    job: MasterJob, executor: Executor, progress: Progress, tell: Callable[[str, str], None]
) -> Combined:
    """Master of some frames, and its variance.

    Parameters
    ----------
    job : MasterJob
        The frames of one master, and what is to be made of them.
    executor : Executor
        Where the tasks run.
    progress : Progress
        Where progress is reported.
    tell : callable
        ``tell(file, reason)`` hears of frames that are left out.

    Returns
    -------
    Combined
        The master, the variance of its pixels, and the frames that were used.

    Raises
    ------
    CalibrationError
        When fewer than two frames can be used.
    """
    facts = dict[int, tuple[float, str]]()
    for index, level, problem in _run(executor, functools.partial(inspect_frame, job), len(job.entries)):
        facts[index] = (level, problem)
        progress.advance(1)
    for index, (_, problem) in sorted(facts.items()):
        if problem:
            tell(job.entries[index]["file"], problem)
    used = [index for index in sorted(facts) if not facts[index][1]]
    if len(used) < min(2, len(job.entries)):
        raise CalibrationError(
            f"at least two {job.kind} frames are needed, but of {len(facts)} only {len(used)} can be used. "
            f"{facts[0][1]} ({job.entries[0]['file']})"
        )
    entries = tuple(job.entries[index] for index in used)
    job = replace(job, entries=entries, levels=tuple(facts[index][0] for index in used))
    mean, variance, spread = (np.empty(job.steps.shape) for _ in range(3))
    lost: dict[str, str] = {}
    for strip in _run(executor, functools.partial(combine_strip, job), job.n_strips):
        rows = slice(strip.number * job.n_rows, strip.number * job.n_rows + len(strip.mean))
        mean[rows], variance[rows], spread[rows] = strip.mean, strip.variance, strip.spread
        lost |= strip.lost
    for file, problem in sorted(lost.items()):
        tell(file, problem)
    return Combined(job, mean, variance, spread)


def _run(executor: Executor, function: Callable[[int], Any], n_tasks: int) -> Iterator[Any]:
    return executor.run([Work(function, range(n_tasks), "masters")])


def describe_master(combined: Combined, before: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Variables of ``schema.CALIBRATION`` of one master.

    The masters that were taken off are the same for all frames, so their variance does not fall with the number of
    frames: it is added to that of the mean.

    Parameters
    ----------
    combined : Combined
        The master as :func:`combine_frames` made it.
    before : dict of ndarray
        ``bias_variance`` and ``dark_variance`` of the masters taken off, as far as there are any.
    """
    job, mean, variance, spread = combined
    times = np.array([entry["exposure_time"] for entry in job.entries])
    columns = bad_columns.mark(columns_of(combined), mean.shape)
    if job.kind == "bias":
        return {"bias": mean, "bias_variance": variance, "bad_levels": columns}
    if job.kind == "dark":
        if "bias_variance" in before:
            variance = variance + before["bias_variance"] * np.mean(1.0 / times) ** 2
        hot, excess = kernel.find_hot_pixels(mean, spread, times, job.entries[0]["gain"])
        return {"dark": mean, "dark_variance": variance, "hot_pixels": hot | columns, "dark_excess": excess}
    if job.kind == "fringe":
        return {"fringe": only_waves(mean), "fringe_variance": variance}
    levels = np.array(job.levels)
    for name, share in (("bias_variance", np.mean(1.0 / levels)), ("dark_variance", np.mean(times / levels))):
        if name in before:
            variance = variance + before[name] * share**2
    return {"flat": mean, "flat_variance": variance, "bad_responses": kernel.find_bad_responses(mean) | columns}


def columns_of(combined: Combined) -> list[bad_columns.BadColumn]:
    """Columns that stand out in a master by as much as matters for its kind; fringes tell of none."""
    job, mean, variance, _ = combined
    if job.kind == "fringe":
        return []
    read_out = _NOISY_LEVEL * float(np.sqrt(np.nanmedian(variance) * len(job.entries)))
    least = {"bias": read_out, "dark": 0.0, "flat": _ODD_RESPONSE}[job.kind]
    return bad_columns.find_bad_columns(mean, variance, least)


# ---------------------------------------------------------------- the masters of a store


def make_masters(setup: Setup, executor: Executor, progress: Progress) -> None:
    """Make the masters of every camera key and frame shape of a store that are not there yet.

    Raises
    ------
    WrongParameters
        When the calibration frames do not fit the frames.
    """
    if setup.calibration is None:
        return
    _tell_of_calibrated(setup, setup.calibration.kinds, progress)
    todo: dict[str, tuple[Kind, Detector, float]] = {}
    gains: dict[str, set[float]] = {}
    without: dict[str, None] = {}
    for camera in setup.store.cameras:
        for part in camera.parts:
            detector = Detector(part.key, part.shape, part.binning)
            exposures = part.frames["exposure_time"]
            _check_exposures(setup, setup.calibration, part, exposures)
            own_gains = np.unique(part.frames["gain"]).tolist()
            if "fringe" in setup.calibration.kinds and not setup.calibration.has_fringes(part.key):
                without.setdefault(part.key)
            for kind, group in setup.calibration.groups(detector).items():
                gains.setdefault(group, set()).update(own_gains)
                if setup.store.master(group).is_whole:
                    _refuse_replaced(setup, setup.calibration, kind, group)
                else:
                    todo.setdefault(group, (kind, detector, float(exposures[0])))
    for key in without:
        progress.tell(f"{key}: there are no fringe frames of its filter, so that none are taken off.")
    if not todo:
        return
    try:
        chosen = {group: _choose(setup, kind, detector, exposure) for group, (kind, detector, exposure) in todo.items()}
    except CalibrationError as error:
        raise WrongParameters(str(error)) from error
    kinds = setup.calibration.kinds
    ordered = sorted(todo, key=lambda group: kinds.index(todo[group][0]))
    with stage(progress, "Combining calibration frames", sum(map(len, chosen.values()))):
        for group in ordered:
            kind, detector, _ = todo[group]
            check_owner(setup.out_directory)
            if kind == "bias" or (kind == "dark" and "bias" not in setup.calibration.kinds):
                _tell_other_gains(kind, detector, chosen[group], gains[group], progress)
            _make_master(setup, group, kind, detector, chosen[group], executor, progress)


def _tell_of_calibrated(setup: Setup, kinds: Sequence[str], progress: Progress) -> None:
    """Say when the first frame of a camera has had some of the calibration before."""
    for part in (camera.parts[0] for camera in setup.store.cameras if camera.parts):
        file = str(part.manifest(0)["file"][0])
        try:
            done = steps_done(read_header(file).values)
        except (FrameError, OSError, ValueError):  # what cannot be read is said where it is measured
            continue
        if again := {kind: name for kind, name in done.items() if kind in kinds}:
            progress.tell(
                f"warning: {', '.join(dict.fromkeys(again.values()))} of {os.path.basename(file)} says that frames of "
                f"{part.key} are calibrated already ({', '.join(again)}), and this is done once more: fluxes are wrong "
                "then. Leave out what was done, or reduce raw frames."
            )


def _refuse_replaced(setup: Setup, calibration: Calibration, kind: Kind, group: str) -> None:
    """Refuse calibration frames that others replaced, under their sizes and times, since the master was made."""
    if (given := calibration.frames.get(kind)) is None:
        return
    known = defaultdict[tuple[str, int, float], set[int]](set)
    for entry in setup.store.master(group).attributes.get("files", ()):
        known[entry["file"], entry["size"], entry["mtime"]].add(entry.get("checksum", 0))  # of older versions: 0
    for row in given.table.itertuples():
        before = known.get((Path(row.file).name, row.file_size, row.file_mtime), {0})
        if not {0, row.file_checksum} & before and row.file_checksum:
            raise WrongParameters(
                f"{row.file} changed since the master {kind} was made of it. Put the original file back, add --new to "
                "begin again, or use another output directory."
            )


def _tell_other_gains(
    kind: Kind, detector: Detector, table: pd.DataFrame, of_frames: set[float], progress: Progress
) -> None:
    """Say when a level in ADU comes from another gain, which is another read-out of the detector, than the frames."""
    of_master = set(np.unique(table["gain"]).tolist())
    if of_master != of_frames:
        had, have = (", ".join(f"{value:g}" for value in sorted(some)) for some in (of_master, of_frames))
        progress.tell(
            f"warning: the {PLURAL[kind]} of {detector} have a gain of {had}, the frames of {have} electrons per ADU. "
            "A bias level belongs to its read-out: if they differ, reduce frames of each gain with biases of their own."
        )


def _check_exposures(setup: Setup, calibration: Calibration, part: Part, exposures: np.ndarray) -> None:
    """Refuse darks that hold the bias for frames of another exposure time: there is nothing to scale them by."""
    if "dark" not in calibration.kinds or "bias" in calibration.kinds:
        return
    group = calibration.groups(Detector(part.key, part.shape, part.binning))["dark"]
    dark = setup.store.master(group).attributes.get("exposure_time", float(exposures[0]))
    other = [value for value in np.unique(exposures).tolist() if not same_exposure(value, dark)]
    if other:
        raise WrongParameters(
            f"{part.key} {part.night} has exposures of {other[0]:g} s, but the darks are of {dark:g} s, and without "
            "biases they cannot be scaled. Give bias frames (--biases), or reduce these frames on their own."
        )


def _choose(setup: Setup, kind: Kind, detector: Detector, exposure_time: float) -> pd.DataFrame:
    """Frames of one master.

    Raises
    ------
    CalibrationError
    """
    assert setup.calibration is not None
    found = setup.calibration.frames.get(kind)
    if found is None:
        raise CalibrationError(
            f"the master {kind} of {detector} is not in the store: give the {PLURAL[kind]} again (--{PLURAL[kind]})."
        )
    table = found.select(detector, of_other_filters=setup.parameters.flats_of_other_filters)
    if "bias" in setup.calibration.kinds or kind == "bias":
        return table
    if kind == "dark":
        return _of_exposure(found, table, detector, exposure_time)
    if "dark" in setup.calibration.kinds and (kind == "flat" or len(table) > 1):
        for time in np.unique(table["exposure_time"]).tolist():
            if not same_exposure(time, exposure_time):
                raise CalibrationError(
                    f"{PLURAL[kind]} of {detector} are exposed {time:g} s, but the darks {exposure_time:g} s, and "
                    "without biases they cannot be scaled. Give bias frames (--biases)."
                )
    return table


def _of_exposure(
    found: CalibrationFrames, table: pd.DataFrame, detector: Detector, exposure_time: float
) -> pd.DataFrame:
    same = table[[same_exposure(value, exposure_time) for value in table["exposure_time"].tolist()]]
    if len(same) < 2:
        times = ", ".join(f"{value:g}" for value in np.unique(table["exposure_time"]).tolist())
        raise CalibrationError(
            f"without biases, darks must be exposed as long as the frames: {detector} has exposures of "
            f"{exposure_time:g} s, the {found.kind} frames of {times} s. Give bias frames (--biases) as well."
        )
    return same


def _make_master(
    setup: Setup,
    group: str,
    kind: Kind,
    detector: Detector,
    table: pd.DataFrame,
    executor: Executor,
    progress: Progress,
) -> None:
    assert setup.calibration is not None
    job = master_job(setup, kind, detector, table)

    def tell(file: str, reason: str) -> None:
        progress.tell(f"Left out of the {PLURAL[kind]}: {file}: {reason}")

    try:
        combined = combine_frames(job, executor, progress, tell)
    except CalibrationError as error:
        raise WrongParameters(f"{detector}: {error}") from error
    arrays = describe_master(combined, _variances(setup, kind, detector))
    used = {entry["file"] for entry in combined.job.entries}
    files = table[[file in used for file in table["file"]]]
    attributes: dict[str, Any] = {
        "kind": kind,
        "n_frames": len(files),
        "files": [
            {"file": Path(row.file).name, "size": row.file_size, "mtime": row.file_mtime, "checksum": row.file_checksum}
            for row in files.itertuples()
        ],
        "frames": setup.calibration.records[kind],
    }
    if kind == "dark":
        attributes["mean_exposure_time"] = float(files["exposure_time"].mean())
        if "bias" in setup.calibration.kinds:
            attributes["gain"] = float(combined.job.entries[0]["gain"])
        else:
            attributes["exposure_time"] = float(files["exposure_time"].iloc[0])
    setup.store.master(group).write(arrays, attributes)
    keys = sorted(set(files["key"]))
    other = f" of {', '.join(keys)}" if kind == "flat" and keys != [detector.key] else ""
    columns = columns_of(combined)
    more = f" and {len(columns) - _MOST_COLUMNS_TOLD} more" if len(columns) > _MOST_COLUMNS_TOLD else ""
    listed = ", ".join(map(str, columns[:_MOST_COLUMNS_TOLD])) + more
    progress.tell(
        f"Master {kind} of {detector}: {len(files)} frames{other}{'; bad columns: ' if columns else ''}{listed}."
    )


#: Variables of ``schema.CALIBRATION`` that the master of each kind has (:func:`describe_master`).
VARIABLES: dict[Kind, tuple[str, ...]] = {
    "bias": ("bias", "bias_variance", "bad_levels"),
    "dark": ("dark", "dark_variance", "hot_pixels", "dark_excess"),
    "flat": ("flat", "flat_variance", "bad_responses"),
    "fringe": ("fringe", "fringe_variance"),
}


@dataclass(frozen=True, eq=False)
class PlannedMasters:
    """Masters of a camera key from their frames, whose pixels are read when this is called.

    Attributes
    ----------
    calibration : Calibration
        Frames of one or more kinds.
    instrument : Instrument
        What their headers mean.
    detector : Detector
        Whose masters they are.
    exposure_time : float
        Exposure time of the frames to be corrected, seconds.
    """

    calibration: Calibration
    instrument: Instrument
    detector: Detector
    exposure_time: float
    name: ClassVar[str] = "masters"

    @classmethod
    def of(
        cls, calibration: Calibration, instrument: Instrument, key: str, exposure_time: float | None = None
    ) -> PlannedMasters:
        """Plan of the masters of a camera key; the exposure time is by default that of the first dark.

        Raises
        ------
        CalibrationError
            When the frames do not fit the camera or each other.
        """
        tables = [found.table[found.table["camera"] == key.partition(":")[0]] for found in calibration.frames.values()]
        if not all(map(len, tables)):
            raise CalibrationError(f"calibration frames of {key} are needed, found none of its camera")
        first = tables[0].iloc[0]
        detector = Detector(key, (int(first["ny"]), int(first["nx"])), int(first["binning"]))
        if exposure_time is None:
            of_darks = tables[calibration.kinds.index("dark")] if "dark" in calibration.kinds else None
            exposure_time = float("nan") if of_darks is None else float(of_darks["exposure_time"].iloc[0])
        planned = cls(calibration, instrument, detector, exposure_time)
        for kind in planned.kinds:
            _choose(planned._setup(Path()), kind, detector, exposure_time)
        return planned

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds of masters that the camera key has."""
        return tuple(self.calibration.groups(self.detector))

    def __call__(self) -> dict[str, Any]:
        """Make the master frames as for a store; see :func:`read_dataset`."""
        with tempfile.TemporaryDirectory() as scratch:
            setup, store = self._setup(Path(scratch)), Store.create(scratch, {})
            groups = self.calibration.groups(self.detector)
            for kind, group in groups.items():
                table = _choose(setup, kind, self.detector, self.exposure_time)
                _make_master(setup, group, kind, self.detector, table, InProcess(), Silent())
            return read_dataset(store, groups)

    def _setup(self, scratch: Path) -> Setup:
        return Setup(scratch, self.instrument, calibration=self.calibration)


def read_dataset(store: Store, groups: Mapping[Kind, str]) -> dict[str, Any]:
    """Variables of the masters of a camera key in a store.

    Returns
    -------
    dict
        By the names of ``schema.CALIBRATION``; of darks also ``dark_exposure_time`` (mean of the frames, seconds) and,
        where the bias is taken off them, ``dark_gain`` (electrons per ADU).
    """
    found: dict[str, Any] = {}
    for group in groups.values():
        found |= store.master(group).read_all()
    if "dark" in groups:
        about = store.master(groups["dark"]).attributes
        names = {"dark_exposure_time": "mean_exposure_time", "dark_gain": "gain"}
        found |= {new: about[old] for new, old in names.items() if old in about}
    return found


def master_job(setup: Setup, kind: Kind, detector: Detector, table: pd.DataFrame) -> MasterJob:
    """Job of one master, for its tasks."""
    assert setup.calibration is not None
    before = setup.calibration.kinds[: setup.calibration.kinds.index(kind)]
    reader = setup.calibration.reader(setup.store, detector, before) if before else None
    steps = replace(setup.steps(detector.shape, detector.binning), masters=reader, image_filter=None)
    return MasterJob(kind, steps, entries_of(table))


def entries_of(table: pd.DataFrame) -> tuple[dict[str, Any], ...]:
    """Header values that tasks need, one dictionary a frame."""
    columns = {name: table[name].to_numpy() for name in _COLUMNS}
    return tuple(entry_of(columns, index) for index in range(len(table)))


def _variances(setup: Setup, kind: Kind, detector: Detector) -> dict[str, np.ndarray]:
    """Variances of the masters that come before one, by name."""
    assert setup.calibration is not None
    before: Sequence[Kind] = setup.calibration.kinds[: setup.calibration.kinds.index(kind)]
    groups = setup.calibration.groups(detector)
    return {f"{name}_variance": setup.store.master(groups[name])[f"{name}_variance"] for name in before}
