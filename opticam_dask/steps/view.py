"""View of one frame for photometers: positions, and cut-outs without their sky."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.spatial import KDTree

from opticam_dask.flags import FrameFlag
from opticam_dask.kernels.images.matching import align
from opticam_dask.kernels.images.sky import background, smooth_zoom, subtraction
from opticam_dask.kernels.images.sky.disks import newly_covered
from opticam_dask.kernels.images.sky.uneven import unevenness
from opticam_dask.kernels.robust import known_or, median
from opticam_dask.kernels.sources import photometry
from opticam_dask.kernels.sources.profiles import profile
from opticam_dask.kernels.sources.tracks import places_on_track
from opticam_dask.methods import blended_forms, frame_stars, uneven_sky
from opticam_dask.methods.frame_view import CutOuts, FrameView, Photometer
from opticam_dask.steps.background import Sky, level_of_sky, source_disks
from opticam_dask.steps.calibrate import rebinned_response
from opticam_dask.steps.frame_steps import FrameSteps
from opticam_dask.steps.pixels import ImagePixels, RawPixels, read_pixels

#: A neighbour nearer than this part of the FWHM to a source that the observer placed is that source.
_SAME_SOURCE = 0.5

#: The trail of a moving source on the stack is this many FWHM wide to either side.
_TRAIL = 1.5

#: Where a source is put that is not to be seen: far from any frame.
_NOWHERE = -1e5


class Track(NamedTuple):
    """Path of a moving source over the reference frame.

    Attributes
    ----------
    row : int
        Its place in the catalogue.
    places : ndarray, shape (m, 3)
        MJD (UTC), x and y.
    around : ndarray, shape (k, 4)
        Row, x, y and flux, without the light of the trail, of the sources that lie on the trail that it left on the
        stack. Places are NaN where there is no source, only the trail.
    """

    row: int
    places: np.ndarray
    around: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """Sources, star profile and photometers with which a frame is measured.

    Attributes
    ----------
    steps : FrameSteps
        How the frames are read, calibrated and searched for sources.
    photometers : dict of Photometer
        By label; all are measured on one read of the frame.
    catalog_xy, catalog_flux : ndarray, shape (source, 2) and (source,)
        Positions on the reference frame, and fluxes in electrons.
    fwhm : float
        Median FWHM of the catalogue, in pixels of the reference frame.
    profile : Tables
        The night's star profile.
    profile_err : float
        Relative error of the total light by the profile, common to all fluxes.
    sampling : ndarray, optional
        ``sampling.sampling_errors`` of that profile; None where it is not one of the night's stars.
    whole_frames : bool
        Calibrate whole frames even where cut-outs are enough (the numbers are the same bits).
    stages : tuple of int
        Number of sources that were found, and of all sources after each time that the observer placed some; empty when
        all were found. Sources are measured together with those of their stage and of the stages before, so that where
        somebody looks for a source changes no other one.
    tracks : tuple of Track
        Placed sources that move.
    neighbours : ndarray, shape (m, 3), optional
        x, y and flux of fainter sources, which are not measured (:func:`neighbours_of`).
    bad_pixels : ndarray of int, optional
        Places in the flattened frame of pixels that are hot or dark all night, which count as bad ones.
    """

    steps: FrameSteps
    photometers: Mapping[str, Photometer]
    catalog_xy: np.ndarray
    catalog_flux: np.ndarray
    fwhm: float
    profile: profile.Tables
    whole_frames: bool = False
    profile_err: float = 0.0
    sampling: np.ndarray | None = None
    stages: tuple[int, ...] = ()
    tracks: tuple[Track, ...] = ()
    neighbours: np.ndarray | None = None
    bad_pixels: np.ndarray | None = None

    @property
    def n_found(self) -> int:
        """Number of sources that were found; those behind them were placed."""
        return self.stages[0] if self.stages else len(self.catalog_xy)

    def at_stage(self, stage: int, mjd_utc: float = np.nan) -> Self:
        """The same settings for the sources of one stage and those before it, at their places at one time."""
        n_sources = self.stages[stage] if self.stages else len(self.catalog_xy)
        if n_sources == len(self.catalog_xy) and not self.tracks:
            return self
        xy, flux = self.catalog_xy[:n_sources].copy(), self.catalog_flux[:n_sources].copy()
        neighbours = self.neighbours
        for track in self.tracks:
            if track.row < n_sources:
                xy[track.row] = np.nan_to_num(places_on_track(np.array([mjd_utc]), track.places)[0], nan=_NOWHERE)
            if (self.stages[stage - 1] if stage else 0) <= track.row < n_sources:
                rows = track.around[:, 0].astype(int)
                xy[rows] = np.nan_to_num(track.around[:, 1:3], nan=_NOWHERE)
                flux[rows] = track.around[:, 3]
                neighbours = None if neighbours is None else _off_trail(neighbours, track.places, self.fwhm)
        return replace(self, catalog_xy=xy, catalog_flux=flux, neighbours=neighbours)


def _off_trail(neighbours: np.ndarray, places: np.ndarray, fwhm: float) -> np.ndarray:
    """Neighbours without those that are the trail of a moving source on the stack."""
    length = float(np.sum(np.hypot(*np.diff(places[:, 1:], axis=0).T)))
    times = np.linspace(places[0, 0], places[-1, 0], int(np.ceil(2.0 * length / fwhm)) + 2)
    path = places_on_track(times, places)
    known: np.ndarray = neighbours[KDTree(path[np.isfinite(path[:, 0])]).query(neighbours[:, :2])[0] > _TRAIL * fwhm]
    return known


def neighbours_of(catalog: Mapping[str, np.ndarray]) -> np.ndarray:
    """Place and flux of the sources of a stack that are not measured, shape (m, 3), from arrays of its catalogue."""
    nothing = np.empty(0)
    found = np.column_stack([catalog.get(f"neighbour_{name}", nothing) for name in ("x", "y", "flux")])
    return found[np.isfinite(found).all(axis=1)]


def frame_view(
    job: Measuring,
    entry: Mapping[str, Any],
    result: Mapping[str, Any],
    pixels: RawPixels | ImagePixels | None = None,
) -> FrameView:
    """View of one frame for photometers: positions, and sky-subtracted cut-outs on demand.

    The sky at the cut-outs is evaluated from the stored mesh; it is not estimated again, unless the background
    is a user's own function, whose image is not the zoom of a mesh. Pixels are read unless they are given.
    """
    steps = job.steps
    pixels = read_pixels(steps, entry, whole_frames=job.whole_frames) if pixels is None else pixels
    hidden, scale = _undetected(job, result)
    sky: _MeshSky | _ImageSky
    counted: subtraction.SkyPixels | None = None
    if steps.has_mesh:
        level, counted = _photometric_mesh(job, result, pixels, hidden)
        sky = _MeshSky(level, result["background_rms_mesh"], steps)
    else:
        assert isinstance(pixels, ImagePixels)  # an own background is never local
        assert pixels.sky is not None  # there is no mesh
        sky = _ImageSky(pixels.sky)
    response, lasting_at = _Response(steps) if steps.has_flat else None, _lasting(job)
    transform = result["transform"]
    known = np.isfinite(result["x"])
    predicted = align.apply_transform(transform, job.catalog_xy)
    view = FrameView(
        predicted_xy=predicted,
        detected_xy=np.column_stack([result["x"][known], result["y"][known]]),
        detected_flux=result["flux"][known],
        scale=align.scale_of(transform),
        rotation=align.rotation_of(transform),
        fwhm=job.fwhm,
        frame_fwhm=float(result["fwhm"]),
        position_error=_position_error(result),
        shape=steps.image_shape,
        cutouts_at=_without(lasting_at, lambda *window: pixels.electrons(*window) - sky.level(*window)),
        rms_at=sky.rms,
        variance_at=pixels.variance,
        saturated_at=pixels.saturated,
        lasting_at=lasting_at,
        cosmic_rays_at=pixels.cosmic_rays,
        response_at=None if response is None else response.value,
        response_error_at=None if response is None else response.error,
        non_linear_at=None if np.isnan(entry["linearity_limit"]) else pixels.non_linear,
        level_at=sky.level,
        sky_error=background.mesh_error(steps.box_size) if steps.has_mesh else 0.0,
        usual_sky=sky.usual,
        stars=star_form(result, steps.image_shape),
        sampling=job.sampling,
        is_measured_profile=job.sampling is not None,
        catalog_flux=job.catalog_flux,
        neighbours=_neighbours(job, transform, predicted),
        flux_scale=scale,
    )
    view = blended_forms.in_separate_stars(view)
    view = replace(view, profile=job.profile.at(frame_stars.star_shape(view, np.nan)))
    if counted is None:
        return view
    grid = steps.image_shape, steps.box_size
    return uneven_sky.with_local_sky(view, unevenness(counted, level, result["background_rms_mesh"], grid, predicted))


def _lasting(job: Measuring) -> CutOuts | None:
    """Cut-outs of the mask of pixels that are hot or dark all night; None where there are none."""
    if job.bad_pixels is None or not len(job.bad_pixels):
        return None
    is_bad = np.zeros(job.steps.image_shape, dtype=bool)
    is_bad.ravel()[job.bad_pixels] = True
    return lambda x0, y0, size: photometry.cut_out(is_bad, x0, y0, size) == 1


def _without(lasting_at: CutOuts | None, cutouts_at: CutOuts) -> CutOuts:
    """Cut-outs without the pixels that are hot or dark all night."""
    if lasting_at is None:
        return cutouts_at
    return lambda x0, y0, size: np.where(lasting_at(x0, y0, size), np.nan, cutouts_at(x0, y0, size))


def _neighbours(job: Measuring, transform: np.ndarray, sources: np.ndarray) -> np.ndarray | None:
    """Place on a frame, and flux, of sources of the stack that are not measured and that no observer has placed."""
    if job.neighbours is None or not len(job.neighbours):
        return None
    xy = align.apply_transform(transform, job.neighbours[:, :2])
    placed = sources[job.n_found :]
    is_other = np.ones(len(xy), dtype=bool)
    if len(placed):
        is_other = KDTree(placed).query(xy)[0] > _SAME_SOURCE * job.fwhm * align.scale_of(transform)
    return np.column_stack([xy, job.neighbours[:, 2]])[is_other]


def _photometric_mesh(
    job: Measuring, result: Mapping[str, Any], pixels: RawPixels | ImagePixels, hidden: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, subtraction.SkyPixels | None]:
    """Sky mesh whose mean is right where the sources are, and the pixels that it is made of if they were counted.

    The first pass took sources of the catalogue that were not detected in this frame for sky. The pixels around these
    ``hidden`` sources are now taken out of the sky again, whatever light they have in this frame.
    """
    steps = job.steps
    grid = steps.image_shape, steps.box_size
    mesh, rms_mesh = result["background_mesh"], result["background_rms_mesh"]
    level: np.ndarray = mesh + known_or(result["background_offset_mesh"])
    fwhm, noise = _fwhm_of(job, result), float(result["background_rms"])
    detected = np.column_stack([result["x"], result["y"]])
    before = source_disks(detected, result["flux"], background_rms=noise, fwhm=fwhm)
    after = source_disks(*hidden, background_rms=noise, fwhm=fwhm)
    places = newly_covered(after, before, steps.image_shape)
    counted = None
    if not np.isnan(result["background_mean_mesh"]).all():  # reduced since the pixels are counted
        counted = subtraction.SkyPixels(result["background_n_sky"], result["background_mean_mesh"])
    if not len(places):
        return level, counted
    electrons, is_saturated = pixels.at(places)
    is_sky = subtraction.was_sky(electrons, mesh, rms_mesh, level, grid, places) & ~is_saturated
    known = subtraction.uncounted(level, before, grid) if counted is None else counted
    left = subtraction.taken_out(known, level, places[is_sky], electrons[is_sky], grid)
    return level_of_sky(left, rms_mesh, grid, fwhm), None if counted is None else left


def _fwhm_of(job: Measuring, result: Mapping[str, Any]) -> float:
    """FWHM of a frame; that of the catalogue where it is not known."""
    fwhm = float(result["fwhm"])
    return fwhm if np.isfinite(fwhm) else job.fwhm


def _undetected(job: Measuring, result: Mapping[str, Any]) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    """Sources of the catalogue that were not detected in a frame: places and fluxes, and the flux scale of the frame.

    The fluxes are those of the catalogue times this scale; they only tell how far the sources may shine.
    """
    xy = align.apply_transform(result["transform"], job.catalog_xy)
    known = np.isfinite(result["x"])
    matched = photometry.match_one_to_one(xy, np.column_stack([result["x"], result["y"]])[known], _fwhm_of(job, result))
    is_found = matched >= 0
    scale = 1.0
    if np.count_nonzero(is_found) >= _FEWEST_MATCHED:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = result["flux"][known][matched[is_found]] / job.catalog_flux[is_found]
        scale = float(known_or(median(ratio), 1.0))
    return (xy[~is_found], scale * job.catalog_flux[~is_found]), scale


#: Sources that tell how bright those of the catalogue are in a frame.
_FEWEST_MATCHED = 3


def star_form(result: Mapping[str, Any], frame: tuple[int, int] | None = None) -> profile.Shape:
    """Form of the frame's stars; round, of the FWHM of the frame, where the moments failed.

    Parameters
    ----------
    result : mapping
        Results of the first pass for the frame, by the names of ``schema.FRAMES``.
    frame : (int, int), optional
        Shape ``(ny, nx)`` of the frame; without it the mean form, whatever its change over the frame.
    """
    # stores of older versions have one form for all stars of a frame
    terms = known_or(result.get("form_terms", 0.0))
    form = profile.Shape(
        *(float(result["semimajor_sigma"]), float(result["semiminor_sigma"]), float(np.deg2rad(result["orientation"]))),
        change=profile.FormChange(terms, frame) if frame is not None and np.any(terms) else None,
    )
    if form.is_known():
        return form
    sigma = float(result["fwhm"]) / photometry.SIGMA_TO_FWHM
    return profile.Shape(sigma, sigma, 0.0)


#: Transforms are not trusted to be better than this, pixels.
_SMALLEST_POSITION_ERROR = 0.05
#: Transforms are not known to be worse than this, pixels.
_LARGEST_POSITION_ERROR = 1.0


def _position_error(result: Mapping[str, Any]) -> float:
    """Error along one axis of a position that a transform predicts, from the residuals of its ``n_matched`` pairs.

    A similarity has four parameters, so ``2 n - 4`` of the ``2 n`` residuals are free; two pairs tell nothing. A
    transform that was borrowed from other cameras has its error stored in the place of the residuals.
    """
    rms, n_matched = float(result["transform_rms"]), int(result["n_matched"])
    if result.get("flags", 0) & np.uint32(FrameFlag.BORROWED):
        per_axis = rms / np.sqrt(2.0)
    else:
        per_axis = rms * np.sqrt(n_matched / (2.0 * (n_matched - 2))) if n_matched > 2 else np.nan
    if not np.isfinite(per_axis):
        return _LARGEST_POSITION_ERROR
    return float(np.clip(per_axis, _SMALLEST_POSITION_ERROR, _LARGEST_POSITION_ERROR))


class _Response:
    """Cut-outs of the master flat by which frames were divided, and of its error, in rebinned pixels.

    Bad pixels, which have no data, get 1 and no error.
    """

    def __init__(self, steps: FrameSteps) -> None:
        self.response, self.error_image = rebinned_response(steps)

    def value(self, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
        return np.nan_to_num(photometry.cut_out(self.response, x0, y0, size), nan=1.0)

    def error(self, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
        return np.nan_to_num(photometry.cut_out(self.error_image, x0, y0, size))


class _MeshSky:
    """Sky from the stored meshes, evaluated only where it is asked for; what was asked for last is remembered."""

    def __init__(self, mesh: np.ndarray, rms_mesh: np.ndarray, steps: FrameSteps) -> None:
        self._meshes = {"level": mesh, "rms": rms_mesh}
        self._geometry = (steps.image_shape, steps.box_size)
        self._last: dict[str, tuple[tuple[bytes, bytes, int], np.ndarray]] = {}

    @property
    def usual(self) -> tuple[float, float]:
        """Medians of level and RMS over the frame, electrons."""
        return median(self._meshes["level"]), median(self._meshes["rms"])

    @cached_property
    def _knots(self) -> dict[str, tuple[np.ndarray, tuple[float, float]]]:
        """Coefficients of the splines of level and RMS, and the range that these stay in."""
        level, rms = self._meshes["level"], self._meshes["rms"]
        return {
            "level": (smooth_zoom.coefficients(level), smooth_zoom.UNBOUND),
            "rms": (background.mirrored_knots(rms), (rms.min(), rms.max())),
        }

    def level(self, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
        return self._windows("level", x0, y0, size)

    def rms(self, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
        return self._windows("rms", x0, y0, size)

    def _windows(self, name: str, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
        where = np.asarray(x0).tobytes(), np.asarray(y0).tobytes(), size
        if name not in self._last or self._last[name][0] != where:
            knots, bounds = self._knots[name]
            windows = background.spline_windows(knots, *self._geometry, y0, x0, size, bounds)
            windows.flags.writeable = False
            self._last[name] = where, windows
        return self._last[name][1]


class _ImageSky:
    """Sky from a user's own background function."""

    def __init__(self, sky: Sky) -> None:
        self.sky = sky
        self.usual = sky.median, sky.rms_median

    def level(self, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
        return photometry.cut_out(self.sky.image, x0, y0, size)

    def rms(self, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
        return photometry.cut_out(self.sky.rms_image, x0, y0, size)
