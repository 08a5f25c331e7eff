"""Steps that photometers share: the pixels around each source, and the flags of its measurement."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.sources import annulus, joint_fit, photometry
from opticam_dask.kernels.sources.profiles import misfit
from opticam_dask.kernels.sources.profiles.profile import TABLE_STEP, Shape, profile_weights
from opticam_dask.methods import frame_stars
from opticam_dask.methods.frame_view import FrameView
from opticam_dask.methods.local_backgrounds import BaseLocalBackground, DefaultLocalBackground, LocalBackground
from opticam_dask.methods.places import BELIEVED, NEIGHBOUR_REACH, REALLY_MOVED, Places, neighbour_light

#: A neighbour disturbs when its light in the aperture is more than this part of the source's.
_BLENDED = 0.01

#: Sources are solved together when one counts more than this part of the other's light as its own.
_COUPLED = 0.02

#: Pixels in which neighbours shine so many times as bright as the star say nothing about its profile.
_DROWNED = 3.0

#: Stray pixels are left out unless they hold more than this part of the star.
_MOST = 0.5

#: Pixels nearer than so many sigma to a neighbour do not count for a local sky.
_NEIGHBOUR_SKY = 5.0


@dataclass(frozen=True)
class Pixels:
    """Windows around the sources, minus the sky.

    Attributes
    ----------
    x0, y0 : ndarray of int, shape (n,)
        Lower corners.
    electrons, rms : ndarray, shape (n, size, size)
        Windows without their sky, and the background RMS in them, electrons.
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
        The frame.
    places : Places
        Where its sources are measured.
    local_background : callable or None
        Estimator of a local sky; None takes the sky from the mesh.
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
    for index, other in frame_stars.pairs_within(xy, size + reach):
        columns = (x0[index] + offsets - xy[other, 0])[None, :]
        rows = (y0[index] + offsets - xy[other, 1])[:, None]
        near[index] |= columns**2 + rows**2 < reach**2
    return near


@dataclass(frozen=True, eq=False)
class Stars:
    """Sources with their pixels and the comparison of these with the star profile of the frame.

    Attributes
    ----------
    xy : ndarray, shape (n, 2)
        Where to measure; not where a track of a cosmic ray had drawn the centroid.
    flags : ndarray of uint32, shape (n,)
        Flags of the measurements so far.
    pixels : Pixels
        ``is_good`` is False also in pixels that do not belong to the star.
    light : ndarray, shape (n, size, size)
        Share of the star's light in each pixel.
    is_stray : ndarray of bool, shape (n, size, size)
        Pixels that do not belong to the star.
    is_saturated : ndarray of bool, shape (n, size, size)
        Pixels that are saturated.
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
    """Read the pixels of all sources, and compare them with the star profile of the frame.

    Parameters
    ----------
    view : FrameView
        The frame.
    places : Places
        Where its sources are measured.
    local_background : callable or None
        Estimator of a local sky; None takes the sky from the mesh.
    shape : Shape
        Shape of the stars of the frame.
    reach : float
        Pixels are judged to so many sigma.
    forced : bool
        Stay at the places whatever the fit says.
    """
    pixels = read_pixels(view, places, local_background, shape)
    table, size = frame_stars.profile_table(view), places.size
    light = profile_weights(table, places.xy, places.x0, places.y0, size, shape)
    neighbours = neighbour_light(view, places.xy, places, shape, size / 2.0 + NEIGHBOUR_REACH * shape.semimajor_sigma)
    saturated = view.saturated_at(places.x0, places.y0, size)
    nothing = np.zeros(light.shape, dtype=bool)
    unknown = np.full(len(light), np.nan)
    stars = Stars(places.xy, places.flags, pixels, light, nothing, saturated, neighbours, unknown)
    if view.profile is None or not len(light):
        return stars
    near = _within(table, light, reach, shape.area_at(places.xy))
    judged = near & pixels.is_good & ~saturated
    response = None if view.response_at is None else view.response_at(places.x0, places.y0, size)
    own, foreign = _model_light(pixels.electrons, light, judged, neighbours)
    if np.ndim(foreign):
        judged &= foreign < _DROWNED * np.abs(own) + pixels.rms
    usual = misfit.usual_error(frame_stars.sampling_error(view, shape))
    errors = misfit.pixel_errors(own, foreign, pixels.rms, response, usual)
    with np.errstate(invalid="ignore"):
        deviation = (pixels.electrons - own - foreign) / errors
    chi2 = misfit.reduced_chi2(deviation, judged)
    # of a saturated star nobody knows the profile
    is_whole = ~np.any(saturated & near, axis=(1, 2))
    stars = replace(stars, chi2=np.where(is_whole, chi2, np.nan))
    suspects = np.flatnonzero(is_whole & misfit.are_suspect(deviation, errors, judged, chi2))
    return _look_again(view, stars, suspects, judged, foreign, shape, forced=forced) if len(suspects) else stars


def _within(table: np.ndarray, light: np.ndarray, reach: float, area: np.ndarray) -> np.ndarray:
    """Which pixels lie within so many sigma, from the light in them and the area of each star (n,)."""
    return np.asarray(light > np.interp(reach, TABLE_STEP * np.arange(len(table)), table) / area[:, None, None])


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
    start = expected if view.position_error < frame_stars.SHARP * shape.sigma else stars.xy[suspects]
    response = None if view.response_at is None else view.response_at(*corners, size)
    usual = misfit.usual_error(frame_stars.sampling_error(view, shape))

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
            frame_stars.profile_table(view),
            shape,
            position_error=view.position_error,
            model_error=model_error,
            unlike=unlike,
        )

    fit = fit_those(np.arange(len(suspects)), usual, None)
    odd = np.flatnonzero(fit.is_no_star | np.any(fit.is_stray, axis=(1, 2)))
    if len(odd):
        found, unlike = frame_stars.profile_misfit(view, shape, size)
        if found > usual or unlike.any():
            fit = fit.with_rows(odd, fit_those(odd, found, unlike))
    return _as_fitted(view, stars, suspects, fit, usable, judged[suspects], shape, forced=forced)


def _as_fitted(
    view: FrameView,
    stars: Stars,
    suspects: np.ndarray,
    fit: misfit.StarFit,
    usable: np.ndarray,
    judged: np.ndarray,
    shape: Shape,
    *,
    forced: bool,
) -> Stars:
    """Places, weights, flags and pixels of the stars that were fitted; others are as they were."""
    pixels, size = stars.pixels, stars.light.shape[1]
    expected = np.asarray(view.predicted_xy, dtype=float)[suspects]
    chi2, xy, flags = stars.chi2.copy(), stars.xy.copy(), stars.flags.copy()
    chi2[suspects] = misfit.reduced_chi2(fit.deviation, judged)
    flags[suspects[fit.is_no_star]] |= np.uint32(SourceFlag.CONTAMINATED)
    has_stray = np.any(fit.is_stray, axis=(1, 2))
    if not forced:
        held = flags[suspects] & np.uint32(SourceFlag.NOT_RECENTRED | SourceFlag.NOT_DETECTED) != 0
        believed = np.hypot(*(fit.xy - expected).T) < BELIEVED * view.position_error + REALLY_MOVED
        moves = has_stray & ~held
        xy[suspects[moves]] = np.where(believed[moves, None], fit.xy[moves], expected[moves])
    light, is_stray, is_good = stars.light.copy(), stars.is_stray.copy(), pixels.is_good.copy()
    is_stray[suspects] = fit.is_stray
    corners = pixels.x0[suspects], pixels.y0[suspects]
    light[suspects] = profile_weights(frame_stars.profile_table(view), xy[suspects], *corners, size, shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        lost = np.sum(light[suspects] * fit.is_stray, axis=(1, 2)) / np.sum(light[suspects] * usable, axis=(1, 2))
    # where most of a star is stray nobody knows which part is the star: it is measured as it is
    is_good[suspects] &= ~(fit.is_stray & (lost < _MOST)[:, None, None])
    return replace(
        stars, xy=xy, flags=flags, pixels=replace(pixels, is_good=is_good), light=light, is_stray=is_stray, chi2=chi2
    )


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
        The frame.
    stars : Stars
        Its sources.
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
    """Flag sources whose flux contains too much light of neighbours.

    Parameters
    ----------
    view : FrameView
        The frame.
    stars : Stars
        Its sources.
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
