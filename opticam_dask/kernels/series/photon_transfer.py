"""Whether the gain of the headers fits the noise of the sky: a photon transfer of the frames of a night.

The photons of a sky of ``L`` electrons have a variance of ``L``, so electrons that are counted with the wrong gain have
another one (Janesick 2007, Photon Transfer, chapter 5). What is unknown is left open: the level of a bias that was not
subtracted, the read noise, and structure in the sky's own pixels.
"""

from __future__ import annotations

import numpy as np

#: Pixels of a detector that was not flat-fielded respond differently by this part,
_RESPONSE = 0.02
#: and after a flat by this part: this much of the scatter may be no noise.
_LEFT_OF_RESPONSE = 0.005

#: Read noise where the headers have none, electrons.
_MOST_READ_NOISE = 20.0

#: A sky of fewer electrons tells nothing.
_LEAST_LEVEL = 200.0

#: Noise and sky of the frames are compared with each other where the sky changes by this part of itself,
_LEAST_CHANGE = 0.3
#: and where there are this many frames;
_LEAST_FRAMES = 8
#: the slope lies in the range with this probability.
_CONFIDENCE = 0.997


def gain_by_noise(
    level: np.ndarray, rms: np.ndarray, other_variance: np.ndarray, *, is_bias_off: bool, has_flat: bool
) -> tuple[float, float]:
    """Range in which the ratio of the given gain to the one that fits the noise of the sky lies.

    Parameters
    ----------
    level, rms : ndarray, shape (frame,)
        Sky and its scatter, electrons a pixel by the given gain; a bias may be in the level.
    other_variance : ndarray, shape (frame,)
        Variance by read-out and dark current, electrons squared a pixel; NaN where the headers do not give it.
    is_bias_off : bool
        Whether the level is the sky alone.
    has_flat : bool
        Whether the frames are flat-fielded.

    Returns
    -------
    lowest, highest : float
        A ratio of 1 fits; 0 and infinity where nothing is known.
    """
    known = np.isfinite(level) & np.isfinite(rms) & (level > _LEAST_LEVEL) & (rms > 0)
    if not known.any():
        return 0.0, np.inf
    level, variance = level[known], rms[known] ** 2
    other = np.nan_to_num(other_variance[known], nan=_MOST_READ_NOISE**2)
    response = _LEFT_OF_RESPONSE if has_flat else _RESPONSE
    lowest = float(np.median((variance - other - (response * level) ** 2) / level))
    highest = float(np.median(variance / level)) if is_bias_off else np.inf
    if len(level) >= _LEAST_FRAMES and np.ptp(level) > _LEAST_CHANGE * np.median(level):
        # scipy.stats takes a third of a second to import
        from scipy.stats import theilslopes

        *_, least, most = theilslopes(variance, level, alpha=_CONFIDENCE)
        lowest = max(lowest, float(least - 2.0 * response**2 * np.max(level)))
        highest = min(highest, float(most))
    return max(lowest, 0.0), highest
