"""Light of a night's stars summed in rings, star by star: the input of the profile fit.

Each star is normalised by its light in the core; its sky is a plane through the pixels of an annulus.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.ndimage import binary_dilation

from opticam_dask.kernels.robust import MAD_TO_SIGMA, median
from opticam_dask.kernels.sources.profiles.profile import Shape, elliptical_radius, light_at, typical_table

#: A profile is measured up to this radius, in units of sigma,
REACH = 10.0
#: in rings of this width.
RING = 0.1
#: The sky is that of an annulus from there to this radius, so that what a sky mesh takes off the wings of bright stars
#: is not lost. It has twice the area of what is inside: an error of the sky moves the total light by several times
#: what it adds to the rings.
SKY_REACH = 17.0

N_RINGS = round(REACH / RING)

#: Width of the rings in which the light of a star in its own sky is counted.
SKY_RING = 0.5

N_SKY_RINGS = round(SKY_REACH / SKY_RING)

#: A star is normalised by its light within this radius.
CORE = 2.5

#: Where a read-out window leaves too little of that annulus, the sky begins nearer to the star, at one of these radii.
#: The light that the star has there is part of the fit.
_NEARER_SKIES = (10.0, 8.0, 6.5, 5.0)
#: This part of the pixels of the annulus must be inside the window,
_LEAST_PART = 0.5
#: and so many in all.
_LEAST_SKY = 60

#: Pixels of the sky that are so many times the scatter from the plane do not count.
_SKY_CLIP = 4.0
#: The plane has arrived after so many steps,
_SKY_STEPS = 5
#: or when no more than this part of its pixels come or go.
_FEW_CHANGE = 1e-3
#: A level without slope serves where the error of a plane at the star is this many times that of a level.
_SLOPE_COST = 2.0

#: Determinants and condition numbers of places on a line.
_FLAT = 1e-6
#: What is added to the squares of places, so that those on a line have a plane as well.
_RIDGE = 1e-9
#: The mean over all directions of coefficients of u^2, u v and v^2, by squares of the radius in units of sigma.
_ALL_ROUND = np.array([0.5, 0.0, 0.5]) / SKY_REACH**2

#: A bend of the sky counts as far as its chi-square per coefficient is above this.
_DOUBT = 2.0
#: Beyond this radius, in units of sigma, the light of a star is round.
_ROUND_FROM = 3.0
#: Pixels there that stand out from their ring by so many times the noise,
_STANDS_OUT = 5.0
#: and by this part of its light, belong to something else,
_UNEVEN = 0.5
#: with everything within this radius of them.
_AROUND = 1.5
#: Some of it stays: a star from around which this part of its light was left out counts half.
_LEFT_OUT = 0.05

#: Stars count with the square of their signal-to-noise ratio up to about this ratio of core to background RMS, so that
#: what is wrong with the surroundings of the brightest does not decide.
_BRIGHTEST = 5000.0

#: The sky around a star is even when its scatter is so many times the noise at most; what it has beyond that, over the
#: area of the star, may be light of a nebula, a galaxy or of many faint stars:
_EVEN = 1.3
#: a star to which that may add this part of its light counts half of what it would without.
_UNEVEN_SKY = 0.1

#: A star whose neighbours have this part of its light counts half of what it would without them.
_DISTURBED = 0.5


@dataclass(frozen=True, eq=False)
class Rings:
    """Sums over the pixels of stars in rings of the elliptical radius, star by star.

    Rings of several frames can be added.

    Attributes
    ----------
    star : ndarray of int, shape (n,)
        Which star of the catalogue it is.
    n_images : ndarray of int, shape (n,)
        How many images of the star were added.
    signal, weight : ndarray, shape (n, ring)
        The ratio is the light per unit of area, relative to the light of the star; the weight is its inverse variance
        by the sky for pixels of an area of 1.
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
    bend, bend_square, common_square : ndarray, shape (n,)
        What the light per unit of area seems to rise by with the square of the radius since the sky around this star
        bends otherwise than that of the frame, times the weight; the sum of the squares of its errors; and that of what
        has got into it with the bend of the frames.
    left, left_square : ndarray, shape (n,)
        What it rises by with that part of the bends of the frames that was not taken off, times the weight, and the sum
        of the squares of its errors.
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
    bend: np.ndarray
    bend_square: np.ndarray
    common_square: np.ndarray
    left: np.ndarray
    left_square: np.ndarray


def empty_rings(stars: Sequence[int] | np.ndarray = ()) -> Rings:
    """Sums of the given stars before any light is added."""
    star = np.asarray(stars, dtype=np.int64)
    n = len(star)
    signal, weight, radius, square = (np.zeros((n, N_RINGS)) for _ in range(4))
    of_star = (np.zeros(n) for _ in range(8))
    sky = np.zeros((n, N_SKY_RINGS))
    return Rings(star, np.zeros(n, np.int64), signal, weight, radius, square, sky, *of_star)


def add_rings(found: Iterable[Rings]) -> Rings:
    """Sums of several frames, star by star, added in the order in which they are given."""
    everything = list(found)
    stars = np.unique(np.concatenate([rings.star for rings in everything])) if everything else np.empty(0, np.int64)
    total = empty_rings(stars)
    for rings in everything:
        rows = np.searchsorted(stars, rings.star)
        for field in fields(Rings)[1:]:
            getattr(total, field.name)[rows] += getattr(rings, field.name)  # a star is in a frame once
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
    disturbed: np.ndarray | None = None,
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
        Lower corners of the windows.
    shape : Shape
        Width and form of the frame's stars.
    foreign : ndarray of bool, shape (n, size, size), optional
        Pixels that another source shines on: they do not count.
    stars : ndarray of int, shape (n,), optional
        Which stars of the catalogue they are; 0, 1, 2, ... by default.
    table : ndarray, optional
        Profile by which the light of a star is measured (:meth:`Profile.table`); by default that of
        :func:`typical_profile`.
    disturbed : ndarray, shape (n,), optional
        Light of the neighbours of each star relative to its own; the more of it the less a star counts.

    Returns
    -------
    Rings
        Stars without enough sky around them, or without light, have sums of zero.
    """
    size = cutouts.shape[1]
    table = typical_table() if table is None else table
    rho = elliptical_radius(xy, x0, y0, size, shape)
    usable = np.isfinite(cutouts) & (rms > 0) & (rho < SKY_REACH)
    if foreign is not None:
        usable &= ~foreign
    places = (np.arange(size) + np.stack([x0, y0])[..., None] - xy.T[..., None]) / (SKY_REACH * shape.semimajor_sigma)
    found = empty_rings(np.arange(len(xy)) if stars is None else stars)
    area, fitted, others = shape.area_at(xy), list[_Star](), np.zeros(len(xy))
    for index in range(len(xy)):
        noise = float(rms[index, size // 2, size // 2])
        stamp = _stamp(cutouts[index], noise, rho[index], usable[index], *places[:, index])
        sky = None if stamp is None else _fit_sky(stamp)
        if stamp is None or sky is None:
            continue
        is_other = _stands_out(stamp, sky, usable[index], rho[index], _AROUND * shape.semiminor_sigma)
        if is_other is not None:
            left_out = ~is_other.ravel()[np.flatnonzero(usable[index])]
            others[index] = max(float(np.sum((stamp.electrons - sky.at(stamp))[left_out])), 0.0)
            stamp = _stamp(cutouts[index], noise, rho[index], is_other, *places[:, index])
            sky = None if stamp is None else _fit_sky(stamp)
        if stamp is not None and sky is not None:
            fitted.append(_Star.of(index, stamp, sky, table, float(area[index])))
    # a star whose core belongs to its neighbours has no light to measure anything by
    fitted = [star for star in fitted if star.flux > 0]
    evenness, usual = np.ones(len(xy)), median(np.array([star.stamp.noise for star in fitted])) if fitted else 0.0
    for star in fitted:
        evenness[star.index] = 1.0 / (1.0 + (_unevenness(star, usual) / _UNEVEN_SKY) ** 4)
    bend = _bend_of_sky(fitted, evenness)
    trust = evenness if disturbed is None else evenness / (1.0 + (disturbed / _DISTURBED) ** 2)
    for star in fitted:
        of_others = 1.0 / (1.0 + (others[star.index] / star.flux / _LEFT_OUT) ** 2)
        _sort_pixels(found, star, bend, float(trust[star.index]) * of_others)
    return found


@dataclass(frozen=True, eq=False)
class _Stamp:
    """Pixels of one star that count, in one row: electrons, radius, and place in units of 17 sigma.

    ``sky_ring`` is the ring of half a sigma that each lies in.
    """

    electrons: np.ndarray
    radius: np.ndarray
    sky_ring: np.ndarray
    u: np.ndarray
    v: np.ndarray
    noise: float


@dataclass(frozen=True, eq=False)
class _Sky:
    """Sky of one star: coefficients of 1, u and v, the pixels they are from, and the weight of each at the star."""

    terms: np.ndarray
    beyond: np.ndarray
    weight: np.ndarray

    def at(self, stamp: _Stamp) -> np.ndarray:
        """Sky on the pixels of the stamp."""
        return self.terms[0] + self.terms[1] * stamp.u + self.terms[2] * stamp.v


@dataclass(frozen=True, eq=False)
class _Star:
    """One star with its sky, and what is made of them once.

    ``level`` is the plane of the sky on the pixels of the stamp, ``core`` the pixels that ``flux`` is from, ``share``
    the light of the profile on these and ``wings`` that on the pixels of the sky.
    """

    index: int
    stamp: _Stamp
    sky: _Sky
    area: float
    level: np.ndarray
    core: np.ndarray
    share: np.ndarray
    wings: np.ndarray
    flux: float

    @classmethod
    def of(cls, index: int, stamp: _Stamp, sky: _Sky, table: np.ndarray, area: float) -> _Star:
        """A star by the table of a profile, and the area of its sigma in pixels."""
        level, core, own = sky.at(stamp), np.flatnonzero(stamp.radius < CORE), table / area
        share, wings = light_at(own, stamp.radius[core]), light_at(own, stamp.radius[sky.beyond])
        flux = _flux(stamp, level, core, share)
        return cls(index, stamp, sky, area, level, core, share, wings, flux)

    def flux_above(self, level: np.ndarray) -> float:
        """Light of the star above another level of the sky."""
        return _flux(self.stamp, level, self.core, self.share)


def _flux(stamp: _Stamp, level: np.ndarray, core: np.ndarray, share: np.ndarray) -> float:
    """Light of a star from its core, by the profile."""
    whole = float(np.sum(share**2))
    return float(np.sum((stamp.electrons[core] - level[core]) * share)) / whole if whole > 0 else float("nan")


def _stamp(
    window: np.ndarray, noise: float, radius: np.ndarray, usable: np.ndarray, u: np.ndarray, v: np.ndarray
) -> _Stamp | None:
    """Pixels of a window that count; None where there are too few."""
    places = np.flatnonzero(usable)
    if len(places) < _LEAST_SKY or not noise > 0:
        return None
    rho = radius.ravel()[places]
    rows, columns = np.divmod(places, usable.shape[1])
    return _Stamp(window.ravel()[places], rho, (rho / SKY_RING).astype(np.intp), u[columns], v[rows], noise)


def _fit_sky(stamp: _Stamp) -> _Sky | None:
    """Sky around a star, a plane where there are pixels on all its sides; None where there are too few."""
    inside_of = np.cumsum(np.bincount(stamp.sky_ring, minlength=N_SKY_RINGS))
    for start in _NEARER_SKIES:
        first = round(start / SKY_RING)
        n_inside, n_beyond = inside_of[first - 1], inside_of[-1] - inside_of[first - 1]
        if n_beyond >= max(_LEAST_SKY, _LEAST_PART * n_inside):
            break
    if n_beyond < _LEAST_SKY:
        return None
    is_beyond = stamp.sky_ring >= first
    beyond = np.flatnonzero(is_beyond)
    plane = np.array([np.ones(len(beyond)), stamp.u[beyond], stamp.v[beyond]])
    place = np.array([1.0, 0.0, 0.0])
    if n_inside:
        place[1:] = np.mean(stamp.u[~is_beyond]), np.mean(stamp.v[~is_beyond])
    values, kept = stamp.electrons[beyond], np.arange(len(beyond))
    for _ in range(_SKY_STEPS):
        basis, data = (plane, values) if len(kept) == len(values) else (plane[:, kept], values[kept])
        normal = basis @ basis.T
        inverse = _inverse_of_plane(normal, place)
        if inverse is None:
            basis, normal = basis[:1], normal[:1, :1]
            inverse = np.linalg.inv(normal)
        terms = np.zeros(3)
        terms[: len(normal)] = inverse @ (basis @ data)
        away = np.abs(values - terms @ plane)
        now = np.flatnonzero(away < _SKY_CLIP * max(stamp.noise, MAD_TO_SIGMA * median(away)))
        if len(now) < _LEAST_SKY:
            return None
        used, kept = kept, now
        if abs(len(now) - len(used)) <= _FEW_CHANGE * len(values):
            break
    share = (place[: len(normal)] @ inverse) @ basis
    return _Sky(terms, beyond[used], share / np.sum(share))


def _inverse_of_plane(normal: np.ndarray, place: np.ndarray) -> np.ndarray | None:
    """Inverse of a normal matrix; None where not all sides of the star have pixels and a plane would be a guess.

    The error of the plane at the star is compared with that of a level.
    """
    determinant = np.linalg.det(normal / normal[0, 0])
    if not determinant > _FLAT:
        return None
    inverse = np.linalg.inv(normal)
    is_known = place @ inverse @ place * normal[0, 0] < _SLOPE_COST**2
    return inverse if is_known else None


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
        limit = (1.0 + _UNEVEN) * light + _STANDS_OUT * np.sqrt(stamp.noise**2 + light)
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


def _unevenness(star: _Star, usual: float) -> float:
    """Light that the sky around a star may add to it by what it differs from a plane, relative to the star's own.

    The noise is no more than is usual in the frame: uneven light adds to what a mesh takes for noise.
    """
    beyond = star.sky.beyond
    left = star.stamp.electrons[beyond] - star.level[beyond] - star.flux * star.wings
    scatter = MAD_TO_SIGMA * median(np.abs(left - median(left)))
    excess = np.sqrt(max(0.0, scatter**2 - (_EVEN * min(star.stamp.noise, usual)) ** 2))
    return float(excess * np.pi * REACH**2 * star.area / star.flux)


@dataclass(frozen=True, eq=False)
class _Bend:
    """Curvature of the sky of a frame: coefficients of u^2, u v and v^2, and the part of them that is taken off.

    ``error`` is that of the rise.
    """

    terms: np.ndarray
    taken: float
    error: float

    @property
    def rise(self) -> float:
        """What the sky rises by with the square of the radius in units of sigma, the mean over all directions."""
        return float(self.terms @ _ALL_ROUND)


def _bend_of_sky(stars: Sequence[_Star], evenness: np.ndarray) -> _Bend:
    """Curvature of the sky of a frame, from what its planes leave around all stars together.

    Less of it is taken off the less significant it is (the positive-part rule of James & Stein 1961), so that a frame
    whose sky does not bend pays nothing for it. Stars whose sky is uneven count less.
    """
    normal, right = np.zeros((3, 3)), np.zeros(3)
    for star in stars:
        stamp, beyond = star.stamp, star.sky.beyond
        u, v = stamp.u[beyond], stamp.v[beyond]
        # the wings of the star bend as well
        left = stamp.electrons[beyond] - star.level[beyond] - max(star.flux, 0.0) * star.wings
        rows = np.array([np.ones(len(u)), u, v, u * u, u * v, v * v, left])
        products = rows @ rows.T
        # what a plane takes up says nothing
        plane = np.linalg.solve(products[:3, :3] + _RIDGE * products[0, 0] * np.eye(3), products[:3, 3:])
        left = products[3:, 3:] - products[3:, :3] @ plane
        normal += evenness[star.index] * left[:3, :3] / stamp.noise**2
        right += evenness[star.index] * left[:3, 3] / stamp.noise**2
    if not stars or np.linalg.cond(normal) > 1.0 / _FLAT:
        return _Bend(np.zeros(3), 0.0, 0.0)
    bend: np.ndarray = np.linalg.solve(normal, right)
    significance = float(bend @ right) / len(bend)
    error = float(np.sqrt(_ALL_ROUND @ np.linalg.solve(normal, _ALL_ROUND)))
    return _Bend(bend, max(0.0, 1.0 - _DOUBT / max(significance, 1e-9)), error)


def _sort_pixels(found: Rings, star: _Star, bend: _Bend, trust: float) -> None:
    """Add the pixels of one star to its sums, without the bend of its frame, of which a part is taken off.

    It counts ``trust`` of what it would without neighbours.
    """
    index, stamp, sky, area, level, flux = star.index, star.stamp, star.sky, star.area, star.level, star.flux
    if bend.taken:
        terms = bend.taken * bend.terms
        bent = terms[0] * stamp.u**2 + terms[1] * stamp.u * stamp.v + terms[2] * stamp.v**2
        # the plane has taken off what the bend is beyond
        level = level + (bent - float(sky.weight @ bent[sky.beyond]))
        flux = star.flux_above(level)
    if not (np.isfinite(flux) and flux > 0):
        return
    inside = stamp.radius < REACH
    rho = stamp.radius[inside]
    ring = (rho / RING).astype(np.intp)
    ratio = flux / stamp.noise
    # frames count alike whatever their seeing: the profile is to be right for the mean of them
    weight = ratio**2 / (1.0 + (ratio / _BRIGHTEST) ** 2)
    weight *= trust
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
    slope, error = _own_bend(star, level, flux)
    of_light, left = weight * area / flux, 1.0 - bend.taken
    found.bend[index] += of_light * slope
    found.bend_square[index] += (of_light * error) ** 2
    found.common_square[index] += (bend.taken * of_light * bend.error) ** 2
    found.left[index] += left * of_light * bend.rise
    found.left_square[index] += (left * of_light * bend.error) ** 2


def _own_bend(star: _Star, level: np.ndarray, flux: float) -> tuple[float, float]:
    """What the sky around a star rises by with the square of the radius beyond ``level``, and its error."""
    stamp, beyond = star.stamp, star.sky.beyond
    square = stamp.radius[beyond] ** 2
    rows = np.array([np.ones(len(beyond)), stamp.u[beyond], stamp.v[beyond], square])
    left = stamp.electrons[beyond] - level[beyond] - flux * star.wings
    products = rows @ rows.T
    plane = np.linalg.solve(products[:3, :3] + _RIDGE * products[0, 0] * np.eye(3), products[:3, 3])
    alone = square - plane @ rows[:3]
    whole = float(alone @ alone + _RIDGE * products[3, 3])
    return float(alone @ left) / whole, stamp.noise / float(np.sqrt(whole))
