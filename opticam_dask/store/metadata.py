"""Metadata of a store in a directory: of groups and arrays, read and written as the JSON files that they are.

Zarr writes the same bytes, in coroutines of a thread of its own: a light curve that is kept took half a second so, and
importing Zarr takes a sixth of a second besides.
"""

from __future__ import annotations

import errno
import json
import os
import unicodedata
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from opticam_dask import locations
from opticam_dask.store.errors import StoreError

#: File of the metadata of a group or array.
FILE_NAME = "zarr.json"

#: Content of a ``zarr.json``.
_Document = dict[str, Any]
#: Numbers of a file system and of a directory on it.
_Identity = tuple[int, int]


def read_metadata(file: Path) -> dict[str, Any]:
    """Metadata of a group or array.

    Parameters
    ----------
    file : Path
        Its ``zarr.json``.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    StoreError
        When the file is damaged.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or not isinstance(document.get("attributes", {}), dict):
            raise ValueError("not an object with attributes")
    except ValueError as error:  # what is no UTF-8 or no JSON is one as well
        raise damaged(file, error) from error
    return document


def is_array(directory: Path) -> bool:
    """Whether a directory is an array, by its metadata."""
    return read_metadata(directory / FILE_NAME).get("node_type") == "array"


def is_lost_link(place: Path) -> bool:
    """Whether a file or directory is a link to what is not there: a disk that is not mounted, or the link itself."""
    return not locations.is_remote(place) and place.is_symlink() and not place.exists()


def damaged(file: Path, reason: object) -> StoreError:
    """Error to raise where metadata cannot be used."""
    return StoreError(f"{file} is damaged ({reason}). opticam-dask verify says what is to be done about it.")


def make_group(path: Path, name: str, attributes: Mapping[str, Any]) -> None:
    """Make an empty group in place of an old one, and the groups that it lies in."""
    require_groups(path, PurePosixPath(name).parent)
    directory = path / name
    old = name_removed(directory)
    if directory.exists():
        directory.rename(old)
    _write(directory, _group(attributes))
    locations.remove_tree(old)


def require_groups(path: Path, name: PurePosixPath) -> None:
    """Make a group and the groups above it, where they are missing."""
    for place in reversed((name, *name.parents)):
        if place.parts and not (path / place / FILE_NAME).is_file():
            _write(path / place, _group({}))


def add_group(directory: Path, attributes: Mapping[str, Any]) -> None:
    """Make the root of a store, or a group in one; what lies in the directory stays.

    Raises
    ------
    FileExistsError
        When there is one already.
    """
    if (directory / FILE_NAME).exists():
        raise FileExistsError(errno.EEXIST, "there is a group already", str(directory))
    _write(directory, _group(attributes))


def make_array(
    directory: Path,
    *,
    shape: Sequence[int],
    chunks: Sequence[int],
    dtype: str,
    fill: Any,
    dims: Sequence[str],
    attributes: Mapping[str, Any],
) -> None:
    """Make an array without values in place of an old one: what :mod:`~opticam_dask.store.chunk_files` writes.

    Parameters
    ----------
    directory : Path
        Directory of the array.
    shape, chunks : sequence of int
        Shape of the array, and of a chunk.
    dtype : str
        Type by the names of NumPy; ``str`` for texts.
    fill : scalar
        Value of what is not written.
    dims : sequence of str
        Names of the dimensions.
    attributes : dict
        Attributes.
    """
    is_text, size = dtype == "str", 1 if dtype == "str" else np.dtype(dtype).itemsize
    endian = {} if size == 1 else {"configuration": {"endian": "little"}}
    shuffle = "shuffle" if size > 1 else "bitshuffle"
    compression = {"typesize": size, "cname": "zstd", "clevel": 3, "shuffle": shuffle, "blocksize": 0}
    document = {
        "shape": list(shape),
        "data_type": "string" if is_text else dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "NaN" if isinstance(fill, float) and np.isnan(fill) else fill,
        "codecs": [
            {"name": "vlen-utf8", "configuration": {}} if is_text else {"name": "bytes", **endian},
            {"name": "blosc", "configuration": compression},
            {"name": "crc32c"},
        ],
        "attributes": dict(attributes),
        "dimension_names": list(dims),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    if directory.exists():
        locations.remove_tree(directory)
    _write(directory, document)


def name_removed(directory: Path) -> Path:
    """A new name for a directory that is about to be removed: what is half removed must not look whole."""
    return directory.with_name(f".{directory.name}.{uuid.uuid4().hex}.removed")


def update_attributes(directory: Path, attributes: Mapping[str, Any]) -> None:
    """Add attributes to a group.

    Raises
    ------
    FileNotFoundError
        When there is no such group.
    StoreError
        When its metadata is damaged.
    """
    document = read_metadata(directory / FILE_NAME)
    document["attributes"] = {**document.get("attributes", {}), **attributes}
    _write(directory, document)


def consolidate(path: Path) -> None:
    """Write the metadata of all groups and arrays into the file of the root, too.

    Raises
    ------
    StoreError
        When some of it is damaged.
    OSError
        When some of it cannot be read.
    """
    root = read_metadata(path / FILE_NAME)
    found = dict(sorted(_members(path), key=lambda entry: (entry[0].count("/"), _folded(entry[0]), entry[0])))
    _write(path, _group(root.get("attributes", {}), _inline(found)))


def _members(path: Path, name: str = "", above: frozenset[_Identity] = frozenset()) -> Iterator[tuple[str, _Document]]:
    """Metadata of all groups and arrays below a group, by their paths in the store, as they stand in that of the root.

    Nights may be symbolic links to other disks; ``above`` are the directories in which a group lies, to which a link
    may lead back.
    """
    about = os.stat(path / name)
    if (identity := (about.st_dev, about.st_ino)) in above:
        return
    with os.scandir(path / name) as entries:
        # hidden ones are what interrupted writes and removals have left
        # os.path.isdir, as a link to itself is an error to entry.is_dir
        inner = [f"{name}/{one.name}".lstrip("/") for one in entries if one.name[0] != "." and os.path.isdir(one)]
    for member in inner:
        try:
            document = read_metadata(path / member / FILE_NAME)
        except FileNotFoundError:  # chunks of an array that was removed
            continue
        if document.get("node_type") == "array":
            yield member, document
        else:
            yield member, _group(document.get("attributes", {}), _inline({}))
            yield from _members(path, member, above | {identity})


def _group(attributes: Mapping[str, Any], consolidated: Mapping[str, Any] | None = None) -> dict[str, Any]:
    inner = {} if consolidated is None else {"consolidated_metadata": consolidated}
    return {"attributes": dict(attributes), "zarr_format": 3, **inner, "node_type": "group"}


def _inline(members: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": "inline", "must_understand": False, "metadata": members}


def _folded(name: str) -> str:
    """A name as Zarr sorts it."""
    return unicodedata.normalize("NFKC", name).casefold()


def _write(directory: Path, document: Mapping[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    locations.write_text(directory / FILE_NAME, json.dumps(document, indent=2))
