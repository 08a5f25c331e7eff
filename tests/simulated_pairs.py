"""Pairs of light curves of known power, coherence and lag, with Gaussian errors and gaps, for the tests of timing."""

from __future__ import annotations

import numpy as np

Curve = tuple[np.ndarray, np.ndarray, np.ndarray]


def red_noise_pair(
    seed: int, *, n: int = 8000, lag: float = 2.3, coherence: float = 1.0, errors: tuple[float, float] = (0.05, 0.05),
    slope: float = 1.0, rms: float = 0.1, gaps: bool = True, late: float = 0.0,
) -> tuple[Curve, Curve]:  # fmt: skip
    """Two light curves of 1 s sampling with bent power spectra; the second lags the first by ``lag`` seconds.

    ``late``: the second camera exposes so much later; its times say so.
    """
    rng = np.random.default_rng(seed)
    size = 4 * n  # the middle of a longer series: its ends do not meet
    frequency = np.fft.rfftfreq(size)
    amplitude = (1.0 + (frequency / 0.02) ** 2) ** (-0.5 * slope)
    amplitude[0] = 0.0
    common, own = ((rng.normal(size=len(frequency)) + 1j * rng.normal(size=len(frequency))) * amplitude for _ in "12")
    second = (np.sqrt(coherence) * common + np.sqrt(1 - coherence) * own) * np.exp(
        -2j * np.pi * frequency * (lag - late)
    )
    x, y = np.fft.irfft(common, size), np.fft.irfft(second, size)
    scale = rms / np.std(x)
    fluxes = [
        1.0 + scale * values[n : 2 * n] + rng.normal(0.0, err, n) for values, err in zip((x, y), errors, strict=True)
    ]
    kept = np.ones(n, bool)
    if gaps:
        for start in rng.integers(0, n, n // 150):
            kept[start : start + rng.integers(1, 40)] = False
    time = np.arange(n, dtype=float)
    return tuple(
        (time[kept] + offset, flux[kept], np.full(kept.sum(), err))
        for flux, err, offset in zip(fluxes, errors, (0.0, late), strict=True)
    )
