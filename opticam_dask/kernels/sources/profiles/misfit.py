"""Pixels that do not belong to a star, found by comparison with the star profile of its frame.

The error of a pixel is that of its photons and of the sky, and what the profile may be wrong by, which grows with the
light. A star that does not fit at first is fitted again, with its place and its width free and without the pixels that
stand out, before any pixel of it is called stray: a badly guided frame, or a profile that is not quite right, makes no
stray pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from opticam_dask.kernels import compiled
from opticam_dask.kernels.robust import MEDIAN_SIZE
from opticam_dask.kernels.sources.profiles import profile
from opticam_dask.kernels.sources.profiles.profile import Shape

#: A pixel is stray when it is further from the profile than so many of its errors,
CLIP = 5.0
#: or next to such a one and further than so many.
GROW = 3.0

#: A star does not fit its profile when the sum of squares is so many times its scatter above its mean.
_NO_STAR = 6.0

#: Counts are skewed: a pixel that is CLIP errors above its mean is as rare as with Gaussian noise when it is so many
#: electrons higher still (Cornish & Fisher 1938: ``(CLIP^2 - 1) / 6`` times the skewness times the error).
SKEW = (CLIP**2 - 1.0) / 6.0

#: What the profile of well sampled stars gets wrong, as a part of the light in a pixel.
_MODEL_ERROR = 0.005
#: The same for the light of neighbours, whose places are known to some hundredths of a pixel.
FOREIGN_ERROR = 0.03

#: The relative error of an undersampled star's pixel is so many times that of its flux.
_OF_PIXEL = 4.0

#: What stars deviate from a profile is measured where they have more than this part of their brightest pixel's light.
_CORE = 0.1

#: Median of the square of a Gaussian of scatter 1.
MEDIAN_SQUARE = 0.4549

#: What a star may be wider or narrower than the frame's stars, relative (1 sigma).
_WIDTH_ERROR = 0.02

#: A fit may move a star by so many pixels in one of its iterations.
_LONGEST = 1.0
#: So many iterations settle it.
_ITERATIONS = 5

#: What the compiled fit takes of these, in its order.
_LIMITS = (
    *(CLIP, GROW, SKEW, FOREIGN_ERROR, _CORE, MEDIAN_SIZE, MEDIAN_SQUARE, _NO_STAR),
    *(_WIDTH_ERROR, profile.SLOPE_STEP, _LONGEST),
)


def limits(position_error: float, model_error: float, n_steps: int = _ITERATIONS) -> np.ndarray:
    """Numbers that the compiled fits take, in their order; a fit has ``n_steps`` steps."""
    return np.array((position_error, model_error, *_LIMITS, n_steps))


def usual_error(flux_error: float) -> float:
    """Usual error of a profile in a pixel, relative to its light, where the stars show no larger one.

    Parameters
    ----------
    flux_error : float
        Relative error of the fluxes of undersampled stars (``noise.sampling_error``).
    """
    return float(np.hypot(_MODEL_ERROR, _OF_PIXEL * flux_error))


def pixel_errors(
    own: np.ndarray,
    foreign: np.ndarray | float,
    rms: np.ndarray,
    response: np.ndarray | None,
    model_error: float,
    unlike: np.ndarray | float = 0.0,
) -> np.ndarray:
    """1-sigma errors of pixels about the profile, electrons.

    Parameters
    ----------
    own, foreign : ndarray, shape (n, size, size)
        Electrons of the star and of its neighbours, from the profile.
    rms : ndarray, shape (n, size, size)
        Background RMS of the pixels, electrons.
    response : ndarray, shape (n, size, size), optional
        Master flat, see ``noise.aperture_variance``.
    model_error : float
        What the profile gets wrong in a pixel, relative to its light.
    unlike : ndarray, shape (n, size, size), optional
        What the frame's stars are unlike the profile by at each place in their windows, electrons (1 sigma).

    Returns
    -------
    ndarray, shape (n, size, size)
    """
    photons = np.maximum(own + foreign, 0.0)
    variance = (model_error * own) ** 2 + rms**2 + np.square(unlike)
    variance += photons if response is None else photons / response
    if np.ndim(foreign):
        variance += (FOREIGN_ERROR * foreign) ** 2
    errors: np.ndarray = np.sqrt(variance)
    return errors


def reduced_chi2(deviation: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Mean square of the deviations (in errors) over the used pixels, less one for the flux; NaN below two pixels."""
    n_pixels = np.count_nonzero(used, axis=(1, 2))
    total = np.sum(np.where(used, deviation, 0.0) ** 2, axis=(1, 2))
    return np.where(n_pixels > 1, total / np.maximum(n_pixels - 1, 1), np.nan)


def too_large(chi2: np.ndarray, used: np.ndarray, n_sigma: float) -> np.ndarray:
    """Whether reduced chi-squares are further above 1 than their scatter allows."""
    freedom = np.maximum(np.count_nonzero(used, axis=(1, 2)) - 1, 1)
    with np.errstate(invalid="ignore"):
        return np.asarray(chi2 > 1.0 + n_sigma * np.sqrt(2.0 / freedom))


def are_no_stars(chi2: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Whether reduced chi-squares over the used pixels are those of something else than the profile's stars."""
    return too_large(chi2, used, _NO_STAR)


@dataclass(frozen=True, eq=False)
class StarFit:
    """Stars fitted one by one, without the pixels that do not belong to them.

    Attributes
    ----------
    xy : ndarray, shape (n, 2)
        Fitted places of the stars, pixels.
    is_stray : ndarray of bool, shape (n, size, size)
        Pixels that do not belong to the star.
    deviation : ndarray, shape (n, size, size)
        Pixels minus what was fitted, in errors.
    is_no_star : ndarray of bool, shape (n,)
        What is left does not fit either.
    model_error : ndarray, shape (n,)
        What the core of each star deviates from the profile beyond its noise, relative to the light (1 sigma).
    flux : ndarray, shape (n,)
        Fitted fluxes, electrons.
    errors : ndarray, shape (n, size, size)
        1-sigma errors of the pixels, electrons.
    """

    xy: np.ndarray
    is_stray: np.ndarray
    deviation: np.ndarray
    is_no_star: np.ndarray
    model_error: np.ndarray
    flux: np.ndarray
    errors: np.ndarray

    def rows(self, chosen: np.ndarray) -> StarFit:
        """The fit of the stars ``chosen``."""
        return StarFit(**{name: values[chosen] for name, values in vars(self).items()})

    def with_rows(self, rows: np.ndarray, other: StarFit) -> StarFit:
        """The fit with the stars ``rows`` taken from another fit."""
        mixed = {}
        for name, values in vars(self).items():
            mixed[name] = values.copy()
            mixed[name][rows] = getattr(other, name)
        return StarFit(**mixed)


@dataclass(frozen=True, eq=False)
class StarWindows:
    """Windows around stars of a frame, to whose pixels a profile is fitted.

    Attributes
    ----------
    electrons, rms : ndarray, shape (n, size, size)
        Pixels without their sky, and the background RMS in them, electrons.
    is_good : ndarray of bool, shape (n, size, size)
        Pixels that may be used: near the star, with data, not saturated.
    foreign : ndarray, shape (n, size, size)
        Electrons of neighbours.
    response : ndarray, shape (n, size, size), optional
        Master flat in the windows; without it, 1.
    corners : tuple of ndarray
        ``x0, y0`` of the windows.
    expected_xy, start_xy : ndarray, shape (n, 2)
        Where the stars are expected, and where they are looked for at first.
    table, shape
        Star profile (``Profile.table``), and shape of the stars of the frame.
    position_error : float
        How far a star may be from where it is expected, in pixels (1 sigma along an axis).
    """

    electrons: np.ndarray
    rms: np.ndarray
    is_good: np.ndarray
    foreign: np.ndarray
    response: np.ndarray | None
    corners: tuple[np.ndarray, np.ndarray]
    expected_xy: np.ndarray
    start_xy: np.ndarray
    table: np.ndarray
    shape: Shape
    position_error: float

    def rows(self, chosen: np.ndarray) -> StarWindows:
        """The windows of the stars ``chosen``."""
        names = ("electrons", "rms", "is_good", "foreign", "expected_xy", "start_xy")
        response = None if self.response is None else self.response[chosen]
        corners = self.corners[0][chosen], self.corners[1][chosen]
        cut = {name: getattr(self, name)[chosen] for name in names}
        return replace(self, response=response, corners=corners, **cut)


def fit_stars(stars: StarWindows, model_error: float, unlike: np.ndarray | None = None) -> StarFit:
    """Fit flux, place and width of each star to the pixels that are its own.

    Weighted linear least squares about the last solution; in each iteration the pixels that stand out are found anew.

    Parameters
    ----------
    stars : StarWindows
        The stars.
    model_error : float
        Error of the profile in a pixel, relative to its light.
    unlike : ndarray, shape (size, size), optional
        What the frame's stars are unlike the profile by, relative to their flux (:func:`typical_misfit`).
    """
    size, xy, near = stars.electrons.shape[1], np.array(stars.start_xy, dtype=float), stars.is_good
    forms = profile.forms_at(stars.shape, xy)
    if compiled.native is not None:
        return _compiled_fit(stars, forms, xy, model_error, unlike)
    own = np.where(near, stars.electrons - stars.foreign, 0.0)
    widening = np.zeros(len(xy))
    light, slopes = templates(stars.table, xy, stars.corners, size, forms)
    flux = _median_flux(own, light, near)
    for _ in range(_ITERATIONS):
        errors, deviation, model = _residuals(stars, own, flux, widening, light, slopes, model_error, unlike)
        is_stray = find_stray(deviation, errors, near, typical_deviation(deviation, model, near))
        design = np.concatenate([light[:, None], slopes * flux[:, None, None, None]], axis=1)
        weights = np.where(near & ~is_stray, 1.0 / errors**2, 0.0)
        prior = np.broadcast_to(prior_weights(stars.position_error), (len(xy), 4))
        # the place is held to where the star was expected, not to where the last step ended
        pull = np.column_stack([np.zeros(len(xy)), prior[:, 1:3] * (stars.expected_xy - xy), np.zeros(len(xy))])
        solution = _solve(design, own, weights, prior, pull)
        flux, widening = solution[:, 0], np.clip(solution[:, 3], -3 * _WIDTH_ERROR, 3 * _WIDTH_ERROR)
        xy = xy + np.clip(solution[:, 1:3], -_LONGEST, _LONGEST)
        light, slopes = templates(stars.table, xy, stars.corners, size, forms)
    errors, deviation, model = _residuals(stars, own, flux, widening, light, slopes, model_error, unlike)
    is_stray = find_stray(deviation, errors, near)
    kept = near & ~is_stray
    is_no_star = are_no_stars(reduced_chi2(deviation, kept), kept)
    of_core = _typical_error(deviation * errors, errors, model, near)
    return StarFit(xy, is_stray, deviation, is_no_star, of_core, flux, errors)


def _compiled_fit(
    stars: StarWindows, forms: np.ndarray, xy: np.ndarray, model_error: float, unlike: np.ndarray | None
) -> StarFit:
    """What :func:`fit_stars` gives, by the kernel in C; ``xy`` is moved."""
    assert compiled.native is not None

    def ready(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else compiled.ready(values, dtype=float)

    windows = ready(stars.electrons), ready(stars.rms), compiled.ready(stars.is_good, dtype=bool), ready(stars.foreign)
    corners = (compiled.ready(values, dtype=np.int64) for values in stars.corners)
    given = (
        *windows,
        ready(stars.response),
        ready(unlike),
        *corners,
        forms,
        ready(stars.expected_xy),
        ready(stars.table),
    )
    n, shape = len(xy), stars.electrons.shape
    stray, deviation, all_errors = np.empty(shape, dtype=bool), np.empty(shape), np.empty(shape)
    flux, of_core, no_star = np.empty(n), np.empty(n), np.empty(n, dtype=bool)
    found = xy, flux, of_core, no_star, stray, deviation, all_errors
    numbers = limits(stars.position_error, model_error)
    compiled.native.fit_stars((*given, numbers, *found), profile.EDGE, profile.TABLE_STEP)
    return StarFit(xy, stray, deviation, no_star, of_core, flux, all_errors)


def prior_weights(position_error: float) -> np.ndarray:
    """Inverse variances of flux, x, y and logarithm of the width of a star before it is looked at, shape (4,)."""
    return np.array([0.0, position_error**-2, position_error**-2, _WIDTH_ERROR**-2])


def templates(
    table: np.ndarray, xy: np.ndarray, corners: tuple[np.ndarray, np.ndarray], size: int, forms: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Light (n, size, size), and its change with x, y and the logarithm of the width (n, 3, size, size)."""
    light = profile.light_of_forms(table, xy, *corners, size, forms)
    slopes = profile.position_slopes(table, xy, corners, size, forms)
    offsets = np.arange(size)
    dx = (corners[0][:, None] + offsets - xy[:, 0, None])[:, None, :]
    dy = (corners[1][:, None] + offsets - xy[:, 1, None])[:, :, None]
    wider = dx * slopes[:, 0] + dy * slopes[:, 1] - 2.0 * light
    return light, np.concatenate([slopes, wider[:, None]], axis=1)


def _median_flux(own: np.ndarray, light: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Flux from the median of pixel over light in the core, which a few stray pixels do not move."""
    core = near & (light > 0.3 * np.max(np.where(near, light, 0.0), axis=(1, 2), keepdims=True)) & (light > 0)
    ratio = np.where(core, own / np.where(core, light, 1.0), np.nan)
    flat = np.sort(ratio.reshape(len(ratio), -1), axis=1)  # NaN last
    count = np.count_nonzero(core, axis=(1, 2))
    rows = np.arange(len(flat))
    middle = 0.5 * (flat[rows, np.maximum(count - 1, 0) // 2] + flat[rows, count // 2 - (count == flat.shape[1])])
    return np.where(count > 0, middle, 0.0)


def _residuals(
    stars: StarWindows,
    own: np.ndarray,
    flux: np.ndarray,
    widening: np.ndarray,
    light: np.ndarray,
    slopes: np.ndarray,
    model_error: float,
    unlike: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors of the pixels, deviations in these errors, and the model of the star."""
    model = flux[:, None, None] * (light + widening[:, None, None] * slopes[:, 2])
    by_form = 0.0 if unlike is None else flux[:, None, None] * unlike
    errors = pixel_errors(model, stars.foreign, stars.rms, stars.response, model_error, by_form)
    errors = np.where(stars.is_good, errors, 1.0)
    deviation = np.where(stars.is_good, (own - model) / errors, 0.0)
    return errors, deviation, model


def find_stray(
    deviation: np.ndarray, errors: np.ndarray, used: np.ndarray, tolerance: np.ndarray | float = 1.0
) -> np.ndarray:
    """Pixels too far from the profile, and those next to them that stand out as well.

    Parameters
    ----------
    deviation, errors : ndarray, shape (n, size, size)
        Pixels minus the profile in their errors, and these errors in electrons.
    used : ndarray of bool, shape (n, size, size)
        Pixels that are looked at.
    tolerance : float or ndarray, shape (n,)
        Factor of the limits, for fits that have not arrived yet (:func:`typical_deviation`).

    Returns
    -------
    ndarray of bool, shape (n, size, size)
    """
    tolerance = np.reshape(tolerance, (-1, 1, 1))
    size = np.where(used, np.abs(deviation) - np.where(deviation > 0, SKEW / errors, 0.0), 0.0)
    is_stray = size > CLIP * tolerance
    if not is_stray.any():
        return is_stray
    return is_stray | (grown(is_stray) & (size > GROW * tolerance))


def grown(mask: np.ndarray) -> np.ndarray:
    """Pixels of masks (n, rows, columns), and those next to them."""
    n_rows, n_columns = mask.shape[1:]
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    result = np.zeros_like(mask)
    for row in range(3):
        for column in range(3):
            result |= padded[:, row : row + n_rows, column : column + n_columns]
    return result


def typical_deviation(deviation: np.ndarray, own: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Typical size of the deviations in the cores of stars, 1 for those of Gaussian noise; at least 1, shape (n,)."""
    brightest = np.max(np.where(used, own, 0.0), axis=(1, 2), keepdims=True)
    core = used & (own > _CORE * brightest) & (own > 0)
    sizes = np.sort(np.where(core, np.abs(deviation), np.inf).reshape(len(core), -1), axis=1)
    count = np.count_nonzero(core, axis=(1, 2))
    middle = sizes[np.arange(len(sizes)), np.maximum(count - 1, 0) // 2]
    typical: np.ndarray = np.where(count > 0, np.maximum(np.where(count > 0, middle, 0.0) / MEDIAN_SIZE, 1.0), 1.0)
    return typical


def judge_pixels(
    electrons: np.ndarray,
    model: np.ndarray,
    rms: np.ndarray,
    response: np.ndarray | None,
    is_good: np.ndarray,
    model_error: float,
    unknown: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Errors of the pixels of one window (size, size) about a model of its stars, and which are not theirs.

    Parameters
    ----------
    electrons, model, rms, response
        As :func:`pixel_errors` and :func:`find_stray` take them, for one window.
    is_good : ndarray of bool, shape (size, size)
        Pixels that are looked at.
    model_error : float
        What the profile gets wrong in a pixel, relative to its light.
    unknown : ndarray, shape (size, size), or None
        Variance of the model by the places of the stars; without it the limits are as wide as the deviations.
    """
    if compiled.native is not None:
        windows = [
            None if values is None else compiled.ready(values, dtype=float)
            for values in (electrons, model, rms, response, unknown)
        ]
        errors, is_stray = np.empty(electrons.shape), np.empty(electrons.shape, dtype=bool)
        numbers = limits(np.nan, model_error)
        compiled.native.judge_pixels(*windows, compiled.ready(is_good), numbers, errors, is_stray)
        return errors, is_stray
    errors = pixel_errors(model, 0.0, rms, response, model_error)
    errors = errors if unknown is None else np.sqrt(errors**2 + unknown)
    used = is_good[None]
    deviation = np.where(is_good, (electrons - model) / errors, 0.0)[None]
    tolerance = 1.0 if unknown is not None else typical_deviation(deviation, model[None], used)
    return errors, find_stray(deviation, np.where(is_good, errors, 1.0)[None], used, tolerance)[0]


def _typical_error(residual: np.ndarray, errors: np.ndarray, own: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Median deviation of the core's pixels relative to their light, less that by noise; 0 for what has no light."""
    brightest = np.max(np.where(near, own, 0.0), axis=(1, 2), keepdims=True)
    core = near & (own > _CORE * brightest) & (own > 0)
    relative = np.where(core, own, 1.0)
    noise = np.where(core, (errors / relative) ** 2, np.nan)
    squares = np.where(core, (residual / relative) ** 2, np.nan)
    found = np.zeros(len(own))
    for index in np.flatnonzero(np.any(core, axis=(1, 2))):
        beyond = np.nanmedian(squares[index]) / MEDIAN_SQUARE - np.nanmedian(noise[index])
        found[index] = np.sqrt(max(beyond, 0.0))
    return found


def _solve(design: np.ndarray, own: np.ndarray, weights: np.ndarray, prior: np.ndarray, pull: np.ndarray) -> np.ndarray:
    """Weighted least squares for each star, shape (n, k); a parameter that nothing determines is 0."""
    n, k = design.shape[:2]
    columns, weighted = design.reshape(n, k, -1), weights.reshape(n, 1, -1)
    normal = np.einsum("nip,njp->nij", columns * weighted, columns)
    right = np.einsum("nip,np->ni", columns * weighted, own.reshape(n, -1)) + pull
    index = np.arange(k)
    normal[:, index, index] += prior
    scale = np.sqrt(np.where(normal[:, index, index] > 0, normal[:, index, index], 1.0))
    normal = normal / scale[:, :, None] / scale[:, None, :]
    normal[:, index, index] = np.maximum(normal[:, index, index], 1e-9) + 1e-12
    solution: np.ndarray = np.linalg.solve(normal, (right / scale)[:, :, None])[:, :, 0] / scale
    return solution
