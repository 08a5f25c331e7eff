"""A group of the store: its attributes and arrays; the frames of a part that are written block by block."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opticam_dask import locations, remote_paths, schema
from opticam_dask.flags import SourceFlag
from opticam_dask.store.arrays import (
    Array,
    array_names,
    create_arrays,
    create_group,
    each,
    open_array,
    open_group,
    open_zarr_array,
)
from opticam_dask.store.errors import clear_errors
from opticam_dask.store.metadata import (
    FILE_NAME,
    damaged,
    name_removed,
    read_metadata,
    update_attributes,
)
from opticam_dask.store.scratch import remove_scratch

#: Flags are looked through in slabs of about this many, to bound the memory.
_FLAGS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Group:
    """Arrays that belong together: the catalogue of a camera, the frames of a night, a master of calibration.

    Attributes
    ----------
    path : Path
        The store.
    name : str
        Path of the group in it.
    kind : str
        What it holds, a key of ``schema.GROUPS``; empty for a group without arrays of its own.
    """

    path: Path
    name: str
    kind: str = ""

    @property
    def directory(self) -> Path:
        """Directory of the group."""
        return self.path / self.name

    @property
    def attributes(self) -> dict[str, Any]:
        """Present attributes of the group; empty when there is no such group."""
        try:
            return dict(read_metadata(self.directory / FILE_NAME).get("attributes", {}))
        except (FileNotFoundError, NotADirectoryError):
            return {}

    @property
    def is_whole(self) -> bool:
        """Whether the group was written completely."""
        return bool(self.attributes.get("complete"))

    @property
    def group_names(self) -> list[str]:
        """Names of the groups in a group without arrays, whole or not."""
        entries = list(self.directory.iterdir()) if self.directory.is_dir() else []
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))

    def update(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes."""
        if locations.is_remote(self.path):
            open_group(self.path, self.name).update_attributes(dict(attributes))
        else:
            update_attributes(self.directory, attributes)

    def __contains__(self, name: str) -> bool:
        """Whether there is an array of this name."""
        return (self.directory / name / FILE_NAME).is_file()

    def __getitem__(self, name: str) -> np.ndarray:
        """All values of one array."""
        return self.read(name)

    def read(self, name: str, start: int = 0, stop: int | None = None, columns: Any = slice(None)) -> np.ndarray:
        """Values of one array, or of its entries ``start`` to ``stop`` along the first dimension.

        ``columns`` (slice or indices) are those that are wanted along the second one.
        """
        with clear_errors(self.path, f"{self.name}/{name}"):
            return self.array(name).read(start, stop, columns)

    def read_all(self) -> dict[str, np.ndarray]:
        """All arrays, by name."""
        names = self.array_names
        return dict(zip(names, each(self.path, self.read, names), strict=True))

    @property
    def array_names(self) -> list[str]:
        """Names of the arrays.

        Raises
        ------
        FileNotFoundError, StoreError
            As :meth:`described` does.
        """
        return list(self.described())

    def described(self) -> dict[str, dict[str, Any]]:
        """What the store says of each array of the schema: shape, names of dimensions, attributes.

        Arrays that somebody else put into the group are left out.

        Raises
        ------
        FileNotFoundError
            When there is no such group.
        StoreError
            When the metadata of an array is damaged, or lost while its chunks are there.
        """
        if locations.is_remote(self.path):
            names = array_names(self.path, self.name)
        else:
            names = sorted(name for name in os.listdir(self.directory) if self._holds(name))
        if self.kind:
            known = {entry.name for entry in schema.GROUPS[self.kind]}
            names = [name for name in names if name in known]
        documents = each(self.path, lambda name: read_metadata(self.directory / name / FILE_NAME), names)
        found = {name: one for name, one in zip(names, documents, strict=True) if one.get("node_type") != "group"}
        for name, one in found.items():
            if not {"shape", "dimension_names"} <= set(one):
                raise damaged(self.directory / name / FILE_NAME, "not that of an array")
        return found

    def _holds(self, name: str) -> bool:
        """Whether there is an array of this name; one whose metadata was lost would be missed by whoever needs it."""
        if name in self:
            return True
        has_chunks = not name.startswith(".") and (self.directory / name / "c").is_dir()
        known = {entry.name for entry in schema.GROUPS[self.kind]} if self.kind else set()
        if has_chunks or (name in known and self.is_whole):  # an array without entries has no chunks
            raise damaged(self.directory / name / FILE_NAME, "it is not there, and the rest of its array is")
        return False

    def array(self, name: str) -> Array:
        """One array, opened and not read."""
        try:
            return open_array(self.path, f"{self.name}/{name}")
        except FileNotFoundError:
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise damaged(self.directory / name / FILE_NAME, " ".join(str(error).split())[:100]) from error

    def write(self, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
        """Write whole arrays (a stack, a catalogue) in place of an old group; ``complete`` is written last."""
        sizes = self._sizes(arrays)
        own = {name: value for name, value in attributes.items() if name != "complete"}
        create_group(self.path, self.name, own, overwrite=True)
        self._fill(sizes, arrays)
        self.update({"complete": True})

    def rewrite(self, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
        """Write arrays and attributes in place of the old ones; groups in the group stay.

        Until all is written the group has its new attributes and is not whole: it can be made again where that stops.
        """
        target = open_group(self.path, self.name)
        target.metadata.attributes.clear()
        target.update_attributes({**attributes, "complete": False})
        for name in set(array_names(self.path, self.name)) - set(arrays):
            del target[name]
        self.extend(arrays)
        target.update_attributes({"complete": True})

    def extend(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Add arrays to a group that is whole, or write them again; the arrays it has already are not touched."""
        self._fill(self._sizes(arrays), arrays)

    def _sizes(self, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for name, values in arrays.items():
            sizes.update(zip(schema.variable(self.kind, name).dims, np.shape(values), strict=True))
        return sizes

    def _fill(self, sizes: Mapping[str, int], arrays: Mapping[str, np.ndarray]) -> None:
        create_arrays(self.path, self.name, self.kind, sizes, frames_per_block=None, names=list(arrays))
        for name, values in arrays.items():
            if np.size(values):
                self.array(name).write_whole(np.asarray(values))

    def remove(self) -> None:
        """Remove the group and everything in it, and its scratch files.

        Raises
        ------
        OSError
            When something of it stays.
        """
        remove_scratch(self.path, self.name)
        directory = self.directory
        if directory.exists():
            doomed = name_removed(directory)
            if locations.is_remote(directory):
                # nothing can be renamed: a mark says that it is being removed, until it is
                locations.write_text(doomed, "")
                (directory / FILE_NAME).unlink(missing_ok=True)
            else:
                directory.rename(doomed)
            finish_removal(doomed)

    @property
    def for_xarray(self) -> dict[str, Any]:
        """Arguments with which ``xarray.open_dataset`` opens the group."""
        return {"filename_or_obj": str(self.path), "group": self.name, "consolidated": False} | xarray_options(
            self.path
        )


class Described:
    """Something of the store that is described by the attributes of its group: the whole, a camera or a part."""

    @property
    def _group(self) -> Group:
        raise NotImplementedError

    @property
    def attributes(self) -> dict[str, Any]:
        """Present attributes; empty when the group is not in the store."""
        return self._group.attributes

    def update(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes."""
        self._group.update(attributes)


@dataclass(frozen=True)
class BlockGroup(Group):
    """Arrays of a part along ``frame``, which tasks write a block at a time, ``flags`` last.

    Attributes
    ----------
    n_frames, frames_per_block : int
        Number of frames, and of frames in a block.
    uid : str
        Identity of a part, whose arrays then stay open in this process for further blocks; empty for photometry.
    """

    n_frames: int = 0
    frames_per_block: int = 1
    uid: str = ""

    @property
    def n_blocks(self) -> int:
        """How many blocks the frames make."""
        return -(-self.n_frames // self.frames_per_block)

    def done(self, among: range | None = None) -> np.ndarray:
        """Which blocks are done, read from the flags themselves.

        Parameters
        ----------
        among : range, optional
            Blocks that are looked at, without gaps; by default all.

        Returns
        -------
        ndarray of bool, shape (n_blocks,) or (len(among),)
        """
        chosen = range(self.n_blocks) if among is None else among
        reduced = self._frames_that(lambda flags: flags != 0, chosen)
        starts = np.arange(len(chosen)) * self.frames_per_block
        return np.logical_and.reduceat(reduced, starts) if len(starts) else np.zeros(0, dtype=bool)

    def lost_frames(self) -> np.ndarray:
        """Frames (indices in the part) whose files were gone or changed when their sources were measured."""
        is_lost = np.uint32(SourceFlag.FRAME_LOST)
        return np.flatnonzero(self._frames_that(lambda flags: (flags & is_lost) != 0, range(self.n_blocks)))

    def _frames_that(self, test: Callable[[np.ndarray], np.ndarray], among: range) -> np.ndarray:
        """Which frames of some blocks pass a test with all their flags; few flags are in memory at a time."""
        per_block = self.frames_per_block
        first, last = among.start * per_block, min(among.stop * per_block, self.n_frames)
        with clear_errors(self.path, f"{self.name}/flags"):
            array = self.array("flags")
            found = np.empty(last - first, dtype=bool)
            slab = per_block * max(1, _FLAGS_AT_ONCE // (per_block * max(1, *array.shape[1:], 1)))
            for start in range(first, last, slab):
                flags = array.read(start, min(start + slab, last))
                found[start - first : start - first + slab] = np.all(test(flags.reshape(len(flags), -1)), axis=1)
        return found

    def forget(self, blocks: Iterable[int]) -> None:
        """Mark blocks as not done."""
        flags = open_zarr_array(self.path, f"{self.name}/flags")
        of_block: dict[int, list[tuple[int, ...]]] = {}
        for index in flags.chunks():
            of_block.setdefault(index[0], []).append(index)
        for block in blocks:
            for index in of_block[block]:
                flags.remove_chunk(index)

    def open_block(self, name: str) -> Array:
        """An array for the blocks of this process.

        Opening reads a small file and takes as long as a chunk, for each of some fifty arrays of a block. A part that
        is made anew has another ``uid``. Photometry may be made anew in a part, has none, and is opened each time.
        """
        return _kept_open(self, name) if self.uid else self.array(name)

    def read_block(self, name: str, start: int, stop: int) -> np.ndarray:
        """Values of an array as :meth:`read` gives them, from an array that stays open in this process."""
        with clear_errors(self.path, f"{self.name}/{name}"):
            return self.open_block(name).read(start, stop)


@functools.lru_cache(maxsize=256)
def _kept_open(group: BlockGroup, name: str) -> Array:
    return group.array(name)


def finish_removal(doomed: Path) -> None:
    """Finish a removal: of a renamed directory or, where directories cannot be renamed, of a marked one."""
    if locations.is_remote(str(doomed)):
        locations.remove_tree(doomed.with_name(doomed.name[1:].rsplit(".", 2)[0]))
        doomed.unlink(missing_ok=True)
    else:
        locations.remove_tree(doomed)


def remove_stray(file: Path) -> None:
    """Remove what an interrupted write or removal left behind."""
    if file.name.endswith(".removed"):
        finish_removal(file)
    elif file.is_dir():
        locations.remove_tree(file)
    else:
        file.unlink(missing_ok=True)


def xarray_options(path: Path) -> dict[str, Any]:
    """Options for xarray to open a store: none for a directory, no cached listings for a URL."""
    remote = {"storage_options": remote_paths.storage_options(path)} if locations.is_remote(path) else {}
    return {"engine": "zarr", **remote}
