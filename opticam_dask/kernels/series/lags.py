"""Time lags between two simultaneous light curves: from the phases of their cross spectrum."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from opticam_dask.kernels.series.spectra import (
    UNKNOWN_PHASE_ERR,
    CrossSpectrum,
    cross_spectrum,
    debiased,
    frequency_groups,
    rebin_cross,
    sampling_step,
)

#: Segments whose scatter tells an error to some 15 %.
_ENOUGH_SEGMENTS = 20

#: Growth of the bins of neighbouring frequencies whose coherence is taken to be the same.
_NEIGHBOURS = 0.4


@dataclass(frozen=True)
class LagFit:
    """One time lag for all frequencies of a band, with its 1-sigma error."""

    lag: float
    lag_err: float
    chi2: float
    degrees_of_freedom: int


def phase_lag(spectrum: CrossSpectrum) -> tuple[np.ndarray, np.ndarray]:
    """Phase lag in radians, -pi to pi, positive when the second light curve lags the first, and its error.

    The error is ``sqrt((1 - g) / (2 g M))`` with ``g`` the coherence of the noisy light curves without its bias
    (Bendat & Piersol 2010, section 9.2; Nowak et al. 1999, ApJ 510, 874; Ingram 2019). It is never above that of a
    phase of which nothing is known, ``pi / sqrt(3)``.
    """
    squared = debiased(spectrum)
    with np.errstate(divide="ignore", invalid="ignore"):
        raw = squared / (spectrum.power1 * spectrum.power2)
        error = np.sqrt(np.maximum(1.0 - raw, 0.0) / (2.0 * raw * spectrum.n_averaged))
    error = np.where(np.isfinite(error) & (raw > 0), np.minimum(error, UNKNOWN_PHASE_ERR), UNKNOWN_PHASE_ERR)
    return np.angle(spectrum.cross), error


def time_lag(
    frequency: np.ndarray, phase: np.ndarray, phase_err: np.ndarray, near: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Time lag ``phase / (2 pi frequency)`` and error; of all that differ by whole periods the one nearest ``near``."""
    angular = 2.0 * np.pi * frequency
    turns = np.round((angular * near - phase) / (2.0 * np.pi))
    return (phase + 2.0 * np.pi * turns) / angular, phase_err / angular


def fit_lag(
    spectrum: CrossSpectrum, band: tuple[float, float] = (0.0, np.inf), max_lag: float | None = None, near: float = 0.0
) -> LagFit:
    """One time lag for all frequencies of a band: the delay that makes the cross spectrum as real as it can be.

    The estimate of greatest likelihood (Hannan & Thomson 1973, Biometrika 60, 241) maximises
    ``sum 2 M g / (1 - g) Re(C exp(-2 pi i frequency lag)) / |C|`` with the coherence ``g`` of the noisy light curves,
    averaged over neighbouring frequencies. It knows no wrapping of phases.

    Parameters
    ----------
    spectrum : CrossSpectrum
        Cross spectrum, not rebinned in frequency.
    band : (float, float)
        Lowest and highest frequency.
    max_lag : float, optional
        Lags are looked for up to so far from ``near``, by default half the period of the lowest frequency of the band.
    near : float
        A lag that is already known roughly.

    Returns
    -------
    LagFit
        Positive when the second light curve lags the first.

    Raises
    ------
    ValueError
        When nothing in the band is coherent.
    """
    used = (spectrum.frequency >= band[0]) & (spectrum.frequency <= band[1])
    angular = 2.0 * np.pi * spectrum.frequency[used]
    information = np.zeros(0)
    if used.any():
        information = _phase_information(spectrum, near)[used]
    if not (information > 0).any():
        raise ValueError(
            f"no lag can be had: no frequency from {band[0]:g} to {band[1]:g} Hz is coherent in the two light curves"
        )
    smooth = _smooth_modulus(spectrum, near)[used]
    weight = np.divide(information, smooth, out=np.zeros_like(smooth), where=smooth > 0)
    cross = weight * spectrum.cross[used]
    limit = np.pi / angular[0] if max_lag is None else max_lag
    lags = near + np.linspace(-limit, limit, 2 * int(np.ceil(4.0 * limit * angular[-1])) + 1)
    lag = float(lags[np.argmax([np.sum((cross * np.exp(-1j * angular * trial)).real) for trial in lags])])
    for _ in range(20):  # Newton steps from less than an eighth of a radian away
        turned = cross * np.exp(-1j * angular * lag)
        curvature = np.sum(angular**2 * turned.real)
        if curvature <= 0:
            break
        lag += float(np.sum(angular * turned.imag) / curvature)
    rest = np.angle(cross[information > 0] * np.exp(-1j * (angular * lag)[information > 0]))
    return LagFit(
        lag=lag,
        lag_err=_lag_error(spectrum.segments[:, used] * weight, angular, lag, information),
        chi2=float(np.sum(information[information > 0] * rest**2)),
        degrees_of_freedom=int(np.count_nonzero(information)) - 1,
    )


def _lag_error(segments: np.ndarray, angular: np.ndarray, lag: float, information: np.ndarray) -> float:
    """Error of a lag: from the scatter of the segments when there are enough of them, else from the coherence.

    Leakage of red noise makes neighbouring frequencies of a segment depend on each other, so errors that take them as
    independent are too small.
    """
    expected = float(1.0 / np.sqrt(np.sum(information * angular**2)))
    n_segments = len(segments)
    if n_segments < _ENOUGH_SEGMENTS:
        return expected
    turned = segments * np.exp(-1j * angular * lag)
    curvature = float(np.sum(angular**2 * turned.real))
    if curvature <= 0:
        return expected
    scores = np.sum(angular * turned.imag, axis=1)
    return float(np.sqrt(np.sum(scores**2) * n_segments / (n_segments - 1)) / curvature)


def _groups_of_neighbours(spectrum: CrossSpectrum, near: float) -> tuple[CrossSpectrum, np.ndarray]:
    """Spectrum averaged over neighbouring frequencies once a delay is taken off, and the group of each frequency."""
    turn = np.exp(-2j * np.pi * spectrum.frequency * near)
    groups = frequency_groups(spectrum.frequency, _NEIGHBOURS)
    return rebin_cross(replace(spectrum, cross=spectrum.cross * turn), _NEIGHBOURS), groups


def _smooth_modulus(spectrum: CrossSpectrum, near: float) -> np.ndarray:
    """Modulus of the cross spectrum of neighbouring frequencies."""
    grouped, groups = _groups_of_neighbours(spectrum, near)
    return np.sqrt(np.maximum(debiased(grouped), 0.0))[groups]


def _phase_information(spectrum: CrossSpectrum, near: float) -> np.ndarray:
    """Inverse variance of the phase at each frequency, from the coherence of neighbouring frequencies."""
    grouped, groups = _groups_of_neighbours(spectrum, near)
    with np.errstate(divide="ignore", invalid="ignore"):
        raw = np.clip(debiased(grouped) / (grouped.power1 * grouped.power2), 0.0, 1.0 - 1e-12)
        # a coherence below its own scatter is that of chance
        raw = np.where(raw * grouped.n_averaged > 1.0, raw, 0.0)
    return 2.0 * spectrum.n_averaged * (raw / (1.0 - raw))[groups]


def measure_lag(
    curve1: tuple[np.ndarray, np.ndarray, np.ndarray],
    curve2: tuple[np.ndarray, np.ndarray, np.ndarray],
    n_points: int,
    band: tuple[float, float] = (0.0, np.inf),
    max_lag: float | None = None,
) -> LagFit:
    """Time lag of two light curves in a band, without the bias of finite segments.

    A lag measured on segments that are cut ``delay`` apart misses a share of (lag - delay). Segments are cut anew at
    the steps below and above the lag found before; the two results give that share, and the lag without it. Where the
    cameras expose a part of a step apart, so are the segments.

    Parameters
    ----------
    curve1, curve2 : (time, flux, flux_err), each ndarray
        Two light curves: ascending times, fluxes and their 1-sigma errors, all finite; gaps end a segment.
    n_points : int
        Points of a segment.
    band : (float, float)
        Lowest and highest frequency.
    max_lag : float, optional
        Largest lag that is looked for, by default half the period of the lowest frequency of the band.

    Returns
    -------
    LagFit
        Positive when the second light curve lags the first.

    Raises
    ------
    ValueError
        As :func:`cross_spectrum` and :func:`fit_lag`.
    """
    step = sampling_step(curve1[0])
    together = cross_spectrum(curve1, curve2, n_points, "none")
    found = fit_lag(together, band, max_lag)
    for _ in range(2):
        below = step * np.floor((found.lag - together.delay) / step)
        cut = [cross_spectrum(curve1, curve2, n_points, "none", delay=delay) for delay in (below, below + step)]
        fits = [fit_lag(spectrum, band, 2.0 * step, near=found.lag) for spectrum in cut]
        share = float(np.clip((fits[1].lag - fits[0].lag) / step, 0.0, 0.5))
        lag = (fits[0].lag - share * cut[0].delay) / (1.0 - share)
        nearer = fits[0] if lag - cut[0].delay < 0.5 * step else fits[1]
        found = replace(nearer, lag=lag, lag_err=nearer.lag_err / (1.0 - share))
    return found
