"""Errors of a least-squares fit where the noise is correlated in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

#: Longer series are averaged to so many points: each time scale costs the eigenvectors of a matrix of this size.
_MOST_POINTS = 300
#: With fewer points beyond the parameters than this, nothing is known of the correlation.
_LEAST_FREEDOM = 10
#: Correlation times that are tried, from two steps to half of the series.
_N_TIMES = 8
#: Shares of the variance that may be correlated.
_SHARES = np.array([0.0, 0.01, 0.02, 0.04, 0.07, 0.11, 0.16, 0.22, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97])


class LinearSeries(NamedTuple):
    """One series as it was fitted, everything in units of the errors.

    Attributes
    ----------
    time : ndarray, shape (frame,)
    residual : ndarray, shape (frame,)
    design : ndarray, shape (frame, parameter)
        Derivatives of the model by all parameters, which the series share, and by its own coefficients after these.
    """

    time: np.ndarray
    residual: np.ndarray
    design: np.ndarray


def error_factors(series: Sequence[LinearSeries], n_shared: int, prior: np.ndarray) -> np.ndarray:
    """Factors by which correlated noise makes the errors of a least-squares fit larger.

    The noise of each series is white plus an exponentially correlated process. How much of it, and on what time scale,
    is judged by the restricted likelihood of the residuals (Patterson & Thompson 1971, Biometrika 58, 545), which knows
    what of the noise was fitted away. The covariance of the parameters, ``M^-1 X^T C X M^-1`` with ``M = X^T X``, is
    the mean over all that are tried, each weighted by its likelihood. Where the noise is white, errors come out about
    ten to twenty per cent too large, as little of red noise can never be excluded.

    Parameters
    ----------
    series : sequence of LinearSeries
        Series that were fitted jointly.
    n_shared : int
        Number of the parameters that the series share.
    prior : ndarray, shape (n_shared, n_shared)
        Inverse of the covariance that the parameters have without data.

    Returns
    -------
    ndarray, shape (n_shared,)
        At least 1.
    """
    n_own = [one.design.shape[1] - n_shared for one in series]
    size = n_shared + sum(n_own)
    normal, middle = np.zeros((size, size)), np.zeros((size, size))
    normal[:n_shared, :n_shared], middle[:n_shared, :n_shared] = prior, prior
    begin = n_shared
    for one, own in zip(series, n_own, strict=True):
        places = np.append(np.arange(n_shared), np.arange(begin, begin + own))
        begin += own
        short = _averaged(one)
        normal[np.ix_(places, places)] += short.design.T @ short.design
        middle[np.ix_(places, places)] += _correlated_normal(short)
    inverse = np.linalg.pinv(normal, hermitian=True)
    white, red = np.diag(inverse)[:n_shared], np.diag(inverse @ middle @ inverse)[:n_shared]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(np.maximum(np.nan_to_num(red / white, nan=1.0), 1.0))


def _averaged(one: LinearSeries) -> LinearSeries:
    """The series in so few groups of neighbours that matrices are small; a group counts as its root of points."""
    starts = np.arange(0, len(one.time), -(-len(one.time) // _MOST_POINTS))
    counts = np.diff(np.append(starts, len(one.time)))
    root = np.sqrt(counts)
    return LinearSeries(
        np.add.reduceat(one.time, starts) / counts,
        np.add.reduceat(one.residual, starts) / root,
        np.add.reduceat(one.design, starts, axis=0) / root[:, None],
    )


def _correlated_normal(one: LinearSeries) -> np.ndarray:
    """Mean of ``X^T C X`` over the covariances of the noise that are tried, weighted by their likelihoods."""
    n_points, n_free = one.design.shape
    white: np.ndarray = one.design.T @ one.design
    span = float(np.ptp(one.time))
    if n_points < n_free + _LEAST_FREEDOM or not span > 0:
        return white
    # directions in which the model can move take no part in judging the noise
    left, sizes, _ = np.linalg.svd(one.design, full_matrices=True)
    free = left[:, np.count_nonzero(sizes > 1e-10 * sizes[0]) :]
    projected = free.T @ one.residual
    step = span / (n_points - 1)
    apart = np.abs(one.time[:, None] - one.time)
    likelihoods, normals = [], []
    for scale in np.geomspace(2.0 * step, max(0.5 * span, 4.0 * step), _N_TIMES):
        kernel = np.exp(-apart / scale)
        values, vectors = np.linalg.eigh(free.T @ kernel @ free)
        squares = (vectors.T @ projected) ** 2
        correlated = one.design.T @ kernel @ one.design
        for share in _SHARES:
            variances = (1.0 - share) + share * np.maximum(values, 0.0)
            variance = float(np.mean(squares / variances))
            likelihoods.append(-0.5 * (np.log(variances).sum() + len(squares) * np.log(max(variance, 1e-300))))
            normals.append(variance * ((1.0 - share) * white + share * correlated))
    weights = np.exp(np.array(likelihoods) - max(likelihoods))
    mean: np.ndarray = np.einsum("k,kij->ij", weights / weights.sum(), np.array(normals))
    return mean
