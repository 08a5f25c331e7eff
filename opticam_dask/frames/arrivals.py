"""Frames as they land in a directory: which are new, and which are complete."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from opticam_dask.frames.fits_files import FitsReader, FrameError, FrameName, ImageChoice, OwnProduct, read_headers
from opticam_dask.frames.scanning import find_files

#: Seconds without growth after which a file that is not whole is mentioned.
PATIENCE = 60.0


def incomplete_reason(file: str, extension: int | str | None = None) -> str | None:
    """Why a file is not a whole frame, as far as that can change while it is written; None for a whole one.

    Parameters
    ----------
    file : str
        Path of the file.
    extension : int or str, optional
        HDU of the image.
    """
    try:
        frames, _ = read_headers(file, ImageChoice(extension))
        if cut := next((frame.problem for frame in frames if frame.is_cut_short), ""):
            return cut
        with open(file, "rb") as stream:
            is_gzip = stream.read(2) == b"\x1f\x8b"
        if is_gzip:  # only its end says whether it is all there
            FitsReader(extension).read(str(FrameName(file)))
    except OwnProduct:  # there is nothing to wait for
        return None
    except FrameError as error:
        return error.reason
    except OSError as error:
        return error.strerror or str(error)
    return None


@dataclass
class _Candidate:
    """A file that was not taken yet: how it looked last, since when, and what was wrong with it."""

    looks: tuple[int, int]
    since: float
    reason: str | None = None
    is_told: bool = False


@dataclass
class Arrivals:
    """Whole frames of directories, each once, as they land.

    Directories are looked through again and again: notifications of the operating system do not cross network file
    systems. A file is whole when its size and time have not changed between two looks and all that its header
    promises is there. One that is not is waited for.

    Parameters
    ----------
    paths : sequence of path
        Directories, searched with everything below them.
    check : callable
        ``check(file)`` says why a file is not whole, or None.
    patience : float
        Seconds without growth after which a file that is not whole is mentioned.
    clock : callable
        Seconds, ever growing.
    """

    paths: Sequence[str | os.PathLike[str]]
    check: Callable[[str], str | None] = incomplete_reason
    patience: float = PATIENCE
    clock: Callable[[], float] = time.monotonic
    taken: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    _candidates: dict[str, _Candidate] = field(default_factory=dict)
    _is_away: bool = False

    def look(self) -> list[str]:
        """Look once; return the frames that are whole now and were not before, in the order of their names."""
        whole = []
        for file in self._files():
            if file not in self.taken and self._is_whole(file):
                self.taken.add(file)
                del self._candidates[file]
                whole.append(file)
        return whole

    def tell(self) -> list[str]:
        """Messages for a person since the last call."""
        notes, self.notes = self.notes, []
        return notes

    @property
    def waiting(self) -> dict[str, str]:
        """Files that are not whole, with the reason."""
        return {file: candidate.reason for file, candidate in self._candidates.items() if candidate.reason}

    def _files(self) -> list[str]:
        try:
            files = find_files(list(self.paths))
        except OSError as error:
            if not self._is_away:
                self.notes.append(f"waiting for the directory to come back: {error}")
            self._is_away = True
            return []
        if self._is_away:
            self.notes.append("the directory is back.")
        self._is_away = False
        return files

    def _is_whole(self, file: str) -> bool:
        now = self.clock()
        try:
            status = os.stat(file)
        except OSError:  # renamed or removed since
            self._candidates.pop(file, None)
            return False
        looks = (status.st_size, status.st_mtime_ns)
        candidate = self._candidates.get(file)
        if candidate is None or candidate.looks != looks:
            self._candidates[file] = _Candidate(looks, now)
            return False
        if candidate.reason is None:  # it stands still for the first time
            candidate.reason = self.check(file)
            if candidate.reason is None:
                return True
        if not candidate.is_told and now - candidate.since > self.patience:
            candidate.is_told = True
            self.notes.append(f"waiting for {os.path.basename(file)}: {candidate.reason}")
        return False
