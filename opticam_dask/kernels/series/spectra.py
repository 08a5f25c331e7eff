"""Averaged power and cross spectra of evenly sampled segments with Gaussian errors: noise, coherence, lags.

Sign of all lags: positive when the second light curve lags the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Norm = Literal["frac", "abs", "leahy", "none"]

#: A step may differ from the usual step by this share of it.
_STEP_TOLERANCE = 0.1
#: The usual steps of two cameras may differ by this share of the smaller one.
_EQUAL_STEPS = 0.01


#: Standard deviation of a phase that nothing is known about.
UNKNOWN_PHASE_ERR = float(np.pi / np.sqrt(3.0))


@dataclass(frozen=True)
class PowerSpectrum:
    """Mean periodogram of segments.

    Attributes
    ----------
    frequency : ndarray, shape (frequency,)
        In hertz when times are in seconds; zero and the Nyquist frequency are left out.
    power, power_err : ndarray, shape (frequency,)
        Power at each frequency, and its error.
    noise : float
        Power of the errors of the fluxes, the same at all frequencies.
    n_averaged : ndarray of int, shape (frequency,)
        Number of powers in each mean: segments times frequencies.
    n_segments : int
        Number of segments that were averaged.
    """

    frequency: np.ndarray
    power: np.ndarray
    power_err: np.ndarray
    noise: float
    n_averaged: np.ndarray
    n_segments: int


@dataclass(frozen=True)
class CrossSpectrum:
    """Mean cross spectrum of segments, and what follows from it.

    Attributes
    ----------
    frequency : ndarray, shape (frequency,)
        Frequencies in hertz.
    power1, power2 : ndarray, shape (frequency,)
        Mean periodograms of the two light curves.
    noise1, noise2 : float
        Their noise levels.
    cross : ndarray of complex, shape (frequency,)
        Mean of ``F1 conj(F2)``: its phase is positive when the second light curve lags the first.
    n_averaged : ndarray of int, shape (frequency,)
        Values that were averaged at each frequency.
    n_segments : int
        Number of segments that were averaged.
    segments : ndarray of complex, shape (segment, frequency)
        The cross powers that ``cross`` is the mean of; none once rebinned.
    delay : float
        How much later the segments of the second light curve begin, in the mean; the phases are corrected for it.
    """

    frequency: np.ndarray
    power1: np.ndarray
    power2: np.ndarray
    noise1: float
    noise2: float
    cross: np.ndarray
    n_averaged: np.ndarray
    n_segments: int
    segments: np.ndarray
    delay: float


@dataclass(frozen=True)
class Coherence:
    """Coherence of the signals without their noise.

    ``unbounded`` scatters around the truth and may leave 0 to 1; ``value`` is that cut to 0 and 1. Both are NaN where
    a light curve has no power above its noise.
    """

    value: np.ndarray
    error: np.ndarray
    unbounded: np.ndarray


def sampling_step(time: np.ndarray) -> float:
    """Usual step of ascending times: the mean of those within a tenth of the median step.

    Gaps do not count. The median alone would be one of the few steps that there are when a clock ticks coarsely: with
    frames every 0.2 s and ticks of 1/64 s it is 0.203 s, and all frequencies are off by 1.5 %.

    Raises
    ------
    ValueError
        With fewer than two times, or times that do not ascend.
    """
    steps = np.diff(time)
    if len(steps) < 1 or not (steps > 0).all():
        raise ValueError(f"expected at least two ascending times, got {len(time)}")
    median = np.median(steps)
    return float(steps[np.abs(steps - median) <= _STEP_TOLERANCE * median].mean())


def is_evenly_sampled(time: np.ndarray) -> bool:
    """Whether no time is further than a tenth of a step from an even grid."""
    if len(time) < 2:
        return False
    step = np.ptp(time) / (len(time) - 1)
    return bool((np.abs(time - time[0] - step * np.arange(len(time))) <= _STEP_TOLERANCE * step).all())


def segment_points(time: np.ndarray, length: float) -> int:
    """Number of points of a segment of ``length``.

    Raises
    ------
    ValueError
        When a segment would have fewer than four points.
    """
    step = sampling_step(time)
    n_points = int(np.floor(length / step + 0.01))
    if n_points < 4:
        raise ValueError(f"a segment needs at least 4 points: expected at least {4 * step:g} s, got {length:g} s")
    return n_points


def find_segments(time1: np.ndarray, time2: np.ndarray, n_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Segments without gaps that two light curves have in common; of one light curve when it is given twice.

    Parameters
    ----------
    time1, time2 : ndarray
        Ascending times with the same usual step. The second camera may expose up to half a step earlier or later.
    n_points : int
        Points of a segment.

    Returns
    -------
    starts1, starts2 : ndarray of int, shape (segment,)
        Index of the first point of each segment.

    Raises
    ------
    ValueError
        When the two are not sampled alike, or have no such segment in common; the message says the longest there is.
    """
    step = sampling_step(time1)
    if abs(sampling_step(time2) / step - 1.0) > _EQUAL_STEPS:
        raise ValueError(
            f"the light curves are sampled every {step:g} s and {sampling_step(time2):g} s; "
            "rebin them to the same step first (rebin_light_curves)"
        )
    first, second = _simultaneous(time1, time2, step)
    goes_on = (np.diff(first) == 1) & (np.diff(second) == 1)
    for time, index in ((time1, first), (time2, second)):
        goes_on &= np.abs(np.diff(time[index]) / step - 1.0) <= _STEP_TOLERANCE
    borders = np.flatnonzero(~goes_on) + 1
    begins, ends = np.concatenate([[0], borders]), np.concatenate([borders, [len(first)]])
    starts = [np.arange(begin, end - n_points + 1, n_points) for begin, end in zip(begins, ends, strict=True)]
    found = np.concatenate(starts) if len(first) else np.empty(0, int)
    found = found[_on_grid(time1[first], found, n_points) & _on_grid(time2[second], found, n_points)]
    if not len(found):
        longest = int((ends - begins).max()) if len(first) else 0
        raise ValueError(
            f"no part of {n_points} evenly spaced points: the longest without a gap has {longest} "
            f"({longest * step:g} s). Choose shorter segments, rebin to a longer step (rebin_light_curves), "
            "or use methods for uneven sampling: "
            "compute_lomb_scargle_periodograms, compute_discrete_correlations"
        )
    return first[found], second[found]


def _simultaneous(time1: np.ndarray, time2: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of pairs of points, nearest to each other and less than about half a step apart."""
    right = np.clip(np.searchsorted(time2, time1), 1, len(time2) - 1)
    nearest = np.where(time1 - time2[right - 1] <= time2[right] - time1, right - 1, right)
    found = np.flatnonzero(np.abs(time2[nearest] - time1) <= 0.501 * step)
    _, unique = np.unique(nearest[found], return_index=True)
    return found[unique], nearest[found][unique]


def _on_grid(time: np.ndarray, starts: np.ndarray, n_points: int) -> np.ndarray:
    """Which segments have all their points near an even grid of their own."""
    if not len(starts):
        return np.empty(0, bool)
    parts = time[starts[:, None] + np.arange(n_points)]
    steps = (parts[:, -1] - parts[:, 0]) / (n_points - 1)
    grid = parts[:, :1] + steps[:, None] * np.arange(n_points)
    return (np.abs(parts - grid) <= _STEP_TOLERANCE * steps[:, None]).all(axis=1)


def power_spectrum(
    time: np.ndarray, flux: np.ndarray, flux_err: np.ndarray, n_points: int, norm: Norm = "frac"
) -> PowerSpectrum:
    """Mean periodogram of the segments of a light curve.

    Parameters
    ----------
    time : ndarray, shape (n,)
        Ascending; gaps end a segment.
    flux, flux_err : ndarray, shape (n,)
        Finite, with 1-sigma Gaussian errors.
    n_points : int
        Points of a segment, see :func:`segment_points`.
    norm : {"frac", "abs", "leahy", "none"}
        ``frac``: squared fractional rms per hertz, ``2 dt / (N mean^2) |F|^2``; noise ``2 dt <err^2> / mean^2``
        (Vaughan et al. 2003, MNRAS 345, 1271, appendix A). ``abs``: the same without the mean. ``leahy``: the noise of
        the errors is 2. ``none``: ``|F|^2``.

    Returns
    -------
    PowerSpectrum
        Errors are ``power / sqrt(n_averaged)``, those of a mean of exponentially distributed powers (van der Klis
        1989).

    Raises
    ------
    ValueError
        When no segment is free of gaps, the mean is zero where it is divided by, or the norm is unknown.
    """
    starts, _ = find_segments(time, time, n_points)
    parts, errors = _cut(flux, starts, n_points), _cut(flux_err, starts, n_points)
    scale = _scale(norm, parts, parts, errors, errors, sampling_step(time))
    power = scale * np.mean(np.abs(_transform(parts)) ** 2, axis=0)
    n_averaged = np.full(len(power), len(starts))
    noise = scale * n_points * float(np.mean(errors**2))
    frequency = _frequencies(time, n_points)
    return PowerSpectrum(frequency, power, power / np.sqrt(n_averaged), noise, n_averaged, len(starts))


def cross_spectrum(
    curve1: tuple[np.ndarray, np.ndarray, np.ndarray],
    curve2: tuple[np.ndarray, np.ndarray, np.ndarray],
    n_points: int,
    norm: Norm = "frac",
    *,
    delay: float = 0.0,
) -> CrossSpectrum:
    """Mean cross spectrum of the segments that two light curves have in common.

    Where the second camera exposes a part of a step earlier or later, the phases are corrected for that.

    Parameters
    ----------
    curve1, curve2 : (time, flux, flux_err), each ndarray
        Two light curves: ascending times, fluxes and their 1-sigma errors, all finite; gaps end a segment.
    n_points : int
        Points of a segment.
    norm : {"frac", "abs", "leahy", "none"}
        Normalisation of the powers.
    delay : float
        The segments of the second light curve begin so much later, and the phases are corrected for that. The ends of
        segments that are cut at the same times have nothing to do with each other when one light curve lags, which
        biases lags towards zero by a share of about lag / segment, and coherence too; a delay near the lag undoes it.

    Returns
    -------
    CrossSpectrum
        Positive phase: the second lags the first (the opposite of stingray, whose first light curve is the subject).

    Raises
    ------
    ValueError
        As :func:`power_spectrum`, or when the two are not sampled alike.
    """
    (time1, flux1, err1), (time2, flux2, err2) = curve1, curve2
    starts1, starts2 = find_segments(time1, time2 - delay, n_points)
    parts1, errors1 = _cut(flux1, starts1, n_points), _cut(err1, starts1, n_points)
    parts2, errors2 = _cut(flux2, starts2, n_points), _cut(err2, starts2, n_points)
    step = sampling_step(time1)
    scale = [
        _scale(norm, first, second, first_err, second_err, step)
        for first, second, first_err, second_err in (
            (parts1, parts1, errors1, errors1),
            (parts2, parts2, errors2, errors2),
            (parts1, parts2, errors1, errors2),
        )
    ]
    frequency = _frequencies(time1, n_points)
    offset = np.mean(_cut(time2, starts2, n_points) - _cut(time1, starts1, n_points), axis=1)
    transform1 = _transform(parts1)
    transform2 = _transform(parts2) * np.exp(-2j * np.pi * offset[:, None] * frequency)
    segments = scale[2] * transform1 * transform2.conj()
    return CrossSpectrum(
        frequency=frequency,
        power1=scale[0] * np.mean(np.abs(transform1) ** 2, axis=0),
        power2=scale[1] * np.mean(np.abs(transform2) ** 2, axis=0),
        noise1=scale[0] * n_points * float(np.mean(errors1**2)),
        noise2=scale[1] * n_points * float(np.mean(errors2**2)),
        cross=segments.mean(axis=0),
        n_averaged=np.full(len(frequency), len(starts1)),
        n_segments=len(starts1),
        segments=segments,
        delay=float(offset.mean()),
    )


def _cut(values: np.ndarray, starts: np.ndarray, n_points: int) -> np.ndarray:
    return values[starts[:, None] + np.arange(n_points)]


def _transform(parts: np.ndarray) -> np.ndarray:
    """Fourier transforms at the positive frequencies below the Nyquist frequency, (segment, frequency)."""
    n_points = parts.shape[1]
    return np.fft.rfft(parts - parts.mean(axis=1, keepdims=True), axis=1)[:, 1 : (n_points + 1) // 2]


def _frequencies(time: np.ndarray, n_points: int) -> np.ndarray:
    return np.arange(1, (n_points + 1) // 2) / (n_points * sampling_step(time))


def _scale(
    norm: Norm, parts1: np.ndarray, parts2: np.ndarray, errors1: np.ndarray, errors2: np.ndarray, step: float
) -> float:
    """Factor of a power or cross power in a norm."""
    n_points = parts1.shape[1]
    if norm == "none":
        return 1.0
    if norm == "abs":
        return 2.0 * step / n_points
    if norm == "leahy":
        variance = float(np.sqrt(np.mean(errors1**2) * np.mean(errors2**2)))
        if not variance > 0:
            raise ValueError('norm "leahy" needs errors above zero')
        return 2.0 / (n_points * variance)
    if norm != "frac":
        raise ValueError(f"norm must be one of {', '.join(get_args(Norm))}, got {norm!r}")
    mean = float(parts1.mean() * parts2.mean())
    if mean == 0:
        raise ValueError('norm "frac" divides by the mean flux, which is 0: choose norm "abs"')
    return 2.0 * step / (n_points * abs(mean))


def frequency_groups(frequency: np.ndarray, factor: float) -> np.ndarray:
    """Group of each frequency, in bins that grow geometrically.

    Parameters
    ----------
    frequency : ndarray
        Frequencies, evenly spaced.
    factor : float
        Each bin is wider than the one before by ``1 + factor``; the first has one frequency.

    Returns
    -------
    ndarray of int
        From 0; bins without a frequency are left out.

    Raises
    ------
    ValueError
        When the factor is not positive.
    """
    if not factor > 0:
        raise ValueError(f"expected a rebin factor above 0, got {factor}")
    if len(frequency) < 2:
        return np.zeros(len(frequency), int)
    width = float(frequency[1] - frequency[0])
    edges = [frequency[0] - 0.5 * width]
    while edges[-1] <= frequency[-1]:
        edges.append(edges[-1] + width)
        width *= 1.0 + factor
    groups = np.searchsorted(edges, frequency, side="right")
    return np.unique(groups, return_inverse=True)[1]


def rebin_power(spectrum: PowerSpectrum, factor: float) -> PowerSpectrum:
    """Power spectrum in geometric frequency bins, see :func:`frequency_groups`."""
    groups = frequency_groups(spectrum.frequency, factor)
    power = _group_mean(spectrum.power, groups)
    n_averaged = np.bincount(groups, spectrum.n_averaged).astype(int)
    frequency = _group_mean(spectrum.frequency, groups)
    errors = power / np.sqrt(n_averaged)
    return PowerSpectrum(frequency, power, errors, spectrum.noise, n_averaged, spectrum.n_segments)


def rebin_cross(spectrum: CrossSpectrum, factor: float) -> CrossSpectrum:
    """Cross spectrum in geometric frequency bins; the complex cross powers are averaged, not their phases."""
    groups = frequency_groups(spectrum.frequency, factor)
    return CrossSpectrum(
        frequency=_group_mean(spectrum.frequency, groups),
        power1=_group_mean(spectrum.power1, groups),
        power2=_group_mean(spectrum.power2, groups),
        noise1=spectrum.noise1,
        noise2=spectrum.noise2,
        cross=_group_mean(spectrum.cross.real, groups) + 1j * _group_mean(spectrum.cross.imag, groups),
        n_averaged=np.bincount(groups, spectrum.n_averaged).astype(int),
        n_segments=spectrum.n_segments,
        segments=np.empty((0, groups.max() + 1), complex),
        delay=spectrum.delay,
    )


def _group_mean(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return np.bincount(groups, values) / np.bincount(groups)


def debiased(spectrum: CrossSpectrum) -> np.ndarray:
    """Squared modulus of the mean cross power, corrected for its bias by noise.

    ``E|C|^2 = G + (P1 P2 - G) / M`` with ``G`` the squared modulus of the expected cross power (Ingram 2019, MNRAS
    489, 3927), solved for ``G``. For signals of coherence 1 it is ``|C|^2 - n^2`` of Vaughan & Nowak (1997).
    """
    n = spectrum.n_averaged
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (n * np.abs(spectrum.cross) ** 2 - spectrum.power1 * spectrum.power2) / (n - 1)
    return np.where(n > 1, found, np.nan)


def coherence(spectrum: CrossSpectrum) -> Coherence:
    """Intrinsic coherence: the share of the signals' power that is linearly related.

    Vaughan & Nowak 1997, ApJ 474, L43. The noise of Gaussian errors is taken off the powers in the denominator, the
    bias of the squared cross power off the numerator (Ingram 2019). Errors are propagated to first order from
    the covariances of mean powers and cross powers (a complex Wishart distribution), plus the scatter of the bias.
    Without noise they are those of Bendat & Piersol, ``sqrt(2 / M) (1 - coherence) sqrt(coherence)``. Equation 8 of
    Vaughan & Nowak lacks the product of the two light curves' noise, by which its errors are up to a factor sqrt(2)
    too small.

    Parameters
    ----------
    spectrum : CrossSpectrum
        The averaged cross spectrum.

    Returns
    -------
    Coherence
        NaN where only one power was averaged, or a light curve has no power above its noise.
    """
    signal1, signal2 = spectrum.power1 - spectrum.noise1, spectrum.power2 - spectrum.noise2
    n = spectrum.n_averaged
    with np.errstate(divide="ignore", invalid="ignore"):
        unbounded = debiased(spectrum) / (signal1 * signal2)
        unbounded = np.where((signal1 > 0) & (signal2 > 0), unbounded, np.nan)
        value = np.clip(unbounded, 0.0, 1.0)
        ratio1, ratio2 = spectrum.power1 / signal1, spectrum.power2 / signal2
        # all multiplied by the coherence once, so that one of 0 has an error
        by_cross = 2.0 * (ratio1 * ratio2 + value)
        by_powers = value * (ratio1**2 + ratio2**2 + 2.0 * value - 4.0 * ratio1 - 4.0 * ratio2)
        by_bias = (ratio1 * ratio2 - value) / n
        error = np.sqrt(np.maximum(value * (by_cross + by_powers) / n + 2.0 * by_bias**2, 0.0))
    return Coherence(value, error, unbounded)
