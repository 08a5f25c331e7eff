"""Data of the frame browser: read from the store and the frames, only where somebody looks. No widgets.

Numbers of frames are those of ``light_curves(out_directory, key, label)``: all nights of a camera in time order, frames
without a time at the end. Numbers a frame and fluxes come in block by block, blocks spread over the whole run first, so
that a light curve is there as a whole long before all of it is read; what was read is kept in single precision.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from opticam_dask import schema
from opticam_dask.display import diagnostics
from opticam_dask.flags import UNUSABLE, FrameFlag, QualityFlag, SourceFlag, flag_names
from opticam_dask.frames.scanning import FrameError
from opticam_dask.kernels.images.matching import align
from opticam_dask.kernels.images.sky import background
from opticam_dask.locations import location
from opticam_dask.methods.local_backgrounds import DefaultLocalBackground
from opticam_dask.methods.photometers import AperturePhotometer
from opticam_dask.pipeline import preparation
from opticam_dask.steps.calibrate import load_image
from opticam_dask.steps.frame_steps import FrameLost, FrameProblem, FrameSteps
from opticam_dask.steps.view import star_form
from opticam_dask.store.arrays import Array
from opticam_dask.store.camera import Part
from opticam_dask.store.errors import StoreError
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

#: Fluxes of all sources are kept when they are no more than so many numbers; else those of one source.
_MOST_CELLS = 25_000_000

#: Flags that only say how a measurement was made, and leave it as good as any other.
_HARMLESS = SourceFlag.REDUCED | SourceFlag.NOT_DETECTED | SourceFlag.NOT_RECENTRED | SourceFlag.BLENDED


class _NoArray(StoreError):
    """The store has no such array: it is of an older version, or damaged."""


@dataclass(frozen=True)
class Ellipse:
    """An aperture in pixels of a frame; ``angle`` in degrees, counter-clockwise from x."""

    semimajor_axis: float
    semiminor_axis: float
    angle: float = 0.0


@dataclass(frozen=True)
class FramePicture:
    """One frame with what was measured on it.

    Attributes
    ----------
    index : int
        Number of the frame over all nights of the camera.
    file, night : str
        File and night of the frame.
    mjd_utc : float
        Mid-exposure of the frame (MJD, UTC).
    flags : list of str
        Names of the bits of the frame, those of its quality among them.
    message : str
        Why the frame was set aside; empty when it was not.
    image : ndarray, shape (ny, nx), or None
        Electrons, calibrated as in the reduction; None when there are no pixels to show.
    problem : str
        Why there is no image, or why it is another one than was asked for; empty when all is well.
    xy : ndarray, shape (source, 2)
        Where the sources of the catalogue were measured; NaN where they were not.
    apertures, annulus : list of Ellipse
        Apertures (one for each radius), and the two edges of the sky annulus; empty where there is none.
    has_aperture : bool
        Whether ``apertures`` are what the flux was summed in; else they show one FWHM.
    values : dict of float
        fwhm, background, n_sources, transparency, airmass, exposure_time of the frame.
    """

    index: int
    file: str
    night: str
    mjd_utc: float
    flags: list[str]
    message: str
    image: np.ndarray | None
    problem: str
    xy: np.ndarray
    apertures: list[Ellipse]
    annulus: list[Ellipse]
    has_aperture: bool
    values: dict[str, float]


@dataclass
class _Columns:
    """Fluxes and flags of the sources that are kept, in time order, as far as they were read."""

    rows: np.ndarray
    flux: np.ndarray
    flags: np.ndarray
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
        self._photometer = self._read_photometer()
        self.records = {name: _empty(name, self.n_frames) for name in _RECORDS}
        self.records |= self._read_quality()
        self._records_todo = self._all_blocks()
        self._columns: _Columns | None = None
        self._steps: dict[str, FrameSteps] = {}

    _open: dict[str, Array] = field(default_factory=dict, init=False, repr=False)

    # ---------------------------------------------------------------- what is known at once

    def _read_times(self) -> None:
        counts = [part.n_frames for part in self.parts]
        self.n_frames = sum(counts)
        self._begins = np.cumsum([0, *counts])
        mjd = np.concatenate([self._array(part.frames, "mjd_utc") for part in self.parts])
        self._order = np.argsort(mjd, kind="stable")
        self._rank = np.empty(self.n_frames, dtype=np.intp)
        self._rank[self._order] = np.arange(self.n_frames)
        self.mjd_utc = mjd[self._order]
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
        self.positions = np.column_stack([self.catalog.get(name, np.empty(0)) for name in ("x", "y")])

    def _read_photometer(self) -> dict[str, Any]:
        """Record of the photometer that was used, with its best aperture chosen."""
        for part, labels in zip(self.parts, self._labels_of, strict=True):
            if self.label in labels:
                attributes = part.photometry(self.label).attributes
                self.radii = [float(value) for value in attributes.get("radii", [])]
                return dict(json.loads(attributes.get("prepared", attributes["parameters"])))
        self.radii = []
        return {}

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

    # ---------------------------------------------------------------- what comes in block by block

    def _all_blocks(self) -> list[tuple[int, int]]:
        """Blocks of all parts (part, block), last to be read first, so that few of them cover the whole run."""
        blocks = [(number, block) for number, part in enumerate(self.parts) for block in range(part.n_blocks)]
        return [blocks[index] for index in spread_order(len(blocks))[::-1]]

    def choose(self, source_id: int) -> None:
        """Make the light curve of a source the one that is read.

        Raises
        ------
        ValueError
            When the catalogue has no such source.
        """
        row = self._row(source_id)
        if self._columns is not None and row in self._columns.rows:
            return
        n_sources = len(self.source_ids)
        rows = np.arange(n_sources) if self.n_frames * n_sources <= _MOST_CELLS else np.array([row])
        shape = (self.n_frames, len(rows))
        todo = self._all_blocks() if self.label is not None else []
        self._columns = _Columns(rows, np.full(shape, np.nan, np.float32), np.zeros(shape, np.uint32), todo)

    def set_radius(self, radius: int) -> None:
        """Take another of the radii that were measured."""
        if radius != self.radius:
            self.radius, self._columns = radius, None

    def _row(self, source_id: int) -> int:
        found = np.flatnonzero(self.source_ids == source_id)
        if not len(found):
            has = f"1 to {self.source_ids.max()}" if len(self.source_ids) else "no source"
            raise ValueError(f"{self.key} has no source {source_id} in its catalogue; it has {has}")
        return int(found[0])

    @property
    def n_todo(self) -> int:
        """Blocks that are still to be read for what is shown."""
        return len(self._records_todo) + (len(self._columns.todo) if self._columns is not None else 0)

    def load(self, n_blocks: int = 1) -> bool:
        """Read some more blocks; say whether any is left. What is damaged is passed over, and told in ``damage``."""
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
            self.records[name][rows] = self._array(part.frames, name, *span)

    def _load_fluxes(self, columns: _Columns, number: int, block: int) -> None:
        if self.label not in self._labels_of[number]:
            return
        part, rows, span = self._block(number, block)
        for name, target in (("flux", columns.flux), ("flags", columns.flags)):
            values = self._array(part.photometry(self.label), name, *span)
            values = values[..., self.radius] if values.ndim == 3 else values
            target[rows] = values[:, columns.rows]

    def _block(self, number: int, block: int) -> tuple[Part, np.ndarray, tuple[int, int]]:
        part = self.parts[number]
        start, stop = part.block_range(block)
        begin = self._begins[number]
        return part, self._rank[begin + start : begin + stop], (start, stop)

    def _array(self, group: Group, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Part of an array, which stays open: to open it takes as long as to read a chunk."""
        name, array = f"{group.name}/{name}", name
        told = f"opticam-dask verify {self.out_directory} says what is to be done."
        try:
            if name not in self._open:
                self._open[name] = group.array(array)
            self.n_reads += 1
            return self._open[name].read(start, stop)
        except FileNotFoundError as error:
            raise _NoArray(f"{name} of {group.path} is gone. {told}") from error
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
        assert self._columns is not None  # it was chosen
        column = int(np.flatnonzero(self._columns.rows == self._row(source_id))[0])
        return self._columns.flux[:, column], self._columns.flags[:, column]

    def relative_light_curve(self, source_id: int, n_comparisons: int = 5) -> np.ndarray:
        """Flux of a source over the summed flux of the brightest other sources, for a first look.

        NaN where not all of them are known. Where only one source is kept in memory it is divided by the transparency.
        """
        flux, _ = self.light_curve(source_id)
        assert self._columns is not None  # it was chosen
        others = [row for row in self._columns.rows.tolist() if row != self._row(source_id)][:n_comparisons]
        with np.errstate(invalid="ignore", divide="ignore"):
            if len(self._columns.rows) == 1:
                return flux / self.records["transparency"].astype(np.float32)
            return np.asarray(flux / np.sum(self._columns.flux[:, others], axis=1))

    def is_doubtful(self, source_id: int) -> np.ndarray:
        """Frames in which a measurement has a flag that matters, or clouds were seen."""
        _, flags = self.light_curve(source_id)
        harmful = np.uint32(~int(_HARMLESS) & 0xFFFFFFFF)
        cloudy = self.records["quality_flags"] & np.uint32(QualityFlag.CLOUD)
        return np.asarray(((flags & harmful) != 0) | (cloudy != 0))

    def is_set_aside(self) -> np.ndarray:
        """Frames that have no photometry, as far as they were read."""
        return np.asarray((self.records["flags"] & np.uint32(UNUSABLE)) != 0)

    # ---------------------------------------------------------------- one frame

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

    def frame(self, index: int, *, subtract_sky: bool = True) -> FramePicture:
        """Read one frame and what was measured on it.

        Parameters
        ----------
        index : int
            Number of the frame over all nights.
        subtract_sky : bool
            Take the stored sky off, as for photometry.
        """
        part, number = self.locate(index)
        entry = self._entry(part, number)
        flags = self._array(part.frames, "flags", number, number + 1)[0]
        names = ("fwhm", "semimajor_sigma", "semiminor_sigma", "orientation", "transform")
        known = {name: self._one(part.frames, name, number) for name in (*names, "background", "n_sources")}
        message = str(part.frames.read("message", number, number + 1)[0])
        image, problem = self._pixels(part, entry)
        if image is not None and not problem and subtract_sky:
            image = self._without_sky(part, number, image)
        bits = flag_names(int(flags), FrameFlag)
        bits += flag_names(int(self.records["quality_flags"][index]), QualityFlag)
        values = {name: float(known[name]) for name in ("fwhm", "background", "n_sources")}
        values |= {name: float(self.records[name][index]) for name in ("transparency", "airmass")}
        apertures, has_aperture = self._apertures(known)
        return FramePicture(
            index=index,
            file=str(entry["file"]),
            night=part.night,
            mjd_utc=float(entry["mjd_utc"]),
            flags=bits,
            message=message,
            image=image,
            problem=problem,
            xy=self._measured_at(part, number, known),
            apertures=apertures,
            annulus=self._annulus(known),
            has_aperture=has_aperture,
            values=values | {"exposure_time": float(entry["exposure_time"])},
        )

    def _entry(self, part: Part, number: int) -> dict[str, Any]:
        """Manifest of one frame."""
        entry = {one.name: self._one(part.frames, one.name, number, otherwise=one.fill) for one in schema.MANIFEST}
        root = part.attributes["data_root"]
        entry["file"] = os.path.join(root, str(entry["file"]))
        return entry

    def _one(self, group: Group, name: str, number: int, otherwise: Any = np.nan) -> Any:
        """One value of an array; ``otherwise`` where a store of an older version has no such array."""
        try:
            return self._array(group, name, number, number + 1)[0]
        except _NoArray:
            return otherwise

    def _pixels(self, part: Part, entry: Mapping[str, Any]) -> tuple[np.ndarray | None, str]:
        if "://" not in entry["file"] and not os.path.exists(entry["file"]):
            return None, (
                f"{entry['file']} is gone. What was measured on it is in the store, but its pixels cannot be shown: "
                "bring the file back to see it."
            )
        steps = self._steps_of(part)
        try:
            return load_image(steps, entry).electrons, ""
        except FrameLost as error:
            return None, str(error)
        except FrameProblem as error:
            return self._raw(
                steps, entry, f"Shown as it was read (ADU), because it could not be used: {error.message}."
            )

    def _raw(self, steps: FrameSteps, entry: Mapping[str, Any], told: str) -> tuple[np.ndarray | None, str]:
        try:
            return np.asarray(steps.reader.read(entry["file"]), dtype=float), told
        except FrameError as error:
            return None, f"{entry['file']} cannot be read: {error.reason}."

    def _steps_of(self, part: Part) -> FrameSteps:
        if part.night not in self._steps:
            cosmic_rays = preparation.stored_parameters(self.out_directory).remove_cosmic_rays
            steps = diagnostics.display_steps(self.out_directory, part)
            self._steps[part.night] = replace(steps, remove_cosmic_rays=cosmic_rays)
        return self._steps[part.night]

    def _without_sky(self, part: Part, number: int, image: np.ndarray) -> np.ndarray:
        if part.mesh_shape is None:
            return image
        mesh = self._one(part.background, "background_mesh", number)
        offset = self._one(part.background, "background_offset_mesh", number, otherwise=np.zeros_like(mesh))
        if not np.isfinite(mesh).all():
            return image
        box_size = self._steps_of(part).box_size
        sky: np.ndarray = background.zoom_mesh(mesh + np.nan_to_num(offset), image.shape, box_size)
        return image - sky

    def _measured_at(self, part: Part, number: int, known: Mapping[str, Any]) -> np.ndarray:
        """Measured positions; without photometry those that the transform predicts."""
        if self.label in self._labels_of[self.parts.index(part)]:
            group = part.photometry(self.label)
            return np.column_stack([self._one(group, name, number) for name in ("x", "y")])
        if not np.isfinite(known["transform"]).all() or not len(self.positions):
            return np.full(self.positions.shape, np.nan)
        return align.apply_transform(known["transform"], self.positions)

    def _apertures(self, known: Mapping[str, Any]) -> tuple[list[Ellipse], bool]:
        """Apertures as the photometer had them in this frame; a circle of one FWHM where it has none."""
        if not np.isfinite(known["transform"]).all():
            return [], False
        scale, fwhm = align.scale_of(known["transform"]), float(known["fwhm"])
        record = self._photometer
        if record.get("class") != AperturePhotometer.__qualname__:
            radius = fwhm if np.isfinite(fwhm) else self.fwhm * scale
            return ([Ellipse(radius, radius)] if np.isfinite(radius) else []), False
        names = ("semimajor_axis", "semiminor_axis", "orientation", "radius", "radius_unit")
        photometer = AperturePhotometer(**{name: record[name] for name in names if name in record})
        turned = 0.0
        if photometer.orientation is not None:
            turned = photometer.orientation + align.rotation_of(known["transform"])
        return [Ellipse(*axes, turned) for axes in photometer.axes(scale, self.fwhm, fwhm)], True

    def _annulus(self, known: Mapping[str, Any]) -> list[Ellipse]:
        """Edges of the annulus in which the sky was measured, around the form of the frame's stars."""
        record = self._photometer.get("local_background_estimator")
        form = star_form(known)
        if not isinstance(record, Mapping) or not form.is_known() or not np.isfinite(known["transform"]).all():
            return []
        scales = {name: float(record[name]) for name in ("r_in_scale", "r_out_scale") if name in record}
        edges = DefaultLocalBackground(**scales).edges(form.semimajor_sigma, form.semiminor_sigma)
        return [Ellipse(*axes, float(np.rad2deg(form.orientation))) for axes in edges]


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
        raise ValueError(f"no photometry {label!r} of {where}; it has {', '.join(labels) or 'none'}")
    return label


def _empty(name: str, n_frames: int) -> np.ndarray:
    entry = schema.variable("frames", name)
    if name == "n_sources":
        return np.full(n_frames, np.nan)
    return np.full(n_frames, entry.fill, dtype=entry.dtype)


# ---------------------------------------------------------------- numbers for pictures


def spread_order(n: int) -> np.ndarray:
    """Numbers 0 to n - 1 in an order whose first few are spread evenly over all: bits are counted from the far end."""
    n_bits = max(1, int(n - 1).bit_length()) if n else 0
    numbers = np.arange(1 << n_bits) if n else np.empty(0, dtype=int)
    turned = np.zeros_like(numbers)
    for bit in range(n_bits):
        turned |= ((numbers >> bit) & 1) << (n_bits - 1 - bit)
    return turned[turned < n]


def envelope(
    x: np.ndarray, y: np.ndarray, low: float, high: float, n_columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smallest and largest value in each column of pixels: what a plot of all points would cover.

    Parameters
    ----------
    x, y : ndarray, shape (n,)
        In order of ``x``, NaN at its end.
    low, high : float
        Range of ``x`` that the columns divide evenly.
    n_columns : int
        Number of columns of the picture.

    Returns
    -------
    centre, lowest, highest : ndarray, shape (m,)
        Of the columns that hold a finite value.
    """
    edges = np.linspace(low, high, n_columns + 1)
    bounds = np.searchsorted(x, edges, side="left")
    bounds[-1] = np.searchsorted(x, high, side="right")
    has_points = np.flatnonzero(np.diff(bounds) > 0)
    if not len(has_points):
        return np.empty(0), np.empty(0), np.empty(0)
    span = slice(bounds[0], bounds[-1])
    values, starts = y[span], bounds[has_points] - bounds[0]
    is_finite = np.isfinite(values)
    lowest = np.minimum.reduceat(np.where(is_finite, values, np.inf), starts)
    highest = np.maximum.reduceat(np.where(is_finite, values, -np.inf), starts)
    is_known = lowest <= highest
    centres = (edges[:-1] + edges[1:])[has_points] / 2
    return centres[is_known], lowest[is_known], highest[is_known]


def nearest(
    x: np.ndarray, y: np.ndarray, at: tuple[float, float], scale: tuple[float, float], within: tuple[int, int]
) -> int | None:
    """Number of the point that looks nearest to a click.

    Parameters
    ----------
    x, y : ndarray, shape (n,)
        Points with a coordinate that is not finite are none.
    at : (float, float)
        Where the click was.
    scale : (float, float)
        Size of a pixel of the screen along each axis.
    within : (int, int)
        First and one past the last point that count.

    Returns
    -------
    int or None
        None when there is no point.
    """
    span = slice(*within)
    distance = np.hypot((x[span] - at[0]) / scale[0], (y[span] - at[1]) / scale[1])
    if not np.isfinite(distance).any():
        return None
    return int(np.nanargmin(distance)) + within[0]


def shrink(image: np.ndarray, most: int) -> tuple[np.ndarray, int]:
    """Mean of squares of pixels, so that no side is longer than ``most``; and the side of a square.

    Pixels at the far edges that fill no square are left out.
    """
    factor = max(1, -(-max(image.shape) // most))
    if factor == 1:
        return image, 1
    ny, nx = (size // factor for size in image.shape)
    if not (ny and nx):
        return image, 1
    squares = image[: ny * factor, : nx * factor].reshape(ny, factor, nx, factor)
    return squares.mean(axis=(1, 3)), factor


def shade(image: np.ndarray, limits: tuple[float, float, float] | None = None) -> np.ndarray:
    """Grey levels 0 to 255 of an image of stars: steep at the sky, flat in the stars.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        The image.
    limits : (float, float, float), optional
        As from :func:`shade_limits`, which is used when they are not given.

    Returns
    -------
    ndarray of uint8, shape (ny, nx)
        Pixels without data are 0.
    """
    middle, scatter, top = limits or shade_limits(image)
    low, high = np.arcsinh(-1.0), np.arcsinh((top - middle) / (2 * scatter))
    with np.errstate(invalid="ignore"):
        level = (np.arcsinh((image - middle) / (2 * scatter)) - low) / max(high - low, 1e-9)
    return (np.clip(np.nan_to_num(level), 0.0, 1.0) * 255).astype(np.uint8)


def shade_limits(image: np.ndarray) -> tuple[float, float, float]:
    """Median, scatter and white level of an image, from at most some 10^5 of its pixels."""
    step = max(1, int(np.sqrt(image.size / 1e5)))
    some = image[::step, ::step]
    some = some[np.isfinite(some)]
    if not len(some):
        return 0.0, 1.0, 10.0
    middle = float(np.median(some))
    scatter = 1.4826 * float(np.median(np.abs(some - middle))) or float(np.std(some)) or 1.0
    return middle, scatter, max(float(np.percentile(image[np.isfinite(image)], 99.9)), middle + 10 * scatter)
