"""Pixels of the frames of a dataset, as the tasks of its steps get them.

Where the pixels of a dataset are those of files, unchanged, each task reads the files of its own frames: no pixels wait
in memory between two steps that need them at different times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from opticam_dask.cluster import blocks
from opticam_dask.frames import scanning

#: Where a dataset keeps what its frames were opened from; in the encoding, so that it is not written to disk.
SOURCE = "opticam_source"


class BlankWhereUnreadable:
    """Reads frames; a frame that cannot be read is blank, so that the rest are reduced all the same."""

    def __init__(self, reader: scanning.Reader, shape: tuple[int, int]) -> None:
        self._reader, self._shape = reader, shape

    def read(self, path: str) -> np.ndarray:
        """Pixels, (ny, nx)."""
        try:
            image = self._reader.read(path)
        except scanning.FrameError:
            return np.zeros(self._shape, dtype=np.uint8)
        return image if image.shape == self._shape else np.zeros(self._shape, dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class OpenedFrames:
    """Frames of a directory as they were opened.

    Attributes
    ----------
    files : tuple of str
        Names of the frames, in order.
    reader : Reader
        Reads one of them.
    shape : (int, int)
        Shape of a frame, ``(ny, nx)``.
    pixels : dask.array.Array
        All of them.
    """

    files: tuple[str, ...]
    reader: Any
    shape: tuple[int, int]
    pixels: Any

    @cached_property
    def _place(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.files)}

    def holds(self, files: Sequence[str], pixels: Any) -> bool:
        """Whether these pixels are whole, unchanged frames of the directory, all or some of them."""
        rows = [self._place.get(name, -1) for name in files]
        if -1 in rows:
            return False
        steps = set(np.diff(rows).tolist())
        selections: list[Any] = [np.array(rows, dtype=int)]
        if len(steps) <= 1 and (step := next(iter(steps), 1)) > 0:
            stop = rows[-1] + 1
            selections = [slice(rows[0], end, step) for end in {stop, rows[-1] + step}] + selections
        # Dask names an array after what was done to it
        return any(self.pixels[selected].name == pixels.name for selected in selections)


def pixels_of(dataset: xr.Dataset) -> Any:
    """Frames as they were read, of the calibrated or just opened frames of a dataset."""
    pixels, source = dataset["raw" if "raw" in dataset else "image"].data, dataset.encoding.get(SOURCE)
    if source is None or not blocks.is_lazy(pixels):
        return pixels
    files = dataset["file"].to_numpy().tolist()
    if pixels.name != source.pixels.name and not source.holds(files, pixels):
        return pixels
    return blocks.FrameFiles(files, source.reader, source.shape, pixels.chunks[0], pixels.name)


def is_as_read(dataset: xr.Dataset) -> bool:
    """Whether the frames of a dataset are lazy and unchanged frames of a directory."""
    return isinstance(pixels_of(dataset), blocks.FrameFiles)


def rebased(dataset: xr.Dataset) -> xr.Dataset:
    """A dataset whose parts read their own pixels alone when they are selected, also where it is a part itself."""
    found, source = pixels_of(dataset), dataset.encoding.get(SOURCE)
    if source is None or not isinstance(found, blocks.FrameFiles) or found.name == source.pixels.name:
        return dataset
    name = "raw" if "raw" in dataset else "image"
    pixels = blocks.lazy_frames(found.files, found.reader, found.shape, dataset[name].dtype, found.chunks)
    result = dataset.assign({name: dataset[name].copy(data=pixels)})
    result.encoding = {**dataset.encoding, SOURCE: replace(source, files=tuple(found.files), pixels=pixels)}
    return result


#: Tasks of a survey have no fewer frames than this, or than a chunk has: each holds a sum of its frames.
_FEWEST_SURVEYED = 8


def even(n_frames: int, n_tasks: int) -> tuple[int, ...]:
    """Frames of each of some tasks, as evenly as can be."""
    return tuple(len(one) for one in np.array_split(np.arange(n_frames), max(1, min(n_tasks, n_frames))))


def probing_tasks(n_probed: int, n_surveyed: int, chunks: Sequence[int], n_given: int) -> int:
    """Number of tasks that look for the reference frame, so that a whole chain has at most two tasks a chunk.

    One of the two measures; those that look for the reference frame, survey and make the catalogue share the other.
    Among the numbers that allow this, it is the one with which the longest row of frames is shortest.

    Parameters
    ----------
    n_probed, n_surveyed : int
        Frames to be looked at, and to be surveyed.
    chunks : sequence of int
        Frames of each chunk.
    n_given : int
        Number of other things that tasks need to get.
    """

    def in_turn(n_tasks: int) -> int:
        n_given_too = n_given + probing_and_joining(n_tasks)
        surveys = survey_tasks(n_surveyed, chunks, n_given_too)
        # a survey of one task looks for the reference frame as well, if that is one task
        n_all = surveys + blocks.n_joining(surveys) + n_given_too - (surveys == n_tasks == 1)
        too_many = n_tasks * (n_probed + n_surveyed) if n_all > len(chunks) else 0
        return max(even(n_probed, n_tasks)) + max(even(n_surveyed, surveys)) + too_many

    return min(range(1, n_probed + 1), key=in_turn)


def probing_and_joining(n_tasks: int) -> int:
    """Number of all tasks that find the reference frame: ``n_tasks`` that look at frames, and those that join them."""
    return 1 if n_tasks == 1 else n_tasks + blocks.n_joining(n_tasks)


def survey_tasks(n_surveyed: int, chunks: Sequence[int], n_given: int) -> int:
    """Number of tasks that survey frames; parameters as for `probing_tasks`."""
    most = math.ceil(n_surveyed / min(_FEWEST_SURVEYED, max(chunks)))
    fitting = (n for n in range(most, 1, -1) if n + blocks.n_joining(n) + n_given <= len(chunks))
    return next(fitting, 1)
