"""Coverage of the errors of a night, from light curves of comparison stars, which should be flat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opticam_dask.kernels.fitting.red_noise import time_averaging_beta

#: Share of a normal distribution within one sigma.
ONE_SIGMA = 0.682689


@dataclass(frozen=True)
class Coverage:
    """How often the errors of a night hold, by light curves of its comparison stars.

    Attributes
    ----------
    within_one, within_two : float
        Share of the points of all null light curves within one and two sigma of their mean; 0.683 and 0.954 where the
        errors are right.
    factor : float
        By which errors would have to be multiplied for 68.3 per cent to be within one sigma.
    beta : float
        Red noise: median over the stars of the time-averaging factor.
    n_stars, n_points : int
        Stars and points that were compared.
    """

    within_one: float
    within_two: float
    factor: float
    beta: float
    n_stars: int
    n_points: int


def coverage_of(time: np.ndarray, relative: np.ndarray, relative_err: np.ndarray, scale: float) -> Coverage:
    """Coverage of the errors of null light curves.

    Each star's points are taken about the star's own weighted mean, with their errors made smaller by what the mean has
    of the point itself.

    Parameters
    ----------
    time : ndarray, shape (frame,)
        Times of the frames, days.
    relative, relative_err : ndarray, shape (frame, star)
        Relative flux of each comparison against the others, and its error; NaN where not known.
    scale : float
        Time scale of the red noise, days.

    Returns
    -------
    Coverage
        NaN where there is no null light curve.
    """
    pulls, betas = [], []
    for flux, error in zip(relative.T, relative_err.T, strict=True):
        known = np.isfinite(flux) & np.isfinite(error) & (error > 0)
        if np.count_nonzero(known) < 3:
            continue
        weight = error[known] ** -2.0
        mean = float(np.sum(weight * flux[known]) / np.sum(weight))
        left = np.sqrt(np.maximum(error[known] ** 2 - 1.0 / np.sum(weight), np.finfo(float).tiny))
        pulls.append((flux[known] - mean) / left)
        betas.append(time_averaging_beta(time[known], flux[known] - mean, scale, 1))
    if not pulls:
        return Coverage(np.nan, np.nan, np.nan, np.nan, 0, 0)
    away = np.abs(np.concatenate(pulls))
    return Coverage(
        within_one=float(np.mean(away <= 1.0)),
        within_two=float(np.mean(away <= 2.0)),
        factor=float(np.quantile(away, ONE_SIGMA)),
        beta=float(np.median(betas)),
        n_stars=len(pulls),
        n_points=len(away),
    )
