"""Names of frames: the path of a file and, where it holds several images, which of them.

``night/a.fits`` is the image of a file, ``night/a.fits[3]`` that of its HDU 3, and ``night/a.fits[0,17]`` the 17th
plane of the cube in its primary HDU.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

_CHOICE = re.compile(r"(.*)\[(\d{1,9})(?:,(\d{1,9}))?\]", re.DOTALL)


class FrameName(NamedTuple):
    """Name of a frame: its file, and the extension and plane in it.

    Attributes
    ----------
    file : str
        Path or URL of the file.
    extension : int
        Number of the HDU, from 0, where a file holds several images; 0 also for the image of an ordinary file.
    plane : int
        Plane of a cube, from 1; 0 for an image that is no cube.
    """

    file: str
    extension: int = 0
    plane: int = 0

    def __str__(self) -> str:
        """The name as one text: of an ordinary file its path."""
        if self.plane:
            return f"{self.file}[{self.extension},{self.plane}]"
        # a path that looks like such a name says that it is the whole of it
        is_plain = not self.extension and not _CHOICE.fullmatch(self.file)
        return self.file if is_plain else f"{self.file}[{self.extension}]"


def split_name(name: str) -> FrameName:
    """Path, extension and plane of a frame from its name as one text."""
    if not name.endswith("]") or not (match := _CHOICE.fullmatch(name)):
        return FrameName(name)
    return FrameName(match[1], int(match[2]), int(match[3] or 0))


def file_of(name: str) -> str:
    """Path or URL of the file that a frame is in."""
    return split_name(name).file if name.endswith("]") else name


def full_names(
    files: Iterable[str], extensions: Iterable[int] | None = None, planes: Iterable[int] | None = None
) -> np.ndarray:
    """Names of frames from paths, extensions and planes; without these, frames are the images of ordinary files.

    Returns
    -------
    ndarray of object, shape (frame,)
    """
    paths = list(files)
    chosen = zip(
        [0] * len(paths) if extensions is None else map(int, extensions),
        [0] * len(paths) if planes is None else map(int, planes),
        strict=True,
    )
    named = [str(FrameName(path, *choice)) for path, choice in zip(paths, chosen, strict=True)]
    return np.array(named, dtype=object)
