"""Second search of a stack, without the fitted light of the known stars, for the stars that they hide.

All stars are fitted together, with the profile that the stack's own stars have (as in DAOPHOT, Stetson 1987, PASP 99,
191), and what is left is searched for the light of further stars. A bright star leaves something behind as
well, because nobody knows the profile exactly: light counts as a star only when it stands out of the photon noise of
what was taken off, and of what the profile may be wrong by there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array, csc_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu
from scipy.spatial import KDTree

from opticam_dask.kernels.images.sky import background
from opticam_dask.kernels.robust import known_or
from opticam_dask.kernels.sources import photometry
from opticam_dask.kernels.sources.profiles import profile
from opticam_dask.kernels.sources.stack_psf import NEAR_REACH, Psf, Stack, measured_psf

#: Pixels up to so many sigma from a star are fitted.
_FIT_REACH = 2.4
#: that of one whose wings are above the noise further.
_REACHES = (NEAR_REACH, 10.0, 16.0)

#: Pixels of windows that are worked on at once.
_AT_ONCE = 2**20

#: Sets of so many stars and fewer are worked on as dense matrices; the sparse one is solved for one star at a time.
_DENSE = 200

#: A star's wings are above the noise where they are this part of it in a pixel.
_ABOVE_NOISE = 0.3

#: So many times new stars are searched for: each time the brighter of a group are found.
_ROUNDS = 5
#: Steps of each fit.
_STEPS = 3
#: A step moves a star by this part of sigma at most.
_LONGEST_STEP = 0.5

#: New stars of one round are so many FWHM apart,
_APART = 2.0
#: and from all others this part of the FWHM.
_LEAST_APART = 0.6

#: Light is no star when a window half as wide as a star shows it so many times more significantly,
_SHARPER = 1.15
#: or one twice as wide so many times.
_BROADER = 1.25

#: Light must stand out of this part of the scatter around it, which in crowded fields is that of stars not yet found.
_SCATTER = 0.7

#: Errors of a profile are the same in neighbouring pixels: for light that need not be a star they count so much more.
_SHARED = 3.0

#: The sky left behind is that of boxes of so many FWHM,
_SKY_BOX = 4.0
#: and no fewer pixels to a side.
_LEAST_BOX = 12


@dataclass(frozen=True)
class KnownStars:
    """Known stars of a stack, fitted together.

    Attributes
    ----------
    xy : ndarray, shape (n, 2)
        Fitted places of the stars, pixels.
    flux, flux_err : ndarray, shape (n,)
        Total light and its error, with that of the profile in it, electrons.
    residual, variance : ndarray, shape (ny, nx)
        The stack without them and without the sky that was left in it; and its variance, with what the profile may be
        wrong by.
    psf : Psf
        Star profile that they were fitted with.
    further : ndarray, shape (m, 3)
        x, y and flux of light that stands out of what is left, and may be no star.
    """

    xy: np.ndarray
    flux: np.ndarray
    flux_err: np.ndarray
    residual: np.ndarray
    variance: np.ndarray
    psf: Psf
    further: np.ndarray

    def alone(self, chosen: np.ndarray, half: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Windows of some stars without all the others, shape (n, size, size), and their corners."""
        light, x0, y0 = self.psf.light(self.xy[chosen], half)
        return photometry.cut_out(self.residual, x0, y0, 2 * half + 1) + self.flux[chosen, None, None] * light, x0, y0

    def misfit(self, xy: np.ndarray, half: int) -> np.ndarray:
        """Mean of squared residuals around places in units of their variance: about 1 where stars are all there is."""
        x0, y0 = photometry.origins(xy, 2 * half + 1)
        squares = photometry.cut_out(self.residual**2 / self.variance, x0, y0, 2 * half + 1)
        mean: np.ndarray = np.nanmean(squares, axis=(1, 2))
        return mean


def look_again(
    stack: Stack,
    xy: np.ndarray,
    flux: np.ndarray,
    is_clean: np.ndarray,
    shape: profile.Shape,
    least_ratio: float,
    *,
    most: int = 5000,
) -> KnownStars | None:
    """Fit the known stars of a stack together, and find the stars that they hide.

    Parameters
    ----------
    stack : Stack
        Stack that is searched.
    xy, flux : ndarray, shape (n, 2) and (n,)
        Known stars, which come first in the result.
    is_clean : ndarray of bool, shape (n,)
        Which of them the profile is measured with: whole and as wide as a star.
    shape : Shape
        Width and form of the stars on the stack.
    least_ratio : float
        Least signal-to-noise ratio of a star that is new.
    most : int
        No more stars than these are looked for.

    Returns
    -------
    KnownStars or None
        None where there is no clean star.
    """
    if not is_clean.any() or not shape.is_known():
        return None
    psf, n_known = Psf(profile.gaussian_profile().table(), shape), len(xy)
    sky = np.zeros_like(stack.image)
    for _ in range(2):
        xy, flux, error, model, residual = _fit(stack, sky, psf, xy, flux)
        psf = measured_psf(psf, stack, residual, xy, flux, error, is_clean)
    xy, flux, error, model, residual = _fit(stack, sky, psf, xy, flux)
    for _ in range(_ROUNDS):
        sky, scatter = _left_behind(residual + sky, shape)
        new_xy, new_flux = _search(stack, model, residual, scatter, psf, xy, flux, least_ratio)
        room = max(0, most - len(xy))
        if not len(new_xy[:room]):
            break
        is_clean = np.append(is_clean, np.zeros(len(new_xy[:room]), dtype=bool))
        xy, flux = np.concatenate([xy, new_xy[:room]]), np.append(flux, new_flux[:room])
        xy, flux, error, model, residual = _fit(stack, sky, psf, xy, flux)
        kept = _believed(xy, flux, error, n_known, shape, least_ratio)
        xy, flux, is_clean = xy[kept], flux[kept], is_clean[kept]
        psf = measured_psf(psf, stack, residual, xy, flux, error[kept], is_clean)
        xy, flux, error, model, residual = _fit(stack, sky, psf, xy, flux, n_steps=1)
    xy, flux, error, model, residual = _fit(stack, sky, psf, xy, flux)
    kept = _believed(xy, flux, error, n_known, shape, least_ratio)
    if not kept.all():
        xy, flux, error, model, residual = _fit(stack, sky, psf, xy[kept], flux[kept])
    from_profile = _uncertain(psf, stack.usual_noise, xy, flux, residual.shape)
    variance = stack.noise**2 + np.maximum(model, 0.0) / np.maximum(stack.coverage, 1) + from_profile
    further = _further_light(residual, variance + _SHARED * from_profile, psf, xy, least_ratio)
    return KnownStars(xy, flux, error, residual, variance, psf, further)


def _believed(
    xy: np.ndarray, flux: np.ndarray, error: np.ndarray, n_known: int, shape: profile.Shape, least_ratio: float
) -> np.ndarray:
    """Which stars stay: all known ones, and new ones that are significant and have a place of their own."""
    is_good = flux > least_ratio * error
    is_good[:n_known] = True
    fwhm = photometry.SIGMA_TO_FWHM * shape.sigma
    for one, other in KDTree(xy).query_pairs(_LEAST_APART * fwhm, output_type="ndarray"):
        if other >= n_known:  # pairs come with the lower number first
            is_good[other] &= not is_good[one]
    return is_good


def _pixels(x0: np.ndarray, y0: np.ndarray, size: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Places of the pixels of windows in the flattened image, and which of them are on it."""
    column = (x0[:, None] + np.arange(size))[:, None, :]
    row = (y0[:, None] + np.arange(size))[:, :, None]
    inside = (column >= 0) & (column < shape[1]) & (row >= 0) & (row < shape[0])
    return np.where(inside, row * shape[1] + column, 0), inside


def _by_reach(psf: Psf, noise: float, flux: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Stars, some at once, and half the size of the windows that hold their light."""
    sigma, left = psf.shape.semimajor_sigma, np.ones(len(flux), dtype=bool)
    for reach in _REACHES:
        is_enough = np.abs(flux) * psf.table[round(100 * reach)] / psf.shape.area < _ABOVE_NOISE * noise
        chosen = np.flatnonzero(left & (is_enough | (reach == _REACHES[-1])))
        left[chosen] = False
        half = int(np.ceil(reach * sigma))
        at_once = max(1, _AT_ONCE // (2 * half + 1) ** 2)
        for start in range(0, len(chosen), at_once):
            yield chosen[start : start + at_once], half


def _painted(psf: Psf, noise: float, xy: np.ndarray, flux: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Image of stars."""

    def windows() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for some, half in _by_reach(psf, noise, flux):
            light, x0, y0 = psf.light(xy[some], half)
            places, inside = _pixels(x0, y0, 2 * half + 1, shape)
            yield _on_image(places, inside, flux[some, None, None] * light)

    return _summed(windows(), shape)


def _uncertain(psf: Psf, noise: float, xy: np.ndarray, flux: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Variance by which the profile makes the image of stars uncertain."""

    def windows() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for some, half in _by_reach(psf, noise, flux):
            error = flux[some, None, None] * psf.error(xy[some], half)
            places, inside = _pixels(*photometry.origins(xy[some], 2 * half + 1), 2 * half + 1, shape)
            yield _on_image(places, inside, error**2)

    return _summed(windows(), shape)


def _summed(parts: Iterator[tuple[np.ndarray, np.ndarray]], shape: tuple[int, int]) -> np.ndarray:
    """Image of values at places of the flattened image, those of each part summed before they are added.

    Stars cover little of a stack: nothing goes through all of its pixels.
    """
    image, of_part = np.zeros(shape[0] * shape[1]), np.empty(0)
    for number, (places, values) in enumerate(parts):
        if not number:
            np.add.at(image, places, values)
            continue
        of_part = of_part if len(of_part) else np.zeros(len(image))
        np.add.at(of_part, places, values)
        image[places] += of_part[places]  # a place that comes twice is set to the same value twice
        of_part[places] = 0.0
    return image.reshape(shape)


def _on_image(places: np.ndarray, inside: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places and values of the pixels of windows that are on the image, each in one row."""
    return (places.ravel(), values.ravel()) if inside.all() else (places[inside], values[inside])


def _fit(
    stack: Stack, sky: np.ndarray, psf: Psf, xy: np.ndarray, flux: np.ndarray, n_steps: int = _STEPS
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fit places and fluxes of all stars at once; returns them, errors of the fluxes, their image, and what is left."""
    shape, sigma = stack.image.shape, psf.shape.sigma
    half = int(np.ceil(_FIT_REACH * psf.shape.semimajor_sigma))
    error = np.full(len(flux), np.inf)
    from_profile = _uncertain(psf, stack.usual_noise, xy, flux, shape)
    for step in range(n_steps):
        model = _painted(psf, stack.usual_noise, xy, flux, shape)
        light, x0, y0 = psf.light(xy, half)
        rho = profile.elliptical_radius(xy, x0, y0, 2 * half + 1, psf.shape)
        places, inside = _pixels(x0, y0, 2 * half + 1, shape)
        used = inside & (rho < _FIT_REACH) & np.isfinite(stack.image.ravel()[places])
        columns, slopes = [light], 0.05 * sigma
        for axis in np.eye(2):
            ahead, behind = (psf.light_in(xy + sign * slopes * axis, x0, y0, 2 * half + 1) for sign in (1.0, -1.0))
            columns.append(np.maximum(flux, 0.0)[:, None, None] * (ahead - behind) / (2.0 * slopes))
        number = np.broadcast_to(np.arange(len(flux))[:, None, None], used.shape)[used]
        # a pixel is one row, however many stars use it, with the same weight
        seen, row = np.unique(places[used], return_inverse=True)
        image, taken_off, noise, light_there, coverage, doubt = (
            values.ravel()[seen] for values in (stack.image, sky, stack.noise, model, stack.coverage, from_profile)
        )
        scatter = np.sqrt(noise**2 + np.maximum(light_there, 0.0) / np.maximum(coverage, 1) + doubt)
        weight = (1.0 / scatter)[row]
        entries = np.concatenate([column[used] * weight for column in columns])
        index = (np.tile(row, 3), np.concatenate([3 * number + k for k in range(3)]))
        design = coo_array((entries, index), shape=(len(seen), 3 * len(flux))).tocsr()
        measured = (image - light_there - taken_off) / scatter
        normal = (design.T @ design).tocsc()
        scale = normal.diagonal()
        # a step of more than half a sigma is not believed; this also holds a star without light where it is
        prior = np.where(np.arange(len(scale)) % 3 == 0, 1e-9 * scale + 1e-30, 1.0 / (_LONGEST_STEP * sigma) ** 2)
        normal = (normal + diags_array(prior)).tocsc()
        factor = splu(normal)
        change = factor.solve(design.T @ measured).reshape(-1, 3)
        flux = flux + change[:, 0]
        moved = np.clip(change[:, 1:], -_LONGEST_STEP * sigma, _LONGEST_STEP * sigma)
        xy = xy + np.where((flux > 0)[:, None], moved, 0.0)
        if step == n_steps - 1:
            error = _errors(normal, factor)
    model = _painted(psf, stack.usual_noise, xy, flux, shape)
    return xy, flux, error, model, stack.image - model - sky


def _errors(normal: csc_array, factor: Any) -> np.ndarray:
    """Errors of the fluxes: the diagonal of the covariance, from each set of stars that overlap by itself.

    The unknowns of a star are three rows of the matrix, that of its flux first.
    """
    entries = normal.tocoo()
    n_stars = normal.shape[0] // 3
    overlaps = coo_array((np.ones(entries.nnz), (entries.row // 3, entries.col // 3)), shape=(n_stars, n_stars))
    n_sets, of_star = connected_components(overlaps, directed=False)
    sets = np.split(np.argsort(of_star, kind="stable"), np.cumsum(np.bincount(of_star, minlength=n_sets))[:-1])
    sizes, errors = np.array([len(one) for one in sets]), np.empty(n_stars)
    for size in np.unique(sizes).tolist():
        stars = np.array([one for one, n in zip(sets, sizes, strict=True) if n == size])
        if size > _DENSE:
            errors[stars.ravel()] = _errors_of_many(factor, n_stars, stars.ravel())
            continue
        at_once = max(1, _AT_ONCE // (3 * size) ** 2)
        for some in np.split(stars, range(at_once, len(stars), at_once)):
            covariance = np.linalg.inv(_blocks(entries, some))
            variance = np.diagonal(covariance, axis1=1, axis2=2)[:, ::3]
            errors[some] = np.sqrt(np.maximum(variance, 0.0))
    return errors


def _blocks(entries: coo_array, sets: np.ndarray) -> np.ndarray:
    """Dense parts of a matrix for sets of stars (set, star), shape (set, size, size)."""
    n_sets, size = len(sets), 3 * sets.shape[1]
    of_row, place = np.full(entries.shape[0], -1), np.empty(entries.shape[0], dtype=np.int64)
    rows = (3 * sets[:, :, None] + np.arange(3)).reshape(n_sets, size)
    of_row[rows], place[rows] = np.arange(n_sets)[:, None], np.arange(size)
    chosen = of_row[entries.col] >= 0
    row, column = entries.row[chosen], entries.col[chosen]
    blocks = np.zeros((n_sets, size, size))
    blocks[of_row[column], place[row], place[column]] = entries.data[chosen]
    return blocks


def _errors_of_many(factor: Any, n_stars: int, stars: np.ndarray) -> np.ndarray:
    """Errors of the fluxes of some stars by the factors of the sparse matrix."""
    errors, at_once = [], 256
    for some in np.split(stars, range(at_once, len(stars), at_once)):
        unit = np.zeros((3 * n_stars, len(some)))
        place = 3 * some, np.arange(len(some))
        unit[place] = 1.0
        errors.append(np.sqrt(np.maximum(factor.solve(unit)[place], 0.0)))
    return np.concatenate(errors)


def _left_behind(residual: np.ndarray, shape: profile.Shape) -> tuple[np.ndarray, np.ndarray]:
    """Smooth sky that is left, and the scatter about it, in small boxes."""
    side = max(_LEAST_BOX, round(_SKY_BOX * photometry.SIGMA_TO_FWHM * shape.sigma))
    box = (min(side, residual.shape[0]), min(side, residual.shape[1]))
    pixels = residual.copy()
    try:
        mesh, rms = background.sky_mesh(pixels, box)
    except ValueError:
        return np.zeros_like(residual), np.zeros_like(residual)
    zoomed = (background.zoom_mesh(values, residual.shape, box) for values in (mesh, rms))
    sky, scatter = zoomed
    return sky, np.maximum(scatter, 0.0)


def _search(
    stack: Stack,
    model: np.ndarray,
    residual: np.ndarray,
    scatter: np.ndarray,
    psf: Psf,
    xy: np.ndarray,
    flux: np.ndarray,
    least_ratio: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Places and fluxes of light in the residual that is as wide as a star, the most significant first."""
    from_profile = _uncertain(psf, stack.usual_noise, xy, flux, residual.shape)
    variance = np.maximum(stack.noise, _SCATTER * scatter) ** 2
    # the error of a profile is the same in all pixels that a star would cover
    n_pixels = 4.0 * np.pi * psf.shape.area
    variance = variance + np.maximum(model, 0.0) / np.maximum(stack.coverage, 1) + n_pixels * from_profile
    inverse = np.where(np.isfinite(residual), 1.0 / variance, 0.0)
    weighted = np.where(inverse > 0, residual, 0.0) * inverse
    sigma, fwhm = psf.shape.sigma, photometry.SIGMA_TO_FWHM * psf.shape.sigma
    best = _matched(weighted, inverse, sigma)
    row, column = _peaks(best, least_ratio, np.isfinite(residual))
    ratio = best[row, column]
    sharper, broader = (_matched_at(weighted, inverse, factor * sigma, row, column) for factor in (0.5, 2.0))
    is_star = (sharper < _SHARPER * ratio) & (broader < _BROADER * ratio)
    row, column, ratio = row[is_star], column[is_star], ratio[is_star]
    order = np.argsort(-ratio, kind="stable")
    places = np.column_stack([column, row])[order].astype(float)
    if not len(places):
        return np.empty((0, 2)), np.empty(0)
    if len(xy):
        places = places[KDTree(xy).query(places)[0] > _LEAST_APART * fwhm]
    chosen = _thinned(places, _APART * fwhm)
    places = places[chosen]
    height = residual[places[:, 1].astype(int), places[:, 0].astype(int)]
    start: np.ndarray = np.maximum(height, 0.0) * psf.shape.area / psf.table[0]
    return places, start


def _further_light(
    residual: np.ndarray, variance: np.ndarray, psf: Psf, xy: np.ndarray, least_ratio: float
) -> np.ndarray:
    """Place and flux (m, 3) of the light that is left beside stars, whatever its form.

    It need not be sure to be a star: trails of charge and close companions shine on the stars that are measured, and
    each frame tells how brightly.
    """
    inverse = np.where(np.isfinite(residual) & (variance > 0), 1.0 / variance, 0.0)
    ratio = _matched(np.where(inverse > 0, residual, 0.0) * inverse, inverse, psf.shape.sigma)
    row, column = _peaks(ratio, least_ratio, np.isfinite(residual))
    places = np.column_stack([column, row]).astype(float)
    if len(places) and len(xy):
        is_apart = KDTree(xy).query(places)[0] > _LEAST_APART * photometry.SIGMA_TO_FWHM * psf.shape.sigma
        places, row, column = places[is_apart], row[is_apart], column[is_apart]
    light = np.maximum(residual[row, column], 0.0) * psf.shape.area / psf.table[0]
    return np.column_stack([places, light])


def _matched(weighted: np.ndarray, inverse: np.ndarray, sigma: float) -> np.ndarray:
    """Signal-to-noise ratio of a Gaussian of unit weight at each pixel of an image, or of each of several."""
    signal: np.ndarray = gaussian_filter(weighted, sigma, mode="constant", axes=(-2, -1))
    # the square of a Gaussian is a narrower one
    power = gaussian_filter(inverse, sigma / np.sqrt(2.0), mode="constant", axes=(-2, -1))
    power /= 4.0 * np.pi * sigma**2
    is_known = power > 0
    np.sqrt(np.maximum(power, 1e-300, out=power), out=power)
    signal /= power
    signal[~is_known] = 0.0
    return signal


def _matched_at(
    weighted: np.ndarray, inverse: np.ndarray, sigma: float, row: np.ndarray, column: np.ndarray
) -> np.ndarray:
    """As :func:`_matched`, at some pixels: from windows that hold all that a Gaussian reaches, up to 4 sigma."""
    half = int(4.0 * sigma + 0.5)
    corners, size = (column - half, row - half), 2 * half + 1
    if len(row) * size**2 > weighted.size:  # the windows of so many pixels are more than the image
        return _matched(weighted, inverse, sigma)[row, column]
    signal, power = (known_or(photometry.cut_out(values, *corners, size)) for values in (weighted, inverse))
    return _matched(signal, power, sigma)[:, half, half]


def _peaks(values: np.ndarray, least: float, is_known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of pixels above ``least`` that are as high as all around them."""
    row, column = np.nonzero((values > least) & is_known)
    is_peak = np.ones(len(row), dtype=bool)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            around = np.clip(row + dy, 0, values.shape[0] - 1), np.clip(column + dx, 0, values.shape[1] - 1)
            is_peak &= values[row, column] >= values[around]
    return row[is_peak], column[is_peak]


def _thinned(places: np.ndarray, apart: float) -> np.ndarray:
    """Numbers of places of which none is near an earlier one."""
    taken = np.zeros(len(places), dtype=bool)
    chosen = []
    near = KDTree(places).query_ball_point(places, apart) if len(places) else []
    for number, others in enumerate(near):
        if not taken[number]:
            chosen.append(number)
            taken[others] = True
    return np.array(chosen, dtype=int)
