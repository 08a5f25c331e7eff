"""The Zarr layout of a reduction: create it, write one block, say what is done, close it. The only zarr import.

One Zarr v3 store holds one group per camera key, in it one group per night (or part of a night). Every array
along ``frame`` is chunked by ``frames_per_block``, so that the frames of one task are one chunk of every array
and no two tasks ever write the same chunk: Zarr loses data silently there. ``flags`` is written last; a frame
counts as reduced when its flags say so.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import shutil
import uuid
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.sync import sync

from opticam_dask import locations, schema
from opticam_dask.flags import SourceFlag
from opticam_dask.locations import location
from opticam_dask.store.chunk_files import ChunkFiles, open_chunks

STORE_NAME = "reduction.zarr"
SCRATCH_NAME = "scratch"

#: Flags are looked through in slabs of about so many, to bound the memory.
_FLAGS_AT_ONCE = 1 << 22

#: Arrays that only the planner writes and tasks only read have chunks of about so many frames.
_PLANNED_FRAMES = 4096
_PLANNED = {
    "frames": {entry.name for entry in schema.MANIFEST},
    "photometry": {"mjd_utc", "bmjd_tdb"},
    "photometry_radii": {"mjd_utc", "bmjd_tdb"},
}

#: Groups of arrays that are made with a part, the last one where its background has a mesh.
_KINDS_OF_PART = ("frames", "sources", "background")

#: Arrays of a remote store that are read or written at a time.
_AT_A_TIME = 16

#: Groups of a key that are not nights.
_KEY_PRODUCTS = ("reference", "catalog", "differential")


class StoreError(Exception):
    """The store cannot be used as asked; the message says why and what to do."""


def group_name(key: str) -> str:
    """Name of a key in groups and files: ``1:g`` becomes ``1-g``."""
    return key.replace(":", "-").replace("/", "_")


@dataclass(frozen=True)
class Part:
    """The frames of one key and night that share a shape: the unit that is added, redone or removed.

    Attributes
    ----------
    key, night : str
        Camera key such as ``1:g``; night such as ``2024-01-01``, further parts of it ``2024-01-01.2``.
    n_frames, frames_per_block : int
        Number of frames, and of frames in a block.
    shape : (int, int)
        Shape ``(ny, nx)`` of the frames as read.
    binning : int
        Detector pixels that were summed along each axis.
    mesh_shape : (int, int) or None
        Shape of the sky mesh; None when the background has no mesh.
    n_slots : int
        Detected sources kept of each frame.
    uid : str
        Tells this part from one of the same name that was made before or after it.
    """

    key: str
    night: str
    n_frames: int
    frames_per_block: int
    shape: tuple[int, int]
    binning: int
    mesh_shape: tuple[int, int] | None
    n_slots: int
    uid: str = ""

    @property
    def group(self) -> str:
        """Path of the part in the store."""
        return f"{group_name(self.key)}/{self.night}"

    @property
    def n_blocks(self) -> int:
        """How many blocks the frames make."""
        return -(-self.n_frames // self.frames_per_block)

    def block_range(self, block: int) -> tuple[int, int]:
        """First and one past the last frame of a block."""
        start = block * self.frames_per_block
        return start, min(start + self.frames_per_block, self.n_frames)

    def sizes(self, n_frames: int | None = None) -> dict[str, int]:
        """Length of each dimension, with ``n_frames`` frames when given."""
        mesh_y, mesh_x = self.mesh_shape or (0, 0)
        frame = self.n_frames if n_frames is None else n_frames
        return {
            "frame": frame,
            "row": 3,
            "column": 3,
            "moment": 3,
            "term": 6,
            "mesh_y": mesh_y,
            "mesh_x": mesh_x,
            "slot": self.n_slots,
        }


def store_path(out_directory: str | Path) -> Path:
    """Path of the Zarr store of an output directory."""
    return location(out_directory) / STORE_NAME


# ---------------------------------------------------------------- the whole store


def create_store(out_directory: str | Path, attributes: Mapping[str, Any]) -> Path:
    """Make an empty store with its root attributes.

    Raises
    ------
    StoreError
        When the directory cannot be written.
    """
    path = store_path(out_directory)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        zarr.create_group(
            _zarr_store(path), zarr_format=3, attributes={**attributes, "schema_version": schema.SCHEMA_VERSION}
        )
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}. Choose another --out.") from error
    return path


def exists(out_directory: str | Path) -> bool:
    """Whether the output directory holds a store."""
    return (store_path(out_directory) / "zarr.json").is_file()


def require_store(out_directory: str | Path) -> Path:
    """Path of the store.

    Raises
    ------
    StoreError
        When there is none, or its layout is newer than this version understands.
    """
    path = store_path(out_directory)
    if not exists(out_directory):
        raise StoreError(f"{out_directory} holds no reduction (no {STORE_NAME}). Run opticam-dask reduce first.")
    version = schema_version(path)
    if not version:
        raise StoreError(
            f"{path / 'zarr.json'} names no schema version: it is damaged, or no reduction of opticam-dask."
        )
    if version not in schema.READABLE_VERSIONS:
        raise StoreError(
            f"{path} has schema version {version}; this version of opticam-dask reads "
            f"{', '.join(schema.READABLE_VERSIONS)}. Update opticam-dask."
        )
    return path


def schema_version(path: str | Path) -> str:
    """Version of the layout of a store."""
    return str(read_attributes(path).get("schema_version", ""))


def read_attributes(path: str | Path, group: str = "") -> dict[str, Any]:
    """Attributes of a group; empty when there is no such group."""
    try:
        return dict(_read_metadata(location(path) / group / "zarr.json").get("attributes", {}))
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _read_metadata(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or not isinstance(document.get("attributes", {}), dict):
            raise ValueError("not an object with attributes")
    except ValueError as error:  # what is no UTF-8 or no JSON is one as well
        raise StoreError(
            f"{file} is damaged ({error}). opticam-dask verify says what is to be done about it."
        ) from error
    return document


def update_attributes(path: str | Path, group: str, attributes: Mapping[str, Any]) -> None:
    """Add attributes to a group."""
    _open_group(path, group).update_attributes(dict(attributes))


def begin_changes(path: str | Path) -> None:
    """Drop the consolidated metadata, which would hide what is about to be added.

    Raises
    ------
    StoreError
        When the store is of an older version.
    """
    require_present_version(path)
    drop_consolidated(path)
    # what a removal that was interrupted left behind
    for pattern in (".*.removed", "*/.*.removed", "*/*/.*.removed"):
        for doomed in location(path).glob(pattern):
            _finish_removal(doomed)


def require_present_version(path: str | Path) -> None:
    """Refuse to write into a store of an older version.

    Raises
    ------
    StoreError
    """
    version = schema_version(path)
    if version != schema.SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema version {version}, this version of opticam-dask writes {schema.SCHEMA_VERSION}. "
            f"Run opticam-dask migrate {location(path).parent} first: it keeps everything that was reduced."
        )


def drop_consolidated(path: str | Path) -> None:
    """Remove the consolidated metadata of a store."""
    file = location(path) / "zarr.json"
    document = _read_metadata(file)
    if document.pop("consolidated_metadata", None) is not None:
        locations.write_text(file, json.dumps(document, indent=2))


def is_consolidated(path: str | Path) -> bool:
    """Whether the store has consolidated metadata, which the end of a run writes."""
    return _read_metadata(location(path) / "zarr.json").get("consolidated_metadata") is not None


def finish_changes(path: str | Path) -> None:
    """Write consolidated metadata, so that readers open the store with one read; remove empty scratch folders."""
    with warnings.catch_warnings():
        # zarr warns that consolidated metadata is not in the v3 specification yet; readers do without it.
        warnings.filterwarnings("ignore", message=".*[Cc]onsolidated metadata.*")
        zarr.consolidate_metadata(_zarr_store(path))
    remove_empty_scratch(path)


def remove_empty_scratch(path: str | Path) -> None:
    """Remove the folders for scratch files that hold none any more."""
    if locations.is_remote(path):
        return  # there are no folders
    scratch = location(path).parent / SCRATCH_NAME
    for folder in sorted(scratch.rglob("*"), reverse=True) if scratch.is_dir() else []:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    if scratch.is_dir() and not any(scratch.iterdir()):
        scratch.rmdir()


def keys(path: str | Path) -> list[str]:
    """Camera keys of the store, in the order of their names."""
    found = []
    for entry in sorted(location(path).iterdir()):
        is_group = entry.is_dir() and not entry.name.startswith(".")
        attributes = read_attributes(path, entry.name) if is_group else {}
        if "key" in attributes:
            found.append(str(attributes["key"]))
    return found


def add_key(path: str | Path, key: str, camera: str, filter_name: str) -> None:
    """Make the group of a camera key, unless it is there."""
    if not read_attributes(path, group_name(key)):
        root = _open_group(path, "")
        root.create_group(group_name(key), attributes={"key": key, "camera": camera, "filter": filter_name})


# ---------------------------------------------------------------- nights and their parts


def parts(path: str | Path, key: str) -> list[Part]:
    """Parts of a key that are in the store, in the order of their names."""
    return list(_iterate_parts(path, key))


def part_names(path: str | Path, key: str) -> list[str]:
    """Names of the groups of a key that are parts, whole or not."""
    entries = sorted((location(path) / group_name(key)).iterdir())
    is_part = [e.is_dir() and e.name not in _KEY_PRODUCTS and not e.name.startswith(".") for e in entries]
    return [entry.name for entry, chosen in zip(entries, is_part, strict=True) if chosen]


def _iterate_parts(path: str | Path, key: str) -> Iterator[Part]:
    for name in part_names(path, key):
        if (part := open_part(path, key, name)) is not None:
            yield part


def open_part(path: str | Path, key: str, name: str) -> Part | None:
    """One part of a key; None when it is not whole."""
    attributes = read_attributes(path, f"{group_name(key)}/{name}")
    if not attributes.get("complete"):
        return None
    mesh = attributes["mesh_shape"]
    return Part(
        key=key,
        night=name,
        n_frames=attributes["n_frames"],
        frames_per_block=attributes["frames_per_block"],
        shape=tuple(attributes["shape"]),
        binning=attributes["binning"],
        mesh_shape=None if mesh is None else tuple(mesh),
        n_slots=attributes["n_slots"],
        uid=attributes.get("uid", ""),
    )


def add_part(
    path: str | Path,
    part: Part,
    manifest: Mapping[str, np.ndarray],
    data_root: str,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Make all arrays of a part at their full size and write its manifest.

    The attribute ``complete`` is written last: a part without it is made anew by the next run.
    """
    if read_attributes(path, part.group).get("complete"):
        raise StoreError(f"{part.group} exists already in {path}.")
    root = _open_group(path, "")
    attributes = {
        "n_frames": part.n_frames,
        "frames_per_block": part.frames_per_block,
        "shape": list(part.shape),
        "binning": part.binning,
        "mesh_shape": None if part.mesh_shape is None else list(part.mesh_shape),
        "n_slots": part.n_slots,
        "data_root": data_root,
        "uid": part.uid or uuid.uuid4().hex,
        "provenance": dict(provenance or {}),
    }
    night = root.create_group(part.group, overwrite=True, attributes=attributes)
    for kind in _KINDS_OF_PART if part.mesh_shape is not None else _KINDS_OF_PART[:2]:
        _create_arrays(night, kind, kind, part.sizes(), part.frames_per_block)
    for name, values in manifest.items():
        schema.validate("frames", {name: values}, part.sizes())
        _write_whole(path, f"{part.group}/frames/{name}", values)
    night.update_attributes({"complete": True})


def add_arrays(path: str | Path, part: Part, kind: str, names: Sequence[str]) -> None:
    """Make arrays of a group of a part that an older version did not have, without values, unless they are there."""
    night = _open_group(path, part.group)
    missing = [name for name in names if f"{kind}/{name}" not in night]
    if missing:
        _create_arrays(night, kind, kind, part.sizes(), part.frames_per_block, missing)


def remove_group(path: str | Path, group: str) -> None:
    """Remove a group and everything in it, and its partial stacks.

    Raises
    ------
    OSError
        When something of it stays.
    """
    remove_partial_stacks(path, group)
    directory = location(path) / group
    if directory.exists():
        # what is half removed must not look whole: the name goes first
        doomed = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}.removed")
        if locations.is_remote(path):
            # nothing can be renamed: a mark says that it is being removed, until it is
            locations.write_text(doomed, "")
            (directory / "zarr.json").unlink(missing_ok=True)
        else:
            directory.rename(doomed)
        _finish_removal(doomed)


def _finish_removal(doomed: Path) -> None:
    """Remove what was begun to be removed: a directory of that name or, where none can be renamed, what it marks."""
    if locations.is_remote(str(doomed)):
        locations.remove_tree(doomed.with_name(doomed.name[1:].rsplit(".", 2)[0]))
        doomed.unlink(missing_ok=True)
    else:
        locations.remove_tree(doomed)


def move_aside(path: str | Path) -> Path:
    """Give a store another name in its directory, so that a new one can be made.

    Returns
    -------
    Path
        The new name, ``reduction.old-N.zarr``.

    Raises
    ------
    StoreError
        On an object store, where nothing can be renamed.
    """
    path = location(path)
    if locations.is_remote(path):
        raise StoreError(
            f"{path} cannot be kept under another name, because nothing can be renamed there. Choose another --out, "
            "or remove it with the tools of the object store."
        )
    numbers = itertools.count(1)
    target = next(name for n in numbers if not (name := path.with_name(f"{path.stem}.old-{n}.zarr")).exists())
    path.rename(target)
    shutil.rmtree(path.parent / SCRATCH_NAME, ignore_errors=True)
    return target


def done_blocks(path: str | Path, part: Part, label: str | None = None, among: range | None = None) -> np.ndarray:
    """Which blocks of a part are done, read from the data itself.

    Parameters
    ----------
    path : path
        The store.
    part : Part
        The part (camera key and night) of the store.
    label : str, optional
        Photometry label; the first pass when not given.
    among : range, optional
        Blocks that are looked at, without gaps; by default all.

    Returns
    -------
    ndarray of bool, shape (n_blocks,) or (len(among),)
    """
    group = f"{part.group}/frames" if label is None else f"{part.group}/photometry/{label}"
    with _clear_errors(path, f"{group}/flags"):
        chosen = range(part.n_blocks) if among is None else among
        return _done_blocks(_chunks(path, f"{group}/flags"), part, chosen)


def _done_blocks(array: Any, part: Part, among: range) -> np.ndarray:
    reduced = _frames_that(array, part, among, lambda flags: flags != 0)
    starts = np.arange(len(among)) * part.frames_per_block
    return np.logical_and.reduceat(reduced, starts) if len(starts) else np.zeros(0, dtype=bool)


def _frames_that(array: Any, part: Part, among: range, test: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Frames of some blocks of which all flags pass a test; a bounded number of flags is in memory at once."""
    first, last = among.start * part.frames_per_block, min(among.stop * part.frames_per_block, part.n_frames)
    found = np.empty(last - first, dtype=bool)
    slab = part.frames_per_block * max(1, _FLAGS_AT_ONCE // (part.frames_per_block * max(1, *array.shape[1:], 1)))
    for start in range(first, last, slab):
        flags = _values(array, start, min(start + slab, last))
        found[start - first : start - first + slab] = np.all(test(flags.reshape(len(flags), -1)), axis=1)
    return found


def lost_frames(path: str | Path, part: Part, label: str) -> np.ndarray:
    """Frames whose files were gone or changed when a label was measured.

    Returns
    -------
    ndarray of int
        Their indices in the part.
    """
    name = f"{part.group}/photometry/{label}/flags"
    with _clear_errors(path, name):
        is_lost = np.uint32(SourceFlag.FRAME_LOST)
        array = _chunks(path, name)
        return np.flatnonzero(_frames_that(array, part, range(part.n_blocks), lambda flags: (flags & is_lost) != 0))


def forget_blocks(path: str | Path, part: Part, blocks: Iterable[int], label: str | None = None) -> None:
    """Mark blocks as not done, in the first pass or in the photometry of a label."""
    group = f"{part.group}/frames" if label is None else f"{part.group}/photometry/{label}"
    n_further = len(open_array(path, f"{group}/flags").shape) - 1
    for block in blocks:
        remove_chunk(path, f"{group}/flags", (block, *(0,) * n_further))


def chunk_file(path: str | Path, name: str, index: tuple[int, ...]) -> Path:
    """File of one chunk of an array."""
    return location(path) / name / open_array(path, name).metadata.encode_chunk_key(index)


def remove_chunk(path: str | Path, name: str, index: tuple[int, ...]) -> None:
    """Remove a chunk; one that is damaged could not be written over in part."""
    chunk_file(path, name, index).unlink(missing_ok=True)


def write_again(path: str | Path, group: str, name: str, values: np.ndarray) -> None:
    """Write a whole array anew, whatever is on disk."""
    _array(_open_group(path, group), name)[...] = values


def write_chunk_again(path: str | Path, name: str, index: tuple[int, ...]) -> None:
    """Write one chunk as it reads, so that a chunk of fill values becomes a file."""
    array = open_array(path, name)
    array.set_block_selection(index, array.get_block_selection(index))


def read_manifest(path: str | Path, part: Part, block: int | None = None) -> dict[str, np.ndarray]:
    """Manifest of a part, or of one block of it; ``file`` is made absolute.

    Returns
    -------
    dict of ndarray
        The variables of ``schema.MANIFEST`` by name; of a whole part of an older schema version, those it has.
    """
    start, stop = (0, part.n_frames) if block is None else part.block_range(block)
    # blocks are read by tasks, which run on stores of the present version only
    later = schema.added_after(schema_version(path), "frames") if block is None else ()
    names = [entry.name for entry in schema.MANIFEST if entry.name not in later]
    values = _each(
        locations.is_remote(path), lambda name: _read_of_part(path, part, "frames", name, start, stop), names
    )
    arrays = dict(zip(names, values, strict=True))
    data_root = read_attributes(path, part.group)["data_root"]
    arrays["file"] = np.array([os.path.join(data_root, name) for name in arrays["file"]], dtype=object)
    return arrays


_RESULTS = {
    "frames": (
        *("flags", "transform", "transform_rms", "n_matched", "background_rms"),
        *("fwhm", "semimajor_sigma", "semiminor_sigma", "orientation", "form_terms"),
    ),
    "background": (
        *("background_mesh", "background_rms_mesh"),
        *("background_offset_mesh", "background_mean_mesh", "background_n_sky"),
    ),
    "sources": ("x", "y", "flux"),
}


def read_results(path: str | Path, part: Part, block: int) -> dict[str, np.ndarray]:
    """What the second pass needs of the first: flags, transforms, sky mesh and detected positions of a block."""
    start, stop = part.block_range(block)
    wanted = [
        (group, name)
        for group, names in _RESULTS.items()
        if group != "background" or part.mesh_shape is not None
        for name in names
    ]
    values = _each(
        locations.is_remote(path), lambda one: _read_of_part(path, part, one[0], one[1], start, stop), wanted
    )
    return {name: found for (_, name), found in zip(wanted, values, strict=True)}


def write_block(path: str | Path, part: Part, block: int, arrays: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Write the frames of one block into every array of a part, the flags last.

    Parameters
    ----------
    path : path
        The store.
    part : Part
        The part (camera key and night) of the store.
    block : int
        Number of the block of frames.
    arrays : dict of dict of ndarray
        Variables by group of the part (``frames``, ``background``, ``photometry/aperture``, ...).

    Raises
    ------
    ValueError
        When an array does not cover exactly the frames of the block.
    StoreError
        When the part was removed or made anew since the task began: another run has taken over.
    """
    start, stop = part.block_range(block)
    if read_attributes(path, part.group).get("uid", "") != part.uid:
        raise StoreError(f"{part.group} of {path} was made anew by another run while this one worked on it.")
    first: list[tuple[str, str, np.ndarray]] = []
    last: list[tuple[str, str, np.ndarray]] = []
    for group, variables in arrays.items():
        for name, values in variables.items():
            if len(values) != stop - start:
                raise ValueError(f"{group}/{name} must cover {stop - start} frames of block {block}, got {len(values)}")
            (last if name == "flags" else first).append((group, name, values))

    def write(entry: tuple[str, str, np.ndarray]) -> None:
        group, name, values = entry
        _write_values(_array_of_part(str(path), part, group, name), start, stop, values)

    _each(locations.is_remote(path), write, first)
    for entry in last:
        write(entry)


def _write_whole(path: str | Path, name: str, values: np.ndarray) -> None:
    """Write an array that was just made."""
    array = _chunks(path, name)
    if isinstance(array, ChunkFiles):
        for start in range(0, len(values), array.per_chunk):
            stop = min(start + array.per_chunk, len(values))
            array.write(start, stop, values[start:stop])
    else:
        array[...] = values


def _write_values(array: Any, start: int, stop: int, values: np.ndarray) -> None:
    if isinstance(array, ChunkFiles):
        array.write(start, stop, values)
    else:
        array[start:stop] = values


def _each(is_remote: bool, function: Callable[[Any], Any], entries: Sequence[Any]) -> list[Any]:
    """A function of each entry; of a remote store many at a time, where waiting for an answer is what takes time."""
    if not is_remote:
        return [function(entry) for entry in entries]
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        return list(pool.map(function, entries))


def read_array(
    path: str | Path,
    group: str,
    name: str,
    start: int = 0,
    stop: int | None = None,
    *,
    columns: slice | np.ndarray | None = None,
) -> np.ndarray:
    """Values of one array, or of its entries ``start`` to ``stop`` along the first dimension.

    ``columns`` are those that are wanted along the second one; by default all.
    """
    with _clear_errors(path, f"{group}/{name}"):
        return _values(_chunks(path, f"{group}/{name}"), start, stop, columns)


def _read_of_part(path: str | Path, part: Part, group: str, name: str, start: int, stop: int) -> np.ndarray:
    """As :func:`read_array`, from an array that was made with its part."""
    with _clear_errors(path, f"{part.group}/{group}/{name}"):
        return _values(_array_of_part(str(path), part, group, name), start, stop)


def _array_of_part(path: str, part: Part, group: str, name: str) -> Any:
    """Array of a part; one that was made with it stays open in this process, for the blocks to come.

    Opening reads a small file and takes as long as a chunk, for each of some fifty arrays of a block. A part that
    is made anew has another ``uid``. Photometry may be made anew in a part, and is opened each time.
    """
    if part.uid and group in _KINDS_OF_PART:
        return _open_array_of_part(path, part, group, name)
    return _chunks(path, f"{part.group}/{group}/{name}")


@functools.lru_cache(maxsize=256)
def _open_array_of_part(path: str, part: Part, group: str, name: str) -> Any:
    return _chunks(path, f"{part.group}/{group}/{name}")


def _chunks(path: str | Path, name: str) -> Any:
    """An array for its values: its files where it is of the usual kind and in a directory, else as Zarr has it."""
    files = None if locations.is_remote(path) else open_chunks(os.path.join(path, name))
    return open_array(path, name) if files is None else files


def _values(array: Any, start: int, stop: int | None, columns: slice | np.ndarray | None = None) -> np.ndarray:
    if isinstance(array, ChunkFiles):
        return array.read(start, stop, slice(None) if columns is None else columns)
    chosen = slice(start, stop)
    values = np.asarray(array[chosen] if columns is None else array.oindex[chosen, columns])
    return values.astype(object) if values.dtype.kind == "T" else values


@contextlib.contextmanager
def _clear_errors(path: str | Path, name: str) -> Iterator[None]:
    """Say which array cannot be read, and what to do; codecs and parsers say neither."""
    try:
        yield
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise StoreError(
            f"{name} of {path} is damaged ({' '.join(str(error).split())[:100]}). "
            f"opticam-dask verify {location(path).parent} says what is to be done about it."
        ) from error


def add_photometry(
    path: str | Path,
    part: Part,
    label: str,
    source_ids: np.ndarray,
    attributes: Mapping[str, Any],
    *,
    variables: Sequence[str] = (),
    radii: Sequence[float] = (),
) -> None:
    """Make the arrays of a photometry label, unless they are there with the same attributes.

    Parameters
    ----------
    path : path
        Path of the store.
    part : Part
        The part (camera key and night) of the store.
    label : str
        Photometry label.
    source_ids : ndarray of int, shape (source,)
        Ids of the sources of the catalogue.
    attributes : dict
        Attributes of the group.
    variables : sequence of str
        Variables beyond those of every label (``schema.ALWAYS_MEASURED``).
    radii : sequence of float
        With several radii the measurements have a last dimension ``radius``.

    Raises
    ------
    StoreError
        When the label exists with other parameters.
    """
    group = f"{part.group}/photometry/{label}"
    present = read_attributes(path, group)
    if present.get("complete"):
        if present["parameters_hash"] != attributes["parameters_hash"]:
            raise StoreError(
                f"photometry {label!r} is already in the store with other parameters "
                f"({present['parameters']} before, {attributes['parameters']} now). "
                "Give this variant a name of its own with --label NAME."
            )
        return
    sizes = {**part.sizes(), "source": len(source_ids), "radius": len(radii)}
    kind = "photometry_radii" if radii else "photometry"
    names = [*schema.ALWAYS_MEASURED, *variables, *schema.COORDINATES[kind]]
    night = _open_group(path, part.group)
    night.require_group("photometry")
    night.create_group(
        f"photometry/{label}", overwrite=True, attributes={**attributes, "variables": names, "radii": list(radii)}
    )
    _create_arrays(night, kind, f"photometry/{label}", sizes, part.frames_per_block, names)
    if radii:
        _write_whole(path, f"{group}/radius", np.asarray(radii, dtype=float))
    for name in ("mjd_utc", "bmjd_tdb"):
        _write_whole(path, f"{group}/{name}", read_array(path, f"{part.group}/frames", name))
    _write_whole(path, f"{group}/source_id", source_ids)
    update_attributes(path, group, {"complete": True})


def add_to_label(path: str | Path, part: Part, label: str, name: str) -> None:
    """Make an array of a photometry label that an older version did not have, without values, unless it is there."""
    group = f"photometry/{label}"
    night = _open_group(path, part.group)
    attributes = read_attributes(path, f"{part.group}/{group}")
    known = [entry.name for entry in schema.PHOTOMETRY]
    variables = attributes.get("variables") or [entry for entry in known if f"{group}/{entry}" in night]
    if name in variables:
        return
    radii = attributes.get("radii", [])
    n_sources = len(read_array(path, f"{part.group}/{group}", "source_id"))
    if f"{group}/{name}" not in night:
        sizes = {**part.sizes(), "source": n_sources, "radius": len(radii)}
        kind = "photometry_radii" if radii else "photometry"
        _create_arrays(night, kind, group, sizes, part.frames_per_block, [name])
    update_attributes(path, f"{part.group}/{group}", {"variables": [*variables, name]})


def photometry_labels(path: str | Path, part: Part) -> list[str]:
    """Labels of the photometry that a part holds, finished or not."""
    folder = location(path) / part.group / "photometry"
    if not folder.is_dir():
        return []
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    return [name for name in names if read_attributes(path, f"{part.group}/photometry/{name}").get("complete")]


def measured_keys(path: str | Path, label: str) -> list[str]:
    """Camera keys that have photometry of this label."""
    return [key for key in keys(path) if any(label in photometry_labels(path, part) for part in parts(path, key))]


# ---------------------------------------------------------------- products that are written at once


def write_product(
    path: str | Path,
    group: str,
    kind: str,
    arrays: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
) -> None:
    """Write a group of whole arrays (stack, reference, catalogue, list of files set aside) in place of an old one."""
    sizes: dict[str, int] = {}
    for name, values in arrays.items():
        sizes.update(zip(schema.variable(kind, name).dims, np.shape(values), strict=True))
    root = _open_group(path, "")
    own = {name: value for name, value in attributes.items() if name != "complete"}
    target = root.create_group(group, overwrite=True, attributes=own)
    _fill_product(path, root, group, kind, sizes, arrays)
    target.update_attributes({"complete": True})


def extend_product(path: str | Path, group: str, kind: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Add arrays to a group that is whole, or write them again; the arrays it has already are not touched."""
    sizes: dict[str, int] = {}
    for name, values in arrays.items():
        sizes.update(zip(schema.variable(kind, name).dims, np.shape(values), strict=True))
    root = _open_group(path, "")
    root.require_group(group)
    _fill_product(path, root, group, kind, sizes, arrays)


def _fill_product(
    path: str | Path,
    root: zarr.Group,
    group: str,
    kind: str,
    sizes: Mapping[str, int],
    arrays: Mapping[str, np.ndarray],
) -> None:
    _create_arrays(root, kind, group, sizes, frames_per_block=None, names=list(arrays))
    for name, values in arrays.items():
        if np.size(values):
            _write_whole(path, f"{group}/{name}", np.asarray(values))


def has_product(path: str | Path, group: str) -> bool:
    """Whether a group written by :func:`write_product` is whole."""
    return bool(read_attributes(path, group).get("complete"))


def read_product(path: str | Path, group: str) -> dict[str, np.ndarray]:
    """All arrays of a group written by :func:`write_product`, by name."""
    opened = _open_group(path, group)
    names = sorted(opened.array_keys())
    values = _each(locations.is_remote(path), lambda name: read_array(path, group, name), names)
    return dict(zip(names, values, strict=True))


# ---------------------------------------------------------------- scratch: partial stacks


def partial_stack_path(path: str | Path, group: str, name: str) -> Path:
    """Where a partial stack is kept, beside the store and never in it."""
    return location(path).parent / SCRATCH_NAME / group / f"{name}.npy"


def write_partial_stack(file: Path, total: np.ndarray, coverage: np.ndarray) -> None:
    """Write a sum of frames (int64) and its coverage (uint32); a reader sees all of it or nothing.

    The file holds the two arrays and their checksums in NumPy's format, one after the other: an archive (.npz) of them
    takes up to four times as long to write.
    """
    if not locations.is_remote(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    arrays = _compact(total), _compact(coverage)
    with locations.replacing(file) as temporary, temporary.open("wb") as stream:
        for array in (*arrays, _checksums(*arrays)):
            np.save(stream, array)


def _checksums(*arrays: np.ndarray) -> np.ndarray:
    return np.array([zlib.crc32(np.ascontiguousarray(array).data) for array in arrays], dtype=np.uint32)


def _compact(numbers: np.ndarray) -> np.ndarray:
    """Whole numbers in the smallest type that holds them: a sum of a few frames is then 5 bytes a pixel, not 12."""
    low, high = (int(numbers.min()), int(numbers.max())) if numbers.size else (0, 0)
    for small in (np.uint8, np.int32):
        if np.iinfo(small).min <= low and high <= np.iinfo(small).max:
            return numbers.astype(small)
    return numbers


def remove_stray(file: Path) -> None:
    """Remove what an interrupted write or removal left behind."""
    if file.name.endswith(".removed"):
        _finish_removal(file)
    elif file.is_dir():
        locations.remove_tree(file)
    else:
        file.unlink(missing_ok=True)


def remove_partial_stacks(path: str | Path, group: str) -> None:
    """Remove the partial stacks of a part whose stack is whole."""
    with contextlib.suppress(OSError):
        locations.remove_tree(location(path).parent / SCRATCH_NAME / group)


def read_partial_stack(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Sum of frames and coverage of a partial stack, as whole numbers of some type.

    Raises
    ------
    StoreError
        When the file is damaged.
    """
    try:
        with locations.open_binary(file) as stream:
            total, coverage, checksums = (np.load(stream) for _ in range(3))
        is_whole = np.array_equal(_checksums(total, coverage), checksums)
    except (ValueError, EOFError) as error:
        raise StoreError(_damaged_stack(file, str(error))) from error
    if not is_whole:
        raise StoreError(_damaged_stack(file, "its checksum does not fit"))
    return total, coverage


def _damaged_stack(file: Path, reason: str) -> str:
    return (
        f"{file}, the sum of some frames for the stack, is damaged ({reason}). Delete it and run the same command "
        "again: its frames are summed again."
    )


# ---------------------------------------------------------------- whole-store checks


def open_array(path: str | Path, name: str) -> Any:
    """One array of a store, as Zarr has it.

    Raises
    ------
    FileNotFoundError
        When there is none; it is a ValueError as well.
    """
    return _with_every_chunk(zarr.Array.open(zarr.storage.StorePath(_zarr_store(path), name)))


def compare(path: str | Path, other: str | Path) -> list[str]:
    """What differs between two stores, bit for bit, apart from creation time, host facts and chunk sizes.

    Differential light curves are left out: people keep them when the reduction is over.
    """
    mine, theirs = (
        {name: array for name, array in all_arrays(one) if "/differential/" not in name} for one in (path, other)
    )
    lines = [f"{name}: only in one of the two" for name in sorted(set(mine) ^ set(theirs))]
    for name in sorted(set(mine) & set(theirs)):
        one, two = np.asarray(mine[name][...]), np.asarray(theirs[name][...])
        if one.shape != two.shape or one.dtype != two.dtype:
            lines.append(f"{name}: {one.dtype}{one.shape} against {two.dtype}{two.shape}")
        elif one.dtype.kind in "TOU":
            n_different = int(np.count_nonzero(one != two))
            lines += [f"{name}: {n_different} of {one.size} texts differ"] if n_different else []
        else:
            equal = one.view(f"V{one.dtype.itemsize}") == two.view(f"V{two.dtype.itemsize}") if one.size else True
            n_different = one.size - int(np.count_nonzero(equal)) if one.size else 0
            lines += [f"{name}: {n_different} of {one.size} values differ"] if n_different else []
    for attribute in ("parameters_hash", "schema_version", "instrument"):
        if read_attributes(path).get(attribute) != read_attributes(other).get(attribute):
            lines.append(f"attribute {attribute} differs")
    return lines


def all_arrays(path: str | Path) -> list[tuple[str, Any]]:
    """Every array of a store, by the path in it."""
    with warnings.catch_warnings():
        # temporary files of interrupted writes are no part of the store
        warnings.filterwarnings("ignore", message=".*not recognized as a component of a Zarr hierarchy.*")
        members = list(_open_group(path, "").members(max_depth=None))
    is_hidden = {name for name, _ in members if any(word.startswith(".") for word in name.split("/"))}
    return sorted(
        (name, member) for name, member in members if isinstance(member, zarr.Array) and name not in is_hidden
    )


# ---------------------------------------------------------------- inside


def _zarr_store(path: str | Path) -> Any:
    """What Zarr opens: a directory, or whatever fsspec reaches by the URL."""
    place = location(path)
    if not locations.is_remote(place):
        return zarr.storage.LocalStore(place)
    options = locations.storage_options(place)

    async def opened() -> Any:
        return zarr.storage.FsspecStore.from_url(str(place), storage_options=options)

    # fsspec keeps a client for each thread that opens one, for good: here it is always the same, where Zarr works
    return sync(opened())


def xarray_options(path: str | Path) -> dict[str, Any]:
    """What xarray needs to open a store: nothing more for a directory, no cached listings for a URL."""
    remote = {"storage_options": locations.storage_options(path)} if locations.is_remote(path) else {}
    return {"engine": "zarr", **remote}


def _open_group(path: str | Path, group: str) -> zarr.Group:
    if group:
        # only the root has consolidated metadata; this way it is one file that is read
        return zarr.Group.open(zarr.storage.StorePath(_zarr_store(path), group))
    return zarr.open_group(_zarr_store(path), mode="r+", zarr_format=3, use_consolidated=False)


def _array(group: zarr.Group, name: str) -> Any:
    return _with_every_chunk(cast(zarr.Array, group[name]))


def _with_every_chunk(array: zarr.Array) -> Any:
    """Array of which every chunk is written, so that one that is missing later is known to be lost."""
    return array.with_config({"write_empty_chunks": True})


def _create_arrays(
    root: zarr.Group,
    kind: str,
    group: str,
    sizes: Mapping[str, int],
    frames_per_block: int | None,
    names: list[str] | None = None,
) -> None:
    """Make the arrays of a group at their full size; along ``frame`` one chunk is one block of what tasks write."""
    target = root.require_group(group)
    coordinates = schema.COORDINATES.get(kind)
    if coordinates:
        target.update_attributes({"coordinates": " ".join(coordinates)})

    def create(entry: schema.Variable) -> None:
        shape = tuple(sizes[dim] for dim in entry.dims)
        per_chunk = frames_per_block
        if per_chunk and entry.name in _PLANNED.get(kind, ()):
            per_chunk *= max(1, _PLANNED_FRAMES // per_chunk)
        chunks = tuple(per_chunk if dim == "frame" and per_chunk else max(1, sizes[dim]) for dim in entry.dims)
        _create_array(
            target,
            entry.name,
            shape=shape,
            chunks=chunks,
            dtype=str if entry.dtype == "str" else entry.dtype,
            fill_value=entry.fill,
            dimension_names=entry.dims,
            compressors=[BloscCodec(cname="zstd", clevel=3), Crc32cCodec()],
            attributes=entry.all_attributes(),
        )

    entries = [entry for entry in schema.GROUPS[kind] if names is None or entry.name in names]
    _each(not isinstance(root.store, zarr.storage.LocalStore), create, entries)


def _create_array(target: zarr.Group, name: str, **described: Any) -> None:
    """Make an array in place of an old one.

    In a directory it is the file that Zarr makes in memory, which takes a fraction of the time: a night has fifty.
    """
    if not isinstance(target.store, zarr.storage.LocalStore):
        target.create_array(name, **described, overwrite=True)
        return
    made: dict[str, Any] = {}
    zarr.create_array(zarr.storage.MemoryStore(made), zarr_format=3, **described)
    folder = target.store.root / target.path / name
    if folder.exists():
        locations.remove_tree(folder)
    folder.mkdir(parents=True)
    locations.write_text(folder / "zarr.json", made["zarr.json"].to_bytes().decode())
