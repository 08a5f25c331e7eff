"""Fit of a shape to light curves that each have a linear baseline of their own: best values, red noise, posterior."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares

from opticam_dask.kernels.fitting.correlated import LinearSeries, Whitening, whitening
from opticam_dask.kernels.fitting.red_noise import time_averaging_beta
from opticam_dask.kernels.fitting.shapes import required
from opticam_dask.kernels.robust import MAD_TO_SIGMA

#: Points further than this from the first fit, in units of the larger of error and robust scatter, are not fitted.
_OUTLIERS = 5.0

#: Coefficients of the baseline are expected within this of 0, relative to the flux, for one standard deviation of
#: their vector: wide enough for any baseline, and vectors that are alike cannot run away.
_WIDEST_COEFFICIENT = 1.0

#: Walkers for each parameter,
_WALKERS_A_PARAMETER = 6
#: and no fewer than this in all.
_FEWEST_WALKERS = 24

#: First share of a chain that is left out.
_BURN_IN = 1.0 / 3.0

#: A chain of fewer autocorrelation times than this is told to be short (Foreman-Mackey et al. 2013, Sect. 5).
_LONG_ENOUGH = 50.0

#: Derivatives of a shape are taken over this part of the width of a parameter,
_SLOPE_STEP = 0.02
#: and those of a search over this one.
_SMALL_STEP = 1e-4

#: What a search takes values to deviate by that are impossible, in units of errors.
_IMPOSSIBLE = 1e3

#: Samples that are kept, evenly spaced.
_KEPT_SAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Series:
    """One light curve with its baseline: a camera in a night.

    Attributes
    ----------
    time, flux, flux_err : ndarray, shape (frame,)
        In time order, all finite; the flux in any unit, its errors positive.
    vectors : ndarray, shape (frame, k)
        What the baseline may depend on linearly, of mean 0 and standard deviation 1.
    """

    time: np.ndarray
    flux: np.ndarray
    flux_err: np.ndarray
    vectors: np.ndarray


#: Relative flux of a shape at the times of one series, from the values of all parameters.
Curve = Callable[[np.ndarray], np.ndarray]
#: Deviations of values from what is known of them beforehand, in units of its errors.
Prior = Callable[[np.ndarray], np.ndarray | float]


@dataclass(frozen=True)
class FreeValue:
    """A free parameter of a shape: its name, limits and step.

    Attributes
    ----------
    name : str
        Name of the parameter.
    low, high : float
        Its range.
    width : float
        By how much it is changed to begin with.
    """

    name: str
    low: float
    high: float
    width: float


@dataclass(frozen=True, eq=False)
class Solution:
    """Result of a fit: best values, errors, samples and red noise.

    Attributes
    ----------
    best : ndarray, shape (parameter,)
        Most probable values.
    samples : ndarray, shape (sample, parameter)
        Samples of the posterior.
    models, baselines : list of ndarray, shape (frame,)
        Shape and baseline of each series, the latter in the unit of the flux; their product is the fitted flux.
    coefficients : list of ndarray, shape (1 + k,)
        Baseline of each series: level, and change of the flux for one standard deviation of each vector.
    errors : list of ndarray, shape (frame,)
        Errors of the fluxes, with their excess scatter.
    used : list of ndarray of bool, shape (frame,)
        False for outliers.
    reduced_chi2, beta : ndarray, shape (series,)
        With the errors as they came; time-averaging factor of the red noise.
    autocorrelation : float
        Longest autocorrelation time of the chain, steps.
    warnings : tuple of str
        Reasons not to trust the fit, one line each; empty when there are none.
    """

    best: np.ndarray
    samples: np.ndarray
    models: list[np.ndarray]
    baselines: list[np.ndarray]
    coefficients: list[np.ndarray]
    errors: list[np.ndarray]
    used: list[np.ndarray]
    reduced_chi2: np.ndarray
    beta: np.ndarray
    autocorrelation: float
    warnings: tuple[str, ...] = ()


def fit_shape(
    series: Sequence[Series],
    curves: Sequence[Curve],
    parameters: Sequence[FreeValue],
    starts: Sequence[Sequence[float]],
    prior: Prior,
    time_scale: Callable[[np.ndarray], float],
    *,
    n_steps: int = 1500,
    seed: int = 0,
) -> Solution:
    """Fit light curves jointly: shape times baseline.

    The coefficients of the baselines are marginalised analytically (they are linear). Errors are scaled up, series by
    series, where the flux scatters more about the first fit than they allow. What is left by the first fit says how the
    noise is correlated in time (:func:`~opticam_dask.kernels.fitting.correlated.whitening`); the last fit and the
    posterior have it in their likelihood.

    Parameters
    ----------
    series : sequence of Series
        Light curves, each with its baseline.
    curves : sequence of callable
        The shape at the times of each series.
    parameters : sequence of FreeValue
        Free parameters of the shape.
    starts : sequence of sequence of float
        Values that the search begins with; the one that ends best counts.
    prior : callable
        Deviations of the values from what is known of them, each in units of its error; infinite where values are
        impossible.
    time_scale : callable
        Time scale on which the red noise is told (ingress, a quarter of a period) from the values.
    n_steps : int
        Steps of each walker, a third of which is left out; 0 takes the posterior as a Gaussian.
    seed : int
        Seed of the random numbers.

    Returns
    -------
    Solution

    Raises
    ------
    ValueError
        With fewer points than parameters.
    ImportError
        When emcee is not installed and steps are asked for.
    """
    n_points = sum(len(one.time) for one in series)
    n_free = len(parameters) + sum(1 + one.vectors.shape[1] for one in series)
    if n_points < n_free + 3:
        raise ValueError(f"{n_free} parameters need at least {n_free + 3} frames with a flux, got {n_points}")
    fitted = _JointFit(list(series), list(curves), list(parameters), prior)
    ends = [fitted.best(np.array(start), is_robust=True) for start in starts]
    best = min(ends, key=lambda end: end.cost).values
    used = fitted.inliers(best)
    fitted = fitted.of_frames(used)
    best = fitted.best(best).values
    chi2, beta = fitted.noise(best, time_scale(best))
    factors = np.sqrt(np.maximum(chi2, 1.0))
    fitted = fitted.with_errors_times(factors)
    best = fitted.best(best).values
    fitted = fitted.whitened([whitening(one) for one in fitted.linearised(best)])
    best, covariance, _ = fitted.best(best)
    rng = np.random.RandomState(seed)
    samples, autocorrelation, warnings = fitted.sample(best, covariance, n_steps, rng)
    coefficients = [fitted.solve(place, best)[0] for place in range(len(series))]
    return Solution(
        best=best,
        samples=samples,
        models=[curve(best) for curve in curves],
        baselines=[_design(one) @ found for one, found in zip(series, coefficients, strict=True)],
        coefficients=coefficients,
        errors=[one.flux_err * factor for one, factor in zip(series, factors, strict=True)],
        used=used,
        reduced_chi2=chi2,
        beta=beta,
        autocorrelation=autocorrelation,
        warnings=warnings,
    )


def _design(one: Series) -> np.ndarray:
    return np.column_stack([np.ones(len(one.time)), one.vectors])


class _Best(NamedTuple):
    """Most probable values, their covariance, and half of the chi-square there."""

    values: np.ndarray
    covariance: np.ndarray
    cost: float


class _JointFit:
    """Light curves, what they are fitted with, and which of their frames are."""

    def __init__(
        self,
        series: list[Series],
        curves: list[Curve],
        parameters: list[FreeValue],
        prior: Prior,
        used: list[np.ndarray] | None = None,
        whitenings: Sequence[Whitening | None] = (),
    ) -> None:
        self.series, self.curves, self.parameters, self.prior = series, curves, parameters, prior
        self.used = used or [np.ones(len(one.time), dtype=bool) for one in series]
        self.low = np.array([one.low for one in parameters])
        self.high = np.array([one.high for one in parameters])
        self.width = np.array([one.width for one in parameters])
        self.whitenings = list(whitenings) or [None] * len(series)
        self._scaled = [
            (_design(one)[mask] / one.flux_err[mask, None], one.flux[mask] / one.flux_err[mask])
            for one, mask in zip(series, self.used, strict=True)
        ]
        levels = [abs(float(np.median(one.flux[mask]))) for one, mask in zip(series, self.used, strict=True)]
        self._levels = levels
        # the level is free; the coefficients of vectors are held as their constant says
        self._penalties = [
            np.array([0.0] + [(_WIDEST_COEFFICIENT * level) ** -2.0] * one.vectors.shape[1])
            for one, level in zip(series, levels, strict=True)
        ]

    def of_frames(self, used: list[np.ndarray]) -> _JointFit:
        return _JointFit(self.series, self.curves, self.parameters, self.prior, used)

    def with_errors_times(self, factors: np.ndarray) -> _JointFit:
        scaled = [
            replace(one, flux_err=one.flux_err * factor) for one, factor in zip(self.series, factors, strict=True)
        ]
        return _JointFit(scaled, self.curves, self.parameters, self.prior, self.used)

    def whitened(self, whitenings: Sequence[Whitening | None]) -> _JointFit:
        return _JointFit(self.series, self.curves, self.parameters, self.prior, self.used, whitenings)

    def solve(self, place: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Coefficients of a baseline, white residuals of variance 1, and the logarithm of the determinant."""
        design, flux = self._scaled[place]
        shaped = design * self.curves[place](values)[self.used[place], None]
        if (white := self.whitenings[place]) is not None:
            columns = white(np.column_stack([flux, shaped]))
            flux, shaped = columns[:, 0], columns[:, 1:]
        normal = shaped.T @ shaped + np.diag(self._penalties[place])
        found = np.linalg.solve(normal, shaped.T @ flux)
        return found, flux - shaped @ found, float(np.linalg.slogdet(normal)[1])

    def residuals(self, values: np.ndarray) -> np.ndarray:
        return np.concatenate([self.solve(place, values)[1] for place in range(len(self.series))])

    def best(self, start: np.ndarray, *, is_robust: bool = False) -> _Best:
        """Most probable values; robust ones are for a start and are not moved by outliers."""
        inside = np.clip(start, self.low + 1e-9 * self.width, self.high - 1e-9 * self.width)
        scale = 1.0
        if is_robust:
            # errors that are too small must not make all points outliers
            first = self.residuals(inside)
            scale = max(1.0, MAD_TO_SIGMA * float(np.median(np.abs(first - np.median(first)))))

        def with_prior(values: np.ndarray) -> np.ndarray:
            return np.append(self.residuals(values) / scale, np.minimum(self.prior(values), _IMPOSSIBLE))

        found = least_squares(
            with_prior,
            inside,
            bounds=(self.low, self.high),
            x_scale=self.width,
            loss="soft_l1" if is_robust else "linear",
            jac=lambda values: self._jacobian(with_prior, values),
        )
        curvature = found.jac.T @ found.jac / scale**2 if is_robust else found.jac.T @ found.jac
        weakest = np.diag((self.high - self.low) ** -2.0)
        return _Best(found.x, np.linalg.inv(curvature + weakest), float(found.cost) * scale**2)

    def _jacobian(self, function: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> np.ndarray:
        """Derivatives of a function; over steps of a parameter's own width, as its value may be 0."""
        here, step = function(values), _SMALL_STEP * self.width
        step = np.where(values + step > self.high, -step, step)
        columns = [(function(values + shift) - here) / shift.sum() for shift in np.diag(step)]
        return np.column_stack(columns)

    def inliers(self, values: np.ndarray) -> list[np.ndarray]:
        used = []
        for place in range(len(self.series)):
            residual = self.solve(place, values)[1]
            scatter = max(1.0, MAD_TO_SIGMA * float(np.median(np.abs(residual - np.median(residual)))))
            used.append(np.abs(residual) <= _OUTLIERS * scatter)
        return used

    def noise(self, values: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
        """Reduced chi-square and red-noise factor of each series."""
        # each series has its share of the parameters of the shape
        share = len(self.parameters) / len(self.series)
        chi2, beta = [], []
        for place, (one, mask) in enumerate(zip(self.series, self.used, strict=True)):
            residual = self.solve(place, values)[1]
            n_free = 1 + one.vectors.shape[1] + share
            chi2.append(float(residual @ residual) / max(1.0, len(residual) - n_free))
            beta.append(time_averaging_beta(one.time[mask], residual, scale, round(n_free)))
        return np.array(chi2), np.array(beta)

    def linearised(self, values: np.ndarray) -> list[LinearSeries]:
        """Each series with its residuals and the derivatives of its model, in units of the errors."""
        found = []
        for place, (one, mask) in enumerate(zip(self.series, self.used, strict=True)):
            coefficients, residual, _ = self.solve(place, values)
            design, curve = self._scaled[place][0], self.curves[place]
            slopes = [self._slope(curve, values, number)[mask] for number in range(len(values))]
            shape, baseline = curve(values)[mask], design @ coefficients
            columns = [baseline[:, None] * np.column_stack(slopes), design * shape[:, None]]
            found.append(LinearSeries(one.time[mask], residual, np.hstack(columns)))
        return found

    def _slope(self, curve: Curve, values: np.ndarray, number: int) -> np.ndarray:
        """Derivative of a shape by one of its parameters."""
        ends = []
        for sign in (-1.0, 1.0):
            moved = values.copy()
            moved[number] = np.clip(
                values[number] + sign * _SLOPE_STEP * self.width[number], self.low[number], self.high[number]
            )
            ends.append((moved[number], curve(moved)))
        (low, before), (high, after) = ends
        slope: np.ndarray = (after - before) / (high - low)
        return slope

    def log_probability(self, values: np.ndarray) -> float:
        if np.any(values <= self.low) or np.any(values >= self.high):
            return -np.inf
        total = -0.5 * float(np.sum(np.square(self.prior(values))))
        if not np.isfinite(total):
            return -np.inf
        for place in range(len(self.series)):
            _, residual, determinant = self.solve(place, values)
            total -= 0.5 * (float(residual @ residual) + determinant)
        return total if np.isfinite(total) else -np.inf

    def sample(
        self, best: np.ndarray, covariance: np.ndarray, n_steps: int, rng: np.random.RandomState
    ) -> tuple[np.ndarray, float, tuple[str, ...]]:
        """Samples of the posterior."""
        if not n_steps:
            drawn = rng.multivariate_normal(best, covariance, _KEPT_SAMPLES)
            return np.clip(drawn, self.low, self.high), 1.0, ()
        emcee = required("emcee", "emcee")
        n_walkers = max(_FEWEST_WALKERS, _WALKERS_A_PARAMETER * len(best))
        start = self._around(best, covariance, n_walkers, rng)
        moves = [(emcee.moves.DEMove(), 0.8), (emcee.moves.DESnookerMove(), 0.2)]
        sampler = emcee.EnsembleSampler(n_walkers, len(best), self.log_probability, moves=moves)
        sampler.random_state = rng.get_state()
        sampler.run_mcmc(start, n_steps)
        burn = int(_BURN_IN * n_steps)
        chain = sampler.get_chain(discard=burn)
        longest = float(np.max(sampler.get_autocorr_time(discard=burn, quiet=True, tol=0)))
        warnings: tuple[str, ...] = ()
        if not (n_steps - burn) > _LONG_ENOUGH * longest:
            warnings = (
                f"the chain of {n_steps - burn} steps is {(n_steps - burn) / longest:.0f} autocorrelation times long: "
                f"with more steps errors are surer",
            )
        flat = chain.reshape(-1, len(best))
        kept = np.linspace(0, len(flat) - 1, min(_KEPT_SAMPLES, len(flat))).round().astype(int)
        return flat[kept], longest, warnings

    def _around(
        self, best: np.ndarray, covariance: np.ndarray, n_walkers: int, rng: np.random.RandomState
    ) -> np.ndarray:
        """Where the walkers begin: around the best values, inside of the ranges."""
        # no wider than a first step: a parameter that is not constrained has a covariance beyond its range
        spread = np.minimum(np.sqrt(np.diag(covariance)), self.width)
        margin = 1e-3 * np.minimum(self.width, self.high - self.low)
        walkers: list[np.ndarray] = []
        shrink = 1.0
        while len(walkers) < n_walkers:
            one = np.clip(best + shrink * spread * rng.standard_normal(len(best)), self.low, self.high)
            one = np.where(one <= self.low, self.low + margin * rng.uniform(size=len(best)), one)
            one = np.where(one >= self.high, self.high - margin * rng.uniform(size=len(best)), one)
            if np.isfinite(self.log_probability(one)):
                walkers.append(one)
            else:
                shrink *= 0.95
        return np.array(walkers)
