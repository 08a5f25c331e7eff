"""Zero point and colour term of a night, from stars whose magnitudes are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from opticam_dask.kernels.robust import MAD_TO_SIGMA

#: Stars further than this from the fit, in units of its robust scatter, are variables, blends or mistaken.
_OUTLIERS = 3.5

#: and this much further where there are few, divided by their number.
_OUTLIERS_OF_FEW = 12.0

#: Share of a normal distribution below one sigma.
_ONE_SIGMA = 0.841345

#: Rounds of fitting and leaving out.
_ROUNDS = 5

#: A scatter smaller than this is that of too few stars, magnitudes.
_LEAST_SCATTER = 1e-3

#: Fewer stars than this have no scatter that could be trusted.
_FEWEST_STARS = 3

#: Colours must differ by this, magnitudes, for a colour term.
_LEAST_COLOURS = 0.1


@dataclass(frozen=True, eq=False)
class ZeroPoint:
    """Zero point and colour term from instrumental to catalogue magnitudes: ``zero + term * (colour - middle)``.

    Attributes
    ----------
    zero, zero_err : float
        At the middle of the colours, and its 1-sigma error from the scatter of the stars about the fit.
    term, term_err : float
        Colour term; 0 where none was fitted.
    middle, spread : float
        Mean and standard deviation of the colours of the stars; 0 without a colour.
    scatter : float
        Standard deviation of the stars about the fit: errors of the catalogue, of the photometry, and all that a colour
        does not tell.
    is_used : ndarray of bool, shape (star,)
        Stars that fit and were used.
    """

    zero: float
    zero_err: float
    term: float
    term_err: float
    middle: float
    spread: float
    scatter: float
    is_used: np.ndarray

    def at(self, colour: float) -> tuple[float, float]:
        """Zero point for a star of a colour, and its error, which for an unknown colour has their spread in it."""
        if not self.spread:
            return self.zero, self.zero_err
        if not np.isfinite(colour):
            return self.zero, float(np.hypot(self.zero_err, self.term * self.spread))
        away = colour - self.middle
        return self.zero + self.term * away, float(np.hypot(self.zero_err, self.term_err * away))


def fit_zero_point(
    instrumental: np.ndarray, instrumental_err: np.ndarray, known: np.ndarray, colour: np.ndarray | None = None
) -> ZeroPoint:
    """Fit ``known - instrumental`` by a constant and perhaps a colour term, without the stars that do not fit.

    Stars are weighted by their instrumental errors and the scatter that is left, which are solved for each other, so
    that bright stars do not outweigh all others by photon noise alone. Errors are those of the scatter.

    Parameters
    ----------
    instrumental, instrumental_err : ndarray, shape (star,)
        Instrumental magnitudes and their errors; NaN where not known.
    known : ndarray, shape (star,)
        Magnitudes of a catalogue.
    colour : ndarray, shape (star,), optional
        Colours of a catalogue.

    Returns
    -------
    ZeroPoint

    Raises
    ------
    ValueError
        With fewer than three stars that have all of these.
    """
    difference = known - instrumental
    usable = np.isfinite(difference) & np.isfinite(instrumental_err)
    if colour is not None:
        usable &= np.isfinite(colour)
    if np.count_nonzero(usable) < _FEWEST_STARS:
        raise ValueError(
            f"a zero point needs at least {_FEWEST_STARS} stars with a magnitude, got {np.count_nonzero(usable)}"
        )
    has_term = colour is not None and bool(np.ptp(colour[usable]) > _LEAST_COLOURS) and usable.sum() > _FEWEST_STARS
    colours = colour if has_term and colour is not None else np.zeros(len(known))
    used, scatter = usable.copy(), _robust(difference[usable])
    for _ in range(_ROUNDS):
        fit = _fit(difference, instrumental_err, colours, used, scatter, has_term=has_term)
        scatter = _robust(fit.residual[used])
        # the robust scatter of a few stars is hardly known
        limit = (_OUTLIERS + _OUTLIERS_OF_FEW / np.count_nonzero(used)) * np.hypot(instrumental_err, scatter)
        # a bad star among a few pulls the fit, so that all stand apart from it: from their median it alone does
        residual = fit.residual - np.median(fit.residual[used])
        new = usable & (np.abs(residual) <= limit)
        if np.count_nonzero(new) < _FEWEST_STARS or np.array_equal(new, used):
            break
        used = new
    n_free = max(1, int(np.count_nonzero(used)) - len(fit.found))
    for _ in range(_ROUNDS):
        total = float(np.sum(fit.residual[used] ** 2)) / n_free
        scatter = float(np.sqrt(max(total - np.mean(instrumental_err[used] ** 2), 0.0)))
        fit = _fit(difference, instrumental_err, colours, used, scatter, has_term=has_term)
    chi2 = float(np.sum((fit.residual * fit.weight)[used] ** 2)) / n_free
    # as the scatter of a few stars is itself uncertain, 68 per cent are within more than one sigma (Student 1908)
    errors = np.sqrt(np.diag(fit.covariance) * max(chi2, 1.0)) * stdtrit(n_free, _ONE_SIGMA)
    found, middle = fit.found, fit.middle
    return ZeroPoint(
        zero=float(found[0]),
        zero_err=float(errors[0]),
        term=float(found[1]) if has_term else 0.0,
        term_err=float(errors[1]) if has_term else 0.0,
        middle=middle if has_term else 0.0,
        spread=float(np.std(colours[used])) if has_term else 0.0,
        scatter=float(np.sqrt(np.sum(fit.residual[used] ** 2) / n_free)),
        is_used=used,
    )


class _StarFit(NamedTuple):
    """Coefficients with their covariance, middle of the colours, and residual and weight of each star."""

    found: np.ndarray
    covariance: np.ndarray
    middle: float
    residual: np.ndarray
    weight: np.ndarray


def _fit(
    difference: np.ndarray, error: np.ndarray, colours: np.ndarray, used: np.ndarray, scatter: float, *, has_term: bool
) -> _StarFit:
    """Weighted fit to the stars that are used."""
    middle = float(np.mean(colours[used]))
    columns = np.column_stack([np.ones(len(difference)), *([colours - middle] if has_term else [])])
    weight = 1.0 / np.hypot(error, max(scatter, _LEAST_SCATTER))
    design = columns[used] * weight[used, None]
    found, *_ = np.linalg.lstsq(design, difference[used] * weight[used], rcond=None)
    return _StarFit(found, np.linalg.inv(design.T @ design), middle, difference - columns @ found, weight)


def _robust(values: np.ndarray) -> float:
    return max(_LEAST_SCATTER, float(MAD_TO_SIGMA * np.median(np.abs(values - np.median(values)))))
