"""Trends that the stars of a field share, found in their own fluxes: SysRem with cross-validated components."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Rounds, at most, in which effects of stars and of frames are solved for each other.
_ROUNDS = 60
#: Relative change of a round at which the solution has settled.
_AT_REST = 1e-7

#: Parts that the stars are left out in, one after the other, to choose the number of components.
_FOLDS = 5

#: Components at most; no more than a third of the stars either.
_MOST_COMPONENTS = 4

#: A further component must make the prediction of stars that it was not found in better by this share.
_WORTH = 0.02

#: Share of the frames, in runs that follow each other, whose fluxes are predicted at a time.
_RUNS = 6

#: Reduced chi-square of an effect about known conditions below which nothing but noise is left.
_EXPLAINED = 1.4

#: Places where a dip that is protected may begin and end, evenly spaced over the frames.
_EDGES = 250

#: Frames beyond the number of effects that a dip is looked for in.
_FEWEST_FRAMES = 10

#: Gain in chi-square from which a dip is believed.
_BELIEVED = 25.0

#: Share of the light of a box that no effect may explain: the series itself is no dip.
_OF_ITS_OWN = 0.05


@dataclass(frozen=True, eq=False)
class SharedTrends:
    """Trends that the stars of a field share, by SysRem.

    Attributes
    ----------
    effects, effects_err : ndarray, shape (frame, k)
        What changed from frame to frame, each of mean 0 and standard deviation 1, and 1-sigma errors.
    """

    effects: np.ndarray
    effects_err: np.ndarray

    @property
    def n_components(self) -> int:
        """Number of shared trends."""
        return self.effects.shape[1]


def relative_to_level(flux: np.ndarray, flux_err: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Relative deviations of stars from their own median, and their errors; NaN where there is no flux.

    Parameters
    ----------
    flux, flux_err : ndarray, shape (frame, star)
        Fluxes and their errors, in any unit.

    Returns
    -------
    deviation, error : ndarray, shape (frame, star)
    """
    known = np.isfinite(flux) & np.isfinite(flux_err) & (flux_err > 0)
    level = np.array(
        [np.median(values[use]) if use.any() else np.nan for values, use in zip(flux.T, known.T, strict=True)]
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        deviation = np.where(known & (level > 0), flux / level - 1.0, np.nan)
        error = np.where(known & (level > 0), flux_err / level, np.nan)
    return deviation, error


def find_effects(deviation: np.ndarray, error: np.ndarray, n_components: int) -> tuple[np.ndarray, np.ndarray]:
    """Effects that stars share, one after the other (SysRem: Tamuz, Mazeh & Zucker 2005, MNRAS 356, 1466, eqs. 2, 4).

    Each component is ``c_star a_frame``, whose factors are solved for each other by weighted least squares; it is taken
    off before the next is looked for. With equal errors the components are the principal ones.

    Parameters
    ----------
    deviation, error : ndarray, shape (frame, star)
        Relative fluxes about 0, NaN where not known, and their errors.
    n_components : int
        Number of effects to find.

    Returns
    -------
    effects, effects_err : ndarray, shape (frame, n_components)
        Effects of mean 0 and standard deviation 1, and their 1-sigma errors; 0 in frames in which no star is known.
    """
    known = np.isfinite(deviation) & np.isfinite(error)
    left = np.where(known, deviation, 0.0)
    weight = np.where(known, 1.0 / np.where(known, error, 1.0) ** 2, 0.0)
    effects, errors = np.zeros((2, len(deviation), n_components))
    for component in range(n_components):
        effect = _first_effect(left, weight)
        for _ in range(_ROUNDS):
            star = _ratio(weight * left * effect[:, None], weight * effect[:, None] ** 2, axis=0)
            new = _ratio(weight * left * star, weight * star**2, axis=1)
            scale = float(np.sqrt(np.mean(new**2)))
            new = new / scale if scale > 0 else new
            change, effect = float(np.max(np.abs(new - effect))), new
            if change < _AT_REST:
                break
        star = _ratio(weight * left * effect[:, None], weight * effect[:, None] ** 2, axis=0)
        left = left - np.where(known, effect[:, None] * star, 0.0)
        centred = effect - effect.mean()
        spread = float(centred.std())
        if spread > 0:
            information = np.sum(weight * star**2, axis=1)
            effects[:, component] = centred / spread
            errors[:, component] = (
                np.where(information > 0, 1.0, 0.0) / np.sqrt(np.maximum(information, 1e-300)) / spread
            )
    return effects, np.where(np.isfinite(errors) & (errors < 1e3), errors, 0.0)


def _first_effect(left: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Where the search for an effect begins: what the star with the most significant scatter does."""
    worst = int(np.argmax(np.sum(weight * left**2, axis=0)))
    start: np.ndarray = left[:, worst] + 1e-12
    return start


def _ratio(numerator: np.ndarray, denominator: np.ndarray, axis: int) -> np.ndarray:
    total, weight = numerator.sum(axis=axis), denominator.sum(axis=axis)
    return np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), 0.0)


def explained_by(effects: np.ndarray, effects_err: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Effects that known conditions explain, without the noise of the stars that they were found in.

    Parameters
    ----------
    effects, effects_err : ndarray, shape (frame, k)
        From :func:`find_effects`.
    vectors : ndarray, shape (frame, n)
        Airmass, place on the detector and so on, without NaN.

    Returns
    -------
    effects, effects_err : ndarray, shape (frame, k)
        Linear combinations of the vectors where these leave nothing but noise of an effect; the others as they were.
    """
    effects, effects_err = effects.copy(), effects_err.copy()
    spread = vectors.std(axis=0)
    vectors = (vectors - vectors.mean(axis=0))[:, spread > 0] / spread[spread > 0]
    design = np.column_stack([np.ones(len(vectors)), vectors])
    for component in range(effects.shape[1]):
        known = effects_err[:, component] > 0
        if np.count_nonzero(known) < 2 * design.shape[1]:
            continue
        weighted = design[known] / effects_err[known, component, None]
        found, *_ = np.linalg.lstsq(weighted, effects[known, component] / effects_err[known, component], rcond=1e-8)
        residual = (effects[known, component] - design[known] @ found) / effects_err[known, component]
        if float(residual @ residual) / (len(residual) - design.shape[1]) < _EXPLAINED:
            covariance = np.linalg.pinv(weighted.T @ weighted)
            effects[:, component] = design @ found
            effects_err[:, component] = np.sqrt(np.einsum("fi,ij,fj->f", design, covariance, design))
    return effects, effects_err


def coefficients_of(
    deviation: np.ndarray, error: np.ndarray, effects: np.ndarray, use: np.ndarray | None = None
) -> np.ndarray:
    """How much of each effect a star has: weighted least squares with a constant.

    Parameters
    ----------
    deviation, error : ndarray, shape (frame,)
        Relative deviations of one star from its level, and their errors.
    effects : ndarray, shape (frame, k)
        Shared effects.
    use : ndarray of bool, shape (frame,), optional
        Frames that are fitted.

    Returns
    -------
    ndarray, shape (1 + k,)
        Constant and coefficients; zeros with too few frames.
    """
    chosen = _usable(deviation, error, use)
    n_values = 1 + effects.shape[1]
    if np.count_nonzero(chosen) < n_values + 2:
        return np.zeros(n_values)
    design = np.column_stack([np.ones(len(deviation)), effects])[chosen] / error[chosen, None]
    found, *_ = np.linalg.lstsq(design, deviation[chosen] / error[chosen], rcond=1e-8)
    return found


def _usable(deviation: np.ndarray, error: np.ndarray, use: np.ndarray | None) -> np.ndarray:
    chosen: np.ndarray = np.isfinite(deviation) & np.isfinite(error) & (error > 0)
    return chosen if use is None else chosen & use


def coefficients_beside_a_dip(
    deviation: np.ndarray, error: np.ndarray, effects: np.ndarray, use: np.ndarray | None = None
) -> np.ndarray:
    """Coefficients of the effects in a target that may have a dip, which must not be taken for a trend.

    Boxes of all lengths are fitted together with the effects; where the best is believed (chi-square falls by more than
    25), the coefficients are those that were found beside it.

    Parameters
    ----------
    deviation, error : ndarray, shape (frame,)
        In time order.
    effects : ndarray, shape (frame, k)
        Shared effects.
    use : ndarray of bool, shape (frame,), optional
        Frames that are fitted.

    Returns
    -------
    ndarray, shape (1 + k,)
    """
    plain = coefficients_of(deviation, error, effects, use)
    rows = np.flatnonzero(_usable(deviation, error, use))
    if not effects.shape[1] or len(rows) < effects.shape[1] + _FEWEST_FRAMES:
        return plain
    weight = error[rows] ** -2.0
    design = np.column_stack([np.ones(len(rows)), effects[rows]])
    residual = deviation[rows] - design @ plain
    # a box is a difference of two running sums, so that all boxes cost as much as one
    places = np.unique(np.linspace(0, len(rows), _EDGES).round().astype(int))
    sums = _running_sums(np.column_stack([weight * residual, weight, weight[:, None] * design]))[places]
    first, last = np.triu_indices(len(places), 1)
    boxes = sums[last] - sums[first]
    inverse = np.linalg.pinv(design.T @ (weight[:, None] * design))
    own = boxes[:, 1] - np.einsum("bi,ij,bj->b", boxes[:, 2:], inverse, boxes[:, 2:])
    inside = (own > _OF_ITS_OWN * boxes[:, 1]) & (boxes[:, 0] < 0)
    gain = np.where(inside, boxes[:, 0] ** 2 / np.where(inside, own, 1.0), 0.0)
    best = int(np.argmax(gain))
    if gain[best] < _BELIEVED:
        return plain
    box = np.zeros(len(deviation))
    box[rows[places[first[best]] : places[last[best]]]] = 1.0
    return coefficients_of(deviation, error, np.column_stack([effects, box]), use)[:-1]


def _running_sums(values: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])


def shared_trends(flux: np.ndarray, flux_err: np.ndarray) -> SharedTrends:
    """Trends that comparison stars share, and how many of them there are.

    The number is chosen by cross-validation: effects are found in some of the stars, and fluxes of the others in runs
    of frames are predicted by their coefficients in all other frames. A component counts while it makes the prediction
    better by two per cent.

    Parameters
    ----------
    flux, flux_err : ndarray, shape (frame, star)
        Comparison stars relative to their mean light curve; NaN where a star has no flux.

    Returns
    -------
    SharedTrends
    """
    deviation, error = relative_to_level(flux, flux_err)
    stars = np.flatnonzero(np.isfinite(deviation).sum(axis=0) > 0)
    deviation, error = deviation[:, stars], error[:, stars]
    most = min(_MOST_COMPONENTS, len(stars) // 3, len(deviation) // 10)
    if most < 1:
        nothing = np.zeros((len(flux), 0))
        return SharedTrends(nothing, nothing)
    scores = _scores(deviation, error, most)
    chosen = 0
    for number in range(1, most + 1):
        if scores[number] < (1.0 - _WORTH) * scores[chosen]:
            chosen = number
    return SharedTrends(*find_effects(deviation, error, chosen))


def _scores(deviation: np.ndarray, error: np.ndarray, most: int) -> np.ndarray:
    """Mean square of stars about their prediction, with 0 to ``most`` components."""
    n_frames, n_stars = deviation.shape
    runs = np.arange(n_frames) * _RUNS // n_frames
    total, count = np.zeros(most + 1), 0
    for fold in range(min(_FOLDS, n_stars)):
        is_out = np.arange(n_stars) % min(_FOLDS, n_stars) == fold
        effects, _ = find_effects(deviation[:, ~is_out], error[:, ~is_out], most)
        for star in np.flatnonzero(is_out):
            squares, n_known = _prediction_squares(deviation[:, star], error[:, star], effects, runs)
            total, count = total + squares, count + n_known
    return total / max(count, 1)


def _prediction_squares(
    deviation: np.ndarray, error: np.ndarray, effects: np.ndarray, runs: np.ndarray
) -> tuple[np.ndarray, int]:
    """Sum of squares of one star about its prediction, with each number of components; a wild point counts little."""
    known = np.isfinite(deviation) & np.isfinite(error)
    squares = np.zeros(effects.shape[1] + 1)
    for run in range(_RUNS):
        inside = known & (runs == run)
        for number in range(effects.shape[1] + 1):
            found = coefficients_of(deviation, error, effects[:, :number], runs != run)
            predicted = found[0] + effects[inside, :number] @ found[1:]
            pulls = (deviation[inside] - predicted) / error[inside]
            squares[number] += float(np.sum(np.minimum(pulls**2, 25.0)))
    return squares, int(np.count_nonzero(known))
