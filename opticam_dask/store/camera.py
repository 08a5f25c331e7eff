"""One camera of the store, and the parts (nights) of it: what they hold, and their blocks of frames.

Every array along ``frame`` is chunked by ``frames_per_block``, so that the frames of one task are one chunk of every
array and no two tasks ever write the same chunk: Zarr loses data silently there. ``flags`` is written last; a frame
counts as reduced when its flags say so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opticam_dask import schema
from opticam_dask.frames.fits.names import full_names
from opticam_dask.locations import digest_of, twin
from opticam_dask.store import arrays
from opticam_dask.store.arrays import Array
from opticam_dask.store.errors import NoCatalogYet, NoSuchLabel, StoreError
from opticam_dask.store.groups import BlockGroup, Described, Group
from opticam_dask.store.ownership import OwnershipLost
from opticam_dask.store.scratch import appending, read_appended, remove_scratch, scratch_folder

#: Groups of arrays that are made with a part, the last one where its background has a mesh.
KINDS_OF_PART = ("frames", "sources", "background")

#: Groups of a camera that are not nights.
_PRODUCTS_OF_CAMERA = ("catalog", "reference", "differential")

#: What measuring needs of the first pass.
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


def group_name(key: str) -> str:
    """Name of a key in groups and files: ``1:g`` becomes ``1-g``."""
    return key.replace(":", "-").replace("/", "_").replace("\\", "_")


def file_start(key: str, name: str, keys: Iterable[str]) -> str:
    """``<key>_<name>`` to begin names of files with, another one for all of the ``keys`` of a store.

    The curve ``a_x`` of ``1:H`` would be the curve ``x`` of ``1:H_a``.
    """
    start = f"{group_name(key)}_{name}"
    longer = (group_name(other) for other in keys if len(other) > len(key))
    is_other = any(twin(start).startswith(f"{twin(other)}_") for other in longer)
    return f"{start}-{digest_of(f'{key} {name}')}" if is_other else start


def photometry_group(label: str) -> str:
    """Name of the group with the photometry of a label, in that of a part."""
    return f"photometry/{label}"


@dataclass(frozen=True)
class Camera(Described):
    """One camera key of the store: its nights, its reference image and its catalogue.

    Its attributes are key, camera, filter and reference night; there are none while it is not in the store.

    Attributes
    ----------
    path : Path
        The store.
    key : str
        Camera key such as ``1:g``.
    """

    path: Path
    key: str

    @property
    def name(self) -> str:
        """Name of the key in groups and files."""
        return group_name(self.key)

    @property
    def _group(self) -> Group:
        return Group(self.path, self.name)

    @property
    def reference(self) -> Group:
        """Reference image: the stack of the reference night, and the sources that frames are aligned to."""
        return self.product("reference")

    @property
    def catalog(self) -> Group:
        """Catalogue of the sources."""
        return self.product("catalog")

    @property
    def source_stages(self) -> tuple[int, ...]:
        """Number of sources that were found, and of all sources after each time that the observer placed some."""
        stages = self.catalog.attributes.get("source_stages")
        return tuple(stages) if stages else (self.catalog.array("source_id").shape[0],)

    @property
    def n_found(self) -> int:
        """Number of sources that were found on the stack: the first of the catalogue."""
        return self.source_stages[0]

    def whole_catalog(self) -> Group:
        """Catalogue of the sources, which must be there.

        Raises
        ------
        NoCatalogYet
            When the first pass has not made it yet.
        """
        if not self.catalog.is_whole:
            raise NoCatalogYet(f"{self.key} has no catalogue in {self.path.parent} yet")
        return self.catalog

    def differential(self, name: str) -> Group:
        """A differential light curve that is kept in the store."""
        return Group(self.path, f"{self.name}/differential/{name}", "differential")

    def fit(self, name: str) -> Group:
        """The fit of a shape to a differential light curve; a new light curve of the name has none."""
        return Group(self.path, f"{self.name}/differential/{name}/fit", "fit")

    @property
    def differential_names(self) -> list[str]:
        """Names of the differential light curves that are kept in the store."""
        return [name for name in self.product("differential").group_names if self.differential(name).is_whole]

    def remove(self) -> None:
        """Remove everything of the key."""
        self._group.remove()

    def remove_products(self) -> None:
        """Remove the catalogue, the reference image and the differential light curves."""
        for name in _PRODUCTS_OF_CAMERA:
            self.product(name).remove()

    def product(self, kind: str) -> Group:
        """The group ``catalog``, ``reference`` or ``differential``."""
        return Group(self.path, f"{self.name}/{kind}", kind)

    @property
    def part_names(self) -> list[str]:
        """Names of the groups that are parts, whole or not."""
        entries = sorted(self._group.directory.iterdir())
        is_part = [e.is_dir() and e.name not in _PRODUCTS_OF_CAMERA and not e.name.startswith(".") for e in entries]
        return [entry.name for entry, chosen in zip(entries, is_part, strict=True) if chosen]

    @property
    def parts(self) -> list[Part]:
        """Parts that are whole, in the order of their names."""
        return [part for name in self.part_names if (part := self.part(name)) is not None]

    def part(self, night: str) -> Part | None:
        """One part; None when it is not whole."""
        attributes = self.part_group(night).attributes
        if not attributes.get("complete"):
            return None
        mesh = attributes["mesh_shape"]
        return Part(
            camera=self,
            night=night,
            n_frames=attributes["n_frames"],
            frames_per_block=attributes["frames_per_block"],
            shape=tuple(attributes["shape"]),
            binning=attributes["binning"],
            mesh_shape=None if mesh is None else tuple(mesh),
            n_slots=attributes["n_slots"],
            uid=attributes.get("uid", ""),
        )

    def part_group(self, night: str) -> Group:
        """The group of a part, whole or not."""
        return Group(self.path, f"{self.name}/{night}")

    @property
    def labels(self) -> list[str]:
        """Labels of the photometry of all parts."""
        return sorted({label for part in self.parts for label in part.labels})

    def measured_parts(self, label: str) -> list[Part]:
        """Parts that have photometry of a label.

        Raises
        ------
        NoSuchLabel
            When there is none; the message names the labels of the camera.
        """
        labels = {part: part.labels for part in self.parts}
        if measured := [part for part, names in labels.items() if label in names]:
            return measured
        has = (name for names in labels.values() for name in names)
        raise NoSuchLabel(label, f"{self.key} in {self.path.parent}", has)


@dataclass(frozen=True)
class Part(Described):
    """The frames of one key and night that share a shape: the unit that is added, redone or removed.

    Attributes
    ----------
    camera : Camera
        Whose frames they are.
    night : str
        Night such as ``2024-01-01``, further parts of it ``2024-01-01.2``.
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

    camera: Camera
    night: str
    n_frames: int
    frames_per_block: int
    shape: tuple[int, int]
    binning: int
    mesh_shape: tuple[int, int] | None
    n_slots: int
    uid: str = ""

    @property
    def key(self) -> str:
        """Camera key such as ``1:g``."""
        return self.camera.key

    @property
    def path(self) -> Path:
        """The store."""
        return self.camera.path

    @property
    def group(self) -> str:
        """Path of the part in the store."""
        return f"{self.camera.name}/{self.night}"

    @property
    def _group(self) -> Group:
        return self.camera.part_group(self.night)

    @property
    def n_blocks(self) -> int:
        """How many blocks the frames make."""
        return -(-self.n_frames // self.frames_per_block)

    def block_range(self, block: int) -> tuple[int, int]:
        """First and one past the last frame of a block."""
        start = block * self.frames_per_block
        return start, min(start + self.frames_per_block, self.n_frames)

    def sizes(self) -> dict[str, int]:
        """Length of each dimension."""
        mesh_y, mesh_x = self.mesh_shape or (0, 0)
        lengths = {"mesh_y": mesh_y, "mesh_x": mesh_x, "slot": self.n_slots}
        return {"frame": self.n_frames, "row": 3, "column": 3, "moment": 3, "term": 6, **lengths}

    # ------------------------------------------------------------ groups

    @property
    def frames(self) -> BlockGroup:
        """Record of each frame: its manifest and its first-pass results."""
        return self._blocks("frames", "frames", self.uid)

    @property
    def background(self) -> BlockGroup:
        """Sky mesh of each frame; without arrays when the background has no mesh."""
        return self._blocks("background", "background", self.uid)

    @property
    def sources(self) -> BlockGroup:
        """Detected sources of each frame."""
        return self._blocks("sources", "sources", self.uid)

    def photometry(self, label: str) -> BlockGroup:
        """Photometry of a label."""
        return self._blocks(photometry_group(label), "photometry", "")

    def records(self, label: str | None = None) -> BlockGroup:
        """Arrays that a pass writes a block at a time: photometry of a label, or the frames of the first pass."""
        return self.frames if label is None else self.photometry(label)

    def _blocks(self, name: str, kind: str, uid: str) -> BlockGroup:
        return BlockGroup(self.path, f"{self.group}/{name}", kind, self.n_frames, self.frames_per_block, uid)

    @property
    def stack(self) -> Group:
        """Mean of the aligned frames."""
        return self._product("stack")

    @property
    def psf(self) -> Group:
        """Profile of the stars of the night."""
        return self._product("psf")

    @property
    def quality(self) -> Group:
        """Quality of each frame by the whole night."""
        return self._product("quality")

    def _product(self, kind: str) -> Group:
        return Group(self.path, f"{self.group}/{kind}", kind)

    @property
    def labels(self) -> list[str]:
        """Labels of the photometry that the part holds, finished or not."""
        folder = self._group.directory / "photometry"
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
        return [name for name in names if self.photometry(name).is_whole]

    def partial_stack_file(self, name: str) -> Path:
        """File of a partial stack, beside the store and never in it."""
        # NAME.npy of older versions lacks the brightest frame: its frames are summed again
        return scratch_folder(self.path, self.group, "sums", f"{name}.sums.npy")

    def remove_partial_stacks(self) -> None:
        """Remove the partial stacks of a part whose stack is whole."""
        remove_scratch(self.path, f"{self.group}/sums")

    def _kept_file(self, block: int, folder: str) -> Path:
        return scratch_folder(self.path, self.group, folder, f"{block:06d}.kept")

    def is_kept(self, block: int, folder: str = "kept") -> bool:
        """Whether something was kept of the frames of a block, if only that there is nothing to keep."""
        return self._kept_file(block, folder).is_file()

    def keeping(
        self, block: int, folder: str = "kept"
    ) -> AbstractContextManager[Callable[[int, Mapping[str, np.ndarray]], None]]:
        """Where arrays about frames of a block are kept, beside the store and never in it.

        A context in which ``keep(index, arrays)`` takes those of one frame, in the order of the frames. They stay
        until :meth:`remove_kept`, or in the folder ``sums`` until :meth:`remove_partial_stacks`.
        """
        return appending(self._kept_file(block, folder))

    def kept(
        self, block: int, among: Container[int] | None = None, *, folder: str = "kept"
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Kept cut-outs of the frames of a block, or of some, in their order, as far as they are whole."""
        return read_appended(self._kept_file(block, folder), among)

    def remove_kept(self) -> None:
        """Remove what is kept of frames."""
        remove_scratch(self.path, self.group)

    def remove(self) -> None:
        """Remove the part and everything in it."""
        self._group.remove()

    # ------------------------------------------------------------ blocks

    def manifest(self, block: int | None = None) -> dict[str, np.ndarray]:
        """Manifest of the part, or of one block of it; ``file`` is the name of the frame, with an absolute path.

        Returns
        -------
        dict of ndarray
            The variables of ``schema.MANIFEST`` by name; of a whole part of an older schema version, those it has.
        """
        start, stop = (0, self.n_frames) if block is None else self.block_range(block)
        later: list[str] = []
        if block is None:  # blocks are read by tasks, which run on stores of the present version only
            later = schema.added_after(str(Group(self.path, "").attributes.get("schema_version", "")), "frames")
        names = [entry.name for entry in schema.MANIFEST if entry.name not in later]
        found = self._read([("frames", name) for name in names], start, stop)
        data_root = self._attributes_of_run()["data_root"]
        files = [os.path.join(data_root, name) for name in found["file"]]
        found["file"] = full_names(files, found.get("extension"), found.get("plane"))
        return found

    def _attributes_of_run(self) -> dict[str, Any]:
        """Attributes of a part that a run works on.

        Raises
        ------
        OwnershipLost
            When the part is gone.
        """
        if attributes := self.attributes:
            return attributes
        raise OwnershipLost(
            f"{self.group} of {self.path} is gone: it was removed or moved while a run worked on it. "
            "Run the same command again to go on."
        )

    def results(self, block: int) -> dict[str, np.ndarray]:
        """First-pass results that measuring needs: flags, transforms, sky mesh and detected positions of a block."""
        kinds = [kind for kind in _RESULTS if kind != "background" or self.mesh_shape is not None]
        return self._read([(kind, name) for kind in kinds for name in _RESULTS[kind]], *self.block_range(block))

    def block_records(self, block: int) -> dict[str, dict[str, np.ndarray]]:
        """Everything that the passes before photometry write about the frames of a block, by group and name."""
        kinds = [kind for kind in KINDS_OF_PART if kind != "background" or self.mesh_shape is not None]
        found: dict[str, dict[str, np.ndarray]] = {}
        for kind in kinds:
            names = [entry.name for entry in (schema.FRAMES if kind == "frames" else schema.GROUPS[kind])]
            values = self._read([(kind, name) for name in names], *self.block_range(block))
            found[kind] = {name: np.array(array) for name, array in values.items()}
        return found

    def _read(self, wanted: Sequence[tuple[str, str]], start: int, stop: int) -> dict[str, np.ndarray]:
        groups = {kind: self._blocks(kind, kind, self.uid) for kind, _ in wanted}
        values = arrays.each(self.path, lambda one: groups[one[0]].read_block(one[1], start, stop), wanted)
        return {name: found for (_, name), found in zip(wanted, values, strict=True)}

    def write_block(self, block: int, values: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Write the frames of one block into every array of the part, the flags last.

        Parameters
        ----------
        block : int
            Number of the block of frames.
        values : dict of dict of ndarray
            Variables by group of the part (``frames``, ``background``, ``photometry/aperture``, ...).

        Raises
        ------
        ValueError
            When an array does not cover exactly the frames of the block.
        StoreError
            When the part was removed or made anew since the task began: another run has taken over.
        """
        start, stop = self.block_range(block)
        if self._attributes_of_run().get("uid", "") != self.uid:
            raise StoreError(f"{self.group} of {self.path} was made anew by another run while this one worked on it.")
        first, last = list[tuple[str, str, np.ndarray]](), list[tuple[str, str, np.ndarray]]()
        for group, variables in values.items():
            for name, found in variables.items():
                if len(found) != stop - start:
                    expected = f"must cover {stop - start} frames of block {block}"
                    raise ValueError(f"{group}/{name} {expected}, got {len(found)}")
                (last if name == "flags" else first).append((group, name, found))

        def write(entry: tuple[str, str, np.ndarray]) -> None:
            group, name, found = entry
            self._array_of_block(group, name).write(start, stop, found)

        arrays.each(self.path, write, first)
        for entry in last:
            write(entry)

    def write_columns(self, block: int, label: str, first: int, values: Mapping[str, np.ndarray]) -> None:
        """Write sources that were added to a label in the frames of one block, the flags last; others stay untouched.

        Parameters
        ----------
        block : int
            Number of the block of frames.
        label : str
            Photometry label.
        first : int
            Place of the first of these sources along ``source``.
        values : dict of ndarray, shape (frame, source[, radius])
            Variables of these sources.
        """
        start, stop = self.block_range(block)
        for name in sorted(values, key=lambda name: name == "flags"):
            array = arrays.open_zarr_array(self.path, f"{self.photometry(label).name}/{name}")
            array.write_columns(start, stop, first, values[name])

    def _array_of_block(self, group: str, name: str) -> Array:
        is_made_with_part = group in KINDS_OF_PART
        return self._blocks(group, group, self.uid if is_made_with_part else "").open_block(name)
