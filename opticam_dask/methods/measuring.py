"""Steps that photometers share: where to measure, on which pixels, and what there is to say about them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import KDTree

from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.sources import annulus, joint_fit, misfit, noise, photometry
from opticam_dask.kernels.sources.profile import TABLE_STEP, Shape, elliptical_radius, gaussian_profile, profile_weights
from opticam_dask.methods.frame_view import FrameView
from opticam_dask.methods.local_backgrounds import BaseLocalBackground, DefaultLocalBackground, LocalBackground

#: A centroid is believed up to so many errors (its own and the transform's) from where the transform puts the star, and
#: so many pixels beyond: what distortion and refraction may move it by.
_BELIEVED, _REALLY_MOVED = 5.0, 0.1

#: Windows for centroids reach so many sigma.
_CENTROID_REACH = 4.0

#: A neighbour that would drag a centroid by more than so many pixels is fitted together with the star.
_DRAG = 0.02

#: Groups are fitted to so many sigma from each of their stars.
_GROUP_REACH = 4.5

#: Iterations of the joint fit of places.
_PLACE_STEPS = 4

#: A neighbour disturbs when its light in the aperture is more than this part of the source's.
_BLENDED = 0.01

#: The light of a neighbour is looked for up to this many sigma, and where it is more than this part of the source's
#: brightest pixel.
_NEIGHBOUR_REACH, _LEAST_NEIGHBOUR = 10.0, 1e-4

#: Sources are solved together when one counts more than this part of the other's light as its own.
_COUPLED = 0.02

#: Pixels in which neighbours shine so many times as bright as the star say nothing about its profile.
_DROWNED = 3.0

#: Where transforms are worse than this part of sigma, a star is looked for from its centroid.
_SHARP = 0.3

#: The error of a profile in a frame is that of so many of its brightest stars that have no other within so many sigma.
_STANDARDS, _ALONE = 12, 6.0

#: Of so many of the brightest, those that are whole: the very brightest are often saturated.
_CANDIDATES = 48

#: Stray pixels are left out unless they hold more than this part of the star.
_MOST = 0.5

#: Pixels nearer than so many sigma to a neighbour do not count for a local sky.
_NEIGHBOUR_SKY = 5.0


def star_sigma(view: FrameView, otherwise: float) -> float:
    """Sigma of the stars in pixels of the frame; ``otherwise`` where nobody knows the seeing."""
    for fwhm in (view.frame_fwhm, view.fwhm * view.scale):
        if np.isfinite(fwhm) and fwhm > 0:
            return float(fwhm / photometry.SIGMA_TO_FWHM)
    return otherwise


def star_shape(view: FrameView, sigma: float) -> Shape:
    """Form of the frame's stars; round with ``sigma`` where it is not known."""
    return view.stars if view.stars is not None and view.stars.is_known() else Shape(sigma, sigma, 0.0)


def sampling_error(shape: Shape) -> float:
    """Relative error of fluxes where pixels are as large as the stars; 0 where they are not."""
    return noise.sampling_error(photometry.SIGMA_TO_FWHM * shape.sigma)


def profile_table(view: FrameView) -> np.ndarray:
    """Table of the night's profile; a Gaussian where it is not known."""
    return gaussian_profile().table() if view.profile is None else view.profile


@dataclass(frozen=True, eq=False)
class Places:
    """Where to measure, with windows of the frame around these places.

    Attributes
    ----------
    xy : ndarray, shape (n, 2)
    flags : ndarray of uint32, shape (n,)
        What there is to say about the places.
    x0, y0 : ndarray of int, shape (n,)
        Lower corners of the windows.
    electrons, rms : ndarray, shape (n, size, size)
        Minus the sky of the mesh.
    """

    xy: np.ndarray
    flags: np.ndarray
    x0: np.ndarray
    y0: np.ndarray
    electrons: np.ndarray
    rms: np.ndarray

    @property
    def size(self) -> int:
        """Side of the windows."""
        return self.electrons.shape[1]


def find_places(view: FrameView, shape: Shape, sigma: float, tolerance: float, *, forced: bool, reach: float) -> Places:
    """Where to measure each source, and what there is to say about it.

    The centroid of a source that was detected is believed when it is where the transform puts the source, as far as the
    errors of both and what a star may really move allow. Sources that drag each other's centroids are fitted together.

    Parameters
    ----------
    view : FrameView
    shape : Shape
        Of the frame's stars.
    sigma : float
        Of the stars, in pixels of the frame.
    tolerance : float
        A detection is the source when it is within this many sigma.
    forced : bool
        Stay at the predicted positions.
    reach : float
        Pixels around each source that will be looked at.

    Returns
    -------
    Places
    """
    predicted = np.asarray(view.predicted_xy, dtype=float)
    matched = photometry.match_one_to_one(predicted, view.detected_xy, tolerance * sigma)
    flags = np.where(matched < 0, np.uint32(SourceFlag.NOT_DETECTED), np.uint32(0))
    start = predicted.copy()
    if forced:
        return _with_windows(view, start, flags, 2 * int(np.ceil(reach)) + 3)
    found = np.flatnonzero(matched >= 0)
    detected = np.asarray(view.detected_xy, dtype=float)[matched[found]] if len(found) else np.empty((0, 2))
    # a detection that something has dragged away is no place to start from
    is_near = np.hypot(*(detected - predicted[found]).T) < _BELIEVED * view.position_error + sigma
    start[found[is_near]] = detected[is_near]
    half = max(int(np.ceil(_CENTROID_REACH * sigma)) + 1, int(np.ceil(reach)) + 2)
    places = _with_windows(view, start, flags, 2 * half + 1)
    xy = predicted.copy()
    centred, converged = _centroids(view, places, found, start[found], sigma)
    xy[found] = np.where(converged[:, None], centred, predicted[found])
    flags[found[~converged]] |= np.uint32(SourceFlag.NOT_RECENTRED)
    for members in _dragged_groups(view, places, sigma, shape):
        _fit_together(view, members, xy, flags, shape)
    return _follow(view, places, xy)


def _with_windows(view: FrameView, xy: np.ndarray, flags: np.ndarray, size: int) -> Places:
    x0, y0 = photometry.origins(xy, size)
    return Places(xy, flags, x0, y0, view.cutouts_at(x0, y0, size), _sky_noise(view, x0, y0, size))


def _sky_noise(view: FrameView, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
    """Background RMS of windows, shape (n, size, size): that at the middle of each, since it changes slowly."""
    middle = [np.clip(corner + size // 2, 0, n - 1) for corner, n in zip((y0, x0), view.shape, strict=True)]
    return np.broadcast_to(view.rms_at(middle[1], middle[0], 1), (len(x0), size, size))


def _follow(view: FrameView, places: Places, xy: np.ndarray) -> Places:
    """The places ``xy``, with new windows where they are no longer in the middle of theirs."""
    x0, y0 = photometry.origins(xy, places.size)
    away = (np.abs(x0 - places.x0) > 1) | (np.abs(y0 - places.y0) > 1)
    if not away.any():
        return replace(places, xy=xy)
    corners = np.where(away, x0, places.x0), np.where(away, y0, places.y0)
    electrons, rms = places.electrons.copy(), places.rms.copy()
    electrons[away] = view.cutouts_at(x0[away], y0[away], places.size)
    rms[away] = _sky_noise(view, x0[away], y0[away], places.size)
    return Places(xy, places.flags, *corners, electrons, rms)


def _centroids(
    view: FrameView, places: Places, found: np.ndarray, start: np.ndarray, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Centroids of the sources ``found``, drawn towards the prediction, and which of them are believed."""
    cutouts, rms, x0, y0 = places.electrons[found], places.rms[found], places.x0[found], places.y0[found]
    predicted = np.asarray(view.predicted_xy, dtype=float)[found]
    centres, converged = photometry.windowed_centroids(cutouts, x0, y0, start, sigma)
    errors = photometry.centroid_errors(cutouts, rms, x0, y0, centres, sigma)
    weight = photometry.recentring_weight(errors, view.position_error)
    allowed = _BELIEVED * np.hypot(errors, view.position_error) + _REALLY_MOVED
    converged &= np.hypot(*(centres - predicted).T) < allowed
    return predicted + weight[:, None] * (centres - predicted), converged


def _dragged_groups(view: FrameView, places: Places, sigma: float, shape: Shape) -> list[np.ndarray]:
    """Groups of sources that lie so close together that the centroid of one is dragged by another."""
    if view.catalog_flux is None or view.profile is None:
        return []
    predicted, size = np.asarray(view.predicted_xy, dtype=float), places.size
    source, other, light = _neighbour_light(view, predicted, places, shape, 2.0 * _CENTROID_REACH * sigma)
    if not len(source):
        return []
    corners = places.x0[source], places.y0[source]
    drag = photometry.centroid_drag(
        profile_weights(view.profile, predicted[source], *corners, size, shape),
        light * (view.catalog_flux[other] / view.catalog_flux[source])[:, None, None],
        *corners,
        predicted[source],
        sigma,
    )
    is_strong = drag > _DRAG
    return joint_fit.linked_groups(len(predicted), source[is_strong], other[is_strong])


def _fit_together(view: FrameView, members: np.ndarray, xy: np.ndarray, flags: np.ndarray, shape: Shape) -> None:
    """Put the places of a group of sources where a joint fit finds them, or where the transform does."""
    predicted = np.asarray(view.predicted_xy, dtype=float)[members]
    group = read_group(view, predicted, shape)
    table = profile_table(view)
    place, response = predicted.copy(), group.response
    corners = np.repeat(group.x0, len(members)), np.repeat(group.y0, len(members))
    light = profile_weights(table, place, *corners, group.size, shape)
    flux = joint_fit.fit_fluxes(light, group.electrons, group.rms, group.is_good, response, 0.0)[0]
    for _ in range(_PLACE_STEPS):
        slopes = misfit.position_slopes(table, place, corners, group.size, shape)
        model = np.tensordot(np.nan_to_num(flux), light, axes=1)
        errors, stray = stray_in_group(view, group, group.electrons, model, shape)
        used = group.is_good & ~stray & np.isfinite(errors)
        flux, step = joint_fit.fit_places(
            light, slopes, group.electrons, errors**2, used, np.nan_to_num(flux), place - predicted, view.position_error
        )
        place = place + np.clip(step, -shape.sigma, shape.sigma)
        light = profile_weights(table, place, *corners, group.size, shape)
    believed = np.hypot(*(place - predicted).T) < _BELIEVED * view.position_error + _REALLY_MOVED
    xy[members] = np.where(believed[:, None], place, predicted)
    flags[members] &= ~np.uint32(SourceFlag.NOT_RECENTRED)
    flags[members[~believed]] |= np.uint32(SourceFlag.NOT_RECENTRED)


@dataclass(frozen=True, eq=False)
class GroupPixels:
    """One window around a group of sources.

    Attributes
    ----------
    x0, y0 : ndarray of int, shape (1,)
        Lower corner.
    electrons, rms : ndarray, shape (size, size)
    is_good : ndarray of bool, shape (size, size)
        Pixels with data, near a source of the group, and not saturated.
    response : ndarray, shape (size, size), or None
    """

    x0: np.ndarray
    y0: np.ndarray
    electrons: np.ndarray
    rms: np.ndarray
    is_good: np.ndarray
    response: np.ndarray | None

    @property
    def size(self) -> int:
        """Side of the window."""
        return len(self.electrons)


def read_group(view: FrameView, xy: np.ndarray, shape: Shape) -> GroupPixels:
    """Read one window that holds all sources of a group."""
    half = int(np.ceil(np.ptp(xy, axis=0).max() / 2.0 + _GROUP_REACH * shape.semimajor_sigma)) + 1
    size = 2 * half + 1
    x0, y0 = photometry.origins((xy.min(axis=0) + xy.max(axis=0))[None] / 2.0, size)
    electrons, rms = view.cutouts_at(x0, y0, size)[0], view.rms_at(x0, y0, size)[0]
    hit = view.cosmic_rays_at(x0, y0, size)
    corners = np.repeat(x0, len(xy)), np.repeat(y0, len(xy))
    is_good = np.any(elliptical_radius(xy, *corners, size, shape) < _GROUP_REACH, axis=0)
    is_good &= np.isfinite(electrons) & ~view.saturated_at(x0, y0, size)[0]
    if hit is not None:
        is_good &= ~hit[0]
    response = None if view.response_at is None else view.response_at(x0, y0, size)[0]
    return GroupPixels(x0, y0, electrons, rms, is_good, response)


@dataclass(frozen=True)
class Pixels:
    """Windows around the sources, minus the sky.

    Attributes
    ----------
    x0, y0 : ndarray of int, shape (n,)
        Lower corners.
    electrons, rms : ndarray, shape (n, size, size)
    is_good : ndarray of bool, shape (n, size, size)
        False beyond the frame, where there are no data, and where a cosmic ray was taken out.
    sky_error : ndarray, shape (n,)
        Error of the sky level, electrons per pixel, common to the pixels of a window.
    background, background_err : ndarray, shape (n,), or None
        Local sky, where there is one.
    """

    x0: np.ndarray
    y0: np.ndarray
    electrons: np.ndarray
    rms: np.ndarray
    is_good: np.ndarray
    sky_error: np.ndarray
    background: np.ndarray | None = None
    background_err: np.ndarray | None = None


def read_pixels(view: FrameView, places: Places, local_background: LocalBackground | None, shape: Shape) -> Pixels:
    """Windows around the sources, minus the sky of the mesh or of an annulus.

    Parameters
    ----------
    view : FrameView
    places : Places
    local_background : callable or None
    shape : Shape
        Of the frame's stars, which the annulus is scaled to.
    """
    xy, x0, y0, electrons, rms, size = places.xy, places.x0, places.y0, places.electrons, places.rms, places.size
    hit = view.cosmic_rays_at(x0, y0, size)
    is_good = np.isfinite(electrons) if hit is None else np.isfinite(electrons) & ~hit
    if local_background is None:
        centre = rms[:, size // 2, size // 2]
        return Pixels(x0, y0, electrons, rms, is_good, view.sky_error * np.where(np.isfinite(centre), centre, 0.0))
    level, scatter, error = local_sky(view, xy, local_background, shape)
    taken_off = 0.0 if view.level_at is None else view.level_at(x0, y0, size)
    electrons = electrons + taken_off - level[:, None, None]
    rms = np.where(np.isfinite(rms), scatter[:, None, None], np.nan)
    return Pixels(x0, y0, electrons, rms, is_good & np.isfinite(electrons), error, level, error)


def local_sky(
    view: FrameView, xy: np.ndarray, estimate: LocalBackground, shape: Shape
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sky around each source, its scatter per pixel, and its own error; electrons per pixel, shape (n,) each."""
    axes = (shape.semimajor_sigma, shape.semiminor_sigma)
    edges = (estimate if isinstance(estimate, BaseLocalBackground) else DefaultLocalBackground()).edges(*axes)
    size = 2 * int(np.ceil(max(edges[1]))) + 3
    x0, y0 = photometry.origins(xy, size)
    windows = view.cutouts_at(x0, y0, size)
    if view.level_at is not None:
        windows = windows + view.level_at(x0, y0, size)
    mask = annulus.annulus_mask(xy, x0, y0, size, *edges, shape.orientation)
    if type(estimate) is DefaultLocalBackground:
        usable = mask & ~_near_neighbours(xy, x0, y0, size, shape)
        level, scatter, n_pixels = annulus.clipped_statistics(windows, usable, estimate.n_sigma)
    else:
        level, scatter = np.full(len(xy), np.nan), np.full(len(xy), np.nan)
        for index in np.flatnonzero(np.any(np.isfinite(windows), axis=(1, 2))):
            place = float(xy[index, 0] - x0[index]), float(xy[index, 1] - y0[index])
            level[index], scatter[index] = estimate(windows[index], place, *axes, shape.orientation)
        n_pixels = np.count_nonzero(mask & np.isfinite(windows), axis=(1, 2))
    return level, scatter, scatter / np.sqrt(np.maximum(n_pixels, 1))


def _near_neighbours(xy: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: int, shape: Shape) -> np.ndarray:
    """Pixels of each window that lie close to another source of the catalogue."""
    near = np.zeros((len(xy), size, size), dtype=bool)
    reach = _NEIGHBOUR_SKY * shape.semimajor_sigma
    offsets = np.arange(size)
    for index, other in _pairs(xy, size + reach):
        columns = (x0[index] + offsets - xy[other, 0])[None, :]
        rows = (y0[index] + offsets - xy[other, 1])[:, None]
        near[index] |= columns**2 + rows**2 < reach**2
    return near


def _pairs(xy: np.ndarray, reach: float) -> list[tuple[int, int]]:
    """Pairs (source, neighbour) that are nearer to each other than ``reach``, both ways."""
    known = np.flatnonzero(np.all(np.isfinite(xy), axis=1)) if len(xy) else np.empty(0, dtype=int)
    if len(known) < 2:
        return []
    pairs = known[KDTree(xy[known]).query_pairs(reach, output_type="ndarray")]
    both = np.concatenate([pairs, pairs[:, ::-1]])
    return [(int(i), int(j)) for i, j in both[np.lexsort((both[:, 1], both[:, 0]))]]


@dataclass(frozen=True, eq=False)
class Stars:
    """Sources held against the star profile of their frame.

    Attributes
    ----------
    xy : ndarray, shape (n, 2)
        Where to measure; not where a track of a cosmic ray had drawn the centroid.
    flags : ndarray of uint32, shape (n,)
    pixels : Pixels
        ``is_good`` is False also in pixels that do not belong to the star.
    light : ndarray, shape (n, size, size)
        Share of the star's light in each pixel.
    is_stray : ndarray of bool, shape (n, size, size)
        Pixels that do not belong to the star.
    is_saturated : ndarray of bool, shape (n, size, size)
    neighbours : tuple of ndarray
        Source, other source, and the light of the other in the window of the source: one entry a pair.
    chi2 : ndarray, shape (n,)
        Reduced chi-square of the pixels about the profile; NaN where nothing can be said.
    """

    xy: np.ndarray
    flags: np.ndarray
    pixels: Pixels
    light: np.ndarray
    is_stray: np.ndarray
    is_saturated: np.ndarray
    neighbours: tuple[np.ndarray, np.ndarray, np.ndarray]
    chi2: np.ndarray


def read_stars(
    view: FrameView,
    places: Places,
    local_background: LocalBackground | None,
    shape: Shape,
    *,
    reach: float,
    forced: bool,
) -> Stars:
    """Read the pixels of all sources and hold them against the star profile of the frame.

    Parameters
    ----------
    view : FrameView
    places : Places
    local_background : callable or None
    shape : Shape
    reach : float
        Pixels are judged to so many sigma.
    forced : bool
        Stay at the places whatever the fit says.
    """
    pixels = read_pixels(view, places, local_background, shape)
    table, size = profile_table(view), places.size
    light = profile_weights(table, places.xy, places.x0, places.y0, size, shape)
    neighbours = _neighbour_light(view, places.xy, places, shape, size / 2.0 + _NEIGHBOUR_REACH * shape.semimajor_sigma)
    saturated = view.saturated_at(places.x0, places.y0, size)
    nothing = np.zeros(light.shape, dtype=bool)
    unknown = np.full(len(light), np.nan)
    stars = Stars(places.xy, places.flags, pixels, light, nothing, saturated, neighbours, unknown)
    if view.profile is None or not len(light):
        return stars
    near = _within(table, light, reach, shape)
    judged = near & pixels.is_good & ~saturated
    response = None if view.response_at is None else view.response_at(places.x0, places.y0, size)
    own, foreign = _model_light(pixels.electrons, light, judged, neighbours)
    if np.ndim(foreign):
        judged &= foreign < _DROWNED * np.abs(own) + pixels.rms
    usual = misfit.usual_error(sampling_error(shape))
    errors = misfit.pixel_errors(own, foreign, pixels.rms, response, usual)
    with np.errstate(invalid="ignore"):
        deviation = (pixels.electrons - own - foreign) / errors
    chi2 = misfit.reduced_chi2(deviation, judged)
    # of a saturated star nobody knows the profile
    is_whole = ~np.any(saturated & near, axis=(1, 2))
    stars = replace(stars, chi2=np.where(is_whole, chi2, np.nan))
    suspects = np.flatnonzero(is_whole & misfit.are_suspect(deviation, errors, judged, chi2))
    return _look_again(view, stars, suspects, judged, foreign, shape, forced=forced) if len(suspects) else stars


def _within(table: np.ndarray, light: np.ndarray, reach: float, shape: Shape) -> np.ndarray:
    """Which pixels lie within so many sigma, from the light in them."""
    return np.asarray(light > np.interp(reach, TABLE_STEP * np.arange(len(table)), table) / shape.area)


def narrowed(stars: Stars, size: int) -> Stars:
    """The same sources with windows of an odd ``size`` in the middle of the present ones, if those are wide enough."""
    wide, pixels = stars.light.shape[1], stars.pixels
    if wide - size < 2 or not len(stars.xy):
        return stars
    middle = photometry.origins(stars.xy, size)
    x0, y0 = (np.clip(new, old, old + wide - size) for new, old in zip(middle, (pixels.x0, pixels.y0), strict=True))
    off = x0 - pixels.x0, y0 - pixels.y0
    source, other, shed = stars.neighbours
    whole = slice(None)

    def cut(windows: np.ndarray, of: np.ndarray | slice = whole) -> np.ndarray:
        views = np.lib.stride_tricks.sliding_window_view(windows, (size, size), axis=(1, 2))
        inner: np.ndarray = views[np.arange(len(windows)), off[1][of], off[0][of]]
        return inner

    return replace(
        stars,
        pixels=replace(
            pixels, x0=x0, y0=y0, electrons=cut(pixels.electrons), rms=cut(pixels.rms), is_good=cut(pixels.is_good)
        ),
        light=cut(stars.light),
        is_stray=cut(stars.is_stray),
        is_saturated=cut(stars.is_saturated),
        neighbours=(source, other, cut(shed, source)),
    )


def _look_again(
    view: FrameView,
    stars: Stars,
    suspects: np.ndarray,
    judged: np.ndarray,
    foreign: np.ndarray | float,
    shape: Shape,
    *,
    forced: bool,
) -> Stars:
    """Fit the stars that do not fit at first, and leave out of them what is not theirs.

    Returns
    -------
    Stars
        Sources whose fit finds no stray pixel are as they were.
    """
    pixels, size = stars.pixels, stars.light.shape[1]
    corners = pixels.x0[suspects], pixels.y0[suspects]
    usable = pixels.is_good[suspects] & ~stars.is_saturated[suspects]
    if view.non_linear_at is not None:
        usable &= ~view.non_linear_at(*corners, size)
    light_of_others = np.zeros(usable.shape) if not np.ndim(foreign) else np.asarray(foreign)[suspects]
    expected = np.asarray(view.predicted_xy, dtype=float)[suspects]
    start = expected if view.position_error < _SHARP * shape.sigma else stars.xy[suspects]
    response = None if view.response_at is None else view.response_at(*corners, size)
    usual = misfit.usual_error(sampling_error(shape))

    def fit_those(chosen: np.ndarray, model_error: float, unlike: np.ndarray | None) -> misfit.StarFit:
        return misfit.fit_stars(
            pixels.electrons[suspects[chosen]],
            pixels.rms[suspects[chosen]],
            (usable & judged[suspects])[chosen],
            light_of_others[chosen],
            None if response is None else response[chosen],
            (corners[0][chosen], corners[1][chosen]),
            expected[chosen],
            start[chosen],
            profile_table(view),
            shape,
            position_error=view.position_error,
            model_error=model_error,
            unlike=unlike,
        )

    fit = fit_those(np.arange(len(suspects)), usual, None)
    odd = np.flatnonzero(fit.is_no_star | np.any(fit.is_stray, axis=(1, 2)))
    if len(odd):
        found, unlike = profile_misfit(view, shape, size)
        if found > usual or unlike.any():
            fit = fit.with_rows(odd, fit_those(odd, found, unlike))
    chi2, xy, flags = stars.chi2.copy(), stars.xy.copy(), stars.flags.copy()
    chi2[suspects] = misfit.reduced_chi2(fit.deviation, judged[suspects])
    flags[suspects[fit.is_no_star]] |= np.uint32(SourceFlag.CONTAMINATED)
    has_stray = np.any(fit.is_stray, axis=(1, 2))
    if not forced:
        held = flags[suspects] & np.uint32(SourceFlag.NOT_RECENTRED | SourceFlag.NOT_DETECTED) != 0
        believed = np.hypot(*(fit.xy - expected).T) < _BELIEVED * view.position_error + _REALLY_MOVED
        moves = has_stray & ~held
        xy[suspects[moves]] = np.where(believed[moves, None], fit.xy[moves], expected[moves])
    light, is_stray, is_good = stars.light.copy(), stars.is_stray.copy(), pixels.is_good.copy()
    is_stray[suspects] = fit.is_stray
    table = profile_table(view)
    light[suspects] = profile_weights(table, xy[suspects], *corners, size, shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        lost = np.sum(light[suspects] * fit.is_stray, axis=(1, 2)) / np.sum(light[suspects] * usable, axis=(1, 2))
    # where most of a star is stray nobody knows which part is the star: it is measured as it is
    is_good[suspects] &= ~(fit.is_stray & (lost < _MOST)[:, None, None])
    return replace(
        stars, xy=xy, flags=flags, pixels=replace(pixels, is_good=is_good), light=light, is_stray=is_stray, chi2=chi2
    )


def profile_misfit(view: FrameView, shape: Shape, size: int) -> tuple[float, np.ndarray]:
    """What the profile gets wrong in this frame, by the brightest of the frame's own stars.

    Asked for only where something stands out, and remembered.

    Parameters
    ----------
    view : FrameView
    shape : Shape
    size : int
        Side of the windows.

    Returns
    -------
    core : float
        The usual error, and twice what the cores of stars deviate by in the median, relative to the light in a pixel.
    around : ndarray, shape (size, size)
        Twice what most stars deviate by at each place in their windows, relative to their flux.
    """
    if size not in view.known:
        usual = misfit.usual_error(sampling_error(shape))
        fit = _fit_standards(view, shape, size)
        errors = np.zeros(1) if fit is None else np.sort(fit.model_error)
        around = np.zeros((size, size)) if fit is None else 2.0 * misfit.typical_misfit(fit)
        view.known[size] = float(np.hypot(usual, 2.0 * errors[(len(errors) - 1) // 2])), around
    return view.known[size]


def _fit_standards(view: FrameView, shape: Shape, size: int) -> misfit.StarFit | None:
    """The profile fitted to the brightest stars of the frame that stand alone; None where there are none."""
    detected = np.asarray(view.detected_xy, dtype=float)
    crowded = np.unique(np.array(_pairs(detected, _ALONE * shape.semimajor_sigma), dtype=int))
    alone = np.setdiff1d(np.arange(len(detected)), crowded)
    brightest = alone[np.argsort(-np.asarray(view.detected_flux, dtype=float)[alone], kind="stable")][:_CANDIDATES]
    if not len(brightest):
        return None
    xy = detected[brightest]
    corners = photometry.origins(xy, size)
    saturated = np.any(view.saturated_at(*corners, size), axis=(1, 2))
    electrons = view.cutouts_at(*corners, size)
    whole = np.flatnonzero(np.all(np.isfinite(electrons), axis=(1, 2)) & ~saturated)[:_STANDARDS]
    if not len(whole):
        return None
    corners = corners[0][whole], corners[1][whole]
    return misfit.fit_stars(
        electrons[whole],
        _sky_noise(view, *corners, size),
        np.ones(electrons[whole].shape, dtype=bool),
        np.zeros(electrons[whole].shape),
        None if view.response_at is None else view.response_at(*corners, size),
        corners,
        xy[whole],
        xy[whole],
        profile_table(view),
        shape,
        position_error=_SHARP * shape.sigma,
        model_error=misfit.usual_error(sampling_error(shape)),
    )


def stray_in_group(
    view: FrameView,
    group: GroupPixels,
    electrons: np.ndarray,
    model: np.ndarray,
    shape: Shape,
    unknown: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Errors of the pixels of a group about a model of its stars, and which pixels do not belong to them.

    Parameters
    ----------
    view : FrameView
    group : GroupPixels
    electrons, model : ndarray, shape (size, size)
        Sky-subtracted pixels, and what the stars are fitted to shed there.
    shape : Shape
    unknown : ndarray, shape (size, size), optional
        Variance of the model by the places of the stars; without it, of a fit that has not arrived yet, the limits
        are as wide as the deviations.

    Returns
    -------
    errors : ndarray, shape (size, size)
    is_stray : ndarray of bool, shape (size, size)
    """

    def judge(model_error: float) -> tuple[np.ndarray, np.ndarray]:
        errors = misfit.pixel_errors(model, 0.0, group.rms, group.response, model_error)
        errors = errors if unknown is None else np.sqrt(errors**2 + unknown)
        used = group.is_good[None]
        deviation = np.where(group.is_good, (electrons - model) / errors, 0.0)[None]
        tolerance = 1.0 if unknown is not None else misfit.typical_deviation(deviation, model[None], used)
        return errors, misfit.find_stray(deviation, np.where(group.is_good, errors, 1.0)[None], used, tolerance)[0]

    usual = misfit.usual_error(sampling_error(shape))
    errors, is_stray = judge(usual)
    if is_stray.any():
        size = 2 * int(np.ceil(_CENTROID_REACH * shape.semimajor_sigma)) + 3
        return judge(profile_misfit(view, shape, size)[0])
    return errors, is_stray


def _neighbour_light(
    view: FrameView, xy: np.ndarray, places: Places, shape: Shape, reach: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of a source and another one that shines on it, and the other's light in the window of the source.

    Parameters
    ----------
    view : FrameView
    xy : ndarray, shape (n, 2)
    places : Places
        Whose windows are meant.
    shape : Shape
    reach : float
        Largest distance of a pair, in pixels.

    Returns
    -------
    source, other : ndarray of int, shape (pair,)
    light : ndarray, shape (pair, size, size)
        Share of the light of the other source.
    """
    pairs = np.array(_pairs(xy, reach), dtype=int).reshape(-1, 2)
    if len(pairs) and view.catalog_flux is not None:
        # light at the side of the window that faces the neighbour
        table, away = profile_table(view), np.hypot(*(xy[pairs[:, 0]] - xy[pairs[:, 1]]).T)
        rho = np.maximum(away - places.size / 2.0, 0.0) / shape.semimajor_sigma
        side = np.interp(rho, TABLE_STEP * np.arange(len(table)), table) / table[0]
        ratio = view.catalog_flux[pairs[:, 1]] / np.maximum(view.catalog_flux[pairs[:, 0]], 1.0)
        pairs = pairs[side * np.nan_to_num(ratio) > _LEAST_NEIGHBOUR]
    source, other = pairs.T
    corners = places.x0[source], places.y0[source]
    return source, other, profile_weights(profile_table(view), xy[other], *corners, places.size, shape)


def _model_light(
    electrons: np.ndarray, light: np.ndarray, used: np.ndarray, neighbours: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray | float]:
    """Electrons of each star and of its neighbours by the profile, from the fluxes that fit all of them."""
    source, other, shed = neighbours
    flux = misfit.fit_fluxes_alone(electrons, light, used)
    if not len(source):
        return flux[:, None, None] * light, 0.0
    shares = misfit.fit_fluxes_alone(shed, light[source], used[source])
    is_strong = shares > _COUPLED
    one, two, coupling = source[is_strong], other[is_strong], shares[is_strong]
    for members in joint_fit.linked_groups(len(light), one, two):
        inside = np.isin(one, members)
        matrix = np.eye(len(members))
        matrix[np.searchsorted(members, one[inside]), np.searchsorted(members, two[inside])] = coupling[inside]
        flux[members] = np.linalg.lstsq(matrix, flux[members], rcond=None)[0]
    np.subtract.at(flux, source, np.where(is_strong, 0.0, shares * flux[other]))
    foreign = np.zeros(light.shape)
    np.add.at(foreign, source, flux[other][:, None, None] * shed)
    return flux[:, None, None] * light, foreign


def pixel_flags(view: FrameView, stars: Stars, inside: np.ndarray) -> np.ndarray:
    """Flags from the pixels that count for each source.

    Parameters
    ----------
    view : FrameView
    stars : Stars
    inside : ndarray of bool, shape (n, size, size)
        Which pixels count.

    Returns
    -------
    ndarray of uint32, shape (n,)
    """
    pixels = stars.pixels
    window = pixels.x0, pixels.y0, inside.shape[1]
    on_frame = _on_frame(view.shape, *window)
    hit = view.cosmic_rays_at(*window)
    is_there = np.any(inside & on_frame, axis=(1, 2))
    nowhere = np.zeros(len(inside), dtype=bool)
    conditions = {
        SourceFlag.OFF_FRAME: ~is_there,
        SourceFlag.EDGE: is_there & np.any(inside & ~on_frame, axis=(1, 2)),
        SourceFlag.BAD_PIXEL: np.any(inside & on_frame & ~np.isfinite(pixels.electrons), axis=(1, 2)),
        SourceFlag.SATURATED: np.any(inside & stars.is_saturated, axis=(1, 2)),
        SourceFlag.CONTAMINATED: np.any(inside & stars.is_stray, axis=(1, 2)),
        SourceFlag.COSMIC_RAY: nowhere if hit is None else np.any(inside & hit, axis=(1, 2)),
        SourceFlag.NON_LINEAR: (
            nowhere if view.non_linear_at is None else np.any(inside & view.non_linear_at(*window), axis=(1, 2))
        ),
    }
    flags = np.zeros(len(inside), dtype=np.uint32)
    for flag, is_set in conditions.items():
        flags[is_set] |= np.uint32(flag)
    return flags


def _on_frame(shape: tuple[int, int], x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
    """Which pixels of the windows lie on the frame, shape (n, size, size)."""
    offsets = np.arange(size)
    rows, columns = np.asarray(y0)[:, None] + offsets, np.asarray(x0)[:, None] + offsets
    return ((rows >= 0) & (rows < shape[0]))[:, :, None] & ((columns >= 0) & (columns < shape[1]))[:, None, :]


def blend_flags(view: FrameView, stars: Stars, weights: np.ndarray) -> np.ndarray:
    """Flag sources with so much light of neighbours in their weights that it matters.

    Parameters
    ----------
    view : FrameView
    stars : Stars
    weights : ndarray, shape (n, size, size)
        Aperture or other weights of the pixels.

    Returns
    -------
    ndarray of uint32, shape (n,)
    """
    flags = np.zeros(len(weights), dtype=np.uint32)
    source, other, shed = stars.neighbours
    if view.catalog_flux is None or not len(source):
        return flags
    own = np.sum(weights[source] * stars.light[source], axis=(1, 2)) * view.catalog_flux[source]
    foreign = np.sum(weights[source] * shed, axis=(1, 2))
    # a source without light of its own on its pixels (off the frame, or of unknown flux) is not called a blend
    relative = np.where(own > 0, view.catalog_flux[other] * foreign / np.where(own > 0, own, 1.0), 0.0)
    light = np.zeros(len(weights))
    np.add.at(light, source, np.nan_to_num(relative))
    flags[light > _BLENDED] = np.uint32(SourceFlag.BLENDED)
    return flags
