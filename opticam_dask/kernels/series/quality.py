"""Quality of frames from the fluxes of all their sources: transparency, clouds, shape of the stars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opticam_dask.kernels.robust import MAD_TO_SIGMA
from opticam_dask.kernels.units import MAGNITUDES_PER_SHARE

#: Sources that transparency is measured by at most: the best ones.
MOST_SOURCES = 30
#: Each is measured in at least this share of the frames,
_LEAST_SHARE = 0.5
#: with at least this median signal-to-noise ratio.
_LEAST_RATIO = 5.0

#: With fewer sources nobody can tell the sky from the source.
LEAST_SOURCES = 2

#: Rounds of the two-way fit: it settles in three or four.
_ROUNDS = 8

#: A measurement this many sigma from what the other sources say is left out (cosmic rays, flares),
_OUTLIER = 6.0
#: at most this many in a frame.
_MOST_OUTLIERS = 5

#: A frame is clouded when it is darker than a clear one by more than this share,
CLOUD_DEPTH = 0.1
#: and by this many sigma.
CLOUD_SIGMAS = 5.0

#: Extinction is looked for up to this many magnitudes per airmass (0.5 to 0.6 in u at a good site),
_MOST_EXTINCTION = 0.8
#: in steps of this many.
_EXTINCTION_STEP = 0.01

#: At most this share of the frames may be brighter than the clear sky.
_BRIGHTER = 0.05
#: Frames within this many magnitudes of it,
_CLEAR_WIDTH = 0.03
#: or this many sigma, belong to it.
_CLEAR_SIGMAS = 4.0

#: The clear sky is looked for in at most this many frames, evenly spaced.
_CLEAR_FRAMES = 20_000


@dataclass(frozen=True)
class AllStars:
    """Sources that serve as a standard for the transparency of a night.

    Attributes
    ----------
    source : ndarray of int, shape (n,)
        Their columns, the most precise first.
    mean : ndarray, shape (n,)
        Their flux at a transparency of 1, electrons per second.
    scatter : ndarray, shape (n,)
        Their own relative scatter (1 sigma) beyond the errors: variability, scintillation.
    weight : ndarray, shape (n,)
        Inverse variance of a single measurement, relative.
    """

    source: np.ndarray
    mean: np.ndarray
    scatter: np.ndarray
    weight: np.ndarray


def fit_ensemble(flux: np.ndarray, flux_err: np.ndarray) -> AllStars | None:
    """Mean fluxes and scatter of the sources of a night, together with the transparency of its frames.

    The model is ``flux[f, s] = transparency[f] * mean[s]``, fitted in turns: transparency is a weighted mean over
    the sources, the mean of a source is a median over the frames. The scatter of a source is measured against
    the transparency from all *other* sources, so that a variable one, even the brightest, is found out and loses its
    weight. Missing measurements do not matter: the means are relative to the transparency of the frames they come
    from. The weights are the same in all frames, for weights from the errors of single fluxes favour the low ones.

    Parameters
    ----------
    flux, flux_err : ndarray, shape (frame, source)
        Electrons per second; NaN where a measurement is missing or not to be trusted.

    Returns
    -------
    AllStars or None
        None when fewer than two sources can serve.
    """
    flux = np.where(np.isfinite(flux) & (flux_err > 0.0), flux, np.nan)
    source = _choose_sources(flux, flux_err)
    if len(source) < LEAST_SOURCES:
        return None
    flux, error = flux[:, source], flux_err[:, source]
    mean, scatter = median(flux, axis=0), np.zeros(len(source))
    for round_number in range(_ROUNDS):
        relative, relative_err = flux / mean, error / mean
        weight = 1.0 / (median(np.where(np.isfinite(flux), relative_err, np.nan), axis=0) ** 2 + scatter**2)
        if round_number == 0:
            common = median(relative, axis=1)
        else:
            common, _ = _weighted_common(relative, relative_err, weight, scatter)
        if not np.isfinite(common).any():
            return None
        scale = median(common, axis=0)
        mean = median(flux / np.where(common > 0.1 * scale, common, np.nan)[:, np.newaxis], axis=0) * scale
        scatter = _scatter_against_others(flux / mean, error / mean, weight, scatter)
    return AllStars(source, mean, scatter, weight)


def _choose_sources(flux: np.ndarray, flux_err: np.ndarray) -> np.ndarray:
    """Columns of the sources with the best signal-to-noise ratio that are there in most frames."""
    known = np.isfinite(flux)
    count = np.count_nonzero(known, axis=0)
    if not count.size or not count.max():
        return np.empty(0, dtype=np.intp)
    ratio = median(np.where(known, flux / np.where(known, flux_err, 1.0), np.nan), axis=0)
    fit = (count >= _LEAST_SHARE * count.max()) & (np.nan_to_num(ratio) >= _LEAST_RATIO) & (median(flux, axis=0) > 0.0)
    order = np.argsort(-np.nan_to_num(ratio), kind="stable")
    return order[fit[order]][:MOST_SOURCES]


def measure_transparency(flux: np.ndarray, flux_err: np.ndarray, ensemble: AllStars) -> tuple[np.ndarray, np.ndarray]:
    """Common factor of the fluxes of the sources in each frame.

    Parameters
    ----------
    flux, flux_err : ndarray, shape (frame, n)
        Fluxes and errors of the sources of the ensemble, electrons per second; NaN where a measurement is missing or
        not to be trusted.
    ensemble : AllStars
        The mean light curve of the stars.

    Returns
    -------
    transparency, transparency_err : ndarray, shape (frame,)
        NaN where fewer than two sources are known. The error holds the errors of the fluxes and the scatter of the
        sources.
    """
    flux = np.where(np.isfinite(flux) & (flux_err > 0.0), flux, np.nan)
    return _weighted_common(flux / ensemble.mean, flux_err / ensemble.mean, ensemble.weight, ensemble.scatter)


def _weighted_common(
    relative: np.ndarray, error: np.ndarray, weight: np.ndarray, scatter: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean over the sources of each frame without outliers, and its error."""
    # rows that follow each other in memory are summed in the same order, however many there are
    relative, error = np.ascontiguousarray(relative), np.ascontiguousarray(error)
    kept = np.isfinite(relative)
    relative, error = np.where(kept, relative, 0.0), np.where(kept, error, 0.0)
    common = _mean_of_kept(relative, weight, kept)
    for _ in range(_MOST_OUTLIERS):
        variance = error**2 + (scatter * np.nan_to_num(common)[:, np.newaxis]) ** 2
        is_outlier = _worst_outlier(relative, variance, np.where(kept, weight, 0.0))
        if not is_outlier.any():
            break
        kept = kept & ~is_outlier
        common = _mean_of_kept(relative, weight, kept)
    share = np.where(kept, weight, 0.0)
    variance = error**2 + (scatter * np.nan_to_num(common)[:, np.newaxis]) ** 2
    total = np.sum(share, axis=1)
    common_err = np.sqrt(np.sum(share**2 * variance, axis=1)) / np.where(np.isfinite(common), total, np.nan)
    return common, common_err


def _mean_of_kept(relative: np.ndarray, weight: np.ndarray, kept: np.ndarray) -> np.ndarray:
    share = np.where(kept, weight, 0.0)
    enough = np.count_nonzero(kept, axis=1) >= LEAST_SOURCES
    common: np.ndarray = np.sum(share * relative, axis=1) / np.where(enough, np.sum(share, axis=1), np.nan)
    return common


def _worst_outlier(relative: np.ndarray, variance: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The measurement of each frame that is farthest (in sigma) from the mean of the others, where it is too far.

    Of two sources nobody can tell which is wrong, so that there must be three.
    """
    rest = np.sum(share, axis=1, keepdims=True) - share
    testable = (share > 0.0) & (np.count_nonzero(share, axis=1) > LEAST_SOURCES)[:, np.newaxis] & (rest > 0.0)
    rest = np.where(testable, rest, 1.0)
    others = (np.sum(share * relative, axis=1, keepdims=True) - share * relative) / rest
    noise = np.sum(share**2 * variance, axis=1, keepdims=True) - share**2 * variance
    expected = np.where(testable, variance + np.maximum(noise, 0.0) / rest**2, 1.0)
    distance = np.where(testable, np.abs(relative - others) / np.sqrt(expected), 0.0)
    worst = np.argmax(distance, axis=1)[:, np.newaxis]
    far = np.take_along_axis(distance, worst, axis=1) > _OUTLIER
    is_worst: np.ndarray = (np.arange(relative.shape[1]) == worst) & far
    return is_worst


def _scatter_against_others(
    relative: np.ndarray, error: np.ndarray, weight: np.ndarray, scatter: np.ndarray
) -> np.ndarray:
    """Relative scatter of each source beyond the errors, against the transparency from all others."""
    known = np.isfinite(relative)
    share = np.where(known, weight, 0.0)
    total = _of_the_others(share)
    total = np.where(total > 0.0, total, np.nan)
    common = _of_the_others(share * np.where(known, relative, 0.0)) / total
    of_errors = _of_the_others(share**2 * np.where(known, error, 0.0) ** 2)
    of_sources = _of_the_others(share**2 * scatter**2)
    expected = error**2 + (of_errors + common**2 * of_sources) / total**2
    residual = relative - common
    width = MAD_TO_SIGMA * median(np.abs(residual - median(residual, axis=0)), axis=0)
    excess = width**2 - median(np.where(np.isfinite(residual), expected, np.nan), axis=0)
    level = median(common, axis=0)
    is_known = np.isfinite(excess) & (np.nan_to_num(level) > 0.0)
    return np.where(is_known, np.sqrt(np.maximum(np.nan_to_num(excess), 0.0)) / np.where(is_known, level, 1.0), 0.0)


def _of_the_others(values: np.ndarray) -> np.ndarray:
    """Sum over all other sources, for each source of each frame; the values are not negative."""
    # exactly zero where there are no others: a sum of zeros and one number is that number
    others: np.ndarray = np.maximum(np.sum(values, axis=1, keepdims=True) - values, 0.0)
    return others


def median(values: np.ndarray, axis: int) -> np.ndarray:
    """Median without the NaN; NaN where there is nothing, without a warning."""
    ordered = np.sort(values, axis=axis)  # NaN last
    count = np.count_nonzero(np.isfinite(ordered), axis=axis, keepdims=True)
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, max(values.shape[axis] - 1, 0))
    if not values.shape[axis]:
        return np.full(np.delete(values.shape, axis), np.nan)
    pair = np.take_along_axis(ordered, low, axis), np.take_along_axis(ordered, high, axis)
    middle: np.ndarray = np.squeeze((pair[0] + pair[1]) / 2.0, axis=axis)
    return middle


# ---------------------------------------------------------------- clouds


@dataclass(frozen=True)
class ClearSky:
    """Transparency of the sky without clouds: ``level 10^(-0.4 extinction (airmass - 1))``.

    Attributes
    ----------
    level : float
        At an airmass of 1; NaN when it is not known.
    extinction : float
        Magnitudes per airmass.
    """

    level: float
    extinction: float

    def at(self, airmass: np.ndarray) -> np.ndarray:
        """Transparency at an airmass; where that is not known, without extinction."""
        beyond = np.where(np.isfinite(airmass), airmass - 1.0, 0.0)
        clear: np.ndarray = self.level * 10.0 ** (-0.4 * self.extinction * beyond)
        return clear


def fit_clear_sky(transparency: np.ndarray, transparency_err: np.ndarray, airmass: np.ndarray) -> ClearSky:
    """Find the clear sky in the frames of a night: the line in airmass with most frames on it and few above.

    Clear sky is stable and nothing is brighter, clouds are below it and irregular. So of all lines of magnitude against
    airmass with an extinction from 0 to 0.8 magnitudes, the one is taken that has most frames within 0.03
    magnitudes (or 4 sigma), with at most 5 % of the frames brighter; a least-squares line through these frames gives
    the result. A night with fewer clear frames than frames under an even veil, or one that is veiled throughout, cannot
    be told from a clear night by its own light.

    Parameters
    ----------
    transparency, transparency_err, airmass : ndarray, shape (frame,)
        NaN where unknown. Without the airmass of every frame there is no extinction.

    Returns
    -------
    ClearSky
    """
    known = np.flatnonzero(np.isfinite(transparency_err) & (np.nan_to_num(transparency) > 0.0))
    if not len(known):
        return ClearSky(np.nan, 0.0)
    if len(known) > _CLEAR_FRAMES:
        known = known[np.linspace(0, len(known) - 1, _CLEAR_FRAMES).round().astype(int)]
    magnitude = -2.5 * np.log10(transparency[known])
    sigma = median(MAGNITUDES_PER_SHARE * transparency_err[known] / transparency[known], axis=0)
    width = max(_CLEAR_WIDTH, _CLEAR_SIGMAS * float(sigma))
    beyond = airmass[known] - 1.0
    has_airmass = bool(np.isfinite(beyond).all()) and np.ptp(beyond) > 0.0
    beyond = beyond if has_airmass else np.zeros(len(known))
    best_count, best = -1, (0.0, 0.0)
    for extinction in np.arange(0.0, _MOST_EXTINCTION + 1e-9, _EXTINCTION_STEP) if has_airmass else (0.0,):
        count, start = _densest(magnitude - extinction * beyond, width)
        if count > best_count:
            best_count, best = count, (float(extinction), start)
    return _line_through(magnitude, beyond, *best, width)


def _densest(values: np.ndarray, width: float) -> tuple[int, float]:
    """Most values inside a window of the given width with few values below it, and where it begins."""
    ordered = np.sort(values)
    starts = ordered[: int(_BRIGHTER * len(ordered)) + 1]
    counts = np.searchsorted(ordered, starts + width, side="right") - np.arange(len(starts))
    best = int(np.argmax(counts))
    return int(counts[best]), float(starts[best])


def _line_through(magnitude: np.ndarray, beyond: np.ndarray, extinction: float, start: float, width: float) -> ClearSky:
    """Least-squares line through the frames inside a window around a line."""
    residual = magnitude - extinction * beyond
    inside = (residual >= start) & (residual <= start + width)
    x, y = beyond[inside], residual[inside]
    spread = np.sum((x - x.mean()) ** 2)
    slope = float(np.sum((x - x.mean()) * (y - y.mean())) / spread) if spread > 0.0 else 0.0
    extinction = float(np.clip(extinction + slope, 0.0, _MOST_EXTINCTION))
    zero = float(np.mean(magnitude[inside] - extinction * x))
    return ClearSky(float(10.0 ** (-0.4 * zero)), extinction)


def find_clouds(transparency: np.ndarray, transparency_err: np.ndarray, clear: np.ndarray) -> np.ndarray:
    """Frames that are darker than the clear sky by more than a tenth and by more than 5 sigma.

    Parameters
    ----------
    transparency, transparency_err, clear : ndarray, shape (frame,)
        Measured, its error, and that of the clear sky.

    Returns
    -------
    ndarray of bool, shape (frame,)
        False where something is not known.
    """
    with np.errstate(invalid="ignore"):
        lost = clear - transparency
        clouded: np.ndarray = (lost > CLOUD_DEPTH * clear) & (lost > CLOUD_SIGMAS * transparency_err)
    return clouded


# ---------------------------------------------------------------- form of the stars


def ellipticity(semimajor: np.ndarray, semiminor: np.ndarray) -> np.ndarray:
    """One minus the ratio of the axes.

    Parameters
    ----------
    semimajor, semiminor : ndarray, shape (frame,)
        Semi-axes in any unit; NaN where unknown.

    Returns
    -------
    ndarray, shape (frame,)
        0 for round stars.
    """
    known = semimajor > 0.0
    values: np.ndarray = np.where(known, 1.0 - semiminor / np.where(known, semimajor, 1.0), np.nan)
    return values
