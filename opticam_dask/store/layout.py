"""The store by path: what callers that know no :class:`~opticam_dask.store.store.Store` yet ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from opticam_dask.locations import location
from opticam_dask.store import making, scratch
from opticam_dask.store.arrays import open_zarr_array
from opticam_dask.store.camera import Camera, Part, group_name
from opticam_dask.store.errors import StoreError
from opticam_dask.store.groups import Group, remove_stray, xarray_options
from opticam_dask.store.integrity import compare
from opticam_dask.store.scratch import SCRATCH_NAME, read_partial_stack, write_partial_stack
from opticam_dask.store.store import STORE_NAME, Store

__all__ = [
    "SCRATCH_NAME",
    "STORE_NAME",
    "Part",
    "StoreError",
    "compare",
    "group_name",
    "read_partial_stack",
    "remove_stray",
    "write_partial_stack",
    "xarray_options",
]


def _store(path: str | Path) -> Store:
    return Store(location(path))


def store_path(out_directory: str | Path) -> Path:
    return Store.at(out_directory).path


def create_store(out_directory: str | Path, attributes: Mapping[str, Any]) -> Path:
    return Store.create(out_directory, attributes).path


def exists(out_directory: str | Path) -> bool:
    return Store.at(out_directory).exists()


def require_store(out_directory: str | Path) -> Path:
    return Store.open(out_directory).path


def schema_version(path: str | Path) -> str:
    return _store(path).version


def read_attributes(path: str | Path, group: str = "") -> dict[str, Any]:
    return Group(location(path), group).attributes


def update_attributes(path: str | Path, group: str, attributes: Mapping[str, Any]) -> None:
    Group(location(path), group).update(attributes)


def begin_changes(path: str | Path) -> None:
    _store(path).begin_changes()


def require_present_version(path: str | Path) -> None:
    _store(path).require_present_version()


def drop_consolidated(path: str | Path) -> None:
    _store(path).drop_consolidated()


def is_consolidated(path: str | Path) -> bool:
    return _store(path).is_consolidated


def finish_changes(path: str | Path) -> None:
    _store(path).finish_changes()


def remove_empty_scratch(path: str | Path) -> None:
    scratch.remove_empty_scratch(location(path))


def keys(path: str | Path) -> list[str]:
    return _store(path).keys


def add_key(path: str | Path, key: str, camera: str, filter_name: str) -> None:
    _store(path).add_camera(key, camera, filter_name)


def parts(path: str | Path, key: str) -> list[Part]:
    return Camera(location(path), key).parts


def part_names(path: str | Path, key: str) -> list[str]:
    return Camera(location(path), key).part_names


def open_part(path: str | Path, key: str, name: str) -> Part | None:
    return Camera(location(path), key).part(name)


def add_part(
    path: str | Path,
    part: Part,
    manifest: Mapping[str, np.ndarray],
    data_root: str,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    making.create_part(part, manifest, data_root, provenance)


def remove_group(path: str | Path, group: str) -> None:
    Group(location(path), group).remove()


def move_aside(path: str | Path) -> Path:
    return _store(path).move_aside()


def done_blocks(_: str | Path, part: Part, label: str | None = None, among: range | None = None) -> np.ndarray:
    return part.records(label).done(among)


def lost_frames(_: str | Path, part: Part, label: str) -> np.ndarray:
    return part.photometry(label).lost_frames()


def forget_blocks(_: str | Path, part: Part, blocks: Iterable[int], label: str | None = None) -> None:
    part.records(label).forget(blocks)


def chunk_file(path: str | Path, name: str, index: tuple[int, ...]) -> Path:
    return open_zarr_array(location(path), name).chunk_file(index)


def read_manifest(_: str | Path, part: Part, block: int | None = None) -> dict[str, np.ndarray]:
    return part.manifest(block)


def read_results(_: str | Path, part: Part, block: int) -> dict[str, np.ndarray]:
    return part.results(block)


def write_block(_: str | Path, part: Part, block: int, arrays: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    part.write_block(block, arrays)


def write_again(path: str | Path, group: str, name: str, values: np.ndarray) -> None:
    open_zarr_array(location(path), f"{group}/{name}").write_whole(values)


def read_array(
    path: str | Path,
    group: str,
    name: str,
    start: int = 0,
    stop: int | None = None,
    *,
    columns: slice | np.ndarray | None = None,
) -> np.ndarray:
    return Group(location(path), group).read(name, start, stop, slice(None) if columns is None else columns)


def open_array(path: str | Path, name: str) -> Any:
    return open_zarr_array(location(path), name).array


def add_photometry(
    _: str | Path,
    part: Part,
    label: str,
    source_ids: np.ndarray,
    attributes: Mapping[str, Any],
    *,
    variables: Sequence[str] = (),
    radii: Sequence[float] = (),
) -> None:
    making.add_photometry(part, label, source_ids, attributes, variables=variables, radii=radii)


def photometry_labels(_: str | Path, part: Part) -> list[str]:
    return part.labels


def measured_keys(path: str | Path, label: str) -> list[str]:
    return _store(path).measured_keys(label)


def write_product(
    path: str | Path, group: str, kind: str, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]
) -> None:
    Group(location(path), group, kind).write(arrays, attributes)


def extend_product(path: str | Path, group: str, kind: str, arrays: Mapping[str, np.ndarray]) -> None:
    Group(location(path), group, kind).extend(arrays)


def has_product(path: str | Path, group: str) -> bool:
    return Group(location(path), group).is_whole


def read_product(path: str | Path, group: str) -> dict[str, np.ndarray]:
    return Group(location(path), group).read_all()


def partial_stack_path(path: str | Path, group: str, name: str) -> Path:
    return scratch.scratch_folder(location(path), group, f"{name}.npy")


def remove_partial_stacks(path: str | Path, group: str) -> None:
    scratch.remove_scratch(location(path), group)
