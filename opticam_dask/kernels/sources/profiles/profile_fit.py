"""Fit of a star profile to the light of a night's stars in rings.

The profile is a sum of Gaussians and Moffat functions. All Moffat functions have one slope, or slopes that the
measurement cannot tell apart: otherwise the faint outer wings, which are not measured, would follow the noise. Stars of
a defocused telescope have no peak in their middle: where such a sum puts a few per cent of their light into wrong
rings, soft rings are added to it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from opticam_dask.kernels.robust import MAD_TO_SIGMA
from opticam_dask.kernels.sources.profiles.profile import (
    COMPONENTS,
    N_COMPONENTS,
    RINGS,
    SLOPES,
    Profile,
    components,
)
from opticam_dask.kernels.sources.profiles.ring_sums import CORE, N_RINGS, N_SKY_RINGS, REACH, RING, SKY_RING, Rings

#: A profile is known when so many rings of the core have light,
_LEAST_RINGS = 3
#: the innermost of them within this radius, in units of sigma.
_INNERMOST = 1.2

#: No sum of such functions is a star to better than this part of the light in a ring.
_MODEL_ERROR = 3e-4

#: Stars are fitted with rings where a sum without them has so much of their light in wrong places,
_DEFOCUSED = 0.03
#: and pixels are no larger than this, in units of sigma squared: defocused stars are large.
_WELL_SAMPLED = 0.25

#: The light of a ring differs from the fit when it does by so many times its error.
_BY_NOISE = 3.0


def light_in_sky(fitted: Profile, sky: np.ndarray) -> float:
    """Light per unit of area that a star sheds on its own sky, from the part of the sky in each of its rings."""
    return float(sky @ fitted.at((np.arange(N_SKY_RINGS) + 0.5) * SKY_RING))


#: Radii that part the rings in which stars are compared with each other.
_COMPARED = (0.0, 0.7, 1.2, 1.7, 2.2, 2.8, 3.5, 4.5, 6.0)
#: Rings from this one on are beyond the core.
_WINGS = 4

#: Stars that differ from the others by this many times their scatter count a quarter.
_ODD = 2.5
#: So many rounds settle it.
_ROUNDS = 4
#: Fewer stars tell nothing about which of them is the odd one.
_LEAST_STARS = 3

#: No star counts more than so many times as much as the middle one.
_MOST_WEIGHT = 10.0

#: The light of two good stars may differ by this part of their light in one ring.
_LEAST_SCATTER = 5e-4

#: What one star alone may have that others do not, relative to its light.
_ALONE = 0.005

#: A star whose light is changed by this part where the sky around it bends counts half of what it would without,
_BENT = 0.01
#: and this part of that is not known: the sky need not be a paraboloid.
_BEND_ERROR = 0.3
#: Stars have such bends when the mean of their squares is so many times its scatter above that of the noise.
_SURE_BEND = 2.0
#: What is left of bends of the frames is believed beyond so many errors (a master flat makes some in all frames).
_SURE_LEFT = 2.5


@dataclass(frozen=True, eq=False)
class MeanRings:
    """Mean light of the stars of a night in rings.

    Attributes
    ----------
    light, error, radius, spread : ndarray, shape (ring,)
        Light per unit of area relative to a star's light, its error (infinite in empty rings), mean radius and scatter
        of the radii of the pixels.
    sky : ndarray, shape (sky ring,)
        Part of the sky that lies in each ring.
    pixel_area : float
        In units of sigma squared.
    """

    light: np.ndarray
    error: np.ndarray
    radius: np.ndarray
    spread: np.ndarray
    sky: np.ndarray
    pixel_area: float

    @property
    def has_data(self) -> np.ndarray:
        """Which rings are not empty."""
        return np.isfinite(self.error)


def mean_rings(rings: Rings, counts: np.ndarray, scales: np.ndarray) -> MeanRings | None:
    """Mean of the stars.

    Parameters
    ----------
    rings : Rings
        Sums over the pixels of the stars, in rings.
    counts : ndarray, shape (n,)
        How much each star counts, relative to its weight.
    scales : ndarray, shape (n,)
        Light of each star in units of that by which it was normalised.

    Returns
    -------
    MeanRings or None
        None where no star has light.
    """
    factor = counts * scales**2
    of_stars = float(np.sum(factor * rings.star_weight))
    if not of_stars > 0:
        return None
    weight = factor @ rings.weight
    pixel_area = float(np.sum(factor * rings.pixel_area)) / of_stars
    known = weight > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        light = np.where(known, (counts * scales) @ rings.signal / weight, 0.0)
        radius = np.where(known, factor @ rings.radius / weight, (np.arange(N_RINGS) + 0.5) * RING)
        square = np.where(known, factor @ rings.square / weight, radius**2)
        # stars that count less than their weight leave the noise as it would be with the others alone
        variance = (counts**2 * scales**2) @ rings.weight / (weight * pixel_area) ** 2
        photons = np.sum(factor * rings.photons * scales) / of_stars
        variance = variance * (1.0 + np.maximum(light, 0.0) * photons)
    error = np.where(known, np.sqrt(variance), np.inf)
    spread = np.sqrt(np.maximum(square - radius**2, 0.0))
    sky = factor @ rings.sky / of_stars
    return MeanRings(light, error, radius, spread, sky, pixel_area)


def fit_profile(rings: Rings) -> Profile | None:
    """Fit a profile to the stars of a night; stars that are not like the others (doubles, galaxies) count little.

    Parameters
    ----------
    rings : Rings
        Sums over the pixels of the stars, in rings.

    Returns
    -------
    Profile or None
        None where the rings with light do not say how the core of a star looks.
    """
    return fit_stars(rings)[0]


def fit_stars(rings: Rings) -> tuple[Profile | None, MeanRings | None, np.ndarray]:
    """As :func:`fit_profile`, with the mean light that was fitted and how much each star counts (0 to 1)."""
    has_light = rings.star_weight > 0
    if not has_light.any():
        return None, None, np.zeros(len(has_light))
    modest = 1.0 / (1.0 + rings.star_weight / (_MOST_WEIGHT * np.median(rings.star_weight[has_light])))
    rings, bends = _without_bend(rings, modest)
    modest /= 1.0 + (bends.taken / _BENT) ** 2
    alike, scales = has_light.astype(float), np.ones(len(rings.star))
    fitted, mean, scatter = None, None, _ALONE
    for _ in range(_ROUNDS):
        mean = mean_rings(rings, modest * alike, scales)
        fitted = None if mean is None else _fit_mean(mean)
        if mean is None or fitted is None:
            return None, None, alike
        if mean.pixel_area < _WELL_SAMPLED and _misplaced(fitted, mean) > _DEFOCUSED:
            fitted = _fit_mean(mean, len(RINGS)) or fitted
        model = _light_in_rings(fitted, rings)
        scales = _scales_of(rings, model)
        alike, scatter = _likeness(rings, model, scales)
    assert fitted is not None
    assert mean is not None
    of_bends = bends.error(modest * alike * rings.star_weight)
    total_err = float(np.linalg.norm([fitted.total_err, scatter, _misplaced(fitted, mean), of_bends]))
    return Profile(fitted.coefficients, fitted.pixel_area, total_err), mean, alike


@dataclass(frozen=True, eq=False)
class _Bends:
    """What bends of the sky have to do with the light of each star, relative to it; all of shape (n,).

    ``taken`` is what was taken off since its own sky bends otherwise than that of the frame, ``noise`` what noise made
    of that, ``common_noise`` what it made of the bends of the frames; ``left`` is what of these was not taken off, and
    ``left_noise`` what noise made of that.
    """

    taken: np.ndarray
    noise: np.ndarray
    common_noise: np.ndarray
    left: np.ndarray
    left_noise: np.ndarray

    def error(self, counts: np.ndarray) -> float:
        """1-sigma error of the mean light of stars that count so much; bends of frames are the same for all stars."""
        counts = counts / counts.sum()
        of_stars = _BEND_ERROR * np.sqrt(counts @ self.taken**2), np.linalg.norm(counts * self.noise)
        left, by_noise = abs(float(counts @ self.left)), _SURE_LEFT * float(counts @ self.left_noise)
        left *= np.sqrt(1.0 - (by_noise / left) ** 4) if left > by_noise else 0.0
        return float(np.linalg.norm([*of_stars, counts @ self.common_noise, left]))


def _without_bend(rings: Rings, modest: np.ndarray) -> tuple[Rings, _Bends]:
    """Sums without what the sky around each star bends by otherwise than that of its frame, as beside a halo.

    The bends are drawn towards zero by the errors that they have, relative to what stars have of them beyond (James &
    Stein 1961): where the sky is even nothing is taken off.

    Parameters
    ----------
    rings : Rings
        Sums over the pixels of the stars.
    modest : ndarray, shape (n,)
        How much each star counts, relative to its weight.
    """
    weight = np.where(rings.star_weight > 0, rings.star_weight, 1.0)
    bend, variance = rings.bend / weight, rings.bend_square / weight**2
    of_sky = rings.sky @ ((np.arange(N_SKY_RINGS) + 0.5) * SKY_RING) ** 2 / weight
    # what a bend of 1 adds to the light within the rings, where the mean of the sky has been taken off
    of_light = 2.0 * np.pi * (REACH**4 / 4.0 - of_sky * REACH**2 / 2.0)
    counts = modest * rings.star_weight / (1.0 + variance * (of_light / _BENT) ** 2)
    by_chance = _SURE_BEND * np.sqrt(2.0) * np.linalg.norm(counts * variance) / counts.sum()
    usual = np.average(bend**2 - variance, weights=counts) - by_chance
    part = usual / (usual + variance) if usual > 0 else np.zeros(len(bend))
    signal = rings.signal - (part * bend)[:, None] * (rings.square - rings.weight * of_sky[:, None])
    size = np.abs(of_light) / weight
    bends = _Bends(
        taken=part * bend * of_light,
        noise=part * np.sqrt(variance) * np.abs(of_light),
        common_noise=np.sqrt(rings.common_square) * size,
        left=(1.0 - part) * rings.left * of_light / weight,
        left_noise=(1.0 - part) * np.sqrt(rings.left_square) * size,
    )
    return replace(rings, signal=signal), bends


def _misplaced(fitted: Profile, mean: MeanRings) -> float:
    """Share of the light that the fit puts into other rings than the stars do, beyond the noise of the rings.

    How much of the light of stars that are not fitted an aperture holds is as uncertain as this.
    """
    chosen = mean.has_data
    area = 2.0 * np.pi * mean.radius[chosen] * RING
    measured = mean.light[chosen] + light_in_sky(fitted, mean.sky)
    expected = fitted.at(mean.radius[chosen])
    scale = np.sum(area * expected) / np.sum(area * measured)
    beyond = np.abs(scale * measured - expected) - _BY_NOISE * scale * mean.error[chosen]
    return float(np.sum(area * np.maximum(beyond, 0.0)))


def _light_in_rings(fitted: Profile, rings: Rings) -> np.ndarray:
    """What the profile says about the rings of each star, shape (n, ring)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        radius = np.where(rings.weight > 0, rings.radius / rings.weight, 0.0)
        square = np.where(rings.weight > 0, rings.square / rings.weight, 0.0)
        sky = rings.sky / rings.star_weight[:, None]
    spread = np.sqrt(np.maximum(square - radius**2, 0.0))
    light = 0.5 * (fitted.at(radius + spread) + fitted.at(np.abs(radius - spread)))
    middles = (np.arange(N_SKY_RINGS) + 0.5) * SKY_RING
    return light - np.nan_to_num(sky) @ fitted.at(middles)[:, None]


def _scales_of(rings: Rings, model: np.ndarray) -> np.ndarray:
    """Light of each star, in units of that by which it was normalised, from its core."""
    n_core = round(CORE / RING)
    core, weight = model[:, :n_core], rings.weight[:, :n_core]
    with np.errstate(invalid="ignore", divide="ignore"):
        scales = np.sum(rings.signal[:, :n_core] * core, axis=1) / np.sum(weight * core**2, axis=1)
    return np.where(np.isfinite(scales) & (scales > 0), scales, 1.0)


def _likeness(rings: Rings, model: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, float]:
    """How much each star is like the others (0 to 1), and what their scatter makes uncertain of the total light."""
    has_light = rings.star_weight > 0
    edges = np.round(np.array(_COMPARED) / RING).astype(int)
    area = 2.0 * np.pi * (np.arange(N_RINGS) + 0.5) * RING * RING
    columns = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for first, last in itertools.pairwise(edges):
            chosen = slice(first, last)
            weight = np.sum(rings.weight[:, chosen], axis=1)
            light = np.sum(rings.signal[:, chosen], axis=1) / scales - np.sum((rings.weight * model)[:, chosen], axis=1)
            photons = 1.0 + rings.photons / rings.star_weight * np.mean(model[:, chosen], axis=1).clip(0.0)
            noise = np.sqrt(photons / weight) * rings.star_weight / (rings.pixel_area * scales)
            columns.append(np.sum(area[chosen]) * np.stack([light / weight, noise]))
    excess, error = np.stack(columns, axis=-1)
    usable = np.isfinite(excess) & np.isfinite(error) & has_light[:, None]
    alike = has_light.astype(float)
    if np.count_nonzero(has_light) < _LEAST_STARS:
        # of two that differ either may be the double
        wings = np.sum(np.where(usable, excess, 0.0)[:, _WINGS:], axis=1)[has_light]
        return alike, float(np.hypot(_ALONE, 0.5 * np.ptp(wings)))
    excess = np.where(usable, excess, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        middle = _column_medians(excess)
        spread = MAD_TO_SIGMA * _column_medians(np.abs(excess - middle))
        of_star = np.sqrt(error**2 + spread**2 + _LEAST_SCATTER**2)
        # one bright star among faint ones is not odd for what their noise makes of the middle
        distance = (excess - middle) ** 2 / (of_star**2 + _median_variance(np.where(usable, of_star, np.inf)))
    mean = np.sum(np.where(usable, distance, 0.0), axis=1) / np.maximum(np.count_nonzero(usable, axis=1), 1)
    alike = np.where(has_light, 1.0 / (1.0 + mean / _ODD**2) ** 2, 0.0)
    wings = np.sum(np.where(usable, excess - middle, 0.0)[:, _WINGS:], axis=1)[has_light]
    scatter = MAD_TO_SIGMA * float(np.median(np.abs(wings - np.median(wings)))) / np.sqrt(np.sum(alike))
    return alike, scatter


def _median_variance(errors: np.ndarray) -> np.ndarray:
    """Variance of the median of the values in each column by their errors; infinite errors are of no values.

    It is that of many values of such densities (Cramer 1946), none of which counts more than the middle one.
    """
    known = np.where(np.isfinite(errors), errors, np.nan)
    counts = 1.0 / np.maximum(errors, _column_medians(known))
    variance: np.ndarray = 0.5 * np.pi / np.sum(counts, axis=0) ** 2
    return variance


def _column_medians(values: np.ndarray) -> np.ndarray:
    """Median of each column without NaN; 0 for columns of nothing else."""
    return np.array([np.median(known) if len(known := column[np.isfinite(column)]) else 0.0 for column in values.T])


def _fit_mean(mean: MeanRings, n_rings: int = 0) -> Profile | None:
    """Fit sums of components to mean rings (non-negative least squares), so many soft rings among them."""
    has_data = mean.has_data
    core = has_data & (mean.radius < CORE)
    if np.count_nonzero(core) < _LEAST_RINGS or mean.radius[core].min() > _INNERMOST:
        return None
    measured = mean.light[has_data]
    error = np.hypot(mean.error[has_data], _MODEL_ERROR * measured)
    n_components = N_COMPONENTS + n_rings
    design = _ring_means(mean, n_components)[has_data] / error[:, None]
    fits, misfits = [], []
    for slope in SLOPES:
        chosen = np.flatnonzero((COMPONENTS[:, 0] == slope) | np.isinf(COMPONENTS[:, 0]))
        chosen = np.append(chosen, np.arange(N_COMPONENTS, n_components))
        found, residual = nnls(design[:, chosen], measured / error)
        if found.sum() > 0:
            coefficients = np.zeros(n_components)
            coefficients[chosen] = found
            fits.append(coefficients)
            misfits.append(residual**2)
    if not fits:
        return None
    # where no sum of components fits within the noise, none is much better than another
    reduced = max(1.0, min(misfits) / len(measured))
    likelihood = np.exp(-0.5 * (np.array(misfits) - min(misfits)) / reduced)
    totals = np.sum(fits, axis=1)
    total = np.average(totals, weights=likelihood)
    total_err = np.sqrt(np.average((totals / total - 1.0) ** 2, weights=likelihood))
    shares = np.array(fits) / totals[:, None]
    return Profile(np.average(shares, axis=0, weights=likelihood), mean.pixel_area, float(total_err))


def _ring_means(mean: MeanRings, n_components: int) -> np.ndarray:
    """Mean of each component over each ring, less that over the sky; shape (ring, component)."""
    everything = range(n_components)
    # the mean over pixels of a smooth function is that of its values one standard deviation to either side
    outer, inner = mean.radius + mean.spread, np.abs(mean.radius - mean.spread)
    means = 0.5 * (components(outer, everything, mean.pixel_area) + components(inner, everything, mean.pixel_area))
    # the light of the star in its own sky was taken off
    middles = (np.arange(N_SKY_RINGS) + 0.5) * SKY_RING
    beyond: np.ndarray = means - mean.sky @ components(middles, everything, mean.pixel_area)
    return beyond
