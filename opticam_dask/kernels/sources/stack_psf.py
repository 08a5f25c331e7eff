"""Star profile of a stack, measured on the stack itself, and its error."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import nnls

from opticam_dask.kernels.robust import MEDIAN_SIZE
from opticam_dask.kernels.sources import photometry
from opticam_dask.kernels.sources.profiles import profile, ring_sums

#: The light of a faint star is taken off up to so many sigma,
NEAR_REACH = 6.0

#: The profile comes from so many of the brightest stars.
_PROFILE_STARS = 40

#: Its wings are measured up to so many sigma.
_PROFILE_REACH = 8.0

#: What any profile may be wrong by in the core: this part of itself,
_CORE_ERROR = 0.005
#: and this part of its peak.
_PEAK_ERROR = 0.001
#: What it may be wrong by in the wings: this part of itself.
_WING_ERROR = 0.1

#: Soft rings are part of the profile of well-sampled stars (area of a pixel in units of sigma squared) that no sum of
#: functions with their peak in the middle fits: their reduced chi-square is above this.
_DEFOCUSED = 1e4
_WELL_SAMPLED = 0.25

#: No sum of smooth functions is a star to better than this part of the light in a ring.
_RING_ERROR = 1e-3

#: A pixel that deviates so many times as much as those of other stars in the same place has light of something else.
_UNLIKE = 4.0

#: The deviations from a radial profile fade within this part of the grid that they are measured on, from its edge.
_FADES = 4.0


@dataclass(frozen=True)
class Stack:
    """Image of a stack with its noise.

    Attributes
    ----------
    image : ndarray, shape (ny, nx)
        Sky-subtracted mean of the frames, electrons; NaN where no star is looked for.
    noise : ndarray, shape (ny, nx)
        1-sigma error of a pixel without the photons of stars, electrons.
    coverage : ndarray, shape (ny, nx)
        Number of frames.
    """

    image: np.ndarray
    noise: np.ndarray
    coverage: np.ndarray

    @cached_property
    def usual_noise(self) -> float:
        """Median of the noise."""
        return float(np.median(self.noise))


@dataclass(frozen=True)
class Psf:
    """Star profile of a stack: a radial one, and its deviations in the pixels of the stars."""

    table: np.ndarray
    shape: profile.Shape
    correction: np.ndarray = field(default_factory=lambda: np.zeros((1, 1)))
    scatter: np.ndarray = field(default_factory=lambda: np.zeros((1, 1)))

    def light(self, xy: np.ndarray, half: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Share of the light in the pixels around each star, and the corners of these windows."""
        size = 2 * half + 1
        x0, y0 = photometry.origins(xy, size)
        return self.light_in(xy, x0, y0, size), x0, y0

    def light_in(self, xy: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
        """Share of the light in the pixels of given windows."""
        light = profile.profile_weights(self.table, xy, x0, y0, size, self.shape)
        if len(self.correction) > 1:
            middle = _middle(self.correction, xy, x0, y0, size)
            inner = light[:, middle, middle]
            inner += _looked_up(self.correction, xy, x0 + middle.start, y0 + middle.start, inner.shape[1])
        return light

    def error(self, xy: np.ndarray, half: int) -> np.ndarray:
        """Error of the share of the light in each pixel."""
        size = 2 * half + 1
        x0, y0 = photometry.origins(xy, size)
        light = profile.profile_weights(self.table, xy, x0, y0, size, self.shape)
        in_core = light > self.table[round(50 * NEAR_REACH)] / self.shape.area
        error = np.where(in_core, _CORE_ERROR, _WING_ERROR) * light
        error += _PEAK_ERROR * np.sqrt(light * self.table[0] / self.shape.area) * in_core
        if len(self.scatter) > 1:
            middle = _middle(self.scatter, xy, x0, y0, size)
            inner = error[:, middle, middle]
            scatter = _looked_up(self.scatter, xy, x0 + middle.start, y0 + middle.start, inner.shape[1])
            np.hypot(inner, scatter, out=inner)
        return error


def _middle(values: np.ndarray, xy: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: int) -> slice:
    """Rows, and columns, of windows that a grid of offsets from a star reaches: all, or those in their middle."""
    away = max(
        float(np.max(np.abs(corner + size // 2 - place), initial=0.0))
        for corner, place in zip((x0, y0), xy.T, strict=True)
    )
    if not away < size:  # nor where a place is not known
        return slice(0, size)
    margin = max(0, size // 2 - len(values) // 2 - 1 - int(np.ceil(away)))
    return slice(margin, size - margin)


def _looked_up(values: np.ndarray, xy: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
    """Values of a grid of offsets from a star (its middle is the star) in windows, interpolated linearly; 0 beyond."""
    margin = size + 1
    padded, half = np.pad(values, margin), len(values) // 2
    start, part = [], []
    for corner, centre in ((x0, xy[:, 0]), (y0, xy[:, 1])):
        first = corner - centre + half
        whole = np.floor(first)
        part.append((first - whole)[:, None, None])
        start.append(np.clip(whole.astype(int) + margin, 0, len(padded) - size - 1))
    columns = (start[0][:, None] + np.arange(size))[:, None, :]
    rows = (start[1][:, None] + np.arange(size))[:, :, None]
    (fx, fy), flat, width = part, padded.ravel(), len(padded)
    places = rows * width + columns
    upper = (1.0 - fx) * flat[places] + fx * flat[places + 1]
    lower = (1.0 - fx) * flat[places + width] + fx * flat[places + width + 1]
    found: np.ndarray = (1.0 - fy) * upper + fy * lower
    return found


def measured_psf(
    psf: Psf,
    stack: Stack,
    residual: np.ndarray,
    xy: np.ndarray,
    flux: np.ndarray,
    error: np.ndarray,
    is_clean: np.ndarray,
) -> Psf:
    """Profile of the clean stars, without their neighbours, and its scatter from star to star."""
    ratio = np.where(is_clean & (flux > 0), flux / np.maximum(error, 1e-30), 0.0)
    chosen = np.argsort(-ratio, kind="stable")[:_PROFILE_STARS]
    chosen = chosen[ratio[chosen] > 0]
    if not len(chosen):
        return psf
    sigma = psf.shape.semimajor_sigma
    half = int(np.ceil(_PROFILE_REACH * sigma))
    size, places = 2 * half + 1, xy[chosen]
    light, x0, y0 = psf.light(places, half)
    share = (photometry.cut_out(residual, x0, y0, size) / flux[chosen, None, None]) + light
    noise = photometry.cut_out(stack.noise, x0, y0, size)
    coverage = np.maximum(photometry.cut_out(stack.coverage.astype(float), x0, y0, size), 1.0)
    variance = noise**2 + np.maximum(light * flux[chosen, None, None], 0.0) / coverage
    weight = flux[chosen, None, None] ** 2 / variance
    rho = profile.elliptical_radius(places, x0, y0, size, psf.shape)
    # stars count alike where the profile, not the noise, decides
    weight = 1.0 / (1.0 / weight + (_CORE_ERROR * light) ** 2)
    is_good = np.isfinite(share) & np.isfinite(weight) & (rho < ring_sums.REACH)
    ring = (rho[is_good] * ring_sums.N_RINGS / ring_sums.REACH).astype(int)
    signal = np.bincount(ring, (share * weight)[is_good] * psf.shape.area, minlength=ring_sums.N_RINGS)
    fitted = _radial(signal, np.bincount(ring, weight[is_good], minlength=ring_sums.N_RINGS), 1.0 / psf.shape.area)
    table, total = (psf.table, 1.0) if fitted is None else fitted
    new = replace(psf, table=table, correction=np.zeros((1, 1)))
    correction, scatter = _deviations(new, share / total, weight * total**2, places, x0, y0)
    return replace(new, correction=_centred(correction, new), scatter=scatter)


def _radial(signal: np.ndarray, weight: np.ndarray, pixel_area: float) -> tuple[np.ndarray, float] | None:
    """Table of the sum of Gaussians and Moffat functions that fits the light in rings, and its total light.

    The table is that of a total of 1. None where there is no light.
    """
    known = weight > 0
    radius = (np.flatnonzero(known) + 0.5) * ring_sums.REACH / ring_sums.N_RINGS
    if not known.any():
        return None
    light = signal[known] / weight[known]
    error = np.sqrt(1.0 / weight[known] + (_RING_ERROR * light) ** 2)
    functions = profile.components(radius, range(profile.N_COMPONENTS + len(profile.RINGS)), pixel_area)
    found, misfit = nnls(functions[:, : profile.N_COMPONENTS] / error[:, None], light / error)
    if misfit**2 > _DEFOCUSED * len(light) and pixel_area < _WELL_SAMPLED:
        found, _ = nnls(functions / error[:, None], light / error)
    total = float(found.sum())
    return (profile.Profile(found / total, pixel_area).table(), total) if total > 0 else None


def _deviations(
    psf: Psf, share: np.ndarray, weight: np.ndarray, xy: np.ndarray, x0: np.ndarray, y0: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean deviation of the stars' pixels from a radial profile on a grid of offsets, and the scatter about it."""
    size = share.shape[1]
    reach = int(np.ceil(NEAR_REACH * psf.shape.semimajor_sigma))
    light = profile.profile_weights(psf.table, xy, x0, y0, size, psf.shape)
    dx = (x0[:, None] + np.arange(size) - xy[:, 0, None])[:, None, :]
    dy = (y0[:, None] + np.arange(size) - xy[:, 1, None])[:, :, None]
    column, row = (np.rint(np.broadcast_to(d, share.shape)).astype(int) + reach for d in (dx, dy))
    width = 2 * reach + 1
    used = (column >= 0) & (column < width) & (row >= 0) & (row < width) & np.isfinite(share) & np.isfinite(weight)
    cell, w, d = (row * width + column)[used], weight[used], (share - light)[used]
    w = np.where(_are_like_most(cell, d, w, width**2), w, 0.0)

    def binned(values: np.ndarray) -> np.ndarray:
        grid: np.ndarray = np.bincount(cell, values, minlength=width**2).reshape(width, width)
        return gaussian_filter(grid, 0.6, mode="constant")

    total = np.maximum(binned(w), 1e-300)
    mean = binned(w * d) / total
    # what few stars say may be about themselves; at the edge of the grid there is no step
    n_stars, offsets = len(xy), np.arange(width) - reach
    distance = np.hypot(offsets, offsets[:, None]) / reach
    mean *= n_stars / (n_stars + 3.0) * np.clip(_FADES * (1.0 - distance), 0.0, 1.0)
    left = d - mean.ravel()[cell]
    excess = np.maximum(binned(w * left**2) / total - binned(np.sign(w)) / total, 0.0)
    scatter = np.sqrt(excess + mean**2 / n_stars)
    return mean, scatter


def _are_like_most(cell: np.ndarray, deviation: np.ndarray, weight: np.ndarray, n_cells: int) -> np.ndarray:
    """Pixels that deviate as much as those of most stars in the same place: others are of a star's own companions."""
    order = np.lexsort((deviation, cell))
    bounds = np.searchsorted(cell[order], np.arange(n_cells + 1))
    middle = _middle_of(deviation[order], bounds)[cell]
    size = np.abs(deviation - middle)
    typical = _middle_of(size[np.lexsort((size, cell))], bounds)[cell] / MEDIAN_SIZE
    with np.errstate(divide="ignore"):
        return np.asarray(size < _UNLIKE * np.maximum(typical, 1.0 / np.sqrt(weight)))


def _middle_of(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Median (the lower one) of each stretch of sorted values between bounds; 0 of an empty one."""
    is_empty = bounds[1:] == bounds[:-1]
    found: np.ndarray = np.append(values, 0.0)[(bounds[:-1] + bounds[1:] - 1) // 2]
    return np.where(is_empty, 0.0, found)


def _centred(correction: np.ndarray, psf: Psf) -> np.ndarray:
    """Deviations without what moves the centroid of the profile in a Gaussian window, which is where a star is.

    Otherwise profile and places could move against each other from one round to the next.
    """
    half = len(correction) // 2
    middle = np.full((1, 2), float(half))
    light = psf.light(middle, half)[0]
    offsets = np.arange(-half, half + 1.0)
    window = np.exp(-0.5 * np.hypot(offsets, offsets[:, None]) ** 2 / psf.shape.sigma**2)
    for axis, offset in ((1, offsets[None, :]), (0, offsets[:, None])):
        slope = np.gradient(light[0], axis=axis)
        moment = np.sum(window * offset * slope)
        correction = correction - np.sum(window * offset * correction) / moment * slope
    return correction
