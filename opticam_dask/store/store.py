"""The store of a reduction: opened or created, its cameras, and what a run does to it as a whole.

One Zarr v3 store holds one group per camera key, in it one group per night (or part of a night): see
:mod:`~opticam_dask.store.camera`.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opticam_dask import locations, schema
from opticam_dask.locations import location
from opticam_dask.store import arrays, mark_records
from opticam_dask.store.camera import Camera, Part, group_name
from opticam_dask.store.errors import NoSuchKey, NoSuchLabel, StoreError
from opticam_dask.store.groups import Described, Group, finish_removal
from opticam_dask.store.metadata import FILE_NAME, damaged, is_lost_link, read_metadata
from opticam_dask.store.scratch import remove_empty_scratch, scratch_folder

STORE_NAME = "reduction.zarr"


def key_of(name: str, known: Sequence[str], where: object) -> str:
    """Key that is meant by a key (``1:g``), by the name of its group (``1-g``) or by a filter (``g``) of one camera.

    Parameters
    ----------
    name : str
        What somebody called it.
    known : sequence of str
        Keys that there are.
    where : path
        Where they are, for the message.

    Raises
    ------
    NoSuchKey
        When there is none, or several have the filter; the message names the keys.
    """
    named = [key for key in known if name in (key, group_name(key))]
    found = named or [key for key in known if name == key.partition(":")[2]]
    if len(found) != 1:
        raise NoSuchKey(f"there is no such key: {name!r} in {where}; it has {', '.join(known) or 'none'}")
    return found[0]


@dataclass(frozen=True)
class Store(Described):
    """The store of one output directory.

    Attributes
    ----------
    path : Path
        Where it is.
    """

    path: Path

    @classmethod
    def at(cls, out_directory: str | Path) -> Store:
        """The store of an output directory, whether there is one or not."""
        return cls(location(out_directory) / STORE_NAME)

    @classmethod
    def open(cls, out_directory: str | Path) -> Store:
        """The store of an output directory.

        Raises
        ------
        StoreError
            When there is none, or its layout is newer than this version understands.
        """
        store = cls.at(out_directory)
        if not store.exists():
            raise StoreError(f"{out_directory} holds no reduction (no {STORE_NAME}). Run opticam-dask reduce first.")
        version = store.version
        if not version:
            raise StoreError(
                f"{store.path / 'zarr.json'} names no schema version: it is damaged, or no reduction of opticam-dask."
            )
        if version not in schema.READABLE_VERSIONS:
            raise StoreError(
                f"{store.path} has schema version {version}; this version of opticam-dask reads "
                f"{', '.join(schema.READABLE_VERSIONS)}. Update opticam-dask."
            )
        return store

    @classmethod
    def create(cls, out_directory: str | Path, attributes: Mapping[str, Any]) -> Store:
        """Make an empty store with its root attributes.

        Raises
        ------
        StoreError
            When the directory cannot be written.
        """
        store = cls.at(out_directory)
        try:
            store.path.parent.mkdir(parents=True, exist_ok=True)
            arrays.create_root(store.path, {**attributes, "schema_version": schema.SCHEMA_VERSION})
        except OSError as error:
            raise StoreError(
                f"{store.path} cannot be written: {error.strerror or error}. Choose another --out."
            ) from error
        return store

    def exists(self) -> bool:
        """Whether the output directory holds a store."""
        return (self.path / FILE_NAME).is_file()

    @property
    def _group(self) -> Group:
        return Group(self.path, "")

    @property
    def version(self) -> str:
        """Version of the layout; empty when the store names none."""
        return str(self.attributes.get("schema_version", ""))

    @property
    def cameras(self) -> list[Camera]:
        """Cameras of the store, in the order of their names."""
        found = []
        for entry in sorted(self.path.iterdir()):
            is_group = entry.is_dir() and not entry.name.startswith(".")
            attributes = Group(self.path, entry.name).attributes if is_group else {}
            if "key" in attributes:
                found.append(Camera(self.path, str(attributes["key"])))
        return found

    @property
    def parts(self) -> list[Part]:
        """Parts of all cameras that are whole, camera by camera."""
        return [part for camera in self.cameras for part in camera.parts]

    @property
    def keys(self) -> list[str]:
        """Camera keys of the store, in the order of their names."""
        return [camera.key for camera in self.cameras]

    def camera(self, name: str) -> Camera:
        """A camera by its key (``1:g``), its filter (``g``) where one camera has it, or the name of its group.

        Raises
        ------
        NoSuchKey
            When there is none, or several have the filter; the message names the keys.
        """
        # most callers name one that is there, and it is one file that is read
        if name and name not in (".", "..") and (key := Group(self.path, group_name(name)).attributes.get("key")):
            return Camera(self.path, str(key))
        return Camera(self.path, key_of(name, self.keys, self.path.parent))

    def add_camera(self, key: str, camera: str, filter_name: str) -> Camera:
        """Make the group of a camera key, unless it is there."""
        added = Camera(self.path, key)
        if not added.attributes:
            attributes = {"key": key, "camera": camera, "filter": filter_name}
            arrays.create_group(self.path, added.name, attributes)
        return added

    @property
    def set_aside(self) -> Group:
        """Files that could not be used at all."""
        return Group(self.path, "set_aside", "set_aside")

    def read_marks(self) -> dict[str, list[Any]]:
        """Marks of observers, also those taken back: the columns of ``schema.MARKS``, an entry a mark.

        Raises
        ------
        StoreError
            When their file is damaged.
        """
        group = Group(self.path, "marks", "marks")
        attributes = group.attributes
        try:
            if not attributes and not (group.directory / FILE_NAME).is_file():
                return {entry.name: [] for entry in schema.MARKS}
            if "records" not in attributes and self.version != schema.SCHEMA_VERSION:
                attributes = {"records": self._marks_in_arrays(group)}
            return mark_records.columns_of(attributes)
        except ValueError as error:
            raise damaged(group.directory / FILE_NAME, error) from error

    @staticmethod
    def _marks_in_arrays(group: Group) -> dict[str, list[Any]]:
        """Marks as versions before 1.8 wrote them, an array a column; those before ``transform`` had none."""
        columns = {name: values.tolist() for name, values in group.read_all().items()} if group.is_whole else {}
        n_marks = len(columns.get("number", ()))
        return {entry.name: columns.get(entry.name, [entry.fill] * n_marks) for entry in schema.MARKS}

    def write_marks(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Write the marks of observers, all of them, by one file that is replaced: readers see the old or the new ones.

        Parameters
        ----------
        columns : dict of sequence
            The columns of ``schema.MARKS``, an entry a mark; plain numbers and text.
        """
        self.begin_changes()
        self.put_marks(columns)
        self.finish_changes()

    def put_marks(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """As :meth:`write_marks`, in a store that is being changed: of an older version, in place of its arrays."""
        group = Group(self.path, "marks")
        document = {"zarr_format": 3, "node_type": "group", "attributes": mark_records.attributes_of(columns)}
        group.directory.mkdir(parents=True, exist_ok=True)
        locations.write_text(group.directory / FILE_NAME, json.dumps(document, indent=2))
        for name in group.group_names:
            locations.remove_tree(group.directory / name)

    def master(self, name: str) -> Group:
        """A master of calibration frames, by its name (``passes.calibration`` gives it)."""
        return Group(self.path, f"calibration/{name}", "calibration")

    def measured_cameras(self, label: str) -> list[Camera]:
        """Cameras that have photometry of this label.

        Raises
        ------
        NoSuchLabel
            When there is none; the message names the labels of the store.
        """
        labels = {camera: camera.labels for camera in self.cameras}
        if found := [camera for camera, names in labels.items() if label in names]:
            return found
        raise NoSuchLabel(label, f"any camera in {self.path.parent}", itertools.chain.from_iterable(labels.values()))

    def measured_keys(self, label: str) -> list[str]:
        """Camera keys that have photometry of this label."""
        return [camera.key for camera in self.cameras if any(label in part.labels for part in camera.parts)]

    # ------------------------------------------------------------ changes

    def begin_changes(self) -> None:
        """Drop the consolidated metadata, which would hide what is about to be added.

        Raises
        ------
        StoreError
            When the store is of an older version, or part of it on a disk that is not there.
        """
        self.require_present_version()
        self._require_all_links()
        self.drop_consolidated()
        # what a removal that was interrupted left behind
        for pattern in (".*.removed", "*/.*.removed", "*/*/.*.removed"):
            for doomed in self.path.glob(pattern):
                finish_removal(doomed)

    def _require_all_links(self) -> None:
        """Refuse to go on without the cameras or nights that links to another disk stand for."""
        if locations.is_remote(self.path):
            return
        for link in (link for pattern in ("*", "*/*") for link in self.path.glob(pattern)):
            if is_lost_link(link):
                raise StoreError(
                    f"{link} is a link to {os.readlink(link)}, which is not there. Bring that back (is a disk to be "
                    "mounted?), or remove the link if nobody needs what was behind it, and run the same command again"
                )

    def require_present_version(self) -> None:
        """Refuse to write into a store of an older version.

        Raises
        ------
        StoreError
            With the command that brings the store to the present version.
        """
        version = self.version
        if version != schema.SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} has schema version {version}, this version of opticam-dask writes "
                f"{schema.SCHEMA_VERSION}. "
                f"Run opticam-dask migrate {self.path.parent} first: it keeps everything that was reduced."
            )

    def drop_consolidated(self) -> None:
        """Remove the consolidated metadata."""
        file = self.path / FILE_NAME
        document = read_metadata(file)
        if document.pop("consolidated_metadata", None) is not None:
            locations.write_text(file, json.dumps(document, indent=2))

    @property
    def is_consolidated(self) -> bool:
        """Whether the store has consolidated metadata, which the end of a run writes."""
        return read_metadata(self.path / FILE_NAME).get("consolidated_metadata") is not None

    def finish_changes(self) -> None:
        """Write consolidated metadata, so that readers open the store with one read; remove empty scratch folders."""
        arrays.consolidate(self.path)
        remove_empty_scratch(self.path)

    def move_aside(self) -> Path:
        """Give the store another name in its directory, so that a new one can be made.

        Returns
        -------
        Path
            The new name, ``reduction.old-N.zarr``.

        Raises
        ------
        StoreError
            On an object store, where nothing can be renamed.
        """
        path = self.path
        if locations.is_remote(path):
            raise StoreError(
                f"{path} cannot be kept under another name, because nothing can be renamed there. Choose another "
                "--out, or remove it with the tools of the object store."
            )
        numbers = itertools.count(1)
        target = next(name for n in numbers if not (name := path.with_name(f"{path.stem}.old-{n}.zarr")).exists())
        path.rename(target)
        shutil.rmtree(scratch_folder(path), ignore_errors=True)
        return target

    def remove(self) -> None:
        """Remove the store and its scratch files, as far as they can be removed."""
        for folder in (self.path, scratch_folder(self.path)):
            shutil.rmtree(folder, ignore_errors=True)
