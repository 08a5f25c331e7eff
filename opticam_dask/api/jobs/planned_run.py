"""Record of a run that is reduced by submitted jobs: written by ``plan``, read by every job.

The frames of a run are cut into the blocks of its parts (a camera key and night each), in the order of keys and
nights, and the blocks are numbered from 0 over all of them. Pass 1 (sky, sources, transforms) and pass 3 (photometry)
work on these blocks, pass 2 (stacks and star profiles) on whole parts, numbered in the same order; pass 0 (masters and
reference frames) is done by its ``finish``. Each pass begins when the one before it is finished.

Nothing that two jobs write is one file: blocks write chunks of the store of their own, parts of pass 2 a file each, and
a finish, which runs alone, a file that says so. Jobs only read what plan and finishes have written.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from opticam_dask import locations
from opticam_dask.kernels.sources.profiles.ring_sums import Rings, empty_rings
from opticam_dask.pipeline.driver import PASSES, ReductionError
from opticam_dask.store.camera import group_name
from opticam_dask.store.errors import StoreError
from opticam_dask.store.ownership import PLANNED_RUN

#: Number of the last pass.
LAST_PASS = len(PASSES) - 1

#: Elements of one array: SLURM refuses numbers from ``MaxArraySize`` (1001 unless the site says otherwise).
MOST_JOBS = 1000

#: Ranges that a message names.
_MOST_RANGES = 20


class PartOfRun(NamedTuple):
    """A part of the store as it was planned."""

    key: str
    night: str
    uid: str
    n_blocks: int
    n_frames: int


@dataclass(frozen=True)
class PlannedRun:
    """Record of a planned run, which every job reads.

    Attributes
    ----------
    out_directory : Path
        Output directory of a reduction.
    token : str
        Identifies the run; a new one for every plan.
    created : str
        When it was planned (UTC).
    parts : tuple of PartOfRun
        In the order in which their blocks are numbered.
    photometers : dict of dict
        What ``identities.describe`` says of the photometer of each label.
    calibration : dict of tuple of str
        Directories of calibration frames by kind.
    sky : dict
        Files of stars and of plate-solved frames by which new catalogues are found on the sky: ``sky_catalog``, ``wcs``
        and ``sky_epoch``, as of ``arguments.sky_query``.
    frame_timeout : float
        Seconds for one frame; 0 is no limit.
    cluster : {"local", "none"}
        Whether a job has worker processes of its own, which it can lose to a frame, or is one process.
    n_workers : int
        Worker processes of each job.
    blocks_per_job : int
        Blocks of each element of an array of a pass over blocks.
    """

    out_directory: Path
    token: str
    created: str
    parts: tuple[PartOfRun, ...]
    photometers: Mapping[str, Mapping[str, Any]]
    calibration: Mapping[str, tuple[str, ...]]
    frame_timeout: float
    cluster: str
    n_workers: int
    blocks_per_job: int
    sky: Mapping[str, Any] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """Directory of the files of the run."""
        return self.out_directory / PLANNED_RUN

    @property
    def out(self) -> str:
        """Output directory as a shell takes it."""
        return shlex.quote(str(self.out_directory))

    def n_units(self, number: int) -> int:
        """Units of a pass, over all parts: blocks of frames, or the parts themselves."""
        return sum(self._units_of(number, part) for part in self.parts)

    def _units_of(self, number: int, part: PartOfRun) -> int:
        return {"block": part.n_blocks, "part": 1, None: 0}[PASSES[number].unit]

    def units_per_job(self, number: int) -> int:
        """Units (blocks or parts) of a pass for one job of its array: one part, unless there are more than jobs."""
        return self.blocks_per_job if PASSES[number].unit == "block" else -(-len(self.parts) // MOST_JOBS)

    def cut(self, number: int, chosen: range) -> list[tuple[PartOfRun, range]]:
        """Units of each part, numbered in the part, of a range of units of a pass."""
        starts = [0]
        for part in self.parts:
            starts.append(starts[-1] + self._units_of(number, part))
        found, start = [], chosen.start
        while start < chosen.stop:
            index = bisect.bisect_right(starts, start) - 1
            stop = min(chosen.stop, starts[index + 1])
            found.append((self.parts[index], range(start - starts[index], stop - starts[index])))
            start = stop
        return found

    def first_block(self, part: PartOfRun) -> int:
        """Number in the run of the first block of a part."""
        return sum(entry.n_blocks for entry in self.parts[: self.parts.index(part)])

    @property
    def name(self) -> str:
        """Short name of the run in the commands of its jobs: the beginning of its token."""
        return self.token[:8]

    def place_of(self, part: PartOfRun) -> Path:
        """Directory that a job owns while it works on a part in pass 2."""
        return self.directory / "under_way" / f"{group_name(part.key)}_{part.night}"

    def sums_file(self, part: PartOfRun) -> Path:
        """File in which pass 2 keeps its measurements of the stars of a part."""
        return self.directory / "star_profiles" / f"{group_name(part.key)}_{part.night}.npz"

    # ------------------------------------------------------------ which pass is finished

    def _finished_file(self, number: int) -> Path:
        return self.directory / f"finished-{number}.json"

    def is_finished(self, number: int) -> bool:
        """Whether a pass is finished."""
        return self._finished_file(number).is_file()

    @property
    def next_pass(self) -> int | None:
        """The pass that is under way; None when all are finished."""
        return next((number for number in range(LAST_PASS + 1) if not self.is_finished(number)), None)

    def mark_finished(self, number: int, facts: Mapping[str, Any]) -> None:
        """Record that a pass is finished, with the facts that the next one needs."""
        _write(self._finished_file(number), facts)

    def facts_of(self, number: int) -> dict[str, Any]:
        """Facts that a finished pass recorded for the next one.

        Raises
        ------
        store.StoreError
            When the file is damaged.
        """
        return _read(self._finished_file(number), f"remove it and run opticam-dask finish --pass {number} again")


def save(run: PlannedRun) -> None:
    """Write the record of a run whose directory is empty."""
    _write(run.directory / "plan.json", asdict(run) | {"out_directory": None})


def read(out_directory: str | Path) -> PlannedRun:
    """Record of the run that was planned in a directory.

    Raises
    ------
    store.StoreError
        When there is none, or it is damaged.
    """
    run = find(out_directory)
    if run is None:
        raise StoreError(
            f"{out_directory} holds no planned run (no {PLANNED_RUN}/plan.json). Run opticam-dask plan DATA --out "
            f"{out_directory} first."
        )
    return run


def find(out_directory: str | Path) -> PlannedRun | None:
    """Record of the run that was planned in a directory; None without one.

    Raises
    ------
    store.StoreError
        When it is damaged.
    """
    file = Path(out_directory) / PLANNED_RUN / "plan.json"
    if not file.is_file():
        return None
    again = "plan again with --break-lock: opticam-dask plan DATA --out OUT --break-lock; what was reduced is kept"
    values = _read(file, again)
    try:
        values["parts"] = tuple(PartOfRun(*entry) for entry in values["parts"])
        values["calibration"] = {kind: tuple(paths) for kind, paths in values["calibration"].items()}
        return PlannedRun(**{**values, "out_directory": Path(out_directory)})
    except (KeyError, TypeError) as error:  # whole, but of another version of this package
        raise StoreError(f"{file} was written by another version of opticam-dask: {again}.") from error


def _write(file: Path, content: Mapping[str, Any]) -> None:
    """Write a file that is there whole or not at all, and that shows damage."""
    file.parent.mkdir(parents=True, exist_ok=True)
    body = json.dumps(content, indent=1)
    whole = {"content": json.loads(body), "sha256": _digest(body)}
    locations.write_text(file, json.dumps(whole, indent=1))


def _read(file: Path, advice: str) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        content = document["content"]
        if document["sha256"] != _digest(json.dumps(content, indent=1)):
            raise ValueError("its checksum is wrong")
        return dict(content)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file} is damaged ({error}): {advice}.") from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# ---------------------------------------------------------------- sums over stars


class RunSums:
    """Star measurements of the jobs of a run by camera key and night, one file a part.

    Parameters
    ----------
    run : PlannedRun
        The run that the jobs share.
    """

    def __init__(self, run: PlannedRun) -> None:
        self._run = run
        self._parts = {(part.key, part.night): part for part in run.parts}

    def __contains__(self, part: tuple[str, str]) -> bool:
        """Whether something is kept of a part."""
        return part in self._parts and self._run.sums_file(self._parts[part]).is_file()

    def __setitem__(self, part: tuple[str, str], found: Mapping[int, Rings | None]) -> None:
        """Keep what was found, exactly, by frame."""
        file = self._run.sums_file(self._parts[part])
        known = [(index, rings) for index, rings in sorted(found.items()) if rings is not None]
        everything = [rings for _, rings in known] or [empty_rings()]
        arrays: dict[str, Any] = {
            "nothing": np.array([index for index, rings in sorted(found.items()) if rings is None], dtype=np.int64),
            "frame": np.array([index for index, _ in known], dtype=np.int64),
            "n_stars": np.array([len(rings.star) for _, rings in known], dtype=np.int64),
        }
        arrays |= {f.name: np.concatenate([getattr(rings, f.name) for rings in everything]) for f in fields(Rings)}
        file.parent.mkdir(parents=True, exist_ok=True)
        with locations.replacing(file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **arrays)

    def __getitem__(self, part: tuple[str, str]) -> dict[int, Rings | None]:
        """Record of a part in the plan; raises ``ReductionError`` when the file is damaged."""
        file = self._run.sums_file(self._parts[part])
        try:
            with file.open("rb") as stream, np.load(stream) as arrays:
                columns = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            number = self._run.parts.index(self._parts[part])
            raise ReductionError(
                f"{file} cannot be read ({error}): remove it, and run opticam-dask work {self._run.out} --pass 2 "
                f"--blocks {number}:{number + 1} again."
            ) from error
        found: dict[int, Rings | None] = dict.fromkeys(columns["nothing"].tolist())
        ends = np.cumsum(columns["n_stars"])
        for index, end, n_stars in zip(
            columns["frame"].tolist(), ends.tolist(), columns["n_stars"].tolist(), strict=True
        ):
            found[index] = Rings(*(columns[field.name][end - n_stars : end] for field in fields(Rings)))
        return dict(sorted(found.items()))


# ---------------------------------------------------------------- ranges of blocks


def ranges_of(numbers: Sequence[int]) -> list[range]:
    """Ascending numbers as ranges."""
    found: list[range] = []
    for number in numbers:
        if found and found[-1].stop == number:
            found[-1] = range(found[-1].start, number + 1)
        else:
            found.append(range(number, number + 1))
    return found


def text_of(ranges: Sequence[range]) -> str:
    """Ranges as ``--blocks`` takes them; the first ones, when there are many."""
    return ",".join(f"{chosen.start}:{chosen.stop}" for chosen in ranges[:_MOST_RANGES])


def parse_ranges(text: str) -> list[range]:
    """Ranges of ``--blocks``: ``a:b`` is a to b-1, ``a`` alone one block, several are separated by commas.

    Raises
    ------
    ValueError
        When the text is anything else, or a range is empty.
    """
    found = []
    for piece in text.split(","):
        start, colon, stop = piece.partition(":")
        try:
            first = int(start)
            last = int(stop) if colon else first + 1
        except ValueError:
            first, last = 0, -1
        if not 0 <= first < last:
            raise ValueError(f"--blocks takes a:b (from a to b-1), a, or several of them with commas, got {text!r}")
        found.append(range(first, last))
    return found
