"""Size and form of the stars of a frame, from the moments of its brightest stars."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from opticam_dask.kernels import compiled, graphs
from opticam_dask.kernels.robust import known_or, median
from opticam_dask.kernels.sources import photometry
from opticam_dask.kernels.sources.moments import axes_of, moments_of
from opticam_dask.kernels.sources.profiles import spikes

#: The light of a star is judged in a square of so many pixels.
CORE_SIZE = 5

#: Neighbours widen a star up to so many FWHM away,
_DOUBT_REACH = 3.0
#: and by so many times their relative light: the window in which its moments are measured widens with it.
_WIDENING = 5.0
#: Where no more than this is left of the nearness of a neighbour (1 at the star, 0 at the reach), the window stays on
#: the star: only the wings of the neighbour are in it, and ever fewer of them.
_APART = 0.6
#: A star whose moments they may have changed by this part counts half in the median of the widths.
_DOUBTED = 0.05

#: Noise of a second moment relative to the variance of the star, times the signal-to-noise ratio of its core.
_MOMENT_ERROR = 2.0

#: A star whose moments are so many sigma from those of the others counts half of what it would.
_FORM_REACH = 3.0
#: The mean has arrived after so many steps,
_FORM_STEPS = 12
#: or when it changes by less than this part of the size of a star.
_AT_REST = 1e-6

#: A star has an unseen companion when it is more elongated than the others by more than so many errors,
_ELONGATED = 4.0
#: and than stars differ by, relative to the variance of a star.
_ALIKE = 0.03
#: This part of what the companion adds is left as doubt.
_STILL_LONGER = 0.3
#: What adds more than this is no companion that nobody sees.
_LONGEST = 3.0
#: So few stars do not tell.
_FEW = 3

#: Companions are taken off in so many rounds at most,
_ROUNDS = 8
#: or until the mean changes by less than this part of itself.
_SETTLED = 2e-4

#: Number of terms of a plane,
_PLANE = 3
#: and of all terms of a change over the field.
N_TERMS = 6

#: Terms whose mean square, in errors, is below this without any one of the stars do not count: a single star that a
#: cosmic ray has hit makes no change over the field.
_INSIGNIFICANT = 9.0

#: What is added to squares of places, relative, so that those of few stars have a solution as well.
_RIDGE = 1e-9

#: Condition number above which the places of the stars do not tell the terms apart.
_WORST_PLACES = 100.0

#: Median of the root mean square of three standard normal numbers.
_MEDIAN_DISTANCE = 0.888

#: Relative spread of moments that is always allowed for: nobody's moments are better known than this.
_LEAST_SPREAD = 3e-3

#: What the compiled form takes of these, in its order.
_LIMITS = np.array(
    (
        *(_FORM_STEPS, _AT_REST, _MEDIAN_DISTANCE, _LEAST_SPREAD, _FORM_REACH, _RIDGE),
        *(
            _DOUBTED,
            _ELONGATED,
            _ALIKE,
            _STILL_LONGER,
            _LONGEST,
            _FEW,
            _ROUNDS,
            _SETTLED,
            _INSIGNIFICANT,
            _WORST_PLACES,
        ),
    )
)


class FieldShape(NamedTuple):
    """Form of the stars of a frame, in pixels and radians; NaN where no star has one.

    ``form_terms`` (3, 6) are the coefficients of :func:`field_terms` by which the second moments xx, yy and xy of a
    star differ from those of the mean star, in square pixels; zero where the stars of the frame are alike.
    """

    fwhm: float
    semimajor_sigma: float
    semiminor_sigma: float
    orientation: float
    form_terms: np.ndarray


def field_shape(
    image: np.ndarray,
    xy: np.ndarray,
    shapes: np.ndarray,
    noise: float,
    *,
    saturated: np.ndarray | None = None,
    doubt: np.ndarray | float = 0.0,
) -> FieldShape:
    """FWHM and mean form of the stars of a frame.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Sky-subtracted frame.
    xy : ndarray, shape (n, 2)
        Positions of the sources in pixels.
    shapes : ndarray, shape (3, n)
        What :func:`~opticam_dask.kernels.sources.moments.source_shapes` gives for the sources.
    noise : float
        Background RMS in electrons, which decides how much a faint star counts.
    saturated : ndarray of bool, shape (ny, nx), optional
        Sources with a saturated pixel in their core do not count.
    doubt : float or ndarray, shape (n,)
        Possible change of the moments of each star by its neighbours, relative (:func:`neighbour_doubt`).

    Returns
    -------
    FieldShape
        Width and mean form of the stars; NaN where no star has one.
    """
    windows = photometry.cut_out(image, *photometry.origins(xy, spikes.SIZE), spikes.SIZE)
    x0, y0 = photometry.origins(xy, CORE_SIZE)
    light = np.nansum(photometry.inner_windows(windows, CORE_SIZE), axis=(1, 2))
    known = np.isfinite(shapes[1])
    if saturated is not None:
        known &= ~np.any(photometry.cut_out(saturated, x0, y0, CORE_SIZE) > 0, axis=(1, 2))
    width = (shapes[0, known] ** 2 + shapes[1, known] ** 2) / 2.0
    spiked = spikes.spike_doubt(windows[known], light[known], noise, width)
    doubts, frame = np.hypot(np.broadcast_to(doubt, len(xy))[known], spiked), (image.shape[0], image.shape[1])
    return form_of_stars(xy[known], shapes[:, known], moment_errors(light[known], noise), frame, doubts)


def form_of_stars(
    xy: np.ndarray, shapes: np.ndarray, error: np.ndarray, frame: tuple[int, int], doubt: np.ndarray
) -> FieldShape:
    """FWHM and mean form of stars whose shapes are known.

    Parameters
    ----------
    xy : ndarray, shape (n, 2)
        Positions in pixels.
    shapes : ndarray, shape (3, n)
        Widths and orientation of the stars, as ``moments.source_shapes`` returns them; finite.
    error : ndarray, shape (n,)
        Errors of the moments, from :func:`moment_errors`.
    frame : (int, int)
        Shape ``(ny, nx)`` of the frame.
    doubt : ndarray, shape (n,)
        What neighbours may have changed the moments of each star by, relative (:func:`neighbour_doubt`). The more of
        it the less a star counts, without a jump: where all stars have neighbours, all count.

    Returns
    -------
    FieldShape
        ``fwhm`` is the median of ``2.3548 sqrt((a^2 + b^2) / 2)`` over the sources; the axes and the angle are those of
        their mean second moments, weighted by their noise and by how far they are from those of the others, and the
        terms say how the moments change over the frame.
    """
    nan, unknown = float("nan"), np.full((3, N_TERMS), np.nan)
    if not len(xy):
        return FieldShape(nan, nan, nan, nan, unknown)
    moments, usable = moments_of(*shapes), np.isfinite(error)
    if not usable.any():
        return FieldShape(_typical_fwhm(moments, _trust(doubt)), nan, nan, nan, unknown)
    stars = _Stars(field_places(xy[usable], frame), moments[:, usable], error[usable], doubt[usable])
    fwhm, mean, terms = _form(stars) if compiled.native is None else _compiled_form(stars)
    major, minor, theta = axes_of(mean)
    return FieldShape(fwhm, float(major), float(minor), float(theta), terms)


def _compiled_form(stars: _Stars) -> tuple[float, np.ndarray, np.ndarray]:
    """As :func:`_form`, in C."""
    assert compiled.native is not None
    form, terms = np.empty(4), np.empty((3, N_TERMS))
    compiled.native.field_form(*(compiled.ready(values) for values in (*stars, _LIMITS)), form, terms)
    return photometry.SIGMA_TO_FWHM * float(form[0]), form[1:], terms


def _form(stars: _Stars) -> tuple[float, np.ndarray, np.ndarray]:
    """Median FWHM of stars, their mean moments (3,), and the coefficients by which these change over the frame."""
    mean = _mean_moments(stars)
    terms = _change_over_field(stars, mean)
    single, change = stars, terms @ field_terms(*stars.uv).T
    for _ in range(_ROUNDS):
        single, before = _without_companions(stars, mean[:, None] + change), mean
        if single is stars:
            break
        mean = _mean_moments(single)
        if np.abs(mean - before).max() < _SETTLED * (mean[0] + mean[1]):
            break
    if single is not stars:
        terms = _change_over_field(single, mean)
    return _typical_fwhm(single.moments, single.trust), mean, terms


def _typical_fwhm(moments: np.ndarray, trust: np.ndarray) -> float:
    """Median FWHM of stars, pixels, from their moments (3, n) and how much each counts."""
    widths = photometry.SIGMA_TO_FWHM * np.sqrt((moments[0] + moments[1]) / 2.0)
    return float(_weighted_median(widths[None], trust)[0])


def _trust(doubt: np.ndarray) -> np.ndarray:
    """How much stars count whose moments neighbours may have changed; 1 without neighbours."""
    return 1.0 / (1.0 + (doubt / _DOUBTED) ** 2)


def _without_companions(stars: _Stars, expected: np.ndarray) -> _Stars:
    """Stars without what companions that nobody sees add to their moments.

    A companion makes a star longer in one direction and leaves its width as it is. So what a star is more elongated
    than the others, beyond its noise and what stars differ by, is taken off along that direction, and part of it stays
    as doubt. Where no star is, the result is ``stars``.

    Parameters
    ----------
    stars : _Stars
    expected : ndarray, shape (3, n)
        Moments of a star at the place of each.
    """
    size = 0.5 * float(np.mean(expected[0] + expected[1]))
    away = (stars.moments - expected) / size
    along, across = away[0] - away[1], 2.0 * away[2]
    longer = np.hypot(along, across)
    # a star that is shorter than expected has no companion: what is expected is too long
    added = np.minimum(longer, np.maximum(0.5 * (away[0] + away[1] + longer), 0.0))
    # two or three stars do not tell which of them is the odd one
    tells = np.clip((len(longer) - _FEW) / _FEW, 0.0, 1.0)
    usual = _ALIKE**2 + (_ELONGATED * stars.noise) ** 2
    excess = tells * np.sqrt(np.maximum(added**2 - usual, 0.0))
    if not excess.any():
        return stars
    longer = np.maximum(longer, _ALIKE)
    direction = 0.5 * np.stack([1.0 + along / longer, 1.0 - along / longer, across / longer])
    moments = stars.moments - np.minimum(excess, _LONGEST) * size * direction
    return stars._replace(moments=moments, doubt=np.hypot(stars.doubt, _STILL_LONGER * excess))


def moment_errors(light: np.ndarray, noise: float) -> np.ndarray:
    """1-sigma error of the second moments of stars by their noise, relative to the variance of a star.

    Parameters
    ----------
    light : ndarray, shape (n,)
        Electrons of each star in the 5 x 5 pixels around its centre.
    noise : float
        Background RMS, electrons.

    Returns
    -------
    ndarray, shape (n,)
        Infinite where there is no light.
    """
    light = np.maximum(light, 0.0)
    with np.errstate(divide="ignore"):
        error: np.ndarray = _MOMENT_ERROR * np.sqrt(light + (CORE_SIZE * noise) ** 2) / light
    return error


def neighbour_doubt(xy: np.ndarray, flux: np.ndarray, fwhm: float) -> np.ndarray:
    """Possible change of the second moments of stars by their neighbours, relative to the moments.

    Parameters
    ----------
    xy : ndarray, shape (n, 2)
        Positions in pixels; NaN for no star.
    flux : ndarray, shape (n,)
        Fluxes of the sources, electrons.
    fwhm : float
        FWHM of the stars, pixels.

    Returns
    -------
    ndarray, shape (n,)
        Sum over the neighbours within 3 FWHM of their light relative to the star's; the further they are the less.

    Notes
    -----
    A bound, not an estimate: where the window stays on the star, Gaussian and Moffat stars (slopes 2.5 and 3) up to 2.6
    FWHM away change the moments by less. It runs away to neighbours of 0.6 of the light up to 1.8 FWHM, of 1.7 times up
    to 2.2 and of 5 times up to 2.4; the result, 0.5 or more, then says only that the star counts for nothing.
    """
    doubt, known = np.zeros(len(xy)), np.flatnonzero(np.isfinite(xy).all(axis=1) & (flux > 0))
    reach = _DOUBT_REACH * fwhm
    if len(known) < 2 or not reach > 0:
        return doubt
    pairs = graphs.near_pairs(xy[known], reach)
    for star, other in ((known[pairs[:, 0]], known[pairs[:, 1]]), (known[pairs[:, 1]], known[pairs[:, 0]])):
        nearness = 1.0 - (np.hypot(*(xy[star] - xy[other]).T) / reach) ** 2
        wings = np.minimum(nearness / _APART, 1.0) ** 2
        np.add.at(doubt, star, _WIDENING * nearness**2 * wings * flux[other] / flux[star])
    return doubt


class _Stars(NamedTuple):
    """Places (2, n), moments (3, n), and relative errors of these by noise and by neighbours (n,)."""

    uv: np.ndarray
    moments: np.ndarray
    noise: np.ndarray
    doubt: np.ndarray

    @property
    def trust(self) -> np.ndarray:
        """How much each star counts for medians."""
        return _trust(self.doubt)

    @property
    def error(self) -> np.ndarray:
        """Relative error of the moments."""
        return np.hypot(self.noise, self.doubt)

    @property
    def counts(self) -> np.ndarray:
        """Weights in which the brighter half of the stars without neighbours are alike."""
        return 1.0 / (np.maximum(self.noise, median(self.noise)) ** 2 + self.doubt**2)


def _fitted(stars: _Stars, design: np.ndarray, start: np.ndarray, first: int) -> tuple[np.ndarray, float]:
    """Coefficients (3, term) that fit the moments of stars, and the significance of the terms from ``first`` on.

    Parameters
    ----------
    stars : _Stars
    design : ndarray, shape (n, term)
        Terms at the places of the stars; a column of ones alone gives their mean.
    start : ndarray, shape (3, term)
        Coefficients to begin with.
    first : int
        Without a term from there on the significance is NaN.
    """
    fit = _robust_fit(design, stars.moments, stars.error, stars.trust, start)
    chosen = slice(first, design.shape[1])
    return fit.coefficients, fit.significance(design, stars.moments, chosen) if first < design.shape[1] else np.nan


def _robust_fit(
    design: np.ndarray, moments: np.ndarray, error: np.ndarray, trust: np.ndarray, start: np.ndarray
) -> _Fit:
    """Fit the moments of the stars of a frame so that no single star decides.

    A star counts with the inverse of its variance: that of its own noise, and that by which stars differ from the fit
    beyond noise, so that the brightest do not count more than a few others. What lies far from the others (blends,
    galaxies) counts less the further it lies, by the weights of a Cauchy distribution: nothing changes by a jump.

    For a mean that second part is no larger than the noise of the stars that tell the form best, times their number.
    What stars differ by is the same in all frames, and noise is not: beside one bright star, faint ones that count as
    much as it does would change its form, and its flux by several of its errors, from frame to frame.

    Parameters
    ----------
    design : ndarray, shape (n, term)
        Terms at the places of the stars; a column of ones alone gives their mean.
    moments : ndarray, shape (3, n)
        Covariances (xx, yy, xy) in square pixels.
    error : ndarray, shape (n,)
        1-sigma error of a moment relative to the variance of a star.
    trust : ndarray, shape (n,)
        How much the star says about the spread, 1 for one without neighbours.
    start : ndarray, shape (3, term)
        Coefficients to begin with.
    """
    coefficients, n_terms = start, design.shape[1]
    freedom = len(error) / max(len(error) - n_terms, 1) if n_terms > 1 else 1.0
    most = float(np.sum(error**-2.0) ** 3 / np.sum(error**-4.0) ** 2) if n_terms == 1 else np.inf
    for _ in range(_FORM_STEPS):
        expected = coefficients @ design.T
        size = 0.5 * float(np.mean(expected[0] + expected[1]))
        distance = np.sqrt(np.sum((moments - expected) ** 2, axis=0) / len(moments)) / size
        # the median of noise and spread together is 0.89 of their sigma, with three moments
        beyond = freedom * (distance / _MEDIAN_DISTANCE) ** 2 - error**2
        spread = float(_weighted_median(beyond[None], trust)[0])
        variance, counted = (error**2 + max(value, _LEAST_SPREAD**2) for value in (spread, min(spread, most)))
        weight = 1.0 / (counted * (1.0 + distance**2 / (_FORM_REACH**2 * variance)))
        inverse, before = np.linalg.inv(np.einsum("nt,nu,n->tu", design, design, weight)), coefficients
        coefficients = np.einsum("mn,n,nt,tu->mu", moments, weight, design, inverse)
        if np.abs(coefficients - before).max() < _AT_REST * size:
            break
    return _Fit(coefficients, weight, size)


class _Fit(NamedTuple):
    """Coefficients (3, term) of moments, the weight of each star (n,), and the size (square pixels) errors refer to."""

    coefficients: np.ndarray
    weight: np.ndarray
    size: float

    def significance(self, design: np.ndarray, moments: np.ndarray, chosen: slice) -> float:
        """Mean square of some of the terms in units of their errors, without the star that they rest on most.

        It is about 1 or less for terms that are zero.
        """
        n_terms = design.shape[1]
        own = np.einsum("nt,nu,n->ntu", design, design, self.weight)
        of_star = np.einsum("mn,n,nt->ntm", moments, self.weight, design)
        normal = own.sum(axis=0)
        ridge = _RIDGE * np.trace(normal) * np.eye(n_terms)
        covariance = np.linalg.inv(normal - own + ridge)
        values = (covariance @ (of_star.sum(axis=0) - of_star))[:, chosen] / self.size
        squares = np.einsum("ntm,ntu,num->n", values, np.linalg.inv(covariance[:, chosen, chosen]), values)
        return float(np.min(squares)) / (len(moments) * values.shape[1])


def _mean_moments(stars: _Stars) -> np.ndarray:
    """Mean moments (3,) of stars."""
    start = _weighted_median(stars.moments, stars.counts)[:, None]
    design = np.ones((len(stars.noise), 1))
    return _fitted(stars, design, start, first=1)[0][:, 0]


def _change_over_field(stars: _Stars, mean: np.ndarray) -> np.ndarray:
    """How the moments of stars change over a frame, from those of the mean star: coefficients of :func:`field_terms`.

    A plane, and a paraboloid, each as far as its terms are significant and there are stars enough for them, so that
    the result changes without a jump. Where the stars are alike, everything is zero.

    Parameters
    ----------
    stars : _Stars
    mean : ndarray, shape (3,)
        Moments of the mean star.

    Returns
    -------
    ndarray, shape (3, 6)
    """
    found, counts = np.zeros((3, N_TERMS)), stars.counts
    n_stars = float(np.sum(counts) ** 2 / np.sum(counts**2))
    terms, start = field_terms(*stars.uv), np.zeros((3, N_TERMS))
    start[:, 0] = mean
    for first, n_terms in ((1, _PLANE), (_PLANE, N_TERMS)):
        enough = np.clip((n_stars - n_terms - 1.0) / (n_terms - 1.0), 0.0, 1.0)
        design = terms[:, :n_terms]
        squares = np.linalg.eigvalsh(design.T @ design)
        if enough == 0.0 or not _WORST_PLACES**2 * squares[0] >= squares[-1]:
            break
        coefficients, significance = _fitted(stars, design, start[:, :n_terms], first)
        start[:, :n_terms] = coefficients
        doubt = _INSIGNIFICANT / max(significance, _INSIGNIFICANT)
        part = enough * (1.0 - doubt**2)
        found *= 1.0 - part
        found[:, :n_terms] += part * (coefficients - np.eye(1, n_terms) * mean[:, None])
    return found


def field_terms(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """1, u, v, u^2, u v and v^2 at places from -1 to 1 across a frame, shape (n, 6)."""
    return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=-1)


def field_places(xy: np.ndarray, frame: tuple[int, int]) -> np.ndarray:
    """Places from -1 to 1 across a frame of ``frame = (ny, nx)`` pixels, shape (2, n); 0 for NaN positions."""
    half = (np.array(frame[::-1]) - 1.0) / 2.0
    places: np.ndarray = np.clip(known_or((np.asarray(xy) - half) / np.maximum(half, 1.0)), -1.0, 1.0).T
    return places


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Median of each row (m, n) in which entries count with weights (n,), linear between entries."""
    medians = np.empty(len(values))
    for row, entries in enumerate(values):
        order = np.argsort(entries, kind="stable")
        share = weights[order] / np.sum(weights)
        medians[row] = np.interp(0.5, np.cumsum(share) - 0.5 * share, entries[order])
    return medians
