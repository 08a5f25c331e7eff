"""View of one frame for photometers: positions, and cut-outs without their sky."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np

from opticam_dask.flags import FrameFlag
from opticam_dask.kernels.images.matching import align
from opticam_dask.kernels.images.sky import background, smooth_zoom, subtraction
from opticam_dask.kernels.sources import photometry
from opticam_dask.kernels.sources.profiles import profile
from opticam_dask.kernels.sources.tracks import places_on_track
from opticam_dask.methods import blended_forms, frame_stars
from opticam_dask.methods.frame_view import FrameView, Photometer
from opticam_dask.steps.background import Sky, source_disks
from opticam_dask.steps.calibrate import rebinned_response
from opticam_dask.steps.frame_steps import FrameSteps
from opticam_dask.steps.pixels import ImagePixels, RawPixels, read_pixels

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
        Row, x, y and flux of the sources that lie on the trail that it left on the stack, as they are without it. A
        place is NaN where there is but the trail.
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
        for track in self.tracks:
            if track.row < n_sources:
                xy[track.row] = np.nan_to_num(places_on_track(np.array([mjd_utc]), track.places)[0], nan=_NOWHERE)
            if (self.stages[stage - 1] if stage else 0) <= track.row < n_sources:
                rows = track.around[:, 0].astype(int)
                xy[rows] = np.nan_to_num(track.around[:, 1:3], nan=_NOWHERE)
                flux[rows] = track.around[:, 3]
        return replace(self, catalog_xy=xy, catalog_flux=flux)


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
    sky: _MeshSky | _ImageSky
    if steps.has_mesh:
        sky = _MeshSky(_photometric_mesh(job, result, pixels), result["background_rms_mesh"], steps)
    else:
        assert isinstance(pixels, ImagePixels)  # an own background is never local
        assert pixels.sky is not None  # there is no mesh
        sky = _ImageSky(pixels.sky)
    response = _Response(steps) if steps.has_flat else None
    transform = result["transform"]
    known = np.isfinite(result["x"])
    view = FrameView(
        predicted_xy=align.apply_transform(transform, job.catalog_xy),
        detected_xy=np.column_stack([result["x"][known], result["y"][known]]),
        detected_flux=result["flux"][known],
        scale=align.scale_of(transform),
        rotation=align.rotation_of(transform),
        fwhm=job.fwhm,
        frame_fwhm=float(result["fwhm"]),
        position_error=_position_error(result),
        shape=steps.image_shape,
        cutouts_at=lambda x0, y0, size: pixels.electrons(x0, y0, size) - sky.level(x0, y0, size),
        rms_at=sky.rms,
        variance_at=pixels.variance,
        saturated_at=pixels.saturated,
        cosmic_rays_at=pixels.cosmic_rays,
        response_at=None if response is None else response.value,
        response_error_at=None if response is None else response.error,
        non_linear_at=None if np.isnan(entry["linearity_limit"]) else pixels.non_linear,
        level_at=sky.level,
        sky_error=background.mesh_error(steps.box_size) if steps.has_mesh else 0.0,
        stars=star_form(result, steps.image_shape),
        sampling=job.sampling,
        catalog_flux=job.catalog_flux,
    )
    view = blended_forms.in_separate_stars(view)
    return replace(view, profile=job.profile.at(frame_stars.star_shape(view, np.nan)))


def _photometric_mesh(job: Measuring, result: Mapping[str, Any], pixels: RawPixels | ImagePixels) -> np.ndarray:
    """Sky mesh whose mean is right where the sources are.

    Sources of the catalogue that were not detected in this frame were sky to the first pass. Whatever they have in
    it, which may be nothing or more than ever, the pixels round them are now taken out of the sky again.
    """
    steps = job.steps
    grid = steps.image_shape, steps.box_size
    mesh, rms_mesh = result["background_mesh"], result["background_rms_mesh"]
    level: np.ndarray = mesh + np.nan_to_num(result["background_offset_mesh"])
    fwhm, noise = float(np.nan_to_num(result["fwhm"], nan=job.fwhm)), float(result["background_rms"])
    detected = np.column_stack([result["x"], result["y"]])
    before = source_disks(detected, result["flux"], background_rms=noise, fwhm=fwhm)
    hidden = source_disks(*_undetected(job, result, fwhm), background_rms=noise, fwhm=fwhm)
    places = subtraction.newly_covered(hidden, before, steps.image_shape)
    if not len(places):
        return level
    electrons, is_saturated = pixels.at(places)
    is_sky = subtraction.was_sky(electrons, mesh, rms_mesh, level, grid, places) & ~is_saturated
    if np.isnan(result["background_mean_mesh"]).all():  # reduced before the pixels were counted
        counted = subtraction.uncounted(level, before, grid)
    else:
        counted = subtraction.SkyPixels(result["background_n_sky"], result["background_mean_mesh"])
    return subtraction.taken_out(counted, level, places[is_sky], electrons[is_sky], grid).level(rms_mesh, grid)


def _undetected(job: Measuring, result: Mapping[str, Any], fwhm: float) -> tuple[np.ndarray, np.ndarray]:
    """Sources of the catalogue without a detection in a frame: where they should be, and as bright as they may be.

    Their fluxes, which only tell how far they may shine, are those of the catalogue, on the scale of the frame.
    """
    xy = align.apply_transform(result["transform"], job.catalog_xy)
    known = np.isfinite(result["x"])
    matched = photometry.match_one_to_one(xy, np.column_stack([result["x"], result["y"]])[known], fwhm)
    is_found = matched >= 0
    scale = 1.0
    if np.count_nonzero(is_found) >= _FEWEST_MATCHED:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = result["flux"][known][matched[is_found]] / job.catalog_flux[is_found]
        scale = float(np.nan_to_num(np.median(ratio), nan=1.0))
    return xy[~is_found], scale * job.catalog_flux[~is_found]


#: Sources that tell how bright those of the catalogue are in a frame.
_FEWEST_MATCHED = 3


def star_form(result: Mapping[str, Any], frame: tuple[int, int] | None = None) -> profile.Shape:
    """Form of the frame's stars; round as wide as its FWHM where the moments failed.

    Parameters
    ----------
    result : mapping
        What the first pass found of the frame, by the names of ``schema.FRAMES``.
    frame : (int, int), optional
        Shape ``(ny, nx)`` of the frame; without it the mean form, whatever its change over the frame.
    """
    # stores of older versions have one form for all stars of a frame
    terms = np.nan_to_num(result.get("form_terms", 0.0))
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

    A similarity has four parameters, so ``2 n - 4`` of the ``2 n`` residuals are free; two pairs tell nothing. What a
    frame has borrowed from other cameras has its error in place of the residuals.
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

    def level(self, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
        return self._windows("level", smooth_zoom.windows, x0, y0, size)

    def rms(self, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
        return self._windows("rms", background.zoom_mesh_windows, x0, y0, size)

    def _windows(
        self, name: str, zoom: Callable[..., np.ndarray], x0: np.ndarray, y0: np.ndarray, size: int
    ) -> np.ndarray:
        where = np.asarray(x0).tobytes(), np.asarray(y0).tobytes(), size
        if name not in self._last or self._last[name][0] != where:
            windows = zoom(self._meshes[name], *self._geometry, y0, x0, size)
            windows.flags.writeable = False
            self._last[name] = where, windows
        return self._last[name][1]


class _ImageSky:
    """Sky from a user's own background function."""

    def __init__(self, sky: Sky) -> None:
        self.sky = sky

    def level(self, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
        return photometry.cut_out(self.sky.image, x0, y0, size)

    def rms(self, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
        return photometry.cut_out(self.sky.rms_image, x0, y0, size)
