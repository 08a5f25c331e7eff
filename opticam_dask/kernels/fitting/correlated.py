"""Noise of a light curve that is correlated in time, and how a fit allows for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

#: Correlated noise of longer series is told of groups of neighbours, this many at most: matrices are of this size.
_MOST_GROUPS = 300
#: With fewer points beyond the parameters than this, nothing is known of the correlation.
_LEAST_FREEDOM = 10
#: Shortest correlation time that is tried, in steps between groups: shorter ones are white noise,
_SHORTEST = 4.0
#: and the longest, as a share of the series: longer ones are a slope.
_LONGEST = 0.5
#: Correlation times that are tried.
_N_TIMES = 6
#: Power of the correlated noise at low frequencies, in units of that of the white noise: from what does not matter to
#: the strongest that telescopes have, with equal probability for each factor.
_POWERS = np.geomspace(0.1, 3000.0, 12)
#: A series of this many groups (of which there are at most _MOST_GROUPS) is taken to be white as probably, before it is
#: looked at, as to have any correlated noise; fewer groups are white more probably. With 100, errors of depths are 5 %
#: smaller in white noise, where they are too large, but a fifth too small in red noise that is half as strong.
_AS_LIKELY_WHITE = 20.0


class LinearSeries(NamedTuple):
    """One series as it was fitted, everything in units of the errors.

    Attributes
    ----------
    time : ndarray, shape (frame,)
        In time order, any unit.
    residual : ndarray, shape (frame,)
        Flux less fitted model.
    design : ndarray, shape (frame, parameter)
        Derivatives of the model by all parameters.
    """

    time: np.ndarray
    residual: np.ndarray
    design: np.ndarray


@dataclass(frozen=True, eq=False)
class Whitening:
    """Linear map that makes the noise of a series white, of variance 1.

    Attributes
    ----------
    starts : ndarray of int, shape (group,)
        First frame of each group of neighbours.
    counts : ndarray of int, shape (group,)
        Frames of each group.
    matrix : ndarray, shape (group, group)
        What makes the sums of the groups, over the roots of their counts, white.
    within : float
        Standard deviation of the noise within a group.
    """

    starts: np.ndarray
    counts: np.ndarray
    matrix: np.ndarray
    within: float = 1.0

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Whitened columns, shape (frame, column), of such ones in units of the errors."""
        root = np.sqrt(self.counts)[:, None]
        sums = np.add.reduceat(values, self.starts, axis=0) / root
        white: np.ndarray = self.matrix @ sums
        if len(self.counts) == len(values):
            return white
        spread = (values - np.repeat(sums / root, self.counts, axis=0)) / self.within
        return spread + np.repeat(white / root, self.counts, axis=0)


def whitening(one: LinearSeries) -> Whitening | None:
    """Whitening of the noise of a series, which is judged by what a fit has left of it.

    The noise is white, alone or with a process that is correlated exponentially, as the air is, or smoothly (a
    Gaussian), as drifts of a guider are. Which of them, how strong and on what time scale is judged by the restricted
    likelihood of the residuals (Patterson & Thompson 1971, Biometrika 58, 545), which knows what of the noise was
    fitted away. The covariance is the mean over all that are tried, each weighted by its likelihood.

    Parameters
    ----------
    one : LinearSeries
        The series as it was fitted.

    Returns
    -------
    Whitening or None
        None where there are too few points to tell.
    """
    starts = np.arange(0, len(one.time), -(-len(one.time) // _MOST_GROUPS))
    counts = np.diff(np.append(starts, len(one.time)))
    time = np.add.reduceat(one.time, starts) / counts
    residual, design = (
        np.add.reduceat(values, starts, axis=0) / np.sqrt(counts).reshape(-1, *[1] * (values.ndim - 1))
        for values in (one.residual, one.design)
    )
    span = float(np.ptp(time))
    if len(time) < design.shape[1] + _LEAST_FREEDOM or not span > 0:
        return None
    # of matrices this small threads take ten times as long, waiting for each other
    with threadpool_limits(limits=1, user_api="blas"):
        covariance = _covariance(time, residual, design)
        matrix = np.linalg.inv(np.linalg.cholesky(covariance))
    within = 1.0
    if len(starts) < len(one.time):
        spread = one.residual - np.repeat(residual / np.sqrt(counts), counts)
        within = float(np.sqrt(np.sum(spread**2) / (len(one.time) - len(starts))))
    return Whitening(starts, counts, matrix, within)


def _covariance(time: np.ndarray, residual: np.ndarray, design: np.ndarray) -> np.ndarray:
    """Covariance of the noise, the mean over those that are tried, weighted by their likelihoods."""
    # directions in which the model can move take no part in judging the noise
    left, sizes, _ = np.linalg.svd(design, full_matrices=True)
    free = left[:, np.count_nonzero(sizes > 1e-10 * sizes[0]) :]
    projected = free.T @ residual
    apart = np.abs(time[:, None] - time)
    step = apart[0, -1] / (len(time) - 1)
    times = np.geomspace(_SHORTEST * step, max(_LONGEST * apart[0, -1], 2.0 * _SHORTEST * step), _N_TIMES)
    kernels = [np.exp(-apart / scale) for scale in times] + [np.exp(-0.5 * (apart / scale) ** 2) for scale in times]
    ratios = np.append(0.0, _POWERS)[:, None] * step / (2.0 * np.tile(times, 2))
    prior = np.append(len(_POWERS) * _AS_LIKELY_WHITE / len(time), np.ones(len(_POWERS)))
    likelihoods, variances = np.empty(ratios.shape), np.empty(ratios.shape)
    for place, kernel in enumerate(kernels):
        values, vectors = np.linalg.eigh(free.T @ kernel @ free)
        squares = (vectors.T @ projected) ** 2
        relative = 1.0 + ratios[:, place, None] * np.maximum(values, 0.0)
        variances[:, place] = np.maximum(np.mean(squares / relative, axis=1), np.finfo(float).tiny)
        likelihoods[:, place] = -0.5 * (np.log(relative).sum(axis=1) + len(squares) * np.log(variances[:, place]))
    weights = prior[:, None] * np.exp(likelihoods - likelihoods.max())
    weights *= variances / weights.sum()
    correlated = np.einsum("k,kij->ij", (weights * ratios).sum(axis=0), np.array(kernels))
    found: np.ndarray = weights.sum() * np.eye(len(time)) + correlated
    return found
