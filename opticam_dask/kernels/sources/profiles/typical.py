"""What most stars of a frame deviate from its profile by: an error of the profile, and nothing that lies on a star."""

from __future__ import annotations

import numpy as np

from opticam_dask.kernels import robust
from opticam_dask.kernels.sources.profiles import misfit

#: Fewer stars than this do not tell what is the same for all.
_LEAST_STARS = 5
#: Nor do squares of less than so many times those of the noise, which the median of a dozen stars scatters to.
_MORE_THAN_NOISE = 2.0

#: What is typical of stars is at most so many times (in squares, and in sizes) what a quarter of them have at most.
_MOST_UNLIKE = 8.0
_MOST_UNLIKE_SIZE = 3.0
#: Errors of the cores below this are not looked at so.
_SMALL_ERROR = 0.02
#: Fewer stars than this may all be hit by something: no larger error of the profile than this is believed then.
_FEW_STARS = 3
_MOST_OF_FEW = 0.1


def typical_misfit(fit: misfit.StarFit) -> np.ndarray:
    """Typical deviation of stars from the profile at each place in their windows, relative to flux, beyond noise.

    The form of a frame's stars need not be an ellipse: a badly guided frame has them with tails and corners. What is
    the same for most stars of the frame is theirs; what only a few have (tracks, hot pixels, neighbours) is not.

    Parameters
    ----------
    fit : misfit.StarFit
        Misfits of several stars; the lower median over them counts.

    Returns
    -------
    ndarray, shape (size, size)
        1 sigma; 0 where noise explains the deviations.
    """
    is_bright = fit.flux > 0
    relative = fit.errors[is_bright] / fit.flux[is_bright, None, None]
    squares, noise = (fit.deviation[is_bright] * relative) ** 2, relative**2
    typical = typical_beyond_noise(squares, noise)
    if not typical.any():
        return typical
    # the part of it that a quarter of the stars lack is not that of the frame's stars, but lies on many of them
    of_stars = np.sort(np.sum(np.where(typical > 0, squares - noise, 0.0), axis=(1, 2)))
    shared = _MOST_UNLIKE * max(_least_quarter(of_stars), 0.0) / np.sum(typical**2)
    return typical * np.sqrt(min(shared, 1.0))


def _least_quarter(values: np.ndarray) -> float:
    """The value, of some in ascending order, that three quarters of them reach."""
    return float(values[(len(values) - 1) // 4])


def typical_error(fit: misfit.StarFit) -> float:
    """What the cores of stars deviate from the profile by, typically, relative to their light (1 sigma).

    The lower median; where a quarter of the stars show much less, what is large in the others (a trail along a row of
    them) is not the profile's. A star that is alone in its frame cannot show whose a large error is: a track of a
    cosmic ray through its core would excuse itself.
    """
    errors = np.sort(fit.model_error)
    found = min(errors[(len(errors) - 1) // 2], max(_SMALL_ERROR, _MOST_UNLIKE_SIZE * _least_quarter(errors)))
    return float(min(found, _MOST_OF_FEW) if len(errors) < _FEW_STARS else found)


def typical_beyond_noise(squares: np.ndarray, noise: np.ndarray, weights: np.ndarray | float = 1.0) -> np.ndarray:
    """Typical size of what stars (the first axis) have in common beyond noise, from squares and variances (n, ...).

    The lower weighted median over the stars counts; 0 for too few of them, and where noise explains it.
    """
    if len(squares) < _LEAST_STARS:
        return np.zeros(squares.shape[1:])
    squares, noise = (robust.weighted_median(values, weights) for values in (squares / misfit.MEDIAN_SQUARE, noise))
    return np.sqrt(np.where(squares > _MORE_THAN_NOISE * noise, squares, 0.0))
