"""Scratch files beside the store: partial stacks, and pixels of frames that are measured again."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import tokenize
import zlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path

import numpy as np

from opticam_dask import locations
from opticam_dask.store.errors import StoreError

SCRATCH_NAME = "scratch"

#: What NumPy raises where a file is damaged: it reads the header of an array as Python.
_DAMAGED = (ValueError, EOFError, SyntaxError, tokenize.TokenError)

#: Arrays of a partial stack: sum, coverage, brightest frame.
_N_SUMS = 3


def scratch_folder(path: Path, *names: str) -> Path:
    """Folder of scratch files of a store, beside it and never in it."""
    return (path.parent / SCRATCH_NAME).joinpath(*names)


def remove_scratch(path: Path, group: str) -> None:
    """Remove the scratch files of a group."""
    with contextlib.suppress(OSError):
        locations.remove_tree(scratch_folder(path, group))


def remove_empty_scratch(path: Path) -> None:
    """Remove the folders for scratch files that hold none any more."""
    if locations.is_remote(path):
        return  # there are no folders
    scratch = scratch_folder(path)
    for folder in sorted(scratch.rglob("*"), reverse=True) if scratch.is_dir() else []:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    if scratch.is_dir() and not any(scratch.iterdir()):
        scratch.rmdir()


@contextlib.contextmanager
def _named(stream: FileIO) -> Iterator[None]:
    """Errors of writing say why and of which file: NumPy does neither where only a part was written, to a full disk."""
    try:
        yield
    except OSError as error:
        number = error.errno or errno.ENOSPC
        raise OSError(number, os.strerror(number), stream.name) from error


@contextlib.contextmanager
def appending(file: Path) -> Iterator[Callable[[int, Mapping[str, np.ndarray]], None]]:
    """File to which arrays are appended frame by frame; a reader never sees a part of it.

    Yields
    ------
    callable
        ``append(index, arrays)``. A line of text says what follows, with checksums of itself and of each array; then
        the bytes of the arrays. That is read in a third of the time of NumPy's format, whose header is Python.
    """
    with locations.replacing(file) as temporary, locations.unbuffered(temporary, "wb") as stream:

        def append(index: int, arrays: Mapping[str, np.ndarray]) -> None:
            pieces = [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for array in arrays.values()]
            described = [
                [name, array.dtype.str, array.shape, zlib.crc32(piece)]
                for (name, array), piece in zip(arrays.items(), pieces, strict=True)
            ]
            head = json.dumps([index, described]).encode()
            with _named(stream):
                locations.write_all(stream, b"%08x %s\n" % (zlib.crc32(head), head))
                for piece in pieces:
                    locations.write_all(stream, piece)

        yield append


def read_appended(file: Path, among: Container[int] | None = None) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Frames of a file of :func:`appending` with their arrays by name, up to the first that is damaged.

    Parameters
    ----------
    file : path
        The file.
    among : container of int, optional
        Frames whose arrays are read; by default all.
    """
    with contextlib.suppress(OSError, *_DAMAGED), locations.open_binary(file) as stream:
        while line := stream.readline():
            if line[:9] != b"%08x " % zlib.crc32(head := line[9:-1]):
                return
            index, described = json.loads(head)
            if among is not None and index not in among:
                stream.seek(sum(_n_bytes(dtype, shape) for _, dtype, shape, _ in described), os.SEEK_CUR)
                continue
            arrays = {}
            for name, dtype, shape, checksum in described:
                if zlib.crc32(held := stream.read(_n_bytes(dtype, shape))) != checksum:
                    return
                arrays[name] = np.ndarray(shape, dtype, held)
            yield index, arrays


def _n_bytes(dtype: str, shape: Sequence[int]) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


def write_partial_stack(file: Path, *sums: np.ndarray) -> None:
    """Write the sums of some frames, three arrays of whole numbers; a reader never sees a part of the file.

    The file holds the arrays and their checksums in NumPy's format, one after the other: an archive (.npz) of them
    takes up to four times as long to write.
    """
    arrays = [_compact(numbers) for numbers in sums]
    with locations.replacing(file) as temporary, locations.unbuffered(temporary, "wb") as stream, _named(stream):
        for array in (*arrays, _checksums(*arrays)):
            np.save(stream, array)


def read_partial_stack(file: Path) -> list[np.ndarray]:
    """Arrays of a partial stack, as whole numbers of some type.

    Raises
    ------
    StoreError
        When the file is damaged.
    """
    try:
        with locations.open_binary(file) as stream:
            *sums, checksums = (np.load(stream) for _ in range(_N_SUMS + 1))
        is_whole = np.array_equal(_checksums(*sums), checksums)
    except _DAMAGED as error:
        raise StoreError(_damaged_stack(file, str(error))) from error
    if not is_whole:
        raise StoreError(_damaged_stack(file, "its checksum does not fit"))
    return sums


def _checksums(*arrays: np.ndarray) -> np.ndarray:
    return np.array([zlib.crc32(np.ascontiguousarray(array).data) for array in arrays], dtype=np.uint32)


def _compact(numbers: np.ndarray) -> np.ndarray:
    """Whole numbers in the smallest type that holds them: a sum of a few frames is then 5 bytes a pixel, not 12."""
    low, high = (int(numbers.min()), int(numbers.max())) if numbers.size else (0, 0)
    for small in (np.uint8, np.int32):
        if np.iinfo(small).min <= low and high <= np.iinfo(small).max:
            return numbers.astype(small)
    return numbers


def _damaged_stack(file: Path, reason: str) -> str:
    return (
        f"{file}, the sum of some frames for the stack, is damaged ({reason}). Delete it and run the same command "
        "again: its frames are summed again."
    )
