"""Star profile of a night: the measurement of its stars in one frame, and the fit to the stars of all frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from opticam_dask.flags import UNUSABLE
from opticam_dask.kernels.images.stack import stack_selection
from opticam_dask.kernels.robust import known_or, median
from opticam_dask.kernels.sources import centroids, photometry
from opticam_dask.kernels.sources.profiles import profile, profile_fit, ring_sums
from opticam_dask.methods import frame_stars, places
from opticam_dask.methods.frame_view import FrameView

#: Frames of a night that are measured: with fewer, totals are uncertain by 0.1 %.
N_FRAMES = 256
#: Frames of the first round, whose profile takes neighbours off in the second: it needs fewer.
_FIRST_FRAMES = 64
#: Stars that are measured in each frame, the brightest.
_N_STARS = 25

#: Wings of neighbours are taken off up to this many sigma.
_WING_REACH = 25.0

#: Light of neighbours in the core of a source is looked for up to this many sigma beyond it.
_SHARES_LIGHT = 8.0
#: Rounds in which the light of a source and that of its neighbours are told apart.
_FLUX_STEPS = 8

#: A detection is a source of the catalogue within this many sigma.
_SAME_SOURCE = 2.0

#: Part of the light of a neighbour that is left when it was taken off by a known profile.
_LEFT_OF_NEIGHBOUR = 0.05
#: Pixels do not count where what is left of a neighbour is more than this part of the noise:
_MATTERS = 0.3
#: this many sigma around the neighbour at least,
_LEAST_MASK = 2.5
#: and this many at most.
_MOST_MASK = 9.0

#: Stars nearer than this many sigma to an edge of the frame are not measured.
_LEAST_MARGIN = 4.5

#: The light of a neighbour disturbs the profile of a star, or its sky, from fewer sigma away than this.
_DISTURBS = ring_sums.REACH + ring_sums.SKY_REACH

#: A star is fit to be measured when its light is this many times the noise within one FWHM.
_LEAST_RATIO = 30.0


def candidates(n_frames: int, stack_frames: int) -> np.ndarray:
    """Frames that the star profile of a part may be measured on, chosen among the stacked ones by their number alone.

    Parameters
    ----------
    n_frames : int
        Number of frames of the part.
    stack_frames : int
        The most frames that are stacked; 0 for all.
    """
    stacked = stack_selection(n_frames, stack_frames)
    chosen: np.ndarray = stacked[stack_selection(len(stacked), N_FRAMES)]
    return chosen


def choose_frames(flags: np.ndarray, stack_frames: int, n_frames: int = N_FRAMES) -> list[int]:
    """Usable frames of a part that is surveyed, evenly spaced.

    Parameters
    ----------
    flags : ndarray of uint32, shape (frame,)
        Flags of the frames (:class:`~opticam_dask.flags.FrameFlag`).
    stack_frames : int
        The most frames that are stacked; 0 for all.
    n_frames : int
        The most frames that are chosen.
    """
    chosen = candidates(len(flags), stack_frames)
    usable = chosen[(flags[chosen] != 0) & ((flags[chosen] & np.uint32(UNUSABLE)) == 0)]
    if len(usable) <= n_frames:
        return usable.tolist()
    return usable[np.linspace(0, len(usable) - 1, n_frames).round().astype(int)].tolist()


def some_of(frames: list[int]) -> list[int]:
    """Frames for the first round of the profile: some of the chosen ones, evenly spaced."""
    return frames[:: -(-len(frames) // _FIRST_FRAMES)] if frames else []


def first_rings(view: FrameView) -> ring_sums.Rings | None:
    """:func:`star_rings` before any profile of the night is known."""
    return star_rings(replace(view, profile=None))


def star_rings(view: FrameView) -> ring_sums.Rings | None:
    """Sums over the pixels of the bright, unsaturated stars of one frame whose cores are whole.

    The light of their neighbours is taken off as far as ``view.profile`` is known.
    """
    shape = view.stars
    if shape is None or not shape.is_known():
        return None
    half = int(np.ceil(ring_sums.SKY_REACH * shape.semimajor_sigma)) + 1
    size = 2 * half + 1
    xy = np.asarray(view.predicted_xy, dtype=float)
    chosen = _choose_stars(xy, view.shape, shape)
    start = xy[chosen]
    x0, y0 = photometry.origins(start, size)
    cutouts, rms = view.cutouts_at(x0, y0, size), view.rms_at(x0, y0, size)
    hit = view.cosmic_rays_at(x0, y0, size)
    if hit is not None:
        cutouts = np.where(hit, np.nan, cutouts)
    others = places.neighbours_of(view, start, size / 2.0, shape)[:, :2]
    neighbours = _neighbours(view, shape, np.concatenate([xy, others]))
    foreign, is_foreign = _foreign_light(shape, neighbours, start, rms, x0, y0)
    cutouts = cutouts - foreign
    inner = photometry.inner_windows(cutouts, 2 * int(np.ceil(4.0 * shape.semimajor_sigma)) + 5)
    margin = (size - inner.shape[1]) // 2
    centres, converged = centroids.windowed_centroids(inner, x0 + margin, y0 + margin, start, shape.sigma)
    core = profile.elliptical_radius(centres, x0, y0, size, shape) < photometry.SIGMA_TO_FWHM
    is_good = np.isfinite(cutouts) & ~view.saturated_at(x0, y0, size)
    light = np.sum(np.where(core & is_good, cutouts, 0.0), axis=(1, 2))
    noise = np.sqrt(np.maximum(light, 0.0) + np.sum(np.where(core, known_or(rms), 0.0) ** 2, axis=(1, 2)))
    converged &= np.all(is_good | ~core, axis=(1, 2)) & (light > _LEAST_RATIO * noise)
    best = np.flatnonzero(converged)
    if not len(best):
        return None
    cutouts, rms, x0, y0, chosen = cutouts[best], rms[best], x0[best], y0[best], chosen[best]
    is_foreign = is_foreign[best]
    with_sky = cutouts if view.level_at is None else cutouts + view.level_at(x0, y0, size)
    return ring_sums.measure_rings(
        with_sky,
        rms,
        centres[best],
        x0,
        y0,
        shape,
        is_foreign,
        stars=chosen,
        table=view.profile,
        disturbed=_light_of_neighbours(neighbours, xy[chosen], shape),
    )


def _light_of_neighbours(neighbours: _Neighbours, stars: np.ndarray, shape: profile.Shape) -> np.ndarray:
    """Light of the neighbours of stars relative to their own, the less of it the further away they are; shape (n,)."""
    reach = _DISTURBS * shape.semimajor_sigma
    light = np.zeros(len(stars))
    for row, star in enumerate(stars):
        away = np.hypot(*(neighbours.xy - star).T)
        own = np.max(neighbours.flux[away < shape.semiminor_sigma], initial=0.0)
        nearness = 1.0 - (away / reach) ** 2
        others = (away >= shape.semiminor_sigma) & (nearness > 0)
        if own > 0:
            light[row] = np.sum(nearness[others] ** 2 * neighbours.flux[others]) / own
    return light


def _choose_stars(xy: np.ndarray, frame: tuple[int, int], shape: profile.Shape) -> np.ndarray:
    """Brightest sources whose cores are on the frame, those with all of their light on it first."""
    ny, nx = frame
    margin = np.min(np.concatenate([xy, np.array([nx, ny]) - 1 - xy], axis=1), axis=1)
    whole = np.flatnonzero(margin > ring_sums.REACH * shape.semimajor_sigma)
    partial = (margin > _LEAST_MARGIN * shape.semimajor_sigma) & (margin <= ring_sums.REACH * shape.semimajor_sigma)
    return np.concatenate([whole, np.flatnonzero(partial)])[:_N_STARS]


@dataclass(frozen=True, eq=False)
class _Neighbours:
    """Everything on a frame that shines: sources of the stack, and detections that are none of them.

    ``flux`` is what each has by the profile, in electrons; ``is_known`` says whether that profile is one of the night.
    """

    xy: np.ndarray
    flux: np.ndarray
    table: np.ndarray
    is_known: bool

    @cached_property
    def most_beyond(self) -> np.ndarray:
        """The brightest light at each entry of the table and further out: the middle of a defocused star is dark."""
        most: np.ndarray = np.maximum.accumulate(self.table[::-1])[::-1]
        return most


def _neighbours(view: FrameView, shape: profile.Shape, xy: np.ndarray) -> _Neighbours:
    """Positions and fluxes of all sources, fitted together in their cores."""
    detected = np.asarray(view.detected_xy, dtype=float).reshape(-1, 2)
    matched = photometry.match_one_to_one(xy, detected, _SAME_SOURCE * shape.semimajor_sigma)
    is_new = np.ones(len(detected), dtype=bool)
    is_new[matched[matched >= 0]] = False
    every = np.concatenate([xy, detected[is_new]])
    every = every[np.all(np.isfinite(every), axis=1)]
    table = profile.typical_table() if view.profile is None else view.profile
    size = 2 * int(np.ceil(photometry.SIGMA_TO_FWHM * shape.semimajor_sigma)) + 3
    x0, y0 = photometry.origins(every, size)
    core = profile.elliptical_radius(every, x0, y0, size, shape) < photometry.SIGMA_TO_FWHM
    cutouts = view.cutouts_at(x0, y0, size)
    core &= np.isfinite(cutouts)
    light = np.sum(np.where(core, cutouts, 0.0), axis=(1, 2))
    own = np.sum(np.where(core, profile.profile_weights(table, every, x0, y0, size, shape), 0.0), axis=(1, 2))
    source, other = frame_stars.pairs_within(every, size / 2.0 + _SHARES_LIGHT * shape.semimajor_sigma).T
    shares = profile.profile_weights(table, every[other], x0[source], y0[source], size, shape)
    foreign = np.sum(np.where(core[source], shares, 0.0), axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        flux = np.where(own > 0, np.maximum(light, 0.0) / own, 0.0)
        for _ in range(_FLUX_STEPS):
            rest = np.bincount(source, foreign * flux[other], minlength=len(every))
            flux = np.where(own > 0, np.maximum(0.5 * (flux + (light - rest) / own), 0.0), 0.0)
    return _Neighbours(every, flux, table, view.profile is not None)


def _foreign_light(
    shape: profile.Shape,
    neighbours: _Neighbours,
    stars: np.ndarray,
    rms: np.ndarray,
    x0: np.ndarray,
    y0: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Light of the neighbours in the windows of stars, and the pixels that they shine on too much to count."""
    n, size = rms.shape[:2]
    light, is_foreign = np.zeros((n, size, size)), np.zeros((n, size, size), dtype=bool)
    reach, areas = size / 2.0 + _WING_REACH * shape.semimajor_sigma, shape.area_at(neighbours.xy)
    for row, star in enumerate(stars):
        away = np.hypot(*(neighbours.xy - star).T)
        others = np.flatnonzero((away < reach) & (away > shape.semiminor_sigma))
        if not len(others):
            continue
        noise, area = median(rms[row][~np.isnan(rms[row])]), areas[others]
        masked = _masked_radius(neighbours, others, noise, area)
        window = np.full(len(others), x0[row]), np.full(len(others), y0[row]), size
        radius = profile.elliptical_radius(neighbours.xy[others], *window, shape)
        is_foreign[row] = np.any(radius < masked[:, None, None], axis=0)
        if neighbours.is_known:
            shares = profile.light_at(neighbours.table, radius) / area[:, None, None]
            light[row] = np.einsum("n,nyx->yx", neighbours.flux[others], shares)
    return light, is_foreign


def _masked_radius(neighbours: _Neighbours, others: np.ndarray, noise: float, area: np.ndarray) -> np.ndarray:
    """Radius around each neighbour, in sigma, within which what is left of its light matters."""
    left = _LEFT_OF_NEIGHBOUR if neighbours.is_known else 1.0
    with np.errstate(divide="ignore"):
        level = _MATTERS * noise * area / (left * neighbours.flux[others])
    radius = profile.table_radius(np.searchsorted(-neighbours.most_beyond, -level))
    return np.clip(radius, _LEAST_MASK, _MOST_MASK)


def add(found: Mapping[int, ring_sums.Rings | None]) -> ring_sums.Rings:
    """Sums of all frames of a night, star by star, added in the order of the frames."""
    return ring_sums.add_rings(rings for _, rings in sorted(found.items()) if rings is not None)


def fit(found: Mapping[int, ring_sums.Rings | None]) -> profile.Profile | None:
    """Profile of a night from the sums of its frames; None where there are too few bright stars."""
    return profile_fit.fit_profile(add(found))


def describe(fitted: profile.Profile, mean: profile_fit.MeanRings | None) -> dict[str, np.ndarray]:
    """Profile as the variables of ``schema.PSF``, with the mean light that it was fitted to, if there is such."""
    radius = (np.arange(ring_sums.N_RINGS) + 0.5) * ring_sums.REACH / ring_sums.N_RINGS
    measured, error = np.full(len(radius), np.nan), np.full(len(radius), np.nan)
    if mean is not None:
        has_data = mean.has_data
        # the light of the star in its own sky is given back, and the total is that of the fit
        light = mean.light + profile_fit.light_in_sky(fitted, mean.sky)
        weight = np.where(has_data, radius, 0.0)
        scale = float(np.sum(fitted.at(mean.radius) * weight) / np.sum(light * weight))
        measured[has_data] = scale * light[has_data]
        error[has_data] = scale * mean.error[has_data]
    return {
        "coefficient": fitted.coefficients,
        "radius": radius,
        "profile": fitted.at(radius),
        "measured": measured,
        "measured_err": error,
    }
