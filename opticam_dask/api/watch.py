"""Reduce frames as they land during the observation, and keep light curves up to date.

The first frames of each camera give a provisional reference frame and catalogue (a store of their own, which is
removed in the end). From then on each frame goes through the same steps as in a reduction, on the same workers, and
its fluxes are added to files that can be watched. The night is reduced for good, from the beginning, when the
observation is over.
"""

from __future__ import annotations

import csv
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from opticam_dask.cluster.executors import Executor
from opticam_dask.display import plotting
from opticam_dask.flags import UNUSABLE, SourceFlag
from opticam_dask.frames import scanning
from opticam_dask.frames.arrivals import Arrivals, incomplete_reason
from opticam_dask.kernels.images.matching import align, match
from opticam_dask.kernels.series import lightcurve
from opticam_dask.lightcurves.targets import Target, label_of, rows_of_sources, source_number
from opticam_dask.methods.frame_view import Measurement, Photometer
from opticam_dask.parameters import WATCH, held_to
from opticam_dask.pipeline import driver, plan
from opticam_dask.pipeline.driver import Changes, Progress, ReductionError, Setup
from opticam_dask.pipeline.run import guarded_work
from opticam_dask.steps.align import Aligning, reduce_frame
from opticam_dask.steps.frame_steps import FrameProblem
from opticam_dask.steps.view import Measuring, frame_view
from opticam_dask.store.camera import group_name

#: Folder of the live files in the output directory.
WATCH_NAME = "watch"

#: Seconds between two looks at the directory.
_LOOK = 1.0
#: Seconds between two drawings of the live light curve.
_DRAW = 5.0

#: Sources of two catalogues are the same within this many pixels.
_SAME_SOURCE = 2.0


@dataclass(frozen=True)
class LiveFrame:
    """Result of a frame as soon as it has been reduced."""

    key: str
    entry: Mapping[str, Any]
    measured: Measurement | None
    message: str


@dataclass(frozen=True)
class _LiveJob:
    """What a task needs to reduce frames of one key that are in no store."""

    key: str
    first: Aligning
    second: Measuring
    label: str


def _reduce_live(jobs: Sequence[_LiveJob], entries: Sequence[Mapping[str, Any]], index: int, lost: Any = None) -> Any:
    """Everything about one frame, which is read once; nothing is written."""
    job, entry = jobs[index], entries[index]
    if lost:
        return LiveFrame(job.key, entry, None, lost[0])
    in_memory = {**entry, "memory": {}}
    result = reduce_frame(job.first, in_memory)
    if result.flags & UNUSABLE:
        return LiveFrame(job.key, entry, None, result.message)
    found = {**result.values, **result.meshes, **{name: result.sources[name] for name in ("x", "y", "flux")}}
    try:
        view = frame_view(job.second, in_memory, found)
        measured = job.second.photometers[job.label].measure(view)
    except FrameProblem as problem:
        return LiveFrame(job.key, entry, None, problem.message)
    return LiveFrame(job.key, entry, measured, "")


def _try_live(jobs: Sequence[_LiveJob], entries: Sequence[Mapping[str, Any]], index: int, _: int) -> None:
    _reduce_live(jobs, entries, index)


@dataclass
class _Curve:
    """Live light curve of the target in one key; ``sources`` are the numbers of the target and of its comparisons."""

    sources: list[int]
    rows: list[tuple[float, float, float, float, int]] = field(default_factory=list)

    def dataset(self, key: str) -> xr.Dataset:
        """The light curve as the plots of finished ones take it, in time order."""
        mjd, bmjd, flux, error, flags = np.array(sorted(self.rows)).T
        coordinates = {"mjd_utc": ("frame", mjd), "bmjd_tdb": ("frame", bmjd)}
        variables = {"relative_flux": ("frame", flux), "relative_flux_err": ("frame", error)}
        return xr.Dataset(
            variables | {"flags": ("frame", flags.astype(np.uint32))},
            coordinates,
            attrs={"key": key, "target": self.sources[0], "comparisons": self.sources[1:]},
        )


class Watch:
    """Live reduction of the frames that land in directories.

    Parameters
    ----------
    paths : sequence of path
        Directories, searched with everything below them.
    setup : Setup
        Settings of the ordinary reduction; live files go to ``watch`` in its output directory.
    photometer : Photometer
        What is measured of each source.
    executor : Executor
        Where the tasks run.
    progress : Progress
        Prints messages and progress.
    target, comparisons : int or str or (float, float), and sequence of int or str, optional
        Numbers of sources in the provisional catalogue or, where the headers of frames have world coordinates, places;
        without them only the fluxes of all sources are written.
    n_first : int
        Frames that the provisional catalogue of a camera is made of. They give its provisional reference frame too.
    patience : float
        How long to wait for a file that does not grow, in seconds; then it is mentioned, and a catalogue is made of
        fewer frames.
    """

    @held_to(WATCH)
    def __init__(
        self,
        paths: Sequence[str | Path],
        setup: Setup,
        photometer: Photometer,
        executor: Executor,
        progress: Progress,
        *,
        target: Target | None = None,
        comparisons: Sequence[Target] = (),
        n_first: int = 10,
        patience: float = 60.0,
    ) -> None:
        self.directory = setup.out_directory / WATCH_NAME
        self.directory.mkdir(parents=True, exist_ok=True)
        self.setup = replace(setup, out_directory=self.directory)
        self.close()
        for pattern in ("*_fluxes.csv", "target_*_light_curve.csv", "live.png"):
            for file in self.directory.glob(pattern):  # of an earlier watch
                file.unlink()
        check = functools.partial(incomplete_reason, extension=setup.instrument.extension)
        self.arrivals = Arrivals(list(paths), check, patience)
        self.photometer, self.executor, self.progress = photometer, executor, progress
        self.target, self.comparisons = target, list(comparisons)
        self.n_first, self.patience = n_first, patience
        self.n_frames = 0
        self._jobs: dict[str, _LiveJob] = {}
        self._catalogs: dict[str, dict[str, np.ndarray]] = {}
        self._early: dict[str, list[pd.DataFrame]] = {}
        self._needed: dict[str, int] = {}
        self._curves: dict[str, _Curve] = {}
        self._drawn = 0.0

    def run(
        self,
        *,
        idle: float,
        n_frames: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Watch until nothing new has come for ``idle`` seconds, or ``n_frames`` frames have been seen."""
        last = clock()
        while True:
            landed = self.arrivals.look()
            for note in self.arrivals.tell():
                self.progress.tell(note)
            if landed:
                self.take(landed)
                last = clock()
            quiet = clock() - last
            self._make_catalogs(is_quiet=quiet > self.patience or quiet >= idle)
            if quiet >= idle or (n_frames is not None and self.n_frames >= n_frames):
                self._make_catalogs(is_quiet=True)
                self._draw()
                return
            sleep(_LOOK)

    def take(self, files: Sequence[str]) -> None:
        """Reduce frames that have landed, as soon as their camera has a catalogue."""
        found = scanning.scan(files, self.setup.instrument)
        for file, reason in found.set_aside:
            self.progress.tell(f"Set aside: {os.path.basename(file)}: {reason}")
        self.n_frames += len(files)
        ready = found.table["key"].isin(list(self._jobs)).to_numpy(dtype=bool)
        for key, rows in found.table[~ready].groupby("key"):
            self._early.setdefault(str(key), []).append(rows)
        self._reduce(found.table[ready])

    def close(self) -> None:
        """Remove the provisional store; the live files stay."""
        self.setup.store.remove()

    # ---------------------------------------------------------------- the provisional catalogue

    def _make_catalogs(self, *, is_quiet: bool) -> None:
        for key in sorted(self._early):
            rows = pd.concat(self._early[key], ignore_index=True)
            needed = self._needed.get(key, self.n_first)
            if len(rows) < needed and not (is_quiet and key not in self._needed):
                continue
            # frames of twilight or of a closed dome have no sources: later ones may
            latest = rows.sort_values(["mjd_utc", "file"]).tail(self.n_first)
            if self._make_catalog(key, latest):
                del self._early[key]
                self._reduce(rows)
            else:
                for camera in (one for one in self.setup.store.cameras if one.key == key):
                    camera.remove()
                self._needed[key] = len(rows) + self.n_first

    def _make_catalog(self, key: str, rows: pd.DataFrame) -> bool:
        """Reference frame and catalogue of a camera from its first frames, by the ordinary passes."""
        scan = scanning.Scan(rows, [], [])
        try:
            driver.prepare(self.setup, scan, self.progress, Changes(append=True))
            driver.drive(driver.Run(self.setup, self.executor, self.progress))
            job = driver.live_jobs(self.setup, key, self.photometer)
        except ReductionError as error:
            self.progress.tell(f"{key}: no live light curve yet: {error}")
            return False
        label = self.photometer.label
        self._jobs[key] = _LiveJob(key, *job, label)
        self._catalogs[key] = self.setup.store.camera(key).catalog.read_all()
        numbers = self._catalogs[key]["source_id"].tolist()
        self.progress.tell(f"{key}: {len(numbers)} source(s) in the provisional catalogue of {len(rows)} frames.")
        if self.target is not None and self.comparisons:
            self._begin_curve(key, numbers)
        self._write_header(key, numbers)
        return True

    def _begin_curve(self, key: str, numbers: Sequence[int]) -> None:
        """Begin the light curve of the target, where the provisional catalogue has it and its comparisons."""
        try:
            chosen = [source_number(self.directory, key, one) for one in (self.target, *self.comparisons)]
            rows_of_sources(numbers, chosen, key)
        except ValueError as error:
            self.progress.tell(f"{key}: no light curve of the target: {error}")
        else:
            self._curves[key] = _Curve(chosen)

    # ---------------------------------------------------------------- frame by frame

    def _reduce(self, table: pd.DataFrame) -> None:
        """Reduce frames of cameras that have a catalogue, and add them to the live files."""
        if not len(table):
            return
        chosen = self.setup.parameters
        jobs, entries = [], []
        for planned in plan.plan_parts(
            table, self.setup.instrument, barycenter=chosen.barycenter, target_coord=chosen.target_coord
        ):
            for entry in _entries(planned):
                jobs.append(self._jobs[planned.key])
                entries.append(entry)
        run = functools.partial(_reduce_live, jobs, entries)
        work = guarded_work(
            "", "live", run, range(len(entries)), functools.partial(_try_live, jobs, entries), lambda _: 1
        )
        reduced = [frame for _, frame in self.executor.run([work])]
        for frame in sorted(reduced, key=lambda frame: (frame.key, frame.entry["mjd_utc"], frame.entry["file"])):
            self._add(frame)
        self._tell_latest(reduced)
        if time.monotonic() - self._drawn > _DRAW:
            self._draw()

    def _add(self, frame: LiveFrame) -> None:
        entry, n_sources = frame.entry, len(self._catalogs[frame.key]["source_id"])
        nothing = np.full(n_sources, np.nan)
        if frame.measured is None:
            flux = error = nothing
            flags = np.full(n_sources, int(SourceFlag.NO_TRANSFORM), dtype=np.uint32)
            self.progress.tell(f"Set aside: {os.path.basename(entry['file'])}: {frame.message}")
        else:
            flux, error, flags = frame.measured.flux, frame.measured.flux_err, np.asarray(frame.measured.flags)
        times = (float(entry["mjd_utc"]), float(entry["bmjd_tdb"]))
        values = [value for pair in zip(flux.tolist(), error.tolist(), strict=True) for value in pair]
        self._append(f"{group_name(frame.key)}_fluxes.csv", [*times, os.path.basename(entry["file"]), *values])
        if frame.key in self._curves:
            row = self._relative(frame.key, flux, error, flags)
            self._curves[frame.key].rows.append((*times, *row))
            self._append(self._curve_name(frame.key), [*times, *row])

    def _relative(self, key: str, flux: np.ndarray, error: np.ndarray, flags: np.ndarray) -> tuple[float, float, int]:
        numbers = self._catalogs[key]["source_id"].tolist()
        chosen = [numbers.index(number) for number in self._curves[key].sources]
        relative, relative_err = lightcurve.relative_flux(
            flux[chosen[:1]], error[chosen[:1]], flux[None, chosen[1:]], error[None, chosen[1:]]
        )
        together = np.bitwise_or.reduce(flags[chosen].astype(np.uint32)) & ~np.uint32(SourceFlag.REDUCED)
        return float(relative[0]), float(relative_err[0]), int(together)

    def _tell_latest(self, reduced: Sequence[LiveFrame]) -> None:
        for key in sorted({frame.key for frame in reduced}):
            latest = max((frame for frame in reduced if frame.key == key), key=lambda frame: frame.entry["mjd_utc"])
            age = time.time() - float(latest.entry["file_mtime"])
            text = f"{key}: {sum(frame.key == key for frame in reduced)} frame(s), the last {age:.1f} s after it landed"
            if self._curves.get(key) and self._curves[key].rows:
                _, _, flux, error, _ = max(self._curves[key].rows)
                text += f", relative flux {flux:.5g} +- {error:.2g}"
            self.progress.tell(text)

    # ---------------------------------------------------------------- live files

    def _curve_name(self, key: str) -> str:
        return f"target_{label_of(self.target)}_{group_name(key)}_light_curve.csv"

    def _write_header(self, key: str, numbers: Sequence[int]) -> None:
        fluxes = [name for number in numbers for name in (f"flux_{number}", f"flux_err_{number}")]
        self._append(f"{group_name(key)}_fluxes.csv", ["MJD", "BMJD", "file", *fluxes])
        if key in self._curves:
            self._append(self._curve_name(key), ["MJD", "BMJD", "rel_flux", "rel_flux_err", "flags"])

    def _append(self, name: str, row: Sequence[Any]) -> None:
        with (self.directory / name).open("a", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerow(row)

    def _draw(self) -> None:
        curves = {key: curve.dataset(key) for key, curve in sorted(self._curves.items()) if curve.rows}
        if curves:
            plotting.save_figure(plotting.plot_relative_light_curve(curves), self.directory / "live.png")
        self._drawn = time.monotonic()

    # ---------------------------------------------------------------- after the observation

    def final_numbers(self, key: str, numbers: Sequence[int], final: Mapping[str, np.ndarray]) -> dict[int, int]:
        """Numbers in the final catalogue of sources of the provisional one; those that are not found are left out."""
        live = self._catalogs[key]
        live_xy, final_xy = (np.column_stack([catalog["x"], catalog["y"]]) for catalog in (live, final))
        try:
            transform = match.find_transform(
                live_xy, final_xy, reference_weights=live["flux"], frame_weights=final["flux"]
            ).transform
        except match.AlignmentError:
            return {}
        moved = align.apply_transform(transform, live_xy)
        found = {}
        for number in numbers:
            distance = np.hypot(*(final_xy - moved[live["source_id"].tolist().index(number)]).T)
            if distance.min() < _SAME_SOURCE:
                found[number] = int(final["source_id"][int(np.argmin(distance))])
        return found

    def sources_of(self, key: str) -> list[int]:
        """Numbers, in the provisional catalogue of a key, of the target and of its comparisons."""
        return list(self._curves[key].sources)

    @property
    def keys(self) -> list[str]:
        """Cameras that have a live light curve of the target."""
        return sorted(self._curves)


def _entries(planned: plan.PlannedPart) -> Iterator[dict[str, Any]]:
    names = planned.names
    for index in range(len(names)):
        entry = {name: values[index] for name, values in planned.manifest.items()}
        yield {**entry, "file": names[index]}
