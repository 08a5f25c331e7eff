"""Check a store: read every chunk, list what is damaged, and prepare the blocks that must be made again.

Every chunk carries a checksum (crc32c), and every chunk of a finished block is a file, so a flipped bit and a lost file
are both found. What can be made again from the frames or from other arrays is dropped here; the ordinary passes make
it again. Names of frames (the manifest) come from the scan alone: a night that lost them is reduced again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opticam_dask import schema
from opticam_dask.locations import location, walk
from opticam_dask.store import making, metadata
from opticam_dask.store.arrays import ZarrArray, all_arrays, open_zarr_array
from opticam_dask.store.camera import Camera, Part
from opticam_dask.store.errors import StoreError
from opticam_dask.store.groups import Group
from opticam_dask.store.metadata import FILE_NAME
from opticam_dask.store.store import Store

_MANIFEST = {entry.name for entry in schema.MANIFEST}
#: Products of a part that are written at once, in words.
_PRODUCTS = {"stack": "stack", "psf": "star profile", "quality": "quality"}
_MARKS_ANEW = "nothing can: the marks of observers are to be made again"
#: Names of what interrupted writes and removals leave.
_STRAY = re.compile(r".*\.partial(\..*)?|\..*\.removed")
_FROM_FRAMES = ("mjd_utc", "bmjd_tdb", "source_id", "radius")


@dataclass(frozen=True)
class Damage:
    """A damaged part of a store.

    Attributes
    ----------
    where : str
        Array and chunk, or file.
    reason : str
        Why, in one sentence.
    remedy : str
        What has to be made again.
    drop : callable, optional
        Removes what is damaged, so that the ordinary passes make it again.
    restore : callable, optional
        Makes it again from other arrays, once those are whole. Without ``drop`` and ``restore`` it cannot be repaired.
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
    store = Store(location(path))
    if broken := [*_lost_links(store.path), *_damaged_metadata(store.path)]:
        return broken  # arrays below cannot be opened
    parts = _parts_of(store)
    if lost := list(_lost_arrays(store, parts)):
        return lost
    done: dict[str, np.ndarray] = {}
    found = [*_lost_products(store), *_lost_in_products(store, parts), *_damaged_marks(store)]
    # in schema 1.0 a chunk of fill values was no file
    may_lack_chunks = store.version == "1.0"
    flags_first = sorted(all_arrays(store.path).items(), key=lambda entry: (not entry[0].endswith("/flags"), entry[0]))
    for name, array in flags_first:
        place = _Place.of(store, name, parts)
        for index in array.chunks():
            reason = _fault(array, index)
            if reason is None:
                continue
            if reason == _MISSING and (may_lack_chunks or not _must_be_there(place, index, done)):
                continue
            found.append(_describe(place, name, array, index, reason))
    return found


def _parts_of(store: Store) -> dict[str, Part]:
    return {part.group: part for part in store.parts}


def stray_files(path: str | Path) -> list[Path]:
    """Temporary files and directories that interrupted writes left behind; they do no harm."""
    entries = ((above, name) for above, folders, files in walk(location(path), FILE_NAME) for name in folders + files)
    return sorted(above / name for above, name in entries if _STRAY.fullmatch(name))


def add_arrays_of(store: Store, version: str) -> None:
    """Make the arrays that a schema version added, without values."""
    for part in _parts_of(store).values():
        for kind, names in schema.ADDED[version].items():
            if kind != "background" or part.mesh_shape is not None:
                making.add_arrays(part, kind, names)


def write_missing_chunks(store: Store) -> None:
    """Write the chunks of finished blocks that hold fill values only, where they have no file."""
    parts = _parts_of(store)
    done: dict[str, np.ndarray] = {}
    for name, array in all_arrays(store.path).items():
        place = _Place.of(store, name, parts)
        for index in array.chunks():
            if not array.chunk_file(index).exists() and _must_be_there(place, index, done):
                array.write_chunk_again(index)


def compare(path: str | Path, other: str | Path) -> list[str]:
    """Differences between two stores, bit for bit, apart from creation time, host facts and chunk sizes.

    Differential light curves are left out: people keep them when the reduction is over. When a file was given its
    present permissions is a fact of a host.
    """
    stores = [Store(location(one)) for one in (path, other)]
    mine, theirs = (
        {
            name: array
            for name, array in all_arrays(one.path).items()
            if "/differential/" not in name and not name.endswith("/file_ctime")
        }
        for one in stores
    )
    lines = [f"{name}: only in one of the two" for name in sorted(set(mine) ^ set(theirs))]
    for name in sorted(set(mine) & set(theirs)):
        lines += [f"{name}: {told}" for told in _difference(mine[name].read(), theirs[name].read())]
    before, after = (store.attributes for store in stores)
    for attribute in ("parameters_hash", "schema_version", "instrument"):
        if before.get(attribute) != after.get(attribute):
            lines.append(f"attribute {attribute} differs")
    return lines


def _difference(one: np.ndarray, two: np.ndarray) -> list[str]:
    """How two arrays differ, in words; empty where all bits are the same."""
    if one.shape != two.shape or one.dtype != two.dtype:
        return [f"{one.dtype}{one.shape} against {two.dtype}{two.shape}"]
    is_text = one.dtype.kind in "TOU"
    if not is_text and one.size:
        one, two = (values.view(f"V{values.dtype.itemsize}") for values in (one, two))
    n_different = int(np.count_nonzero(one != two)) if one.size else 0
    return [f"{n_different} of {one.size} {'texts' if is_text else 'values'} differ"] if n_different else []


# ---------------------------------------------------------------- where a chunk belongs


@dataclass(frozen=True)
class _Place:
    """What an array is, from its path: of a part (pass, label or product) or of the whole store."""

    store: Store
    part: Part | None
    group: str
    name: str
    label: str | None

    @classmethod
    def of(cls, store: Store, name: str, parts: dict[str, Part]) -> _Place:
        words = name.split("/")
        part = parts.get("/".join(words[:2]))
        group = "/".join(words[2:-1]) if part is not None else "/".join(words[:-1])
        label = words[3] if part is not None and words[2] == "photometry" else None
        return cls(store, part, group, words[-1], label)

    @property
    def is_block_wise(self) -> bool:
        """Whether tasks write it, a chunk a block."""
        if self.part is None or self.group in _PRODUCTS:
            return False
        return self.name not in (_FROM_FRAMES if self.label is not None else _MANIFEST)

    @property
    def camera(self) -> Camera:
        """The camera whose product it is."""
        return self.store.camera(self.group.split("/")[0])


_MISSING = "the chunk is missing"


def _fault(array: ZarrArray, index: tuple[int, ...]) -> str | None:
    if not array.chunk_file(index).exists():
        return _MISSING
    try:
        array.read_chunk(index)
    except PermissionError:  # nothing is known of what is in it
        raise
    except Exception as error:  # noqa: BLE001 - any codec may fail in its own way on damaged bytes
        return f"the chunk is damaged ({' '.join(str(error).split())[:120]})"
    return None


def _must_be_there(place: _Place, index: tuple[int, ...], done: dict[str, np.ndarray]) -> bool:
    """Whether a chunk must exist: blocks that are not done may lack chunks."""
    if not place.is_block_wise:
        return True
    assert place.part is not None  # block-wise arrays belong to parts
    records = place.part.records(place.label)
    if records.name not in done:
        try:
            done[records.name] = records.done()
        except Exception:  # noqa: BLE001 - flags that cannot be read are reported as such, and say nothing about others
            done[records.name] = np.ones(place.part.n_blocks, dtype=bool)
    return bool(done[records.name][index[0]])


def _describe(place: _Place, name: str, array: ZarrArray, index: tuple[int, ...], reason: str) -> Damage:
    where = f"{name}, chunk {'.'.join(map(str, index))}"
    if place.part is None:
        return _describe_product(place, where, reason)
    part, label = place.part, place.label
    if place.is_block_wise:
        what = "first pass" if label is None else f"photometry {label}"
        remedy = f"{what} of block {index[0]} of {part.key} {part.night} ({_frames_of(part, index[0])})"

        def drop() -> None:
            array.remove_chunk(index)
            part.records(label).forget([index[0]])

        return Damage(where, reason, remedy, drop)
    if place.group in _PRODUCTS:
        return _describe_product(place, where, reason)
    if label is not None:
        remedy = f"{place.name} of photometry {label} of {part.key} {part.night}"

        def restore() -> None:
            array.remove_chunk(index)
            array.write_whole(_values_from_frames(part, label, place.name))

        return Damage(where, reason, remedy, restore=restore)
    remedy = f"all of {part.key} {part.night}, by opticam-dask reduce DATA --out {part.path.parent} --redo "
    return Damage(where, reason, remedy + part.night.partition(".")[0])


def _describe_product(place: _Place, where: str, reason: str) -> Damage:
    if (part := place.part) is not None:
        remove = Group(part.path, f"{part.group}/{place.group}").remove
        return Damage(where, reason, f"{_PRODUCTS[place.group]} of {part.key} {part.night}", remove)
    remove = Group(place.store.path, place.group).remove
    if place.group.endswith("/catalog"):
        return Damage(where, reason, "the catalogue, from the stack", remove)
    if place.group.endswith("/reference") and place.name in ("image", "coverage"):
        remedy = "the reference image, from the stack"
        return Damage(where, reason, remedy, restore=lambda: _copy_from_stack(place.camera))
    if place.group.startswith("calibration/"):
        return Damage(where, reason, "the master, by the same opticam-dask reduce with its calibration frames", remove)
    if "/differential/" in place.group:
        return Damage(where, reason, "the light curve, by what made it (DifferentialPhotometer)", remove)
    if place.group == "marks":
        return Damage(where, reason, _MARKS_ANEW, remove)
    if place.group == "set_aside":
        return Damage(where, reason, "the list of files set aside, by the next opticam-dask reduce", remove)
    return Damage(where, reason, _all_anew(place.store))


def _all_anew(store: Store) -> str:
    return f"all, by opticam-dask reduce DATA --out {store.path.parent} --rebuild-reference"


def _frames_of(part: Part, block: int) -> str:
    start, stop = part.block_range(block)
    frames = f"frames {start} to {stop - 1}"
    try:
        files = part.frames.read("file", start, stop)
    except Exception:  # noqa: BLE001 - the names may be damaged as well
        return frames
    return f"{frames}, {os.path.basename(files[0])} to {os.path.basename(files[-1])}"


def _values_from_frames(part: Part, label: str, name: str) -> np.ndarray:
    """What an array of a label was filled with when the label was made."""
    if name == "radius":
        return np.asarray(part.photometry(label).attributes["radii"], dtype=float)
    return part.camera.catalog[name] if name == "source_id" else part.frames[name]


def _copy_from_stack(camera: Camera) -> None:
    part = camera.part(camera.reference.attributes["reference_night"])
    if part is not None:
        camera.reference.extend(part.stack.read_all())


def _lost_products(store: Store) -> Iterator[Damage]:
    """Reference, catalogue and stacks that a finished first pass has made, and that are not there."""
    for camera in store.cameras:
        if camera.attributes.get("catalog_checksum") is None:
            continue
        reason = "the group is missing"
        if not camera.reference.is_whole:
            yield Damage(camera.reference.name, reason, _all_anew(store))
        elif not camera.catalog.is_whole:
            yield Damage(camera.catalog.name, reason, "the catalogue, from the stack", lambda: None)


def _lost_in_products(store: Store, parts: dict[str, Part]) -> Iterator[Damage]:
    """Arrays of stacks, catalogues and their like whose metadata are lost, and whose chunks are not."""
    for folder, folders, files in walk(store.path, FILE_NAME):
        if "c" in folders and FILE_NAME not in files:
            place = _Place.of(store, str(folder.relative_to(store.path)), parts)
            if place.group == "marks":  # arrays of older versions go where the record that replaces them is there
                continue
            if place.part is None or place.group in _PRODUCTS:
                where = str((folder / FILE_NAME).relative_to(store.path))
                yield _describe_product(place, where, "the metadata are missing")


def _damaged_marks(store: Store) -> Iterator[Damage]:
    """Records of marks that cannot be read; arrays of older versions are checked by their chunks."""
    file = store.path / "marks" / FILE_NAME
    if store.version != schema.SCHEMA_VERSION or not file.is_file():
        return
    try:
        store.read_marks()
    except StoreError as error:
        yield Damage(str(file.relative_to(store.path)), f"the metadata are damaged ({error.__cause__})",
                     _remedy_for_metadata(store.path, file), is_metadata=True)  # fmt: skip


def _lost_arrays(store: Store, parts: dict[str, Part]) -> Iterator[Damage]:
    """Arrays that the schema has and a part has not."""
    path = store.path
    for part in parts.values():
        kinds = {kind: kind for kind in ("frames", "sources")}
        kinds |= {"background": "background"} if part.mesh_shape is not None else {}
        folder = path / part.group / "photometry"
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        labels = {f"photometry/{label}": "photometry" for label in names}
        for group, kind in (kinds | labels).items():
            for name in _expected_names(path, f"{part.group}/{group}", kind):
                file = path / part.group / group / name / FILE_NAME
                if not file.is_file():
                    yield _lost(path, file)
            if group in labels and not (path / part.group / group / FILE_NAME).is_file():
                yield _lost(path, path / part.group / group / FILE_NAME)


def _expected_names(path: Path, group: str, kind: str) -> list[str]:
    """Arrays that a group of a part should have; a photometry label says which are its own."""
    if kind != "photometry":
        later = schema.added_after(Store(path).version, kind)
        return [entry.name for entry in schema.GROUPS[kind] if entry.name not in later]
    with contextlib.suppress(StoreError):
        if names := Group(path, group).attributes.get("variables"):
            return [str(name) for name in names]
    return [*schema.ALWAYS_MEASURED, *schema.COORDINATES[kind]]


def _lost(path: Path, file: Path) -> Damage:
    remedy = _remedy_for_metadata(path, file)
    return Damage(str(file.relative_to(path)), "the metadata are missing", remedy, is_metadata=True)


def _lost_links(path: Path) -> Iterator[Damage]:
    """Links to another disk that is not there now, or to themselves."""
    for folder, folders, files in walk(path, FILE_NAME):
        for link in (folder / name for name in (*folders, *files) if not name.startswith(".")):
            if metadata.is_lost_link(link):
                remedy = "nothing, once that is back (is a disk to be mounted?); or remove the link if nobody needs it"
                reason = f"a link to {os.readlink(link)}, which is not there"
                yield Damage(str(link.relative_to(path)), reason, remedy, is_metadata=True)


def _damaged_metadata(path: Path) -> Iterator[Damage]:
    for folder, _, files in walk(path, FILE_NAME):
        if FILE_NAME not in files:
            continue
        file = folder / FILE_NAME
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            if document["zarr_format"] != 3 or document["node_type"] not in ("array", "group"):
                raise ValueError("no Zarr version 3 node")
            if document["node_type"] == "array":
                open_zarr_array(path, str(folder.relative_to(path)))
        except PermissionError:
            raise
        except Exception as error:  # noqa: BLE001 - damaged text fails in any way, and must not stop the report
            reason = f"the metadata are damaged ({' '.join(str(error).split())[:120]})"
            remedy = _remedy_for_metadata(path, file)
            yield Damage(str(file.relative_to(path)), reason, remedy, is_metadata=True)


def _remedy_for_metadata(path: Path, file: Path) -> str:
    words = file.relative_to(path).parts[:-1]
    if words[:1] == ("marks",):
        return f"{_MARKS_ANEW} (remove {file.parent})"
    command = f"opticam-dask reduce DATA --out {path.parent}"
    if len(words) < 2 or words[1] in ("catalog", "reference"):
        return f"all, by {command} --new (no metadata, no names)"
    return f"the night, by {command} --redo {words[1].partition('.')[0]}"
