"""Arrays and groups as Zarr keeps them: opened, made, listed. The only Zarr import.

An array is read and written through one protocol, :class:`Array`: files of chunks in a directory
(:mod:`~opticam_dask.store.chunk_files`), or whatever Zarr opens. Zarr is imported by what needs it, which takes a sixth
of a second: most commands read and write files of chunks alone.
"""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from opticam_dask import locations, remote_paths, schema
from opticam_dask.store import metadata
from opticam_dask.store.chunk_files import open_chunks
from opticam_dask.store.errors import NoSuchArray

if TYPE_CHECKING:
    import zarr

#: Arrays that only the planner writes and tasks only read have chunks of about this many frames.
_PLANNED_FRAMES = 4096
_PLANNED = {
    "frames": {entry.name for entry in schema.MANIFEST},
    "photometry": {"mjd_utc", "bmjd_tdb"},
    "photometry_radii": {"mjd_utc", "bmjd_tdb"},
}

#: What Zarr says of temporary files that interrupted writes have left: they are no part of the store.
_TEMPORARY = ".*not recognized as a component of a Zarr hierarchy.*"

#: Arrays of a remote store that are read or written at a time.
_AT_A_TIME = 16


class Array(Protocol):
    """An array of the store, which stays where it is until values are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""

    @property
    def dtype(self) -> Any:
        """Type of the values."""

    def read(self, start: int = 0, stop: int | None = None, columns: Any = slice(None)) -> np.ndarray:
        """Entries ``start`` to ``stop`` along the first dimension, of some columns along the second."""

    def write(self, start: int, stop: int, values: np.ndarray) -> None:
        """Write entries ``start`` to ``stop``, which are one chunk."""

    def write_whole(self, values: np.ndarray) -> None:
        """Write all entries."""


@dataclass(frozen=True)
class ZarrArray:
    """An array through Zarr: of any kind, in any place; also its single chunks, for checks and repairs."""

    array: Any
    directory: Path

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> Any:
        """Type of the values."""
        return self.array.dtype

    def read(self, start: int = 0, stop: int | None = None, columns: Any = slice(None)) -> np.ndarray:
        """Entries ``start`` to ``stop`` along the first dimension, of some columns along the second."""
        is_whole = isinstance(columns, slice) and columns == slice(None)
        chosen = slice(start, stop)
        values = _native(self.array[chosen] if is_whole else self.array.oindex[chosen, columns])
        return values.astype(object) if values.dtype.kind == "T" else values

    def write(self, start: int, stop: int, values: np.ndarray) -> None:
        """Write entries ``start`` to ``stop``."""
        self.array[start:stop] = values

    def write_columns(self, start: int, stop: int, first: int, values: np.ndarray) -> None:
        """Write columns from ``first`` on of the entries ``start`` to ``stop``."""
        self.array[start:stop, first : first + values.shape[1]] = values

    def widen(self, n_columns: int) -> None:
        """Make room for further columns; present chunks stay unchanged."""
        self.array.resize((self.array.shape[0], n_columns, *self.array.shape[2:]))

    def write_whole(self, values: np.ndarray) -> None:
        """Write all entries, whatever is on disk."""
        self.array[...] = values

    def chunks(self) -> Iterator[tuple[int, ...]]:
        """Index of every chunk."""
        return np.ndindex(*self.array.cdata_shape) if self.array.size else iter(())

    def chunk_file(self, index: tuple[int, ...]) -> Path:
        """File of one chunk."""
        return self.directory / self.array.metadata.encode_chunk_key(index)

    def read_chunk(self, index: tuple[int, ...]) -> np.ndarray:
        """Values of one chunk."""
        return _native(self.array.get_block_selection(index))

    def write_chunk_again(self, index: tuple[int, ...]) -> None:
        """Write one chunk as it reads, so that a chunk of fill values becomes a file."""
        self.array.set_block_selection(index, self.array.get_block_selection(index))

    def remove_chunk(self, index: tuple[int, ...]) -> None:
        """Remove a chunk; one that is damaged could not be written over in part."""
        self.chunk_file(index).unlink(missing_ok=True)


def _native(values: Any) -> np.ndarray:
    """Values of the type of this machine: Zarr says the order of their bytes even where it is the same."""
    array = np.asarray(values)
    return array.view(array.dtype.newbyteorder("=")) if array.dtype.kind in "iuf" and array.dtype.isnative else array


def open_array(path: Path, name: str) -> Array:
    """An array for its values: its files where it is of the usual kind and in a directory, else as Zarr has it.

    Raises
    ------
    FileNotFoundError
        When there is none; it is a ValueError as well.
    """
    if not locations.is_remote(path):
        file = os.path.join(path, name, metadata.FILE_NAME)
        if files := open_chunks(os.path.dirname(file)):
            return files
        if not os.path.exists(file):
            raise NoSuchArray(errno.ENOENT, os.strerror(errno.ENOENT), file)
    return open_zarr_array(path, name)


def open_zarr_array(path: Path, name: str) -> ZarrArray:
    """An array as Zarr has it.

    Raises
    ------
    FileNotFoundError
        When there is none; it is a ValueError as well.
    """
    import zarr

    return _wrapped(zarr.Array.open(zarr.storage.StorePath(_zarr_store(path), name)), path / name)


def all_arrays(path: Path) -> dict[str, ZarrArray]:
    """Every array of a store, by the path in it; once, whatever links lead to it."""
    import zarr

    if not locations.is_remote(path):
        walked = locations.walk(path, metadata.FILE_NAME)
        nodes = (folder for folder, _, files in walked if metadata.FILE_NAME in files)
        names = sorted(str(folder.relative_to(path)) for folder in nodes if metadata.is_array(folder))
        return {name: open_zarr_array(path, name) for name in names}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_TEMPORARY)
        members = list(open_group(path, "").members(max_depth=None))
    is_hidden = {name for name, _ in members if any(word.startswith(".") for word in name.split("/"))}
    return {
        name: _wrapped(member, path / name)
        for name, member in sorted(members, key=lambda entry: entry[0])
        if isinstance(member, zarr.Array) and name not in is_hidden
    }


def _wrapped(array: zarr.Array, directory: Path) -> ZarrArray:
    # every chunk is written, so that one that is missing later is known to be lost
    return ZarrArray(array.with_config({"write_empty_chunks": True}), directory)


def open_group(path: Path, group: str) -> zarr.Group:
    """A group as Zarr has it, for writing."""
    import zarr

    if group:
        # only the root has consolidated metadata; this way it is one file that is read
        return zarr.Group.open(zarr.storage.StorePath(_zarr_store(path), group))
    return zarr.open_group(_zarr_store(path), mode="r+", zarr_format=3, use_consolidated=False)


def array_names(path: Path, group: str) -> list[str]:
    """Names of the arrays of a group, sorted."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_TEMPORARY)
        return sorted(open_group(path, group).array_keys())


def create_root(path: Path, attributes: Mapping[str, Any]) -> None:
    """Make an empty store.

    Raises
    ------
    OSError
        When it cannot be written, or there is one already.
    """
    if not locations.is_remote(path):
        metadata.add_group(path, attributes)
        return
    import zarr

    zarr.create_group(_zarr_store(path), zarr_format=3, attributes=dict(attributes))


def create_group(path: Path, group: str, attributes: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Make an empty group; with ``overwrite`` in place of an old one, of which nothing stays."""
    if locations.is_remote(path):
        open_group(path, "").create_group(group, overwrite=overwrite, attributes=dict(attributes))
    elif overwrite:
        metadata.make_group(path, group, attributes)
    else:
        metadata.add_group(path / group, attributes)


def consolidate(path: Path) -> None:
    """Write the metadata of all groups and arrays into the file of the root, too."""
    if not locations.is_remote(path):
        metadata.consolidate(path)
        return
    import zarr

    with warnings.catch_warnings():
        # zarr warns that consolidated metadata is not in the v3 specification yet; readers do without it.
        warnings.filterwarnings("ignore", message=".*[Cc]onsolidated metadata.*")
        warnings.filterwarnings("ignore", message=_TEMPORARY)
        zarr.consolidate_metadata(_zarr_store(path))


def each(path: Path, function: Callable[[Any], Any], entries: Sequence[Any]) -> list[Any]:
    """A function of each entry; of a remote store many at a time, where waiting for an answer is what takes time."""
    if not locations.is_remote(path):
        return [function(entry) for entry in entries]
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        return list(pool.map(function, entries))


def create_arrays(
    path: Path,
    group: str,
    kind: str,
    sizes: Mapping[str, int],
    frames_per_block: int | None,
    names: Sequence[str] | None = None,
) -> None:
    """Make the arrays of a group at their full size, and the group if it is not there.

    Along ``frame`` one chunk is one block of what tasks write.

    Parameters
    ----------
    path : Path
        The store.
    group, kind : str
        Path of the group in it, and what it holds: a key of ``schema.GROUPS``.
    sizes : dict of int
        Lengths of the dimensions.
    frames_per_block : int or None
        Frames of a block; None for arrays of one chunk.
    names : sequence of str, optional
        Arrays that are made; by default all of the kind.
    """
    coordinates = schema.COORDINATES.get(kind)
    attributes = {"coordinates": " ".join(coordinates)} if coordinates else {}
    create = _creator(path, group, attributes)

    def create_one(entry: schema.Variable) -> None:
        per_chunk = frames_per_block
        if per_chunk and entry.name in _PLANNED.get(kind, ()):
            per_chunk *= max(1, _PLANNED_FRAMES // per_chunk)
        shape = tuple(sizes[dim] for dim in entry.dims)
        chunks = tuple(per_chunk if dim == "frame" and per_chunk else max(1, sizes[dim]) for dim in entry.dims)
        create(entry, shape, chunks)

    each(path, create_one, [entry for entry in schema.GROUPS[kind] if names is None or entry.name in names])


def _creator(
    path: Path, group: str, attributes: Mapping[str, Any]
) -> Callable[[schema.Variable, tuple[int, ...], tuple[int, ...]], None]:
    """What makes an array in place of an old one in a group, which is made if it is not there and gets attributes.

    In a directory it is the file that Zarr makes, in a fraction of the time: a night has fifty.
    """
    if not locations.is_remote(path):
        metadata.require_groups(path, PurePosixPath(group))
        if attributes:
            metadata.update_attributes(path / group, attributes)
        return lambda entry, shape, chunks: metadata.make_array(
            path / group / entry.name,
            shape=shape,
            chunks=chunks,
            dtype=entry.dtype,
            fill=entry.fill,
            dims=entry.dims,
            attributes=entry.all_attributes(),
        )
    from zarr.codecs import BloscCodec, Crc32cCodec

    target = open_group(path, "").require_group(group)
    if attributes:
        target.update_attributes(dict(attributes))

    def create(entry: schema.Variable, shape: tuple[int, ...], chunks: tuple[int, ...]) -> None:
        target.create_array(
            entry.name,
            shape=shape,
            chunks=chunks,
            dtype=str if entry.dtype == "str" else entry.dtype,
            fill_value=entry.fill,
            dimension_names=entry.dims,
            compressors=[BloscCodec(cname="zstd", clevel=3), Crc32cCodec()],
            attributes=entry.all_attributes(),
            overwrite=True,
        )

    return create


def _zarr_store(path: Path) -> Any:
    """What Zarr opens: a directory, or whatever fsspec reaches by the URL."""
    import zarr
    from zarr.core.sync import sync

    if not locations.is_remote(path):
        return zarr.storage.LocalStore(path)
    options = remote_paths.storage_options(path)

    async def opened() -> Any:
        return zarr.storage.FsspecStore.from_url(str(path), storage_options=options)

    # fsspec keeps a client for each thread that opens one, for good: here it is always the same, where Zarr works
    return sync(opened())
