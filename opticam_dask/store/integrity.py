"""Check a store: read every chunk, list what is damaged, and prepare the blocks that must be made again.

Every chunk carries a checksum (crc32c), and every chunk of a finished block is a file, so a flipped bit and a lost file
are both found. What can be made again from the frames or from other arrays is dropped here; the ordinary passes make
it again. Names of frames (the manifest) come from the scan alone: a night that lost them is reduced again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opticam_dask import schema
from opticam_dask.locations import location, walk
from opticam_dask.store import layout
from opticam_dask.store.layout import Part

_MANIFEST = {entry.name for entry in schema.MANIFEST}
#: Products of a part that are written at once, in words.
_PRODUCTS = {"stack": "stack", "psf": "star profile", "quality": "quality"}
_FROM_FRAMES = ("mjd_utc", "bmjd_tdb", "source_id", "radius")


@dataclass(frozen=True)
class Damage:
    """Something of a store that cannot be trusted.

    Attributes
    ----------
    where : str
        Array and chunk, or file.
    reason : str
        Why, in one sentence.
    remedy : str
        What has to be made again.
    drop : callable, optional
        Makes room, so that the ordinary passes make it again.
    restore : callable, optional
        Makes it again from other arrays, once those are whole. With neither it cannot be repaired from the store.
    is_metadata : bool
        Arrays below cannot be opened.
    """

    where: str
    reason: str
    remedy: str
    drop: Callable[[], None] | None = None
    restore: Callable[[], None] | None = None
    is_metadata: bool = False

    @property
    def is_repairable(self) -> bool:
        """Whether it can be made again from the store and its frames."""
        return self.drop is not None or self.restore is not None

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}; to be made again: {self.remedy}"


def find_damage(path: str | Path) -> list[Damage]:
    """Read the whole store, one chunk at a time.

    Parameters
    ----------
    path : path
        The store.

    Returns
    -------
    list of Damage
    """
    if broken := list(_damaged_metadata(location(path))):
        return broken  # arrays below cannot be opened
    parts = {part.group: part for key in layout.keys(path) for part in layout.parts(path, key)}
    if lost := list(_lost_arrays(location(path), parts)):
        return lost
    done: dict[tuple[str, str | None], np.ndarray] = {}
    found = list(_lost_products(path))
    # in schema 1.0 a chunk of fill values was no file
    may_lack_chunks = layout.schema_version(path) == "1.0"
    flags_first = sorted(layout.all_arrays(path), key=lambda entry: (not entry[0].endswith("/flags"), entry[0]))
    for name, array in flags_first:
        place = _Place.of(name, parts)
        for index in _chunks(array):
            reason = _fault(location(path), name, array, index)
            if reason is None:
                continue
            if reason == _MISSING and (may_lack_chunks or not _must_be_there(path, place, index, done)):
                continue
            found.append(_describe(path, name, place, index, reason))
    return found


def stray_files(path: str | Path) -> list[Path]:
    """Temporary files that interrupted writes left behind; they do no harm."""
    names = ("*.partial", ".*.partial", ".*.removed", "*.partial.*")
    return sorted({file for pattern in names for file in location(path).rglob(pattern)})


def add_arrays_of(path: str | Path, version: str) -> None:
    """Make the arrays that a schema version added, without values."""
    for key in layout.keys(path):
        for part in layout.parts(path, key):
            for kind, names in schema.ADDED[version].items():
                if kind != "background" or part.mesh_shape is not None:
                    layout.add_arrays(path, part, kind, names)


def write_missing_chunks(path: str | Path) -> int:
    """Write the chunks of finished blocks that hold fill values only, where they have no file; return how many."""
    parts = {part.group: part for key in layout.keys(path) for part in layout.parts(path, key)}
    done: dict[tuple[str, str | None], np.ndarray] = {}
    count = 0
    for name, array in layout.all_arrays(path):
        place = _Place.of(name, parts)
        for index in _chunks(array):
            is_missing = not _chunk_file(location(path), name, array, index).exists()
            if is_missing and _must_be_there(path, place, index, done):
                layout.write_chunk_again(path, name, index)
                count += 1
    return count


# ---------------------------------------------------------------- where a chunk belongs


@dataclass(frozen=True)
class _Place:
    """What an array is, from its path: of a part (pass, label or product) or of the whole store."""

    part: Part | None
    group: str
    name: str
    label: str | None

    @classmethod
    def of(cls, name: str, parts: dict[str, Part]) -> _Place:
        words = name.split("/")
        part = parts.get("/".join(words[:2]))
        group = "/".join(words[2:-1]) if part is not None else "/".join(words[:-1])
        label = words[3] if part is not None and words[2] == "photometry" else None
        return cls(part, group, words[-1], label)

    @property
    def is_block_wise(self) -> bool:
        """Whether tasks write it, a chunk a block."""
        if self.part is None or self.group in _PRODUCTS:
            return False
        return self.name not in (_FROM_FRAMES if self.label is not None else _MANIFEST)


def _chunks(array: Any) -> Iterator[tuple[int, ...]]:
    return np.ndindex(*array.cdata_shape) if array.size else iter(())


def _chunk_file(path: Path, name: str, array: Any, index: tuple[int, ...]) -> Path:
    return path / name / array.metadata.encode_chunk_key(index)


_MISSING = "the chunk is missing"


def _fault(path: Path, name: str, array: Any, index: tuple[int, ...]) -> str | None:
    if not _chunk_file(path, name, array, index).exists():
        return _MISSING
    try:
        array.get_block_selection(index)
    except Exception as error:  # noqa: BLE001 - any codec may fail in its own way on damaged bytes
        return f"the chunk is damaged ({' '.join(str(error).split())[:120]})"
    return None


def _must_be_there(
    path: str | Path, place: _Place, index: tuple[int, ...], done: dict[tuple[str, str | None], np.ndarray]
) -> bool:
    """Whether a chunk belongs to something finished; blocks that are not done may lack any of theirs."""
    if not place.is_block_wise:
        return True
    assert place.part is not None  # block-wise arrays belong to parts
    known = (place.part.group, place.label)
    if known not in done:
        try:
            done[known] = layout.done_blocks(
                path, *((place.part,) if place.label is None else (place.part, place.label))
            )
        except Exception:  # noqa: BLE001 - flags that cannot be read are reported as such, and say nothing about others
            done[known] = np.ones(place.part.n_blocks, dtype=bool)
    return bool(done[known][index[0]])


def _describe(path: str | Path, name: str, place: _Place, index: tuple[int, ...], reason: str) -> Damage:
    where = f"{name}, chunk {'.'.join(map(str, index))}"
    if place.part is None:
        return _describe_product(path, place, where, reason)
    part, label = place.part, place.label
    if place.is_block_wise:
        what = "first pass" if label is None else f"photometry {label}"
        remedy = f"{what} of block {index[0]} of {part.key} {part.night} ({_frames_of(path, part, index[0])})"

        def drop() -> None:
            layout.remove_chunk(path, name, index)
            layout.forget_blocks(path, part, [index[0]], label)

        return Damage(where, reason, remedy, drop)
    if place.group in _PRODUCTS:
        remedy = f"{_PRODUCTS[place.group]} of {part.key} {part.night}"
        return Damage(where, reason, remedy, lambda: layout.remove_group(path, f"{part.group}/{place.group}"))
    if label is not None:
        remedy = f"{place.name} of photometry {label} of {part.key} {part.night}"

        def restore() -> None:
            layout.remove_chunk(path, name, index)
            _copy_from_frames(path, part, label, place.name)

        return Damage(where, reason, remedy, restore=restore)
    remedy = f"all of {part.key} {part.night}, by opticam-dask reduce DATA --out {location(path).parent} --redo "
    return Damage(where, reason, remedy + part.night.partition(".")[0])


def _describe_product(path: str | Path, place: _Place, where: str, reason: str) -> Damage:
    if place.group.endswith("/catalog"):
        return Damage(where, reason, "the catalogue, from the stack", lambda: layout.remove_group(path, place.group))
    if place.group.endswith("/reference") and place.name in ("image", "coverage"):
        remedy = "the reference image, from the stack"
        return Damage(where, reason, remedy, restore=lambda: _copy_from_stack(path, place.group))
    if place.group.startswith("calibration/"):
        remedy = "the master, by the same opticam-dask reduce with its calibration frames"
        return Damage(where, reason, remedy, lambda: layout.remove_group(path, place.group))
    if "/differential/" in place.group:
        remedy = "the light curve, by what made it (DifferentialPhotometer)"
        return Damage(where, reason, remedy, lambda: layout.remove_group(path, place.group))
    if place.group == "set_aside":
        remedy = "the list of files set aside, by the next opticam-dask reduce"
        return Damage(where, reason, remedy, lambda: layout.remove_group(path, place.group))
    remedy = f"all, by opticam-dask reduce DATA --out {location(path).parent} --rebuild-reference"
    return Damage(where, reason, remedy)


def _frames_of(path: str | Path, part: Part, block: int) -> str:
    start, stop = part.block_range(block)
    frames = f"frames {start} to {stop - 1}"
    try:
        files = layout.read_array(path, f"{part.group}/frames", "file", start, stop)
    except Exception:  # noqa: BLE001 - the names may be damaged as well
        return frames
    return f"{frames}, {os.path.basename(files[0])} to {os.path.basename(files[-1])}"


def _copy_from_frames(path: str | Path, part: Part, label: str, name: str) -> None:
    group = f"{part.group}/photometry/{label}"
    if name == "radius":
        layout.write_again(path, group, name, np.asarray(layout.read_attributes(path, group)["radii"], dtype=float))
        return
    source = (f"{layout.group_name(part.key)}/catalog" if name == "source_id" else f"{part.group}/frames", name)
    layout.write_again(path, group, name, layout.read_array(path, *source))


def _copy_from_stack(path: str | Path, group: str) -> None:
    night = layout.read_attributes(path, group)["reference_night"]
    stack = layout.read_product(path, f"{group.split('/')[0]}/{night}/stack")
    layout.extend_product(path, group, "reference", stack)


def _lost_products(path: str | Path) -> Iterator[Damage]:
    """Reference, catalogue and stacks that a finished first pass has made, and that are not there."""
    for key in layout.keys(path):
        group = layout.group_name(key)
        if layout.read_attributes(path, group).get("catalog_checksum") is None:
            continue
        if not layout.has_product(path, f"{group}/reference"):
            remedy = f"all, by opticam-dask reduce DATA --out {location(path).parent} --rebuild-reference"
            yield Damage(f"{group}/reference", "the group is missing", remedy)
        elif not layout.has_product(path, f"{group}/catalog"):
            yield Damage(f"{group}/catalog", "the group is missing", "the catalogue, from the stack", lambda: None)


def _lost_arrays(path: Path, parts: dict[str, Part]) -> Iterator[Damage]:
    """Arrays that the schema has and a part has not."""
    for part in parts.values():
        kinds = {kind: kind for kind in ("frames", "sources")}
        kinds |= {"background": "background"} if part.mesh_shape is not None else {}
        folder = path / part.group / "photometry"
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        labels = {f"photometry/{label}": "photometry" for label in names}
        for group, kind in (kinds | labels).items():
            for name in _expected_names(path, f"{part.group}/{group}", kind):
                file = path / part.group / group / name / "zarr.json"
                if not file.is_file():
                    yield _lost(path, file)
            if group in labels and not (path / part.group / group / "zarr.json").is_file():
                yield _lost(path, path / part.group / group / "zarr.json")


def _expected_names(path: Path, group: str, kind: str) -> list[str]:
    """Arrays that a group of a part should have; a photometry label says which are its own."""
    if kind != "photometry":
        later = schema.added_after(layout.schema_version(path), kind)
        return [entry.name for entry in schema.GROUPS[kind] if entry.name not in later]
    with contextlib.suppress(layout.StoreError):
        if names := layout.read_attributes(path, group).get("variables"):
            return [str(name) for name in names]
    return [*schema.ALWAYS_MEASURED, *schema.COORDINATES[kind]]


def _lost(path: Path, file: Path) -> Damage:
    remedy = _remedy_for_metadata(path, file)
    return Damage(str(file.relative_to(path)), "the metadata are missing", remedy, is_metadata=True)


def _damaged_metadata(path: Path) -> Iterator[Damage]:
    for folder, files in walk(path):
        if "zarr.json" not in files:
            continue
        file = folder / "zarr.json"
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            if document["zarr_format"] != 3 or document["node_type"] not in ("array", "group"):
                raise ValueError("no Zarr version 3 node")
            if document["node_type"] == "array":
                layout.open_array(path, str(folder.relative_to(path)))
        except Exception as error:  # noqa: BLE001 - damaged text fails in any way, and must not stop the report
            reason = f"the metadata are damaged ({' '.join(str(error).split())[:120]})"
            remedy = _remedy_for_metadata(path, file)
            yield Damage(str(file.relative_to(path)), reason, remedy, is_metadata=True)


def _remedy_for_metadata(path: Path, file: Path) -> str:
    words = file.relative_to(path).parts[:-1]
    command = f"opticam-dask reduce DATA --out {path.parent}"
    if len(words) < 2 or words[1] in ("catalog", "reference"):
        return f"all, by {command} --new (no metadata, no names)"
    return f"the night, by {command} --redo {words[1].partition('.')[0]}"
