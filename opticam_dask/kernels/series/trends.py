"""Trends of a light curve with airmass, seeing, position and sky, and points that stand out from their neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from opticam_dask.kernels.robust import MAD_TO_SIGMA

#: Vectors are nearly the same when the condition number of their correlations exceeds this (Belsley, Kuh & Welsch
#: 1980, Regression Diagnostics: condition indices above 30, which are its square root).
_MAX_CONDITION = 900.0

#: Vectors with a correlation above this are named.
_NEARLY_SAME = 0.95

#: Points in the neighbourhood of a point; at the ends it is that number of first or last points.
_WINDOW = 25

#: A vector that changes by less than this share of itself does not change.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Trends:
    """Linear trends of a relative flux: ``flux = level (1 + sum(coefficient_k z_k))``.

    Attributes
    ----------
    names : tuple of str
        Vectors, in the order of the coefficients.
    coefficients, errors : ndarray, shape (k,)
        Relative change of the flux when a vector changes by its standard deviation, and 1-sigma errors.
    level : float
        Flux without any trend.
    model, model_err : ndarray, shape (frame,)
        ``1 + sum(coefficient_k z_k)``, by which a flux is to be divided, and its error, which is not independent from
        frame to frame; NaN where a vector is not known.
    degrees_of_freedom : int
        Frames of the fit minus parameters.
    reduced_chi2 : float
        Chi square of the fit a degree of freedom.
    warnings : tuple of str
        What a reader of the result has to know.
    """

    names: tuple[str, ...]
    coefficients: np.ndarray
    errors: np.ndarray
    level: float
    model: np.ndarray
    model_err: np.ndarray
    degrees_of_freedom: int
    reduced_chi2: float
    warnings: tuple[str, ...]


def fit_trends(
    flux: np.ndarray, flux_err: np.ndarray, vectors: Mapping[str, np.ndarray], use: np.ndarray | None = None
) -> Trends:
    """Fit a flux by a constant and vectors, by weighted linear least squares.

    Vectors are brought to mean 0 and standard deviation 1. The errors of the coefficients are scaled up where the flux
    scatters more about the fit than its errors allow, never down.

    Parameters
    ----------
    flux, flux_err : ndarray, shape (frame,)
        Fluxes and their errors.
    vectors : dict of ndarray, shape (frame,)
        By name; NaN where not known.
    use : ndarray of bool, shape (frame,), optional
        Frames to fit (those out of a transit); the trend is taken off all of them.

    Returns
    -------
    Trends

    Raises
    ------
    ValueError
        When a vector does not change, vectors cannot be told apart, or there are fewer frames than parameters + 2.
    """
    names = tuple(vectors)
    columns = np.column_stack([np.asarray(vectors[name], dtype=float) for name in names])
    chosen = np.isfinite(flux) & np.isfinite(flux_err) & (flux_err > 0) & np.isfinite(columns).all(axis=1)
    if use is not None:
        chosen &= use
    n_fit, n_parameters = int(np.count_nonzero(chosen)), len(names) + 1
    if n_fit < n_parameters + 2:
        raise ValueError(
            f"at least {n_parameters + 2} frames are needed to fit trends with {', '.join(names)}, got {n_fit} with a "
            "flux and all of them"
        )
    spread = columns[chosen].std(axis=0)
    smallest = _ROUNDING * np.abs(columns[chosen]).max(axis=0)
    if constant := [name for name, width, least in zip(names, spread, smallest, strict=True) if width <= least]:
        raise ValueError(f"{', '.join(constant)} does not change in the frames of the fit: nothing can depend on it")
    scaled = (columns - columns[chosen].mean(axis=0)) / spread
    design = np.column_stack([np.ones(len(scaled)), scaled])
    weighted = design[chosen] / flux_err[chosen, None]
    if np.linalg.matrix_rank(weighted) < n_parameters:
        raise ValueError(f"{', '.join(names)} cannot be told apart in the frames of the fit: leave one of them out")
    covariance = np.linalg.inv(weighted.T @ weighted)
    values = flux[chosen] / flux_err[chosen]
    found = covariance @ (weighted.T @ values)
    chi2 = float(np.sum((values - weighted @ found) ** 2)) / (n_fit - n_parameters)
    relative, relative_covariance = _relative(found, covariance * max(1.0, chi2))
    # frame by frame, so that a matrix product of another shape cannot round otherwise
    variance = np.einsum("fi,ij,fj->f", scaled, relative_covariance, scaled)
    return Trends(
        names=names,
        coefficients=relative,
        errors=np.sqrt(np.diag(relative_covariance)),
        level=float(found[0]),
        model=1.0 + scaled @ relative,
        model_err=np.sqrt(variance),
        degrees_of_freedom=n_fit - n_parameters,
        reduced_chi2=chi2,
        warnings=_collinear(names, scaled[chosen]),
    )


def _relative(found: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients relative to the constant, and their covariance to first order."""
    relative = found[1:] / found[0]
    jacobian = np.column_stack([-relative / found[0], np.eye(len(relative)) / found[0]])
    return relative, jacobian @ covariance @ jacobian.T


def _collinear(names: tuple[str, ...], scaled: np.ndarray) -> tuple[str, ...]:
    """Say which vectors are so alike that their coefficients mean nothing one by one."""
    if len(names) < 2:
        return ()
    correlation = np.corrcoef(scaled.T)
    lines = [
        f"{names[i]} and {names[j]} are nearly the same (correlation {correlation[i, j]:.3f}): their coefficients mean "
        "little one by one"
        for i in range(len(names))
        for j in range(i)
        if abs(correlation[i, j]) > _NEARLY_SAME
    ]
    if not lines and np.linalg.cond(correlation) > _MAX_CONDITION:
        lines = [f"{', '.join(names)} are nearly dependent on each other: their coefficients mean little one by one"]
    return tuple(lines)


def remove_trends(flux: np.ndarray, flux_err: np.ndarray, trends: Trends) -> tuple[np.ndarray, np.ndarray]:
    """Divide a flux by its trends; the error of the trends goes into that of the flux.

    Parameters
    ----------
    flux, flux_err : ndarray, shape (frame,)
        Fluxes and their errors.
    trends : Trends
        The fitted trends.

    Returns
    -------
    flux, flux_err : ndarray, shape (frame,)
        NaN where a vector is not known, or the model is not positive.
    """
    model = np.where(trends.model > 0, trends.model, np.nan)
    corrected = flux / model
    return corrected, np.hypot(flux_err, corrected * trends.model_err) / model


def find_outliers(flux: np.ndarray, flux_err: np.ndarray, n_sigma: float = 5.0) -> np.ndarray:
    """Mark points that are far from the running median of their neighbours.

    Far is ``n_sigma`` times the larger of the error of the point and the scatter of its neighbours about their median
    (from the median absolute deviation, which a few outliers do not change).

    Parameters
    ----------
    flux, flux_err : ndarray, shape (frame,)
        In time order; NaN is never an outlier, and no neighbour.
    n_sigma : float
        Infinity marks nothing.

    Returns
    -------
    ndarray of bool, shape (frame,)

    Raises
    ------
    ValueError
        When ``n_sigma`` is not above 0.
    """
    if not n_sigma > 0:
        raise ValueError(f"expected n_sigma above 0, got {n_sigma:g}")
    marked = np.zeros(len(flux), dtype=bool)
    known = np.flatnonzero(np.isfinite(flux) & np.isfinite(flux_err))
    size = min(_WINDOW, len(known))
    if size < 5 or np.isinf(n_sigma):
        return marked
    values = flux[known]
    windows = sliding_window_view(values, size)
    centre = np.median(windows, axis=1)
    scatter = MAD_TO_SIGMA * np.median(np.abs(windows - centre[:, None]), axis=1)
    nearest = np.clip(np.arange(len(values)) - size // 2, 0, len(windows) - 1)
    noise = np.maximum(flux_err[known], scatter[nearest])
    marked[known] = np.abs(values - centre[nearest]) > n_sigma * noise
    return marked
