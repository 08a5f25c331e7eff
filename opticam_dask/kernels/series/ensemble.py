"""Comparison stars: their mean light curve, and which of them are fit for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from opticam_dask.kernels.robust import MAD_TO_SIGMA

Weighting = Literal["sum", "optimal"]

#: Levels of stars and of frames are solved for each other in this many rounds at most,
_ROUNDS = 50
#: or until they change by less than this part.
_AT_REST = 1e-10

#: A candidate whose scatter is this many times its expected error varies.
_VARIABLE = 1.5

#: A candidate needs a flux in this share of the frames,
_OFTEN = 0.9
#: and may be flagged in no more than this share.
_SELDOM = 0.1

#: Its flux may be this many times that of the target, at least and at most.
_BRIGHTNESS = (0.2, 10.0)
#: The most comparisons that are chosen.
_MOST_CHOSEN = 10

#: Rounds in which stars are brought to one level when they are looked at one by one.
_LEVELLING_ROUNDS = 4

#: Apertures are judged by at most this many stars,
_TRIAL_STARS = 20
#: each with at least this signal-to-noise ratio;
_TRIAL_RATIO = 30.0
#: by no fewer stars,
_TRIAL_LEAST = 3
#: and by no fewer frames.
_TRIAL_FRAMES = 10


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Mean light curve of comparison stars.

    Attributes
    ----------
    flux, flux_err : ndarray, shape (frame,)
        In units of the summed mean fluxes of all stars; NaN where no star has a flux.
    weights : ndarray, shape (star,)
        Their sum is 1.
    """

    flux: np.ndarray
    flux_err: np.ndarray
    weights: np.ndarray


def combine_stars(flux: np.ndarray, flux_err: np.ndarray, weighting: Weighting = "optimal") -> Ensemble:
    """Mean light curve of stars, without a jump where one of them is missing in a frame.

    Each star is divided by its mean level before the mean is taken; levels of stars and of frames are solved for each
    other (Honeycutt 1992, PASP 104, 435; Broeg et al. 2005, AN 326, 134).

    Parameters
    ----------
    flux, flux_err : ndarray, shape (frame, star)
        NaN where a star has no flux.
    weighting : {"optimal", "sum"}
        ``"sum"`` weights stars by their light, as if their fluxes were added. ``"optimal"`` weights them by the inverse
        of the variance of their relative flux: errors, and what they scatter against the others beyond them.

    Returns
    -------
    Ensemble

    Raises
    ------
    ValueError
        When a star has no positive flux in any frame.
    """
    known = np.isfinite(flux) & np.isfinite(flux_err)
    values, errors = np.where(known, flux, 0.0), np.where(known, flux_err, 0.0)
    level = np.array(
        [np.median(column[use]) if use.any() else 0.0 for column, use in zip(flux.T, known.T, strict=True)]
    )
    if not np.all(level > 0):
        bad = (np.flatnonzero(~(level > 0)) + 1).tolist()
        raise ValueError(f"comparison stars {bad} (in the order given) have no positive flux")
    weights = level / level.sum()
    for round_number in range(_ROUNDS):
        frame = _weighted(values / level, weights, known)
        if weighting == "optimal":
            weights = _inverse_variances(values / level, errors / level, known, frame)
        with np.errstate(invalid="ignore", divide="ignore"):
            new = np.nansum(np.where(known, values / frame[:, None], 0.0), axis=0) / known.sum(axis=0)
        change, level = np.max(np.abs(new / level - 1.0)), new
        if weighting == "sum":
            weights = level / level.sum()
        if round_number and change < _AT_REST:
            break
    frame = _weighted(values / level, weights, known)
    share = np.sum(np.where(known, weights, 0.0), axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.sqrt(np.sum((weights * errors / level) ** 2, axis=1)) / share
    return Ensemble(frame * level.sum(), np.where(share > 0, error, np.nan) * level.sum(), weights)


def _weighted(values: np.ndarray, weights: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Weighted mean over the stars that are known in each frame, shape (frame,)."""
    share = np.sum(np.where(known, weights, 0.0), axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: np.ndarray = np.sum(np.where(known, weights * values, 0.0), axis=1) / share
    return np.where(share > 0, mean, np.nan)


def _inverse_variances(values: np.ndarray, errors: np.ndarray, known: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Weights from the larger of each star's error and its scatter about the mean of all; their sum is 1."""
    variances = []
    for column in range(values.shape[1]):
        use = known[:, column] & np.isfinite(frame)
        expected = np.median((errors[use, column] / frame[use]) ** 2)
        variances.append(max(float(expected), _robust_scatter(values[use, column] / frame[use]) ** 2))
    inverse = 1.0 / np.maximum(variances, np.finfo(float).tiny)
    weights: np.ndarray = inverse / inverse.sum()
    return weights


def _robust_scatter(values: np.ndarray) -> float:
    return float(MAD_TO_SIGMA * np.median(np.abs(values - np.median(values)))) if len(values) else float("nan")


@dataclass(frozen=True)
class Candidate:
    """Properties of one possible comparison star.

    Attributes
    ----------
    column : int
        Column of the source.
    kind : {"chosen", "too faint", "too bright", "often flagged", "seldom measured", "variable", "less precise"}
        Whether it is used as comparison star, and if not, why.
    reason : str
        A sentence about that, with numbers.
    scatter, expected : float
        Relative scatter against the other candidates, and what the errors make of it; NaN where not looked at.
    """

    column: int
    kind: str
    reason: str
    scatter: float = float("nan")
    expected: float = float("nan")


def choose_comparisons(
    flux: np.ndarray,
    flux_err: np.ndarray,
    is_flagged: np.ndarray,
    target: int,
) -> list[Candidate]:
    """Choose comparison stars by their own light curves; only the typical flux of the target is used.

    Candidates are of similar brightness and seldom flagged. While one varies (its scatter against the mean of the
    others is more than 1.5 times what the errors allow, or what is typical of the others), the worst is taken out; then
    the ten most precise stay.

    Parameters
    ----------
    flux, flux_err : ndarray, shape (frame, source)
        Fluxes of the sources in each frame, and their errors.
    is_flagged : ndarray of bool, shape (frame, source)
        Measurements with a flag that makes them useless (saturated, blended, at the edge, ...).
    target : int
        Column of the target.

    Returns
    -------
    list of Candidate
        One a source but the target, in the order of the sources.
    """
    typical = np.array(
        [np.median(column[np.isfinite(column)]) if np.isfinite(column).any() else np.nan for column in flux.T]
    )
    found: dict[int, Candidate] = {}
    left: list[int] = []
    for column in range(flux.shape[1]):
        if column != target:
            kind, reason = _unfit(flux[:, column], is_flagged[:, column], typical[column] / typical[target])
            if reason:
                found[column] = Candidate(column, kind, reason)
            else:
                left.append(column)
    while len(left) > 1:
        scatter, expected = _against_others(flux[:, left], flux_err[:, left])
        excess = scatter / expected
        usual = max(1.0, float(np.median(excess)))
        worst = int(np.argmax(excess))
        if len(left) < 3 or excess[worst] <= _VARIABLE * usual:
            break
        reason = f"varies: scatter {100 * scatter[worst]:.2f} %, {100 * expected[worst]:.2f} % is expected"
        numbers = float(scatter[worst]), float(expected[worst])
        found[left[worst]] = Candidate(left[worst], "variable", reason, *numbers)
        del left[worst]
    else:
        scatter = expected = np.full(len(left), np.nan)
    order = np.argsort(scatter, kind="stable") if len(left) > 1 else np.arange(len(left))
    for rank, position in enumerate(order.tolist()):
        numbers = float(scatter[position]), float(expected[position])
        told = ("chosen", "chosen")
        if rank >= _MOST_CHOSEN:
            told = ("less precise", f"{_MOST_CHOSEN} others are more precise")
        found[left[position]] = Candidate(left[position], *told, *numbers)
    return [found[column] for column in sorted(found)]


def scatter_of_apertures(
    flux: np.ndarray, flux_err: np.ndarray, is_flagged: np.ndarray, usual: int
) -> tuple[np.ndarray, int]:
    """How much constant stars scatter in each of some apertures, all stars together.

    Each of the brighter stars that do not vary is held against the mean of the others; its robust scatter in each
    aperture is taken relative to that in all of them, and the median over the stars is the result, so that bright and
    faint stars have one voice each.

    Parameters
    ----------
    flux, flux_err : ndarray, shape (frame, source, radius)
        Fluxes and their errors, electrons.
    is_flagged : ndarray of bool, shape (frame, source, radius)
        Measurements with a flag that makes them useless.
    usual : int
        Number of the aperture by which stars are called bright.

    Returns
    -------
    scatter : ndarray, shape (radius,)
        1 on average; NaN with fewer than three stars that are constant, or ten frames.
    n_stars : int
        Stars it was measured on.
    """
    known = np.isfinite(flux) & np.isfinite(flux_err) & ~is_flagged
    often = known.all(axis=2).sum(axis=0) >= max(_TRIAL_FRAMES, _OFTEN * known.any(axis=(1, 2)).sum())
    ratio = _ratio_to_noise(flux[..., usual], flux_err[..., usual], often)
    bright = np.argsort(-ratio, kind="stable")[:_TRIAL_STARS]
    left = sorted(bright[ratio[bright] > _TRIAL_RATIO].tolist())
    frames = known[:, left].all(axis=(1, 2)) if left else np.zeros(len(flux), dtype=bool)
    flux, flux_err, n_radii = flux[frames], flux_err[frames], flux.shape[2]
    while len(left) >= _TRIAL_LEAST and len(flux) >= _TRIAL_FRAMES:
        scatter = np.array([_robust_against_others(flux[:, left, r], flux_err[:, left, r]) for r in range(n_radii)])
        expected = np.median(flux_err[:, left] / flux[:, left], axis=0).T
        # a star that varies does so in every aperture; one that loses light in a small one is what is looked for
        excess = np.min(scatter / expected, axis=0)
        worst = int(np.argmax(excess))
        if len(left) == _TRIAL_LEAST or excess[worst] <= _VARIABLE * max(1.0, float(np.median(excess))):
            relative = np.log(np.maximum(scatter, np.finfo(float).tiny))
            return np.exp(np.median(relative - relative.mean(axis=0), axis=1)), len(left)
        del left[worst]
    return np.full(n_radii, np.nan), len(left)


def _ratio_to_noise(flux: np.ndarray, flux_err: np.ndarray, often: np.ndarray) -> np.ndarray:
    """Median signal-to-noise ratio of the sources that are often measured; 0 for others."""
    ratio = np.zeros(flux.shape[1])
    for column in np.flatnonzero(often):
        use = np.isfinite(flux[:, column]) & (flux_err[:, column] > 0)
        ratio[column] = np.median(flux[use, column] / flux_err[use, column]) if use.any() else 0.0
    return ratio


def _robust_against_others(flux: np.ndarray, flux_err: np.ndarray) -> np.ndarray:
    """Robust relative scatter of each star against the weighted mean of the others, shape (star,)."""
    level = np.median(flux, axis=0)
    values, weights = flux / level, (level / np.median(flux_err, axis=0)) ** 2
    found = []
    for column in range(flux.shape[1]):
        others = np.arange(flux.shape[1]) != column
        # no star is more than half of the mean that the others are held against
        share = np.minimum(weights[others], weights[others].sum() / 2.0)
        found.append(_robust_scatter(values[:, column] / (values[:, others] @ share / share.sum())))
    return np.array(found)


def _unfit(flux: np.ndarray, is_flagged: np.ndarray, ratio: float) -> tuple[str, str]:
    """Why a source cannot be a comparison star, in general and with numbers; nothing when it can."""
    if np.mean(np.isfinite(flux)) < _OFTEN:
        return "seldom measured", f"has a flux in {100 * np.mean(np.isfinite(flux)):.0f} % of the frames only"
    if np.mean(is_flagged) > _SELDOM:
        return "often flagged", f"flagged in {100 * np.mean(is_flagged):.0f} % of the frames"
    if not _BRIGHTNESS[0] <= ratio <= _BRIGHTNESS[1]:
        kind = "too bright" if ratio > _BRIGHTNESS[1] else "too faint"
        return kind, f"{ratio:.2g} times as bright as the target"
    return "", ""


def _against_others(flux: np.ndarray, flux_err: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Relative scatter of each star against the weighted mean of the others, and what their errors make of it.

    The sums over all stars are made once; what one star has in them is taken off for its own comparison.
    """
    known = np.isfinite(flux) & np.isfinite(flux_err)
    level = np.array([np.median(column[use]) for column, use in zip(flux.T, known.T, strict=True)])
    expected = np.array([np.median(column[use]) for column, use in zip(flux_err.T, known.T, strict=True)]) / level
    scatter = np.zeros(len(level))
    for _ in range(_LEVELLING_ROUNDS):
        values, errors = np.where(known, flux / level, 0.0), np.where(known, flux_err / level, 0.0)
        # a star that varies must not make all others look as if they did
        weights = np.where(known, 1.0 / np.maximum(expected, scatter) ** 2, 0.0)
        own, own_variance = weights * values, (weights * errors) ** 2
        with np.errstate(invalid="ignore", divide="ignore"):
            share = weights.sum(axis=1, keepdims=True) - weights
            mean = (own.sum(axis=1, keepdims=True) - own) / share
            mean_err = np.sqrt(own_variance.sum(axis=1, keepdims=True) - own_variance) / share
            ratio, error = values / mean, np.hypot(errors / values, mean_err / mean)
        use = known & (mean > 0)
        columns = [(ratio[good, column], error[good, column]) for column, good in enumerate(use.T)]
        centre = np.array([np.median(values_of) for values_of, _ in columns])
        found = [_weighted_scatter(*pair) for pair in columns]
        scatter, expected_here = np.array(found).T / centre[np.newaxis] ** np.array([[1.0], [0.0]])
        level = level * centre
    return scatter, expected_here


def _weighted_scatter(values: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """Standard deviation of values about their mean, and what their errors make of it.

    Both are weighted by the errors, so that a night of long and short exposures is judged as one of equal ones. It is
    no robust scatter: a comparison with a few wild points is a bad one.
    """
    weight = 1.0 / np.maximum(errors, np.finfo(float).tiny) ** 2
    total = float(weight.sum())
    mean = float(np.sum(weight * values)) / total
    return float(np.sqrt(np.sum(weight * (values - mean) ** 2) / total)), float(np.sqrt(len(values) / total))
