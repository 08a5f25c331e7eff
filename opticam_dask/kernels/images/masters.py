"""Master calibration frames from many exposures: rows of all frames at a time, so that memory has a bound.

Every pixel is combined from its own row alone: strips of any height give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import chdtri  # chi-squared that is exceeded with some probability

from opticam_dask.kernels.robust import MAD_TO_SIGMA

if TYPE_CHECKING:
    from opticam_dask.kernels.images.fringes import FringeMap

#: Values this many sigma from the median are hits. Normal noise loses 6e-7 of its values, so its variance stays right.
_CLIP_SIGMA = 5.0
#: A dark current stands out when it is this many sigma of the rates above their median.
_HOT_SIGMA = 6.0
#: A pixel is unstable when noise would make its scatter among the darks with less than this probability.
_BY_CHANCE = 1e-6
#: With so few darks nobody can tell an unstable pixel from a cosmic ray.
_FEWEST_DARKS = 3
#: A pixel is bad in a frame in which its dark current has more than this share of the variance of the sky.
_MOST_NOISE = 1.0
#: The noise of the sky is taken from this many rows of a frame.
_NOISE_ROWS = 32
#: Responses below this tell of dead pixels, or of dust that covers them,
_LEAST_RESPONSE = 0.2
#: those above of hot ones.
_MOST_RESPONSE = 5.0


@dataclass(frozen=True, eq=False)
class Masters:
    """Master frames of one camera key and frame shape; None for a kind that was not made.

    Attributes
    ----------
    bias : ndarray, shape (ny, nx), optional
        Level in ADU.
    dark : ndarray, shape (ny, nx), optional
        Rate in ADU per second.
    flat, flat_variance : ndarray, shape (ny, nx), optional
        Response, 1 on average, and its variance.
    bad_pixels : ndarray of bool, shape (ny, nx), optional
        Pixels that are not to be used in any frame.
    hot_pixels : HotPixels, optional
        Pixels that are not to be used in frames in which they are noisier than the sky.
    dark_gain : float, optional
        Electrons per ADU of the dark; by default that of each frame.
    fringe : FringeMap, optional
        Fringes, to be scaled to each frame.
    """

    bias: np.ndarray | None = None
    dark: np.ndarray | None = None
    flat: np.ndarray | None = None
    flat_variance: np.ndarray | None = None
    bad_pixels: np.ndarray | None = None
    hot_pixels: HotPixels | None = None
    dark_gain: float | None = None
    fringe: FringeMap | None = None

    def layers(self) -> dict[str, np.ndarray]:
        """Arrays that ``calibrate.to_electrons`` takes for any frame, by the names of its parameters."""
        names = ("bias", "dark", "flat", "bad_pixels")
        return {name: values for name in names if (values := getattr(self, name)) is not None}

    def layers_of(
        self, raw: np.ndarray, *, gain: float, exposure_time: float, read_noise: float
    ) -> dict[str, np.ndarray]:
        """As :meth:`layers`, with the pixels that are too hot for one frame (ADU) among the bad ones."""
        layers = self.layers()
        if self.hot_pixels is None or self.dark is None:
            return layers
        dark_gain = self.dark_gain or gain
        fixed = [(self.dark, exposure_time * dark_gain / gain)]
        if self.bias is not None:
            fixed.append((self.bias, 1.0))
        sky = sky_variance(raw, fixed, gain, read_noise)
        too_hot = self.hot_pixels.index[self.hot_pixels.variance(exposure_time, dark_gain) > _MOST_NOISE * sky]
        if len(too_hot):
            marked = np.zeros(raw.shape, dtype=bool) if self.bad_pixels is None else self.bad_pixels.copy()
            marked.ravel()[too_hot] = True
            layers["bad_pixels"] = marked
        return layers


@dataclass(frozen=True, eq=False)
class HotPixels:
    """Pixels whose dark current stands out from that of the others, or is not stable.

    Attributes
    ----------
    index : ndarray of int, shape (n,)
        Where they are in the flattened frame.
    rate : ndarray, shape (n,)
        Dark current above the usual one, ADU per second; not negative.
    excess : ndarray, shape (n,)
        Variance among the darks beyond that of their photons and of the read-out, ADU squared.
    exposure_time : float
        Exposure time of the darks, seconds.
    """

    index: np.ndarray
    rate: np.ndarray
    excess: np.ndarray
    exposure_time: float

    def variance(self, exposure_time: float, gain: float) -> np.ndarray:
        """Variance in electrons squared that hot pixels add to one exposure, shape (n,).

        The photons of the dark current grow with the exposure; a current that jumps grows with its square, and is
        taken for no smaller than it was in the darks.
        """
        growth = max(1.0, exposure_time / self.exposure_time) * gain
        variance: np.ndarray = self.rate * exposure_time * gain + self.excess * growth**2
        return variance

    @classmethod
    def of(cls, dark: np.ndarray, hot: np.ndarray, excess: np.ndarray, exposure_time: float) -> HotPixels:
        """Hot pixels of a master dark (ADU per second), their mask and the excess variance of all pixels."""
        index = np.flatnonzero(hot & np.isfinite(dark))
        usual = np.median(dark[np.isfinite(dark)]) if np.isfinite(dark).any() else 0.0
        rate = np.maximum(dark.ravel()[index] - usual, 0.0).astype(float)
        return cls(index, rate, excess.ravel()[index].astype(float), exposure_time)


def sky_variance(raw: np.ndarray, fixed: Sequence[tuple[np.ndarray, float]], gain: float, read_noise: float) -> float:
    """Variance of a pixel of the sky of one frame in electrons squared, from neighbours in some of its rows.

    Differences of neighbours know no gradient; their median absolute value knows no stars. It is not below what
    read-out and rounding make.

    Parameters
    ----------
    raw : ndarray, shape (ny, nx)
        Raw frame, ADU.
    fixed : sequence of (ndarray of shape (ny, nx), float)
        Masters, and what they are multiplied by to be ADU: they are taken off.
    gain, read_noise : float
        Electrons per ADU, and electrons; NaN counts as 0.
    """
    ny, nx = raw.shape
    rows = np.unique(np.linspace(0, ny - 1, min(ny, _NOISE_ROWS)).round().astype(int))
    sample = raw[rows].astype(float)
    for master, factor in fixed:
        sample -= master[rows] * factor
    n_pairs = nx // 2
    differences = np.abs(sample[:, 1 : 2 * n_pairs : 2] - sample[:, 0 : 2 * n_pairs : 2])
    differences = differences[np.isfinite(differences)]
    least = gain**2 / 12.0 + float(np.nan_to_num(read_noise)) ** 2
    if not len(differences):
        return np.inf
    return max(least, (MAD_TO_SIGMA * float(np.median(differences)) * gain) ** 2 / 2.0)


def combine(strip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over frames without outliers, and the variance of this mean.

    The scatter of a pixel is taken from its median absolute deviation, but not below the median scatter of its row:
    of a few frames the deviation of a single pixel is too uncertain to clip with.

    Parameters
    ----------
    strip : ndarray, shape (frame, row, x)
        Whole rows of all frames; NaN where a frame has no value.

    Returns
    -------
    mean, variance : ndarray, shape (row, x)
        The variance is the sample variance of the values kept over their number; NaN where fewer than two are left.

    Raises
    ------
    ValueError
        With fewer than two frames, which tell no variance.
    """
    if strip.ndim != 3 or len(strip) < 2:
        raise ValueError(f"a master needs at least two frames of shape (row, x): got an array of shape {strip.shape}")
    values = np.where(np.isfinite(strip), strip, np.nan).astype(float)
    centre = median_known(values, axis=0)
    scatter = MAD_TO_SIGMA * median_known(np.abs(values - centre), axis=0)
    scatter = np.fmax(scatter, median_known(scatter, axis=1)[:, np.newaxis])
    # rows without any scatter (all frames equal, whole numbers) are kept as they are
    limit = np.where(scatter > 0, _CLIP_SIGMA * scatter, np.inf)
    with np.errstate(invalid="ignore"):
        kept = np.abs(values - centre) <= limit
    n_kept = kept.sum(axis=0)
    n_used = np.where(n_kept >= 2, n_kept, np.nan)
    mean = _sum_frames(np.where(kept, values, 0.0)) / n_used
    squares = _sum_frames(np.where(kept, values - mean, 0.0) ** 2)
    return mean, squares / (n_used - 1) / n_used


def spread(strip: np.ndarray) -> np.ndarray:
    """Variance over frames without the largest value of each pixel, which may be a cosmic ray.

    Parameters
    ----------
    strip : ndarray, shape (frame, row, x)
        Rows of all frames.

    Returns
    -------
    ndarray, shape (row, x)
        NaN with fewer than two values left.
    """
    ordered = np.sort(strip, axis=0)  # NaN last
    n_used = np.count_nonzero(np.isfinite(ordered), axis=0) - 1
    kept = np.arange(len(strip))[:, np.newaxis, np.newaxis] < n_used
    divisor = np.where(n_used >= 2, n_used, np.nan)
    mean = _sum_frames(np.where(kept, ordered, 0.0)) / divisor
    return _sum_frames(np.where(kept, ordered - mean, 0.0) ** 2) / (divisor - 1)


def find_hot_pixels(
    dark: np.ndarray, spread: np.ndarray, times: np.ndarray, gain: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mark pixels of a master dark that are NaN, far above the others, or not stable.

    Parameters
    ----------
    dark, spread : ndarray, shape (ny, nx)
        Rates in ADU per second, and their variance among the darks (:func:`spread`).
    times : ndarray, shape (frame,)
        Exposure times of the darks, seconds.
    gain : float
        Electrons per ADU.

    Returns
    -------
    hot : ndarray of bool, shape (ny, nx)
        Pixels that are hot.
    excess : ndarray, shape (ny, nx)
        Variance of unstable pixels among the darks beyond that of photons and read-out, ADU squared; 0 for others.
    """
    finite = np.isfinite(dark)
    if not finite.any():
        return np.ones(dark.shape, dtype=bool), np.zeros(dark.shape)
    centre = np.median(dark[finite])
    scatter = MAD_TO_SIGMA * np.median(np.abs(dark[finite] - centre))
    # without any scatter nothing can be told from the others
    hot = ~finite | ((scatter > 0) & (dark > centre + _HOT_SIGMA * scatter))
    excess = np.zeros(dark.shape)
    if len(times) > _FEWEST_DARKS:
        of_photons = np.maximum(np.nan_to_num(dark) - centre, 0.0) * np.mean(1.0 / times) / gain
        expected = np.nanmedian(spread[finite]) + of_photons
        freedom = len(times) - 2
        with np.errstate(invalid="ignore"):
            is_unstable = finite & (expected > 0) & (spread > expected * chdtri(freedom, _BY_CHANCE) / freedom)
        excess[is_unstable] = ((spread - expected) * np.mean(times) ** 2)[is_unstable]
        hot |= is_unstable
    return hot, excess


def find_bad_responses(flat: np.ndarray) -> np.ndarray:
    """Mark pixels of a master flat (median 1) that are NaN, not above zero, or far from the others."""
    return ~((flat >= _LEAST_RESPONSE) & (flat <= _MOST_RESPONSE))


def median_known(values: np.ndarray, axis: int) -> np.ndarray:
    """Median without NaN, and NaN without a warning where there is nothing else."""
    empty = np.isnan(values).all(axis=axis, keepdims=True)
    median = np.nanmedian(np.where(empty, 0.0, values), axis=axis)
    return np.where(empty.squeeze(axis), np.nan, median)


def _sum_frames(values: np.ndarray) -> np.ndarray:
    """Sum over frames one after the other: NumPy's own order may depend on the shape of the strip."""
    total: np.ndarray = np.zeros(values.shape[1:])
    for frame in values:
        total += frame
    return total
