"""Steps that photometers share: the pixels around each source, and the flags of its measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.robust import known_or
from opticam_dask.kernels.sources import annulus, joint_fit, photometry, window_sums
from opticam_dask.kernels.sources.profiles import intruders, judging, misfit
from opticam_dask.kernels.sources.profiles.profile import Shape, profile_weights, table_radii
from opticam_dask.methods import frame_stars
from opticam_dask.methods.frame_view import FrameView
from opticam_dask.methods.local_backgrounds import BaseLocalBackground, DefaultLocalBackground, LocalBackground
from opticam_dask.methods.places import BELIEVED, NEIGHBOUR_REACH, REALLY_MOVED, Places, neighbour_light

#: A neighbour that is not measured may be this many times as bright as in the catalogue (which has the light in its
#: segment), and 5 errors.
_BRIGHTER = 2.0

#: Stray pixels are left out unless they hold more than this part of the star.
_MOST = 0.5

#: The noise of the sky in one place is at most this many times what its level lets expect.
_NOISIEST = 1.5

#: A star is saturated when a pixel with more than this part of the light of its brightest one is.
_OF_CORE = 0.05

#: What a star sheds into its annulus is known to this part.
_ANNULUS_ERROR = 0.2

#: Pixels nearer than this many sigma to a neighbour do not count for a local sky.
_NEIGHBOUR_SKY = 5.0


@dataclass(frozen=True)
class Pixels:
    """Windows around the sources, minus the sky.

    Attributes
    ----------
    x0, y0 : ndarray of int, shape (n,)
        Lower corners of the windows.
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

    def first(self, n: int) -> Pixels:
        """Windows around the first ``n`` sources."""
        return replace(self, **{name: values[:n] for name, values in vars(self).items() if values is not None})


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
        Width and form of the frame's stars, which the annulus is scaled to.
    """
    xy, x0, y0, electrons, rms, size = places.xy, places.x0, places.y0, places.electrons, places.rms, places.size
    hit = view.cosmic_rays_at(x0, y0, size)
    is_good = np.isfinite(electrons) if hit is None else np.isfinite(electrons) & ~hit
    if local_background is None:
        centre = rms[:, size // 2, size // 2]
        error = view.sky_error * np.where(np.isfinite(centre), centre, 0.0)
        if view.local_sky is not None:
            own = np.flatnonzero(np.isfinite(view.local_sky.error))
            electrons, error[own] = electrons.copy(), view.local_sky.error_in(own, size)
            electrons[own] -= view.local_sky.level(own, x0[own], y0[own], size)
        return Pixels(x0, y0, electrons, rms, is_good, error)
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
    """Pixels of each window that lie close to another source, also one that is not measured."""
    near = np.zeros((len(xy), size, size), dtype=bool)
    reach = _NEIGHBOUR_SKY * shape.semimajor_sigma
    offsets = np.arange(size)
    for index, other in frame_stars.pairs_within(xy, size + reach).tolist():
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
    flux : ndarray, shape (n + m,), or None
        In the catalogue: of the sources, and of their neighbours that are not measured.
    chi2 : ndarray, shape (n,)
        Reduced chi-square of the pixels about the profile; NaN where nothing can be said.
    is_covered : ndarray of bool, shape (n, radius)
        Light of which no pixel stands out lies over the star, and changes what is measured within these radii.
    seen : tuple of ndarray, shape (n + m,), or None
        What the frame itself shows of them, by a fit to all of them: fluxes and their errors, electrons.
    """

    xy: np.ndarray
    flags: np.ndarray
    pixels: Pixels
    light: np.ndarray
    is_stray: np.ndarray
    is_saturated: np.ndarray
    neighbours: tuple[np.ndarray, np.ndarray, np.ndarray]
    flux: np.ndarray | None
    chi2: np.ndarray
    is_covered: np.ndarray
    seen: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def flags_within(self) -> np.ndarray:
        """Flags of the measurements so far within each radius, shape (n, radius)."""
        return self.flags[:, None] | np.where(self.is_covered, np.uint32(SourceFlag.CONTAMINATED), np.uint32(0))

    def first(self, n: int) -> Stars:
        """The first ``n`` sources, with the light of the others; their fluxes are kept."""
        if n == len(self.xy):
            return self
        names = "xy", "flags", "light", "is_stray", "is_saturated", "chi2", "is_covered"
        mine = {name: getattr(self, name)[:n] for name in names}
        source, other, shed = self.neighbours
        is_own = source < n
        neighbours = source[is_own], other[is_own], shed[is_own]
        return replace(self, **mine, pixels=self.pixels.first(n), neighbours=neighbours)


def read_stars(
    view: FrameView,
    places: Places,
    local_background: LocalBackground | None,
    shape: Shape,
    *,
    reach: float,
    counted: Sequence[float],
    in_annulus: np.ndarray,
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
        Limit beyond which a pixel is judged bad, in standard deviations.
    counted : sequence of float
        Radii in which fluxes are measured, pixels.
    in_annulus : ndarray, shape (n,)
        Share of each star's light in a pixel of its sky annulus, which was taken off with the sky; 0 without one.
    forced : bool
        Stay at the places whatever the fit says.
    """
    pixels = read_pixels(view, places, local_background, shape)
    table, size = frame_stars.profile_table(view), places.size
    light = profile_weights(table, places.xy, places.x0, places.y0, size, shape)
    neighbours = neighbour_light(view, places.xy, places, shape, size / 2.0 + NEIGHBOUR_REACH * shape.semimajor_sigma)
    saturated = view.saturated_at(places.x0, places.y0, size)
    beside = _saturated_beside(saturated, light)
    pixels = replace(pixels, is_good=pixels.is_good & ~beside) if beside.any() else pixels
    unknown = np.full(len(light), np.nan)
    covered = np.zeros((len(light), len(counted)), dtype=bool)
    known = neighbours, places.flux, unknown, covered
    everything = Stars(places.xy, places.flags, pixels, light, beside, saturated, *known)
    stars = everything.first(places.n_measured)
    if view.profile is None or not len(stars.light):
        return stars
    least = _least_light(table, reach) / shape.area_at(places.xy)
    used = (light > least[:, None, None]) & pixels.is_good & ~saturated
    seen, foreign = _model_fluxes(view, everything, used, places.n_measured)
    flux, pixels = seen[0][: places.n_measured], stars.pixels
    response = None if view.response_at is None else view.response_at(pixels.x0, pixels.y0, size)
    usual = misfit.usual_error(frame_stars.sampling_error(view, shape))
    noise = _quiet_noise(view, places, pixels)
    masks = pixels.is_good, stars.is_saturated & ~stars.is_stray
    windows = pixels.electrons, stars.light, flux, foreign, (pixels.rms, noise), response
    found = judging.judge_stars(*windows, masks, least[: len(flux)], usual)
    is_covered = np.isfinite(found.chi2) & intruders.are_suspect(found.deviation, found.judged, shape.sigma)
    stars, suspects = replace(stars, chi2=found.chi2, seen=seen), np.flatnonzero(found.is_suspect | is_covered)
    if not len(suspects) or not _can_tell(view, found):
        return stars
    return _look_again(
        view,
        stars,
        suspects,
        found.judged,
        foreign,
        noise,
        shape,
        counted=counted,
        in_annulus=in_annulus,
        forced=forced,
    )


def _saturated_beside(saturated: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Saturated pixels in the wings of stars that are not saturated themselves: something else is there."""
    beside = np.zeros(light.shape, dtype=bool)
    for index in np.flatnonzero(saturated.any(axis=(1, 2))).tolist():
        is_core = light[index] > _OF_CORE * light[index].max()
        if not np.any(saturated[index] & is_core):
            beside[index] = saturated[index]
    return beside


def _can_tell(view: FrameView, found: judging.Judgement) -> bool:
    """Whether the profile can tell what is a star's: not a Gaussian that most stars do not look like at all."""
    return view.is_measured_profile or bool(np.mean(misfit.are_no_stars(found.chi2, found.judged)) <= 0.5)


def _quiet_noise(view: FrameView, places: Places, pixels: Pixels) -> np.ndarray:
    """Background RMS that pixels are judged by, shape (n, size, size): no more than the sky can have there.

    A trail or a galaxy raises the scatter of its box of the mesh, and would hide in it. The noise of the sky grows
    with its level by the photons alone.
    """
    if view.usual_sky is None:
        return pixels.rms
    level, rms = view.usual_sky
    here = np.full((len(pixels.x0), 1, 1), level)
    if view.level_at is not None:
        here = view.level_at(pixels.x0 + places.size // 2, pixels.y0 + places.size // 2, 1)
    most = _NOISIEST * np.sqrt(rms**2 + np.maximum(known_or(here, level) - level, 0.0))
    return np.broadcast_to(np.minimum(window_sums.of_window(pixels.rms), most), pixels.rms.shape)


def _least_light(table: np.ndarray, reach: float) -> float:
    """Light per unit of area so many sigma from the middle of a star."""
    return float(np.interp(reach, table_radii(len(table)), table))


def narrowed(stars: Stars, size: int) -> Stars:
    """The same sources with windows of an odd ``size`` in the middle of the present ones, if those are wide enough."""
    wide, pixels = stars.light.shape[1], stars.pixels
    if wide - size < 2 or not len(stars.xy):
        return stars
    middle = photometry.origins(stars.xy, size)
    x0, y0 = (np.clip(new, old, old + wide - size) for new, old in zip(middle, (pixels.x0, pixels.y0), strict=True))
    off = x0 - pixels.x0, y0 - pixels.y0
    source, other, shed = stars.neighbours

    def cut(windows: np.ndarray) -> np.ndarray:
        return window_sums.inner_windows(windows, *off, size)

    return replace(
        stars,
        pixels=replace(
            pixels, x0=x0, y0=y0, electrons=cut(pixels.electrons), rms=cut(pixels.rms), is_good=cut(pixels.is_good)
        ),
        light=cut(stars.light),
        is_stray=cut(stars.is_stray),
        is_saturated=cut(stars.is_saturated),
        neighbours=(source, other, window_sums.inner_windows(shed, off[0][source], off[1][source], size)),
    )


def _look_again(
    view: FrameView,
    stars: Stars,
    suspects: np.ndarray,
    judged: np.ndarray,
    foreign: np.ndarray | float,
    noise: np.ndarray,
    shape: Shape,
    *,
    counted: Sequence[float],
    in_annulus: np.ndarray,
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

    windows = misfit.StarWindows(
        pixels.electrons[suspects],
        noise[suspects],
        usable & judged[suspects],
        light_of_others,
        response,
        corners,
        expected,
        start,
        frame_stars.profile_table(view),
        shape,
        view.position_error,
    )
    fit = misfit.fit_stars(windows, usual)
    odd = np.flatnonzero(fit.is_no_star | np.any(fit.is_stray, axis=(1, 2)))
    if len(odd):
        standards = frame_stars.profile_misfit(view, shape, size)
        if standards.core > usual or standards.around.any():
            again = misfit.fit_stars(windows.rows(odd), standards.core, standards.around)
            fit = fit.with_rows(odd, again)
    stars = _as_fitted(view, stars, suspects, fit, usable, judged[suspects], shape, forced=forced)
    sky = pixels.sky_error[suspects], in_annulus[suspects]
    is_covered = stars.is_covered.copy()
    is_covered[suspects] = _are_covered(view, windows, fit, sky, counted)
    return replace(stars, is_covered=is_covered)


def _are_covered(
    view: FrameView,
    stars: misfit.StarWindows,
    fit: misfit.StarFit,
    sky: tuple[np.ndarray, np.ndarray],
    counted: Sequence[float],
) -> np.ndarray:
    """Stars among the suspects over which light lies of which no pixel need stand out, shape (n, radius)."""
    sky_error, in_annulus = sky
    # what an annulus holds of the star itself lowers its pixels
    taken_off = in_annulus * np.maximum(fit.flux, 0.0)
    sky_error = np.hypot(sky_error, _ANNULUS_ERROR * taken_off)
    amplitudes = intruders.find_amplitudes(stars, fit, (-taken_off, sky_error))
    covered = intruders.hold_other_light(amplitudes, fit, reach=counted)
    chosen = np.flatnonzero(covered.any(axis=1))
    if len(chosen):
        typical = frame_stars.profile_misfit(view, stars.shape, stars.is_good.shape[1]).other_light
        those = amplitudes.rows(chosen), fit.rows(chosen)
        covered[chosen] = intruders.hold_other_light(*those, reach=counted, typical=typical)
    return covered


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
    is_stray[suspects] |= fit.is_stray
    corners = pixels.x0[suspects], pixels.y0[suspects]
    light[suspects] = profile_weights(frame_stars.profile_table(view), xy[suspects], *corners, size, shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        lost = np.sum(light[suspects] * fit.is_stray, axis=(1, 2)) / np.sum(light[suspects] * usable, axis=(1, 2))
    # where most of a star is stray nobody knows which part is the star: it is measured as it is
    is_good[suspects] &= ~(fit.is_stray & (lost < _MOST)[:, None, None])
    return replace(
        stars, xy=xy, flags=flags, pixels=replace(pixels, is_good=is_good), light=light, is_stray=is_stray, chi2=chi2
    )


def _model_fluxes(
    view: FrameView, stars: Stars, used: np.ndarray, n_measured: int
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray | float]:
    """Fluxes that fit all stars, and their errors; and electrons of the neighbours of those that are measured.

    A neighbour that is not measured, and is much brighter than in the catalogue, does not look like itself: what is
    too much of its light stays in the pixels, and is found there.
    """
    source, other, shed = stars.neighbours
    light, alone = stars.light, judging.fit_fluxes_alone(stars.pixels.electrons, stars.light, used)
    if not len(source):
        return (alone, np.zeros(len(alone))), 0.0
    sharpness = np.sqrt(np.sum(np.where(used, light, 0.0) ** 2, axis=(1, 2)))
    error = stars.pixels.rms[:, 0, 0] / np.where(sharpness > 0, sharpness, np.inf)
    shares = judging.fit_fluxes_alone(shed, light, used, source)
    known = np.full(len(light), np.nan)
    flux = joint_fit.fluxes_together(alone, source, other, shares, known)
    if n_measured < len(light) and stars.flux is not None:
        most = _BRIGHTER * view.flux_scale * stars.flux[n_measured:] + misfit.CLIP * error[n_measured:]
        known[n_measured:] = np.clip(flux[n_measured:], 0.0, most)
        flux = joint_fit.fluxes_together(alone, source, other, shares, known)
    foreign = window_sums.added_windows(n_measured, np.where(source < n_measured, source, -1), flux[other], shed)
    return (flux, np.sqrt(error**2 + np.maximum(flux, 0.0))), foreign
