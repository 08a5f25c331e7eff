"""One camera of a reduction as the browser shows it: catalogue and light curves, read only where somebody looks.

Numbers of frames are those of ``light_curves(out_directory, key, label)``: all nights of a camera in time order, frames
without a time at the end. Numbers a frame and fluxes come in block by block, blocks spread over the whole run first, so
that a light curve is there as a whole long before all of it is read; what was read is kept in single precision.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from opticam_dask import schema
from opticam_dask.display import diagnostics
from opticam_dask.display.browser.screen import spread_order
from opticam_dask.flags import UNUSABLE, Mark, QualityFlag, SourceFlag, flag_names
from opticam_dask.kernels.series import lightcurve
from opticam_dask.lightcurves.curation.marks import Marks
from opticam_dask.lightcurves.curation.spans import is_left_out
from opticam_dask.lightcurves.targets import rows_of_sources
from opticam_dask.locations import location
from opticam_dask.passes.camera_matching import match_cameras
from opticam_dask.pipeline import preparation
from opticam_dask.steps.frame_steps import FrameSteps
from opticam_dask.store.arrays import Array
from opticam_dask.store.camera import Part
from opticam_dask.store.errors import NoSuchLabel, StoreError
from opticam_dask.store.groups import Group
from opticam_dask.store.store import Store

#: Numbers a frame that can be shown below the light curve, and what they are called.
STRIPS: dict[str, str] = {
    "fwhm": "FWHM (pixel)",
    "background": "sky (electron / pixel)",
    "n_sources": "detected sources",
    "transparency": "transparency",
}
_RECORDS = ("flags", "fwhm", "background", "n_sources")

#: Units of aperture radii in words.
_UNITS_OF_RADII = {
    "pixel": "pixels",
    "reference_fwhm": "FWHM of the reference frame",
    "frame_fwhm": "FWHM of each frame",
}

#: Fluxes of all sources and radii are kept when they are no more than this many numbers; else those of target and
#: comparisons, and if these are too many as well those of one radius.
_MOST_CELLS = 8_000_000

#: Flags that only say how a measurement was made, and leave it as good as any other.
_HARMLESS = SourceFlag.REDUCED | SourceFlag.NOT_DETECTED | SourceFlag.NOT_RECENTRED
_HARMLESS |= SourceFlag.BLENDED | SourceFlag.PLACED


class NoArray(StoreError):
    """The store has no such array: it is of an older version, or damaged."""


@dataclass
class _Columns:
    """Fluxes, errors and flags (frame, source, radius) of the sources that are kept, as far as they were read."""

    rows: np.ndarray
    radii: np.ndarray
    arrays: dict[str, np.ndarray]
    todo: list[tuple[int, int]]


@dataclass
class CameraView:
    """One camera of a reduction as the browser shows it.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    key : str
        Camera key such as ``1:g`` (``1-g`` works as well).
    label : str, optional
        Photometry label; by default ``aperture``, or the first there is.

    Raises
    ------
    store.StoreError
        When there is no store.
    ValueError
        When there is no such key or label, or no frame.
    """

    out_directory: Path
    key: str
    label: str | None = None
    radius: int = 0
    #: Chunks of arrays along frame that were read so far.
    n_reads: int = field(default=0, init=False)
    #: What could not be read of the store; empty when all is well.
    damage: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self.out_directory = location(self.out_directory)
        self.camera = Store.open(self.out_directory).camera(self.key)
        self.key = self.camera.key
        self.parts = self.camera.parts
        if not sum(part.n_frames for part in self.parts):
            raise ValueError(f"{self.key} has no frame in {self.out_directory}")
        self._labels_of = [part.labels for part in self.parts]
        self.labels = sorted({name for names in self._labels_of for name in names})
        self.label = _known_label(self.labels, self.label, f"{self.key} in {self.out_directory}")
        self._open = {}
        self._read_times()
        self._read_catalogue()
        self.photometer = self._read_photometer()
        self.records = {name: _empty(name, self.n_frames) for name in _RECORDS}
        self.records |= self._read_quality()
        self._records_todo = self._all_blocks()
        self._columns: _Columns | None = None
        self._steps: dict[str, FrameSteps] = {}
        self.read_marks()

    _open: dict[str, Array] = field(default_factory=dict, init=False, repr=False)

    # ---------------------------------------------------------------- what is known at once

    def _read_times(self) -> None:
        counts = [part.n_frames for part in self.parts]
        self.n_frames = sum(counts)
        self._begins = np.cumsum([0, *counts])
        mjd = np.concatenate([self.read(part.frames, "mjd_utc") for part in self.parts])
        self._order = np.argsort(mjd, kind="stable")
        self._rank = np.empty(self.n_frames, dtype=np.intp)
        self._rank[self._order] = np.arange(self.n_frames)
        self.mjd_utc = mjd[self._order]
        self.bmjd_tdb = np.concatenate([self.read(part.frames, "bmjd_tdb") for part in self.parts])[self._order]
        self.nights = sorted({part.night.split(".")[0] for part in self.parts})
        codes = [self.nights.index(part.night.split(".")[0]) for part in self.parts]
        self.night_codes = np.repeat(np.array(codes, dtype=np.int32), counts)[self._order]

    def _read_catalogue(self) -> None:
        catalog, reference = self.camera.catalog, self.camera.reference
        self.catalog: dict[str, np.ndarray] = {}
        self.image: np.ndarray | None = None
        self.fwhm = np.nan
        self.reference = 0
        if catalog.is_whole:
            self.catalog = catalog.read_all()
            self.fwhm = float(catalog.attributes.get("fwhm", np.nan))
        if reference.is_whole:
            self.image = reference["image"]
            attributes = reference.attributes
            for begin, part in zip(self._begins, self.parts, strict=False):
                if part.night == attributes["reference_night"]:
                    self.reference = int(self._rank[begin + int(attributes["reference_index"])])
        self.source_ids = self.catalog.get("source_id", np.empty(0, dtype=int)).astype(int)
        self._wcs_cards = catalog.attributes.get("wcs") if catalog.is_whole else None
        self.positions = np.column_stack([self.catalog.get(name, np.empty(0)) for name in ("x", "y")])

    def _read_photometer(self) -> dict[str, Any]:
        """Record of the photometer that was used, with its best aperture chosen."""
        for part, labels in zip(self.parts, self._labels_of, strict=True):
            if self.label in labels:
                attributes = part.photometry(self.label).attributes
                self.radii = [float(value) for value in attributes.get("radii", [])]
                self.radius_unit = _UNITS_OF_RADII[str(attributes.get("radius_unit", "pixel"))]
                return dict(json.loads(attributes.get("prepared", attributes["parameters"])))
        self.radii, self.radius_unit = [], ""
        return {}

    def read_marks(self) -> None:
        """Read what observers have marked, as it is now."""
        self.marks = Marks.of(Store.open(self.out_directory), self.key, self.label or "")

    def marks_of(self, source_id: int) -> np.ndarray:
        """Marks of the measurements of a source, uint8 (frame,)."""
        return self.marks.of_source(self.mjd_utc, source_id)

    def _read_quality(self) -> dict[str, np.ndarray]:
        found = {name: np.full(self.n_frames, np.nan) for name in ("transparency", "airmass")}
        found["quality_flags"] = np.zeros(self.n_frames, dtype=np.uint32)
        for begin, part in zip(self._begins, self.parts, strict=False):
            rows = self._rank[begin : begin + part.n_frames]
            if not part.quality.is_whole:
                continue
            for name, values in found.items():
                values[rows] = part.quality["flags" if name == "quality_flags" else name]
        return found

    @property
    def best_time(self) -> np.ndarray:
        """Barycentric time of the frames (MJD, TDB) where it is known for all, else UTC."""
        is_known = np.isfinite(self.mjd_utc)
        return self.bmjd_tdb if np.isfinite(self.bmjd_tdb[is_known]).all() else self.mjd_utc

    # ---------------------------------------------------------------- what comes in block by block

    def _all_blocks(self) -> list[tuple[int, int]]:
        """Blocks of all parts (part, block), last to be read first, so that few of them cover the whole run."""
        blocks = [(number, block) for number, part in enumerate(self.parts) for block in range(part.n_blocks)]
        return [blocks[index] for index in spread_order(len(blocks))[::-1]]

    def choose(self, source_id: int, comparisons: Sequence[int] = ()) -> None:
        """Make the light curves of a source and its comparisons those that are read.

        Raises
        ------
        ValueError
            When the catalogue has no such source.
        """
        wanted = rows_of_sources(self.source_ids, [source_id, *comparisons], self.key)
        has_radius = self._columns is not None and self.radius in self._columns.radii
        if has_radius and self._columns is not None and np.isin(wanted, self._columns.rows).all():
            return
        n_sources, n_radii = len(self.source_ids), max(1, len(self.radii))
        rows = np.arange(n_sources) if self.n_frames * n_sources * n_radii <= _MOST_CELLS else np.unique(wanted)
        is_few = self.n_frames * len(rows) * n_radii <= _MOST_CELLS
        radii = np.arange(n_radii) if is_few else np.array([self.radius])
        shape = (self.n_frames, len(rows), len(radii))
        arrays = {name: np.full(shape, np.nan, np.float32) for name in ("flux", "flux_err")}
        todo = self._all_blocks() if self.label is not None else []
        self._columns = _Columns(rows, radii, arrays | {"flags": np.zeros(shape, np.uint32)}, todo)

    def set_radius(self, radius: int) -> None:
        """Take another of the radii that were measured."""
        self.radius = radius

    @property
    def n_todo(self) -> int:
        """Blocks that are still to be read for what is shown."""
        return len(self._records_todo) + (len(self._columns.todo) if self._columns is not None else 0)

    def load(self, n_blocks: int = 1) -> bool:
        """Read some more blocks; say whether any is left. Damaged blocks are passed over and named in ``damage``."""
        for _ in range(n_blocks):
            if not self.n_todo:
                return False
            try:
                self._load_one()
            except StoreError as error:
                self.damage = str(error)
        return self.n_todo > 0

    def _load_one(self) -> None:
        """Read the next block of what there is more of to read."""
        columns = self._columns
        if columns is not None and columns.todo and len(columns.todo) >= len(self._records_todo):
            self._load_fluxes(columns, *columns.todo.pop())
        else:
            self._load_records(*self._records_todo.pop())

    def _load_records(self, number: int, block: int) -> None:
        part, rows, span = self._block(number, block)
        for name in _RECORDS:
            self.records[name][rows] = self.read(part.frames, name, *span)

    def _load_fluxes(self, columns: _Columns, number: int, block: int) -> None:
        if self.label not in self._labels_of[number]:
            return
        part, rows, span = self._block(number, block)
        for name, target in columns.arrays.items():
            values = self.read(part.photometry(self.label), name, *span)
            values = values[..., columns.radii] if values.ndim == 3 else values[..., np.newaxis]
            target[rows] = values[:, columns.rows]

    def _block(self, number: int, block: int) -> tuple[Part, np.ndarray, tuple[int, int]]:
        part = self.parts[number]
        start, stop = part.block_range(block)
        begin = self._begins[number]
        return part, self._rank[begin + start : begin + stop], (start, stop)

    def read(self, group: Group, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Part of an array, which stays open: to open it takes as long as to read a chunk."""
        name, array = f"{group.name}/{name}", name
        told = f"opticam-dask verify {self.out_directory} says what is to be done."
        try:
            if name not in self._open:
                self._open[name] = group.array(array)
            self.n_reads += 1
            return self._open[name].read(start, stop)
        except FileNotFoundError as error:
            raise NoArray(f"{name} of {group.path} is gone. {told}") from error
        except (ValueError, RuntimeError, TypeError, KeyError) as error:  # what codecs and parsers raise
            raise StoreError(f"{name} of {group.path} is damaged. {told}") from error

    def light_curve(self, source_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Flux and flags of a source in every frame, as far as they were read.

        Returns
        -------
        flux : ndarray of float32, shape (frame,)
            Electrons; NaN where there is none, or it was not read yet.
        flags : ndarray of uint32, shape (frame,)
            Flags of the frames (:class:`~opticam_dask.flags.FrameFlag`).
        """
        self.choose(source_id)
        flux, _, flags = self._read_so_far([source_id])
        return flux[:, 0], flags[:, 0]

    def flux_errors(self, source_id: int) -> np.ndarray:
        """1-sigma errors of the flux of a source, electrons, float32 (frame,); NaN as in :meth:`light_curve`."""
        self.choose(source_id)
        return self._read_so_far([source_id])[1][:, 0]

    def _read_so_far(self, source_ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Flux, error and flags of sources that were chosen, shape (frame, source)."""
        assert self._columns is not None  # they were chosen
        rows = rows_of_sources(self.source_ids, source_ids, self.key)
        columns = np.searchsorted(self._columns.rows, rows)
        radius = int(np.searchsorted(self._columns.radii, self.radius))
        flux, flux_err, flags = (
            self._columns.arrays[name][:, columns, radius] for name in ("flux", "flux_err", "flags")
        )
        return flux, flux_err, flags

    def relative_light_curve(self, source_id: int, comparisons: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Flux of a source over the summed flux of its comparisons, and the error.

        Parameters
        ----------
        source_id : int
            Number of the source.
        comparisons : sequence of int
            Numbers of the comparisons.

        Returns
        -------
        relative, relative_err : ndarray, shape (frame,)
            NaN where not all of the fluxes are known, or a comparison is marked as left out.
        """
        self.choose(source_id, comparisons)
        if not comparisons:
            return np.full(self.n_frames, np.nan), np.full(self.n_frames, np.nan)
        flux, flux_err, _ = (one.astype(float) for one in self._read_so_far([source_id, *comparisons]))
        is_out = np.column_stack([is_left_out(self.marks_of(number)) for number in comparisons])
        flux[:, 1:][is_out] = np.nan
        return lightcurve.relative_flux(flux[:, 0], flux_err[:, 0], flux[:, 1:], flux_err[:, 1:])

    @functools.cached_property
    def wcs(self) -> Any:
        """World coordinates of the reference image; None where they are not known."""
        if not self._wcs_cards:
            return None
        from opticam_dask.frames import sky_coordinates  # a third of a second of astropy

        return sky_coordinates.read_wcs(self._wcs_cards)

    def is_doubtful(self, source_id: int) -> np.ndarray:
        """Frames in which a measurement has a flag that matters, or clouds were seen."""
        _, flags = self.light_curve(source_id)
        harmful = np.uint32(~int(_HARMLESS) & 0xFFFFFFFF)
        cloudy = self.records["quality_flags"] & np.uint32(QualityFlag.CLOUD)
        is_kept = (self.marks_of(source_id) & np.uint8(Mark.KEEP)) != 0
        return np.asarray((((flags & harmful) != 0) | (cloudy != 0)) & ~is_kept)

    def is_set_aside(self) -> np.ndarray:
        """Frames that have no photometry, as far as they were read."""
        return np.asarray((self.records["flags"] & np.uint32(UNUSABLE)) != 0)

    def locate(self, index: int) -> tuple[Part, int]:
        """Part of a frame, and its number in it.

        Raises
        ------
        IndexError
            When there is no such frame.
        """
        if not 0 <= index < self.n_frames:
            raise IndexError(f"{self.key} has frames 0 to {self.n_frames - 1}, got {index}")
        where = int(self._order[index])
        number = int(np.searchsorted(self._begins, where, side="right")) - 1
        return self.parts[number], where - int(self._begins[number])

    def source_flags(self, index: int, source_id: int) -> list[str]:
        """Names of the flags of one measurement, as far as it was read."""
        return flag_names(int(self.light_curve(source_id)[1][index]), SourceFlag)

    def steps_of(self, part: Part) -> FrameSteps:
        """Settings with which frames of a part were calibrated."""
        if part.night not in self._steps:
            cosmic_rays = preparation.stored_parameters(self.out_directory).remove_cosmic_rays
            steps = diagnostics.display_steps(part)
            self._steps[part.night] = replace(steps, remove_cosmic_rays=cosmic_rays)
        return self._steps[part.night]

    def has_photometry(self, part: Part) -> bool:
        """Whether a part has photometry of the label that is shown."""
        return self.label in self._labels_of[self.parts.index(part)]

    def read_one(self, group: Group, name: str, number: int, otherwise: Any = np.nan) -> Any:
        """One value of an array; ``otherwise`` where a store of an older version has no such array."""
        try:
            return self.read(group, name, number, number + 1)[0]
        except NoArray:
            return otherwise


def open_cameras(out_directory: str | Path) -> list[str]:
    """Camera keys that have frames.

    Raises
    ------
    store.StoreError
        When there is no store.
    ValueError
        When no camera has a frame.
    """
    found = [camera.key for camera in Store.open(out_directory).cameras if camera.parts]
    if not found:
        raise ValueError(f"no camera has a frame in {out_directory}: reduce its frames first")
    return found


def _known_label(labels: list[str], label: str | None, where: str) -> str | None:
    if label is None:
        return "aperture" if "aperture" in labels else labels[0] if labels else None
    if label not in labels:
        raise NoSuchLabel(label, where, labels)
    return label


def _empty(name: str, n_frames: int) -> np.ndarray:
    entry = schema.variable("frames", name)
    if name == "n_sources":
        return np.full(n_frames, np.nan)
    return np.full(n_frames, entry.fill, dtype=entry.dtype)


class Views:
    """Open cameras of one reduction, as one page of the browser shows them."""

    def __init__(self, out_directory: str | Path) -> None:
        self.out_directory = location(out_directory)
        self.keys = open_cameras(out_directory)
        self._open: dict[tuple[str, str | None], CameraView] = {}
        self._counterparts: dict[tuple[str, str], dict[int, int]] = {}

    def get(self, key: str, label: str | None = None) -> CameraView:
        """One camera with one photometry label, which stays open."""
        if (key, label) not in self._open:
            self._open[key, label] = CameraView(self.out_directory, key, label)
        return self._open[key, label]

    def counterparts(self, key: str, other: str) -> dict[int, int]:
        """Numbers in another camera of the sources of one; empty where the two catalogues have too little in common."""
        if (key, other) not in self._counterparts:
            try:
                found = match_cameras(self.out_directory, key, other)
                pairs = dict(zip(found.source_id.tolist(), found.other_id.tolist(), strict=True))
            except (StoreError, ValueError):
                pairs = {}
            self._counterparts[key, other] = pairs
        return self._counterparts[key, other]

    def forget(self) -> None:
        """Open everything anew, as for a reduction that goes on."""
        self._open.clear()
        self._counterparts.clear()
