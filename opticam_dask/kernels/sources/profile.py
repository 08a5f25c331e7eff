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

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from opticam_dask.kernels.sources.photometry import SIGMA_TO_FWHM

#: Radii, in units of sigma, up to which a profile is measured, and the width of the rings. The sky is that of an
#: annulus beyond, so that what a sky mesh takes off the wings of bright stars is not lost. The annulus has twice the
#: area of what is inside: an error of the sky moves the total light by several times what it adds to the rings.
REACH, _RING, SKY_REACH = 10.0, 0.1, 17.0
N_RINGS = round(REACH / _RING)
_SKY_CLIP, _LEAST_SKY = 4.0, 100

#: Stars count with the square of their signal-to-noise ratio up to about this ratio of core to background RMS, so that
#: what is wrong with the surroundings of the brightest does not decide.
_BRIGHTEST = 5000.0

#: A star is normalised by its light within this radius.
_CORE = 2.5

#: Pixels nearer than this to another source do not count.
_NEIGHBOUR = 6.0

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
TABLE_STEP, _EDGE = 0.01, 30.0
_GRID = np.arange(0.0, _EDGE + 1.5 * TABLE_STEP, TABLE_STEP)


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
    """

    coefficients: np.ndarray
    pixel_area: float = 0.0

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


def gaussian_profile() -> Profile:
    """Profile for a night of which nothing is known."""
    return Profile(np.all((np.inf, 1.0) == _COMPONENTS, axis=1).astype(float))


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
    rho = np.where(np.isfinite(rho), np.minimum(rho, _EDGE), _EDGE) / TABLE_STEP
    # the table is even: linear interpolation by index is exact to 1e-5 of the peak
    below = rho.astype(np.intp)
    weights: np.ndarray = table[below] + (rho - below) * (table[below + 1] - table[below])
    return weights / shape.area


# ---------------------------------------------------------------- measuring a profile


@dataclass(frozen=True, eq=False)
class Rings:
    """Sums over the pixels of many stars in rings of the elliptical radius; sums of such sums are sums as well.

    Attributes
    ----------
    signal, weight : ndarray, shape (ring,)
        The ratio is the light per unit of area, relative to the light in the core.
    n_stars : int
    pixel_area : float
        Area of a pixel in units of sigma squared, summed over the stars.
    """

    signal: np.ndarray
    weight: np.ndarray
    n_stars: int
    pixel_area: float = 0.0


def measure_rings(
    cutouts: np.ndarray,
    rms: np.ndarray,
    xy: np.ndarray,
    x0: np.ndarray,
    y0: np.ndarray,
    shape: Shape,
    others: np.ndarray,
) -> Rings:
    """Sort the pixels of the stars of one frame into rings.

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
    others : ndarray, shape (m, 2)
        Positions of all sources; pixels near one that is not the star itself do not count.

    Returns
    -------
    Rings
        Each star counts with the square of its signal-to-noise ratio.
    """
    rho = elliptical_radius(xy, x0, y0, cutouts.shape[1], shape)
    signal, weight, n_stars = np.zeros(N_RINGS), np.zeros(N_RINGS), 0
    for index, (window, radius) in enumerate(zip(cutouts, rho, strict=True)):
        usable = np.isfinite(window) & (rms[index] > 0)
        usable &= ~_is_near_others(xy[index], x0[index], y0[index], len(window), shape, others)
        cutout = window - _sky_beyond(window, rms[index], usable & (radius >= REACH) & (radius < SKY_REACH))
        core = float(np.sum(cutout[radius < _CORE]))
        if not (np.isfinite(core) and core > 0):
            continue
        usable &= radius < REACH
        ring = (radius[usable] / _RING).astype(np.intp)
        ratio = core / rms[index][usable]
        inverse = ratio**2 / (1.0 + (ratio / _BRIGHTEST) ** 2)
        signal += np.bincount(ring, cutout[usable] * (shape.area / core) * inverse, minlength=N_RINGS)
        weight += np.bincount(ring, inverse, minlength=N_RINGS)
        n_stars += 1
    return Rings(signal, weight, n_stars, n_stars / shape.area)


def _sky_beyond(window: np.ndarray, rms: np.ndarray, usable: np.ndarray) -> float:
    """Mean of the sky around a star; NaN where there are too few pixels."""
    pixels, scatter = window[usable], rms[usable]
    if len(pixels) < _LEAST_SKY:
        return float("nan")
    return float(np.mean(pixels[np.abs(pixels - np.median(pixels)) < _SKY_CLIP * scatter]))


def _is_near_others(xy: np.ndarray, x0: int, y0: int, size: int, shape: Shape, others: np.ndarray) -> np.ndarray:
    """Pixels of a cut-out that another source shines on."""
    distance = np.hypot(*(others - xy).T)
    reach = (SKY_REACH + _NEIGHBOUR) * shape.semimajor_sigma
    near = others[(distance > shape.semiminor_sigma) & (distance < reach)]
    if not len(near):
        return np.zeros((size, size), dtype=bool)
    corners = np.full(len(near), x0), np.full(len(near), y0)
    is_near: np.ndarray = np.any(elliptical_radius(near, *corners, size, shape) < _NEIGHBOUR, axis=0)
    return is_near


def fit_profile(rings: Rings) -> Profile | None:
    """Fit a profile to the sums over many stars (non-negative least squares).

    Parameters
    ----------
    rings : Rings

    Returns
    -------
    Profile or None
        None where a ring of the core is empty.
    """
    has_data = rings.weight > 0
    if not has_data[: round(_CORE / _RING)].all():
        return None
    pixel_area = rings.pixel_area / max(rings.n_stars, 1)
    measured = rings.signal[has_data] / rings.weight[has_data]
    error = np.sqrt(1.0 / rings.weight[has_data] + (_MODEL_ERROR * measured) ** 2)
    design = _ring_means(pixel_area)[has_data] / error[:, None]
    fits, misfits = [], []
    for slope in _SLOPES:
        chosen = np.flatnonzero((_COMPONENTS[:, 0] == slope) | np.isinf(_COMPONENTS[:, 0]))
        found, residual = nnls(design[:, chosen], measured / error)
        if found.sum() > 0:
            coefficients = np.zeros(N_COMPONENTS)
            coefficients[chosen] = found / found.sum()
            fits.append(coefficients)
            misfits.append(residual**2)
    if not fits:
        return None
    likelihood = np.exp(-0.5 * (np.array(misfits) - min(misfits)))
    return Profile(np.average(fits, axis=0, weights=likelihood), pixel_area)


def _ring_means(pixel_area: float) -> np.ndarray:
    """Mean of each component over each ring, less that over the annulus of the sky; shape (ring, component)."""
    everything = range(N_COMPONENTS)
    centres = (np.arange(N_RINGS) + 0.5) * _RING
    # pixels are as many as there is area
    nodes, shares = np.polynomial.legendre.leggauss(3)
    points = centres[:, None] + nodes * _RING / 2.0
    shares = shares * points / np.sum(shares * points, axis=1, keepdims=True)
    means: np.ndarray = np.einsum("rp,rpc->rc", shares, _components(points, everything, pixel_area))
    # the light of the star in the annulus of its sky was taken off
    beyond = np.linspace(REACH, SKY_REACH, 41)
    return means - np.average(_components(beyond, everything, pixel_area), axis=0, weights=beyond)
