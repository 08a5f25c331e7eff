"""The empirical profile of a night's stars: measured in rings, fitted, evaluated on the pixels of a cut-out.

The profile is a function of the elliptical radius ``rho`` in units of the width (sigma of the adaptive moments) of a
frame's stars, so that one profile serves all frames of a night while the seeing changes. It is the *effective* profile
of Anderson & King (2000, PASP 112, 1360): its value at the centre of a pixel is the share of the star's light that the
pixel collects. It is a sum of Gaussians and Moffat functions (Moffat 1969, A&A 3, 455), as pixels sample them, with
coefficients of at least zero, whose total light, wings included, is known exactly. The Moffat functions of a profile
have one slope, or slopes that the measurement cannot tell apart: in any other mixture the wings that nobody can see
would follow the noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.ndimage import binary_dilation
from scipy.optimize import nnls

from opticam_dask.kernels.sources.photometry import SIGMA_TO_FWHM

#: Radii, in units of sigma, up to which a profile is measured, and the width of the rings. The sky is that of an
#: annulus beyond, so that what a sky mesh takes off the wings of bright stars is not lost. The annulus has twice the
#: area of what is inside: an error of the sky moves the total light by several times what it adds to the rings.
REACH, _RING, SKY_REACH = 10.0, 0.1, 17.0
N_RINGS = round(REACH / _RING)

#: Where a read-out window leaves too little of that annulus, the sky begins nearer to the star: there must be this part
#: of the pixels inside, and so many in all. The light that the star has there is part of the fit.
_NEARER_SKIES, _LEAST_PART, _LEAST_SKY = (10.0, 8.0, 6.5, 5.0), 0.5, 60

#: Width of the rings in which the light of a star in its own sky is counted.
_SKY_RING = 0.5
N_SKY_RINGS = round(SKY_REACH / _SKY_RING)

#: Pixels of the sky that are so many times the scatter from the plane do not count; the plane has arrived after so many
#: steps. A level without slope serves where the error of a plane at the star is this many times that of a level.
_SKY_CLIP, _SKY_STEPS, _SLOPE_COST = 4.0, 5, 2.0

#: Determinants and condition numbers of places on a line.
_FLAT = 1e-6

#: A bend of the sky counts as far as its chi-square per coefficient is above this.
_DOUBT = 2.0

#: Beyond this radius pixels that stand out from their ring by so many times the noise, and by this part of its light,
#: belong to something else, with everything within this radius of them.
_ROUND_FROM, _STANDS_OUT, _UNEVEN, _AROUND = 3.0, 5.0, 0.5, 1.5

#: Stars count with the square of their signal-to-noise ratio up to about this ratio of core to background RMS, so that
#: what is wrong with the surroundings of the brightest does not decide.
_BRIGHTEST = 5000.0

#: A star is normalised by its light within this radius.
_CORE = 2.5

#: A profile is known when so many rings of the core have light, the innermost of them within this radius.
_LEAST_RINGS, _INNERMOST = 3, 1.2

#: Slopes of the Moffat functions that a profile is made of (infinity is a Gaussian), and their FWHM in units of that
#: of a Gaussian of sigma 1. Wings are those of Moffat functions not much wider than the core: anything wider cannot be
#: told from an error of the sky.
_SLOPES = (2.5, 3.0, 3.5, 4.5, 7.0, np.inf, 2.6, 2.7, 2.8, 2.9, 3.15, 3.3, 3.75, 4.0, 5.5)
_WIDTHS = (0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.4)
_WIDEST_GAUSSIAN = 1.2
_COMPONENTS = np.array([(b, w) for b in _SLOPES for w in _WIDTHS if np.isfinite(b) or w <= _WIDEST_GAUSSIAN])
N_COMPONENTS = len(_COMPONENTS)

#: No sum of such functions is a star to better than this part of the light in a ring.
_MODEL_ERROR = 3e-4

#: Points at which a profile is tabulated; the light beyond the last counts as part of the total.
_STEP, _EDGE = 0.01, 30.0
_GRID = np.arange(0.0, _EDGE + 1.5 * _STEP, _STEP)


@dataclass(frozen=True)
class Shape:
    """Size and form of the stars of one frame.

    Attributes
    ----------
    semimajor_sigma, semiminor_sigma : float
        Pixels, as the pixels sample them.
    orientation : float
        Angle of the major axis from the x axis, counter-clockwise, in radians.
    """

    semimajor_sigma: float
    semiminor_sigma: float
    orientation: float

    @property
    def area(self) -> float:
        """Product of the axes in square pixels."""
        return self.semimajor_sigma * self.semiminor_sigma

    @property
    def sigma(self) -> float:
        """Sigma of a round star of equal area, in pixels."""
        return float(np.sqrt(self.area))

    def is_known(self) -> bool:
        """Whether the numbers describe stars."""
        return bool(np.isfinite(self.area + self.orientation) and self.semiminor_sigma > 0)


@dataclass(frozen=True, eq=False)
class Profile:
    """Light per unit of area at elliptical radius ``rho``, both in units of sigma; the total light is 1.

    Attributes
    ----------
    coefficients : ndarray, shape (n_components,)
        Share of the light in each Gaussian or Moffat function.
    pixel_area : float
        Area of a pixel in units of sigma squared; 0 for functions that are not widened by the pixels.
    total_err : float
        1-sigma error of the total light relative to the light in the core, common to all stars and frames.
    """

    coefficients: np.ndarray
    pixel_area: float = 0.0
    total_err: float = 0.0

    def at(self, rho: np.ndarray) -> np.ndarray:
        """Light per unit of area at any radii."""
        used = np.flatnonzero(self.coefficients)
        value: np.ndarray = _components(rho, used, self.pixel_area) @ self.coefficients[used]
        return value

    def table(self) -> np.ndarray:
        """Light per unit of area at multiples of 0.01 sigma, 0 beyond 30."""
        table = self.at(_GRID)
        table[-1] = 0.0
        return table


#: Total light by a Gaussian lacks 14 to 29 % of that of Moffat functions of slopes 4 to 2.5.
GAUSSIAN_ERROR = 0.25


def gaussian_profile() -> Profile:
    """Profile for a night of which nothing is known."""
    return Profile(np.all((np.inf, 1.0) == _COMPONENTS, axis=1).astype(float), 0.0, GAUSSIAN_ERROR)


def typical_profile() -> Profile:
    """What stars look like from the ground, Moffat functions of slope 3, to begin with."""
    return Profile(np.all(_COMPONENTS == (3.0, 0.85), axis=1).astype(float))


def _components(rho: np.ndarray, chosen: Iterable[int], pixel_area: float) -> np.ndarray:
    """Components at radii ``rho``, each with a total light of 1; shape (..., component).

    A square pixel of area ``p`` averages a function ``f`` to ``f + p / 24 laplacian(f)``, and terms in ``p^2``.
    """
    columns = []
    for slope, width in _COMPONENTS[list(chosen)]:
        if np.isinf(slope):
            u = (rho / width) ** 2
            value = np.exp(-0.5 * u) / (2.0 * np.pi * width**2)
            curvature = value * (u - 2.0) / width**2
        else:
            alpha2 = (width * SIGMA_TO_FWHM / 2.0) ** 2 / (2.0 ** (1.0 / slope) - 1.0)
            u = rho**2 / alpha2
            value = (slope - 1.0) / (np.pi * alpha2) * (1.0 + u) ** -slope
            curvature = 4.0 * slope / alpha2 * value * (slope * u - 1.0) / (1.0 + u) ** 2
        columns.append(value + pixel_area / 24.0 * curvature)
    return np.stack(columns, axis=-1)


def elliptical_radius(xy: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: int, shape: Shape) -> np.ndarray:
    """Elliptical radius of the pixels of cut-outs, in units of sigma.

    Parameters
    ----------
    xy : ndarray, shape (n, 2)
        Centres on the frame.
    x0, y0 : ndarray of int, shape (n,)
        Lower corners of the cut-outs.
    size : int
    shape : Shape

    Returns
    -------
    ndarray, shape (n, size, size)
    """
    offsets = np.arange(size)
    dx = (np.asarray(x0)[:, None] + offsets - np.asarray(xy)[:, 0, None])[:, None, :]
    dy = (np.asarray(y0)[:, None] + offsets - np.asarray(xy)[:, 1, None])[:, :, None]
    cosine, sine = np.cos(shape.orientation), np.sin(shape.orientation)
    along = (dx * cosine + dy * sine) / shape.semimajor_sigma
    across = (dy * cosine - dx * sine) / shape.semiminor_sigma
    radius: np.ndarray = np.sqrt(along**2 + across**2)
    return radius


def profile_weights(
    table: np.ndarray, xy: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: int, shape: Shape
) -> np.ndarray:
    """Share of a star's light in each pixel of its cut-out.

    Parameters
    ----------
    table : ndarray
        :meth:`Profile.table`.
    xy, x0, y0, size, shape
        As for :func:`elliptical_radius`; a NaN position gives zeros.

    Returns
    -------
    ndarray, shape (n, size, size)
    """
    rho = elliptical_radius(xy, x0, y0, size, shape)
    rho = np.where(np.isfinite(rho), np.minimum(rho, _EDGE), _EDGE) / _STEP
    # the table is even: linear interpolation by index is exact to 1e-5 of the peak
    below = rho.astype(np.intp)
    weights: np.ndarray = table[below] + (rho - below) * (table[below + 1] - table[below])
    return weights / shape.area


def table_radius(index: np.ndarray) -> np.ndarray:
    """Radii in units of sigma that entries of :meth:`Profile.table` belong to."""
    return _STEP * np.minimum(index, len(_GRID) - 1)


def light_in_sky(fitted: Profile, sky: np.ndarray) -> float:
    """Light per unit of area that a star sheds on its own sky, from the part of the sky in each of its rings."""
    return float(sky @ fitted.at((np.arange(N_SKY_RINGS) + 0.5) * _SKY_RING))


# ---------------------------------------------------------------- measuring a profile


@dataclass(frozen=True, eq=False)
class Rings:
    """Sums over the pixels of stars in rings of the elliptical radius, star by star.

    Sums of such sums over frames are sums as well.

    Attributes
    ----------
    star : ndarray of int, shape (n,)
        Which star of the catalogue it is.
    n_images : ndarray of int, shape (n,)
        How many images of the star were added.
    signal, weight : ndarray, shape (n, ring)
        The ratio is the light per unit of area, relative to the light of the star; the weight is its inverse variance
        by the sky.
    radius, square : ndarray, shape (n, ring)
        Weight times radius, and weight times radius squared.
    sky : ndarray, shape (n, sky ring)
        How much the light in each ring of half a sigma has to do with the sky that was taken off, times the weight.
    pixel_area : ndarray, shape (n,)
        Area of a pixel in units of sigma squared, times the weight.
    photons : ndarray, shape (n,)
        Variance by the photons of a light of 1, relative to that by the sky, times the weight.
    star_weight : ndarray, shape (n,)
        Weight of the star's pixels.
    """

    star: np.ndarray
    n_images: np.ndarray
    signal: np.ndarray
    weight: np.ndarray
    radius: np.ndarray
    square: np.ndarray
    sky: np.ndarray
    pixel_area: np.ndarray
    photons: np.ndarray
    star_weight: np.ndarray


def empty_rings(stars: Sequence[int] | np.ndarray = ()) -> Rings:
    """No light yet of the given stars."""
    star = np.asarray(stars, dtype=np.int64)
    n = len(star)
    signal, weight, radius, square = (np.zeros((n, N_RINGS)) for _ in range(4))
    pixel_area, photons, star_weight = (np.zeros(n) for _ in range(3))
    sky = np.zeros((n, N_SKY_RINGS))
    return Rings(star, np.zeros(n, np.int64), signal, weight, radius, square, sky, pixel_area, photons, star_weight)


def add_rings(found: Iterable[Rings]) -> Rings:
    """Sums of several frames, star by star, added in the order in which they are given."""
    everything = list(found)
    stars = np.unique(np.concatenate([rings.star for rings in everything])) if everything else np.empty(0, np.int64)
    total = empty_rings(stars)
    for rings in everything:
        rows = np.searchsorted(stars, rings.star)
        for field in fields(Rings)[1:]:
            np.add.at(getattr(total, field.name), rows, getattr(rings, field.name))
    return total


def measure_rings(
    cutouts: np.ndarray,
    rms: np.ndarray,
    xy: np.ndarray,
    x0: np.ndarray,
    y0: np.ndarray,
    shape: Shape,
    foreign: np.ndarray | None = None,
    *,
    stars: np.ndarray | None = None,
    table: np.ndarray | None = None,
) -> Rings:
    """Sort the pixels of the stars of one frame into rings.

    The sky of a star is a plane through the pixels of an annulus, all with the same weight, so that a sky which rises
    from one side to the other tilts no wings.

    Parameters
    ----------
    cutouts, rms : ndarray, shape (n, size, size)
        Electrons with the sky in them and background RMS, to 17 sigma around each star; NaN pixels do not count.
    xy : ndarray, shape (n, 2)
        Centres on the frame.
    x0, y0 : ndarray of int, shape (n,)
        Lower corners.
    shape : Shape
        Of the frame's stars.
    foreign : ndarray of bool, shape (n, size, size), optional
        Pixels that another source shines on: they do not count.
    stars : ndarray of int, shape (n,), optional
        Which stars of the catalogue they are; 0, 1, 2, ... by default.
    table : ndarray, optional
        Profile by which the light of a star is measured (:meth:`Profile.table`); by default that of
        :func:`typical_profile`.

    Returns
    -------
    Rings
        Stars without enough sky around them, or without light, have sums of zero.
    """
    size = cutouts.shape[1]
    table = typical_profile().table() if table is None else table
    rho = elliptical_radius(xy, x0, y0, size, shape)
    share = profile_weights(table, xy, x0, y0, size, shape)
    usable = np.isfinite(cutouts) & (rms > 0) & (rho < SKY_REACH)
    if foreign is not None:
        usable &= ~foreign
    places = (np.arange(size) + np.stack([x0, y0])[..., None] - xy.T[..., None]) / (SKY_REACH * shape.semimajor_sigma)
    found = empty_rings(np.arange(len(xy)) if stars is None else stars)
    stamps: list[tuple[int, _Stamp, _Sky]] = []
    for index in range(len(xy)):
        stamp = _stamp(cutouts[index], rms[index], rho[index], share[index], usable[index], *places[:, index])
        sky = None if stamp is None else _fit_sky(stamp)
        if stamp is None or sky is None:
            continue
        is_other = _stands_out(stamp, sky, usable[index], rho[index], _AROUND * shape.semiminor_sigma)
        if is_other is not None:
            stamp = _stamp(cutouts[index], rms[index], rho[index], share[index], is_other, *places[:, index])
            sky = None if stamp is None else _fit_sky(stamp)
        if stamp is not None and sky is not None:
            stamps.append((index, stamp, sky))
    bend = _bend_of_sky([(stamp, sky) for _, stamp, sky in stamps])
    for index, stamp, sky in stamps:
        _sort_pixels(found, index, stamp, sky, bend, shape.area)
    return found


@dataclass(frozen=True, eq=False)
class _Stamp:
    """Pixels of one star that count, in one row: electrons, share of the light, radius, and place in units of 17 sigma.

    ``sky_ring`` is the ring of half a sigma that each lies in.
    """

    electrons: np.ndarray
    share: np.ndarray
    radius: np.ndarray
    sky_ring: np.ndarray
    u: np.ndarray
    v: np.ndarray
    noise: float

    @property
    def plane(self) -> np.ndarray:
        """1, u and v of the pixels, shape (pixel, 3)."""
        return np.stack([np.ones_like(self.u), self.u, self.v], axis=1)

    def flux(self, sky: np.ndarray) -> float:
        """Light of the star from its core, by the profile."""
        core = self.radius < _CORE
        whole = float(np.sum(self.share[core] ** 2))
        return float(np.sum((self.electrons - sky)[core] * self.share[core])) / whole if whole > 0 else float("nan")


@dataclass(frozen=True, eq=False)
class _Sky:
    """Sky of one star: coefficients of 1, u and v, the pixels they are from, and the weight of each at the star."""

    terms: np.ndarray
    beyond: np.ndarray
    weight: np.ndarray

    def at(self, stamp: _Stamp) -> np.ndarray:
        """Sky on the pixels of the stamp."""
        return self.terms[0] + self.terms[1] * stamp.u + self.terms[2] * stamp.v


def _stamp(
    window: np.ndarray,
    rms: np.ndarray,
    radius: np.ndarray,
    share: np.ndarray,
    usable: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
) -> _Stamp | None:
    """Pixels of a window that count; None where there are none."""
    rows, columns = np.nonzero(usable)
    if len(rows) < _LEAST_SKY:
        return None
    rho = radius[rows, columns]
    ring = (rho / _SKY_RING).astype(np.intp)
    noise = float(np.median(rms[rows, columns]))
    return _Stamp(window[rows, columns], share[rows, columns], rho, ring, u[columns], v[rows], noise)


def _fit_sky(stamp: _Stamp) -> _Sky | None:
    """Sky around a star, a plane where there are pixels on all its sides; None where there are too few."""
    inside_of = np.cumsum(np.bincount(stamp.sky_ring, minlength=N_SKY_RINGS))
    for start in _NEARER_SKIES:
        first = round(start / _SKY_RING)
        n_inside, n_beyond = inside_of[first - 1], inside_of[-1] - inside_of[first - 1]
        if n_beyond >= max(_LEAST_SKY, _LEAST_PART * n_inside):
            break
    if n_beyond < _LEAST_SKY:
        return None
    is_beyond = stamp.sky_ring >= first
    beyond = np.flatnonzero(is_beyond)
    plane, values, kept = stamp.plane[beyond], stamp.electrons[beyond], np.ones(len(beyond), dtype=bool)
    place = np.array([1.0, np.mean(stamp.u[~is_beyond]), np.mean(stamp.v[~is_beyond])]) if n_inside else np.eye(3)[0]
    for _ in range(_SKY_STEPS):
        basis, data = plane[kept], values[kept]
        normal = basis.T @ basis
        if not _is_plane_known(normal, place):
            basis, normal = basis[:, :1], normal[:1, :1]
        inverse = np.linalg.inv(normal)
        terms = np.zeros(3)
        terms[: len(normal)] = inverse @ (basis.T @ data)
        away = np.abs(values - plane @ terms)
        now = away < _SKY_CLIP * max(stamp.noise, 1.4826 * float(np.median(away[kept])))
        if np.count_nonzero(now) < _LEAST_SKY:
            return None
        if np.array_equal(now, kept):
            break
        kept = now
    share = plane[kept, : len(normal)] @ (inverse @ place[: len(normal)])
    return _Sky(terms, beyond[kept], share / np.sum(share))


def _is_plane_known(normal: np.ndarray, place: np.ndarray) -> bool:
    """Whether there are pixels on all sides of the star; else a plane would be a guess.

    The error of the plane at the star is compared with that of a level.
    """
    determinant = np.linalg.det(normal / normal[0, 0])
    if not determinant > _FLAT:
        return False
    return bool(place @ np.linalg.inv(normal) @ place * normal[0, 0] < _SLOPE_COST**2)


def _stands_out(stamp: _Stamp, sky: _Sky, usable: np.ndarray, radius: np.ndarray, around: float) -> np.ndarray | None:
    """Usable pixels without those of something else than the star; None where there is nothing else.

    Such are neighbours that nobody knows of, cosmic rays and trails.
    """
    outside = stamp.radius >= _ROUND_FROM
    ring, values = stamp.sky_ring[outside], (stamp.electrons - sky.at(stamp))[outside]
    out = np.zeros(len(values), dtype=bool)
    for _ in range(3):
        count = np.bincount(ring[~out], minlength=N_SKY_RINGS)
        light = np.maximum(np.bincount(ring[~out], values[~out], minlength=N_SKY_RINGS) / np.maximum(count, 1), 0.0)
        limit = light + _STANDS_OUT * np.sqrt(stamp.noise**2 + light) + _UNEVEN * light
        now = values > limit[ring]
        if np.array_equal(now, out):
            break
        out = now
    if not out.any():
        return None
    found = np.zeros(usable.shape, dtype=bool)
    rows, columns = np.nonzero(usable)
    found[rows[outside][out], columns[outside][out]] = True
    reach = int(np.ceil(around))
    steps = np.arange(-reach, reach + 1)
    found = binary_dilation(found, steps[:, None] ** 2 + steps[None, :] ** 2 <= around**2)
    rest: np.ndarray = usable & ~(found & (radius >= _ROUND_FROM))
    return rest


def _bend_of_sky(stamps: Sequence[tuple[_Stamp, _Sky]]) -> np.ndarray:
    """Curvature of the sky of a frame, from what its planes leave around all stars together.

    Coefficients of u^2, u v and v^2, drawn towards zero as far as they are not significant (the positive-part rule of
    James & Stein 1961), so that a frame whose sky does not bend pays nothing for it.
    """
    normal, right = np.zeros((3, 3)), np.zeros(3)
    for stamp, sky in stamps:
        u, v, plane = stamp.u[sky.beyond], stamp.v[sky.beyond], stamp.plane[sky.beyond]
        bends = np.stack([u * u, u * v, v * v], axis=1)
        level = sky.at(stamp)
        # the wings of the star bend as well
        wings = max(stamp.flux(level), 0.0) * stamp.share[sky.beyond]
        left = (stamp.electrons - level)[sky.beyond] - wings
        inverse = np.linalg.pinv(plane.T @ plane)
        bends -= plane @ (inverse @ (plane.T @ bends))
        left -= plane @ (inverse @ (plane.T @ left))
        normal += bends.T @ bends / stamp.noise**2
        right += bends.T @ left / stamp.noise**2
    if not stamps or np.linalg.cond(normal) > 1.0 / _FLAT:
        return np.zeros(3)
    bend = np.linalg.solve(normal, right)
    significance = float(bend @ right) / len(bend)
    shrunk: np.ndarray = bend * max(0.0, 1.0 - _DOUBT / max(significance, 1e-9))
    return shrunk


def _sort_pixels(found: Rings, index: int, stamp: _Stamp, sky: _Sky, bend: np.ndarray, area: float) -> None:
    """Add the pixels of one star to its sums."""
    bent = np.stack([stamp.u**2, stamp.u * stamp.v, stamp.v**2], axis=1) @ bend
    # the plane has taken off what the bend is beyond
    level = sky.at(stamp) + bent - float(sky.weight @ bent[sky.beyond])
    flux = stamp.flux(level)
    if not (np.isfinite(flux) and flux > 0):
        return
    inside = stamp.radius < REACH
    rho = stamp.radius[inside]
    ring = (rho / _RING).astype(np.intp)
    ratio = flux / stamp.noise
    weight = ratio**2 / (1.0 + (ratio / _BRIGHTEST) ** 2) / area**2
    light = (stamp.electrons - level)[inside] * (weight * area / flux)
    found.n_images[index] += 1
    found.signal[index] += np.bincount(ring, light, minlength=N_RINGS)
    found.weight[index] += weight * np.bincount(ring, minlength=N_RINGS)
    found.radius[index] += weight * np.bincount(ring, rho, minlength=N_RINGS)
    found.square[index] += weight * np.bincount(ring, rho**2, minlength=N_RINGS)
    found.sky[index] += weight * np.bincount(stamp.sky_ring[sky.beyond], sky.weight, minlength=N_SKY_RINGS)
    found.pixel_area[index] += weight / area
    found.photons[index] += weight * flux / (area * stamp.noise**2)
    found.star_weight[index] += weight


# ---------------------------------------------------------------- fitting it

#: Radii that part the rings in which stars are compared with each other.
_COMPARED = (0.0, 0.7, 1.2, 1.7, 2.2, 2.8, 3.5, 4.5, 6.0)

#: Stars that differ from the others by this many times their scatter count a quarter; so many rounds settle it. Two
#: stars tell nothing about which of them is the odd one.
_ODD, _ROUNDS, _LEAST_STARS = 2.5, 4, 3

#: No star counts more than so many times as much as the middle one.
_MOST_WEIGHT = 10.0

#: The light of two good stars may differ by this part of their light in one ring.
_LEAST_SCATTER = 5e-4

#: What one star alone may have that others do not, relative to its light.
_ALONE = 0.005


@dataclass(frozen=True, eq=False)
class MeanRings:
    """Mean light of the stars of a night in rings.

    Attributes
    ----------
    light, error, radius, spread : ndarray, shape (ring,)
        Light per unit of area relative to a star's light, its error (infinite in empty rings), mean radius and scatter
        of the radii of the pixels.
    sky : ndarray, shape (sky ring,)
        Part of the sky that lies in each ring.
    pixel_area : float
        In units of sigma squared.
    """

    light: np.ndarray
    error: np.ndarray
    radius: np.ndarray
    spread: np.ndarray
    sky: np.ndarray
    pixel_area: float

    @property
    def has_data(self) -> np.ndarray:
        """Which rings are not empty."""
        return np.isfinite(self.error)


def mean_rings(rings: Rings, counts: np.ndarray, scales: np.ndarray) -> MeanRings | None:
    """Mean of the stars.

    Parameters
    ----------
    rings : Rings
    counts : ndarray, shape (n,)
        How much each star counts, relative to its weight.
    scales : ndarray, shape (n,)
        Light of each star in units of that by which it was normalised.

    Returns
    -------
    MeanRings or None
        None where no star has light.
    """
    factor = counts * scales**2
    of_stars = float(np.sum(factor * rings.star_weight))
    if not of_stars > 0:
        return None
    weight = factor @ rings.weight
    known = weight > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        light = np.where(known, (counts * scales) @ rings.signal / weight, 0.0)
        radius = np.where(known, factor @ rings.radius / weight, (np.arange(N_RINGS) + 0.5) * _RING)
        square = np.where(known, factor @ rings.square / weight, radius**2)
        # stars that count less than their weight leave the noise as it would be with the others alone
        variance = (counts**2 * scales**2) @ rings.weight / weight**2
        photons = np.sum(factor * rings.photons * scales) / of_stars
        variance = variance * (1.0 + np.maximum(light, 0.0) * photons)
    error = np.where(known, np.sqrt(variance), np.inf)
    spread = np.sqrt(np.maximum(square - radius**2, 0.0))
    sky = factor @ rings.sky / of_stars
    return MeanRings(light, error, radius, spread, sky, float(np.sum(factor * rings.pixel_area) / of_stars))


def fit_profile(rings: Rings) -> Profile | None:
    """Fit a profile to the stars of a night; stars that are not like the others (doubles, galaxies) count little.

    Parameters
    ----------
    rings : Rings

    Returns
    -------
    Profile or None
        None where the rings with light do not say how the core of a star looks.
    """
    return fit_stars(rings)[0]


def fit_stars(rings: Rings) -> tuple[Profile | None, MeanRings | None, np.ndarray]:
    """As :func:`fit_profile`, with the mean light that was fitted and how much each star counts (0 to 1)."""
    usual = np.median(rings.star_weight[rings.star_weight > 0]) if np.any(rings.star_weight > 0) else 1.0
    modest = 1.0 / (1.0 + rings.star_weight / (_MOST_WEIGHT * usual))
    alike, scales = (rings.star_weight > 0).astype(float), np.ones(len(rings.star))
    fitted, mean, scatter = None, None, _ALONE
    for _ in range(_ROUNDS):
        mean = mean_rings(rings, modest * alike, scales)
        fitted = None if mean is None else _fit_mean(mean)
        if fitted is None:
            return None, None, alike
        model = _light_in_rings(fitted, rings)
        scales = _scales_of(rings, model)
        alike, scatter = _likeness(rings, model, scales)
    assert fitted is not None
    total_err = float(np.hypot(fitted.total_err, scatter))
    return Profile(fitted.coefficients, fitted.pixel_area, total_err), mean, alike


def _light_in_rings(fitted: Profile, rings: Rings) -> np.ndarray:
    """What the profile says about the rings of each star, shape (n, ring)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        radius = np.where(rings.weight > 0, rings.radius / rings.weight, 0.0)
        square = np.where(rings.weight > 0, rings.square / rings.weight, 0.0)
        sky = rings.sky / rings.star_weight[:, None]
    spread = np.sqrt(np.maximum(square - radius**2, 0.0))
    light = 0.5 * (fitted.at(radius + spread) + fitted.at(np.abs(radius - spread)))
    middles = (np.arange(N_SKY_RINGS) + 0.5) * _SKY_RING
    return light - np.nan_to_num(sky) @ fitted.at(middles)[:, None]


def _scales_of(rings: Rings, model: np.ndarray) -> np.ndarray:
    """Light of each star, in units of that by which it was normalised, from its core."""
    n_core = round(_CORE / _RING)
    core, weight = model[:, :n_core], rings.weight[:, :n_core]
    with np.errstate(invalid="ignore", divide="ignore"):
        scales = np.sum(rings.signal[:, :n_core] * core, axis=1) / np.sum(weight * core**2, axis=1)
    return np.where(np.isfinite(scales) & (scales > 0), scales, 1.0)


def _likeness(rings: Rings, model: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, float]:
    """How much each star is like the others (0 to 1), and what their scatter makes uncertain of the total light."""
    has_light = rings.star_weight > 0
    edges = np.round(np.array(_COMPARED) / _RING).astype(int)
    area = 2.0 * np.pi * (np.arange(N_RINGS) + 0.5) * _RING * _RING
    columns = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for first, last in itertools.pairwise(edges):
            chosen = slice(first, last)
            weight = np.sum(rings.weight[:, chosen], axis=1)
            light = np.sum(rings.signal[:, chosen], axis=1) / scales - np.sum((rings.weight * model)[:, chosen], axis=1)
            photons = 1.0 + rings.photons / rings.star_weight * np.mean(model[:, chosen], axis=1).clip(0.0)
            columns.append(np.sum(area[chosen]) * np.stack([light / weight, np.sqrt(photons / weight) / scales]))
    excess, error = np.stack(columns, axis=-1)
    usable = np.isfinite(excess) & np.isfinite(error) & has_light[:, None]
    alike = has_light.astype(float)
    if np.count_nonzero(has_light) < _LEAST_STARS:
        return alike, _ALONE
    excess = np.where(usable, excess, np.nan)
    with np.errstate(invalid="ignore"):
        middle = _column_medians(excess)
        spread = 1.4826 * _column_medians(np.abs(excess - middle))
        distance = (excess - middle) ** 2 / (error**2 + spread**2 + _LEAST_SCATTER**2)
    mean = np.sum(np.where(usable, distance, 0.0), axis=1) / np.maximum(np.count_nonzero(usable, axis=1), 1)
    alike = np.where(has_light, 1.0 / (1.0 + mean / _ODD**2) ** 2, 0.0)
    wings = np.sum(np.where(usable, excess - middle, 0.0)[:, 4:], axis=1)[has_light]
    scatter = 1.4826 * float(np.median(np.abs(wings - np.median(wings)))) / np.sqrt(np.sum(alike))
    return alike, scatter


def _column_medians(values: np.ndarray) -> np.ndarray:
    """Median of each column without NaN; 0 for columns of nothing else."""
    return np.array([np.median(known) if len(known := column[np.isfinite(column)]) else 0.0 for column in values.T])


def _fit_mean(mean: MeanRings) -> Profile | None:
    """Fit sums of components to mean rings (non-negative least squares)."""
    has_data = mean.has_data
    core = has_data & (mean.radius < _CORE)
    if np.count_nonzero(core) < _LEAST_RINGS or mean.radius[core].min() > _INNERMOST:
        return None
    measured = mean.light[has_data]
    error = np.hypot(mean.error[has_data], _MODEL_ERROR * measured)
    design = _ring_means(mean)[has_data] / error[:, None]
    fits, misfits = [], []
    for slope in _SLOPES:
        chosen = np.flatnonzero((_COMPONENTS[:, 0] == slope) | np.isinf(_COMPONENTS[:, 0]))
        found, residual = nnls(design[:, chosen], measured / error)
        if found.sum() > 0:
            coefficients = np.zeros(N_COMPONENTS)
            coefficients[chosen] = found
            fits.append(coefficients)
            misfits.append(residual**2)
    if not fits:
        return None
    # where no sum of components fits within the noise, none is much better than another
    reduced = max(1.0, min(misfits) / len(measured))
    likelihood = np.exp(-0.5 * (np.array(misfits) - min(misfits)) / reduced)
    totals = np.sum(fits, axis=1)
    total = np.average(totals, weights=likelihood)
    total_err = np.sqrt(np.average((totals / total - 1.0) ** 2, weights=likelihood))
    shares = np.array(fits) / totals[:, None]
    return Profile(np.average(shares, axis=0, weights=likelihood), mean.pixel_area, float(total_err))


def _ring_means(mean: MeanRings) -> np.ndarray:
    """Mean of each component over each ring, less that over the sky; shape (ring, component)."""
    everything = range(N_COMPONENTS)
    # the mean over pixels of a smooth function is that of its values one standard deviation to either side
    outer, inner = mean.radius + mean.spread, np.abs(mean.radius - mean.spread)
    means = 0.5 * (_components(outer, everything, mean.pixel_area) + _components(inner, everything, mean.pixel_area))
    # the light of the star in its own sky was taken off
    middles = (np.arange(N_SKY_RINGS) + 0.5) * _SKY_RING
    beyond: np.ndarray = means - mean.sky @ _components(middles, everything, mean.pixel_area)
    return beyond
