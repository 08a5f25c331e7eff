"""The empirical profile of a night's stars, evaluated on the pixels of a cut-out.

The profile is a function of the elliptical radius ``rho`` in units of the width (sigma of the adaptive moments) of a
frame's stars, so that one profile serves all frames of a night while the seeing changes. It is the *effective* profile
of Anderson & King (2000, PASP 112, 1360): its value at the centre of a pixel is the share of the star's light that the
pixel collects. It is a sum of Gaussians and Moffat functions (Moffat 1969, A&A 3, 455), as pixels sample them, and for
the stars of a defocused telescope of soft rings, with coefficients of at least zero, whose total light, wings included,
is known exactly.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from opticam_dask.kernels import compiled
from opticam_dask.kernels.sources.moments import axes_of, moments_of
from opticam_dask.kernels.sources.photometry import SIGMA_TO_FWHM
from opticam_dask.kernels.sources.profiles.field_form import field_places, field_terms

#: Slopes of the Moffat functions that a profile is made of (infinity is a Gaussian), and their FWHM in units of that
#: of a Gaussian of sigma 1. Wings are those of Moffat functions not much wider than the core: anything wider cannot be
#: told from an error of the sky.
SLOPES = (2.5, 3.0, 3.5, 4.5, 7.0, np.inf, 2.6, 2.7, 2.8, 2.9, 3.15, 3.3, 3.75, 4.0, 5.5)

_WIDTHS = (0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.4)

#: Gaussians are no wider than this: a wider one would be taken for wings.
_WIDEST_GAUSSIAN = 1.2

#: Gaussians as pixels sample them: those of 0.95 and 1 together are a Gaussian between them to 0.05 % only.
_FINE_GAUSSIANS = (0.9625, 0.975, 0.9875)

#: New ones come last, since stores have the coefficients of these by their order.
COMPONENTS = np.array(
    [(b, w) for b in SLOPES for w in _WIDTHS if np.isfinite(b) or w <= _WIDEST_GAUSSIAN]
    + [(np.inf, w) for w in _FINE_GAUSSIANS]
)

N_COMPONENTS = len(COMPONENTS)

#: Second and fourth powers of the widths, and alpha squared of the Moffat functions (0 of Gaussians).
_POWERS = tuple(
    np.array(of_each)
    for of_each in zip(
        *(
            (w**2, w**4, (w * SIGMA_TO_FWHM / 2.0) ** 2 / (2.0 ** (1.0 / b) - 1.0) if b < np.inf else 0.0)
            for b, w in COMPONENTS
        ),
        strict=True,
    )
)

#: Radii of the soft rings that a profile may be made of as well, in units of sigma: Gaussian functions of the radius.
RINGS = np.arange(0.0, 2.51, 0.125)
#: A profile has at most so many coefficients.
MOST_COMPONENTS = N_COMPONENTS + len(RINGS)
#: Their sigma: a profile that they are fitted to may change from light to dark within a quarter of its width.
_RING_SIGMA = 0.11

#: Step of the radii, in units of sigma, at which a profile is tabulated.
TABLE_STEP = 0.01
#: Last radius of the table; the light beyond counts as part of the total.
EDGE = 30.0

#: Step for the slopes of the profile, pixels.
SLOPE_STEP = 0.25

_GRID = np.arange(0.0, EDGE + 1.5 * TABLE_STEP, TABLE_STEP)


#: Fourth order of the mean over a square pixel of area 1, averaged over the angles: ``(3/4) / 1920 + (1/8) / 576``.
_FOURTH = 7.0 / 11520.0

#: Areas of a pixel, in units of the mean area of a night, for which its profile is tabulated: seeing from 2 to 0.7
#: times the usual one.
_TABULATED = np.array([0.25, 1.0, 2.0])
#: The series for a pixel does not hold for those much larger than this (sigma squared): there one table serves all.
_LARGEST_PIXEL = 1.0
#: Area (sigma squared) at which the fourth order is gone: with it the fluxes of stars as narrow as pixels depend more
#: on their places in a pixel (pulls 1.6 times as wide at a FWHM of 1.2 pixels).
_NO_FOURTH = 1.5
#: Steps in which the width of a profile settles,
_WIDTH_STEPS = 8
#: and what is looked at of it, in units of sigma: as far as the window of the moments reaches.
_WINDOW = 4.0

#: No star's variance along an axis differs from that of the mean star by more than this part: beyond the outermost
#: stars a paraboloid may be anything.
_LARGEST_CHANGE = 0.6


@dataclass(frozen=True, eq=False)
class FormChange:
    """How the second moments of stars change over a frame.

    Attributes
    ----------
    terms : ndarray, shape (3, 6)
        Coefficients of ``field_form.field_terms`` for the moments xx, yy and xy, square pixels.
    frame : (int, int)
        Shape ``(ny, nx)`` of the frame.
    """

    terms: np.ndarray
    frame: tuple[int, int]

    def at(self, xy: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Difference (3, n) to the moments (3, 1) of the mean star at places (n, 2); 0 for NaN places."""
        xx, yy, both = np.einsum("mt,nt->mn", self.terms, field_terms(*field_places(xy, self.frame)))
        determinant = mean[0] * mean[1] - mean[2] ** 2
        half_trace = 0.5 * (mean[1] * xx + mean[0] * yy - 2.0 * mean[2] * both) / determinant
        product = (xx * yy - both**2) / determinant
        # the larger relative change along an axis: eigenvalues of the change in units of the mean
        largest = np.abs(half_trace) + np.sqrt(np.maximum(half_trace**2 - product, 0.0))
        change: np.ndarray = np.stack([xx, yy, both]) / np.maximum(largest / _LARGEST_CHANGE, 1.0)
        return change


@dataclass(frozen=True)
class Shape:
    """Size and form of the stars of one frame.

    Attributes
    ----------
    semimajor_sigma, semiminor_sigma : float
        Pixels, as the pixels sample them.
    orientation : float
        Angle of the major axis from the x axis, counter-clockwise, in radians.
    change : FormChange, optional
        How stars elsewhere on the frame differ from the mean star; None where all are alike.
    """

    semimajor_sigma: float
    semiminor_sigma: float
    orientation: float
    change: FormChange | None = field(default=None, compare=False)

    def axes_at(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | tuple[float, float, float]:
        """Sigma along the axes (pixels) and angle (radians) of stars at places (n, 2); numbers where all are alike."""
        if self.change is None:
            return self.semimajor_sigma, self.semiminor_sigma, self.orientation
        mean = moments_of(*np.array([[self.semimajor_sigma], [self.semiminor_sigma], [self.orientation]]))
        return axes_of(mean + self.change.at(xy, mean))

    def area_at(self, xy: np.ndarray) -> np.ndarray:
        """Product of the axes of stars at places (n, 2), in square pixels, shape (n,)."""
        semimajor, semiminor, _ = self.axes_at(xy)
        return np.broadcast_to(np.asarray(semimajor * semiminor), len(xy))

    def each_at(self, xy: np.ndarray) -> list[Shape]:
        """Shape of the star at each of the places (n, 2), the same over the whole frame."""
        axes = [np.broadcast_to(values, len(xy)).tolist() for values in self.axes_at(xy)]
        return [Shape(*values) for values in zip(*axes, strict=True)]

    @property
    def area(self) -> float:
        """Product of the axes in square pixels."""
        return self.semimajor_sigma * self.semiminor_sigma

    @property
    def sigma(self) -> float:
        """Sigma of a round star of equal area, in pixels."""
        return float(np.sqrt(self.area))

    def is_known(self) -> bool:
        """Whether the shape describes real stars."""
        return bool(np.isfinite(self.area + self.orientation) and self.semiminor_sigma > 0)


@dataclass(frozen=True, eq=False)
class Profile:
    """Light per unit of area at elliptical radius ``rho``, both in units of sigma; the total light is 1.

    Attributes
    ----------
    coefficients : ndarray, shape (n_components,)
        Share of the light in each Gaussian or Moffat function, and in each ring where there are such.
    pixel_area : float
        Area of a pixel in units of sigma squared; 0 for functions that are not widened by the pixels.
    total_err : float
        1-sigma error of the total light relative to the light in the core, common to all stars and frames.
    width : float
        Factor of the widths of the functions before pixels sample them.
    """

    coefficients: np.ndarray
    pixel_area: float = 0.0
    total_err: float = 0.0
    width: float = 1.0

    def at(self, rho: np.ndarray) -> np.ndarray:
        """Light per unit of area at any radii."""
        used, area = np.flatnonzero(self.coefficients), self.width**2
        sampled = components(rho / self.width, used, self.pixel_area / area)
        value: np.ndarray = sampled @ self.coefficients[used] / area
        return value

    def table(self) -> np.ndarray:
        """Light per unit of area at multiples of 0.01 sigma, 0 beyond 30."""
        table = self.at(_GRID)
        table[-1] = 0.0
        return table

    def sampled_by(self, pixel_area: float) -> Profile:
        """The same stars in other seeing, where a pixel has another area in units of their sigma squared.

        Pixels widen stars by a twelfth of their area (the variance of a square) and flatten their cores. Sigma is that
        of the stars as the pixels sample them, so the functions become as much narrower as the pixels become wider.
        """
        if not self.pixel_area > 0 or pixel_area == self.pixel_area:
            return self
        sought, found = _adaptive_variance(self), replace(self, pixel_area=pixel_area)
        for _ in range(_WIDTH_STEPS):
            found = replace(found, width=float(np.sqrt(found.width**2 + sought - _adaptive_variance(found))))
        return found

    def tables(self) -> Tables:
        """Tables for frames of any seeing."""
        if not 0 < self.pixel_area <= _LARGEST_PIXEL:
            return Tables(np.ones(1), self.table()[None])
        areas = self.pixel_area * _TABULATED
        return Tables(areas, np.array([self.sampled_by(area).table() for area in areas.tolist()]))


def coefficients_of(profiles: Iterable[Profile]) -> np.ndarray:
    """Coefficients of some profiles, shape (profile, component); 0 for the rings that only some of them have."""
    rows = [one.coefficients for one in profiles]
    longest = max(map(len, rows))
    return np.array([np.pad(row, (0, longest - len(row))) for row in rows])


@dataclass(frozen=True, eq=False)
class Tables:
    """Tables of a night's profile in several seeings, by the area of a pixel in units of sigma squared.

    Attributes
    ----------
    areas : ndarray, shape (m,)
        In rising order.
    tables : ndarray, shape (m, n)
        :meth:`Profile.table` of each.
    """

    areas: np.ndarray
    tables: np.ndarray

    @property
    def usual(self) -> np.ndarray:
        """Table for the mean seeing of the night, shape (n,)."""
        return np.asarray(self.tables[len(self.tables) // 2])

    def at(self, shape: Shape) -> np.ndarray:
        """Table for a frame with stars of this shape, shape (n,).

        It is the polynomial of the area through the tables; seeing beyond them counts as that of the last.
        """
        if not shape.is_known():
            return self.usual
        area, powers = np.clip(1.0 / shape.area, self.areas[0], self.areas[-1]), np.arange(len(self.areas))
        table: np.ndarray = np.linalg.solve(self.areas ** powers[:, None], area**powers) @ self.tables
        return table


def _adaptive_variance(fitted: Profile) -> float:
    """Variance of the Gaussian window that adapts to a profile, as ``moments.adaptive_moments`` finds it in pixels."""
    rho = _GRID[_GRID < _WINDOW]
    light, variance = fitted.at(rho) * rho, 1.0
    for _ in range(_WIDTH_STEPS):
        seen = light * np.exp(-0.5 * rho**2 / variance)
        # half as far again as a plain step: further would be quicker for a Gaussian, and never settle for a disc
        variance = 1.5 * float(np.sum(seen * rho**2) / np.sum(seen)) - 0.5 * variance
    return variance


#: Total light by a Gaussian lacks 14 to 29 % of that of Moffat functions of slopes 4 to 2.5.
GAUSSIAN_ERROR = 0.25


def gaussian_profile() -> Profile:
    """Gaussian profile, for a night without a measured one."""
    return Profile(np.all((np.inf, 1.0) == COMPONENTS, axis=1).astype(float), 0.0, GAUSSIAN_ERROR)


def typical_profile() -> Profile:
    """Typical star profile from the ground, Moffat functions of slope 3, as a first guess."""
    return Profile(np.all(COMPONENTS == (3.0, 0.85), axis=1).astype(float))


@functools.cache
def typical_table() -> np.ndarray:
    """:meth:`Profile.table` of the typical profile: what every frame is measured with before the night has its own."""
    table = typical_profile().table()
    table.flags.writeable = False
    return table


def components(rho: np.ndarray, chosen: Iterable[int], pixel_area: float) -> np.ndarray:
    """Components at radii ``rho``, each with a total light of 1; shape (..., component).

    A square pixel of area ``p`` averages a function ``f`` to ``f + p / 24 laplacian(f) + 7 p^2 / 11520
    laplacian(laplacian(f))``, the mean over the angles of its Taylor series, and terms in ``p^3``. For large pixels
    the series does not hold, and the last term fades out. Rings, which follow the functions of ``COMPONENTS``, are as
    the pixels show them.
    """
    numbers, fades = np.array([*chosen], dtype=np.intp), (_NO_FOURTH - pixel_area) / (_NO_FOURTH - _LARGEST_PIXEL)
    fourth = min(max(fades, 0.0), 1.0) * _FOURTH * pixel_area**2
    found = np.empty((*rho.shape, len(numbers)))
    for column in np.flatnonzero(numbers >= N_COMPONENTS).tolist():
        found[..., column] = _ring(rho, float(RINGS[numbers[column] - N_COMPONENTS]))
    columns = np.flatnonzero(numbers < N_COMPONENTS)
    slopes = COMPONENTS[numbers[columns], 0]
    for slope in np.unique(slopes):  # those of all widths at once
        same = columns[slopes == slope]
        value, curvature, second = _functions(rho[..., None], slope, numbers[same])
        found[..., same] = value + pixel_area / 24.0 * curvature + fourth * second
    return found


def _functions(rho: np.ndarray, slope: float, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Components of one slope at radii (..., 1): their values, Laplacians, and the Laplacians of these."""
    width2, width4, alpha2 = (one[numbers] for one in _POWERS)
    if np.isinf(slope):
        u = (rho / COMPONENTS[numbers, 1]) ** 2
        value = np.exp(-0.5 * u) / (2.0 * np.pi * width2)
        return value, value * (u - 2.0) / width2, value * (u * (u - 8.0) + 8.0) / width4
    u = rho**2 / alpha2
    value = (slope - 1.0) / (np.pi * alpha2) * (1.0 + u) ** -slope
    slope_u, steep = slope * u, 4.0 * slope / alpha2 * value / (1.0 + u) ** 2
    second = 4.0 * (slope + 1.0) / alpha2 * steep / (1.0 + u) ** 2
    return value, steep * (slope_u - 1.0), second * ((slope + 1.0) * u * (slope_u - 4.0) + 2.0)


def _ring(rho: np.ndarray, radius: float) -> np.ndarray:
    """Soft ring with a total light of 1."""
    width = _RING_SIGMA
    total = 2.0 * width**2 * math.exp(-0.5 * (radius / width) ** 2)
    total += math.sqrt(2.0 * math.pi) * radius * width * math.erf(radius / width / math.sqrt(2.0))
    light = np.exp(-0.5 * ((rho - radius) / width) ** 2) + np.exp(-0.5 * ((rho + radius) / width) ** 2)
    ring: np.ndarray = light / (2.0 * math.pi * total)
    return ring


def elliptical_radius(xy: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: int, shape: Shape) -> np.ndarray:
    """Elliptical radius of the pixels of cut-outs, in units of sigma.

    Parameters
    ----------
    xy : ndarray, shape (n, 2)
        Centres on the frame.
    x0, y0 : ndarray of int, shape (n,)
        Lower corners of the cut-outs.
    size : int
        Side of the square cut-outs in pixels.
    shape : Shape
        Width, elongation and orientation of the stars of the frame; where these change over it, each star has those of
        its place.

    Returns
    -------
    ndarray, shape (n, size, size)
    """
    return _radius(xy, x0, y0, size, forms_at(shape, xy))


def forms_at(shape: Shape, xy: np.ndarray) -> np.ndarray:
    """Cosine and sine of the angle, the two sigma, and their product, of stars at places (n, 2); shape (n, 5)."""
    semimajor, semiminor, angle = shape.axes_at(xy)
    forms = np.empty((len(xy), 5))
    for column, values in enumerate((np.cos(angle), np.sin(angle), semimajor, semiminor, semimajor * semiminor)):
        forms[:, column] = values
    return forms


def _radius(xy: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: int, forms: np.ndarray) -> np.ndarray:
    """Elliptical radius of the pixels of cut-outs, for stars of their own forms (:func:`forms_at`)."""
    offsets = np.arange(size)
    dx = np.asarray(x0)[:, None] + offsets - np.asarray(xy)[:, 0, None]
    dy = np.asarray(y0)[:, None] + offsets - np.asarray(xy)[:, 1, None]
    radius: np.ndarray
    if compiled.native is not None:
        radius = np.empty((len(dx), size, size))
        compiled.native.elliptical_radius(dx, dy, compiled.ready(forms[:, :4]), radius)
        return radius
    cosine, sine, semimajor, semiminor = forms.T[:4, :, None, None]
    dx, dy = dx[:, None, :], dy[:, :, None]
    along = (dx * cosine + dy * sine) / semimajor
    across = (dy * cosine - dx * sine) / semiminor
    radius = np.sqrt(along**2 + across**2)
    return radius


def profile_weights(
    table: np.ndarray, xy: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: int, shape: Shape
) -> np.ndarray:
    """Share of a star's light in each pixel of its cut-out.

    Parameters
    ----------
    table : ndarray
        Table of the profile, from :meth:`Profile.table`.
    xy, x0, y0, size, shape
        Centres, lower corners and size of the cut-outs, and shape of the stars, as :func:`elliptical_radius` takes
        them; a NaN position gives zeros.

    Returns
    -------
    ndarray, shape (n, size, size)
    """
    return light_of_forms(table, xy, x0, y0, size, forms_at(shape, xy))


def light_of_forms(
    table: np.ndarray, xy: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: int, forms: np.ndarray
) -> np.ndarray:
    """Share of a star's light in each pixel of its cut-out, for stars of their own forms (:func:`forms_at`)."""
    if compiled.native is not None:
        return _compiled_light(table, xy, x0, y0, forms, np.empty((len(xy), 1, size, size)))[:, 0]
    light: np.ndarray = light_at(table, _radius(xy, x0, y0, size, forms)) / forms[:, 4, None, None]
    return light


def position_slopes(
    table: np.ndarray, xy: np.ndarray, corners: tuple[np.ndarray, np.ndarray], size: int, forms: np.ndarray
) -> np.ndarray:
    """Change of the light in each pixel with the star's x and y, per pixel, shape (n, 2, size, size)."""
    if compiled.native is not None:
        return _compiled_light(table, xy, *corners, forms, np.empty((len(xy), 2, size, size)))
    slopes = []
    for step in ([SLOPE_STEP, 0.0], [0.0, SLOPE_STEP]):
        after = light_of_forms(table, xy + np.array(step), *corners, size, forms)
        before = light_of_forms(table, xy - np.array(step), *corners, size, forms)
        slopes.append((after - before) / (2.0 * SLOPE_STEP))
    return np.stack(slopes, axis=1)


def _compiled_light(
    table: np.ndarray, xy: np.ndarray, x0: np.ndarray, y0: np.ndarray, forms: np.ndarray, to: np.ndarray
) -> np.ndarray:
    """Fill windows (n, layer, size, size) with the light of stars, or with its two slopes."""
    assert compiled.native is not None
    floats = (compiled.ready(values, dtype=float) for values in (table, xy))
    corners = (compiled.ready(values, dtype=np.int64) for values in (x0, y0))
    compiled.native.star_light(*floats, *corners, forms, to, EDGE, TABLE_STEP, SLOPE_STEP)
    return to


def light_at(table: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Light per unit of area at radii in units of sigma, from a table; 0 where a radius is NaN."""
    if compiled.native is not None:
        radii = compiled.ready(radius, dtype=float)
        found = np.empty(radii.shape)
        compiled.native.light_at(
            compiled.ready(table, dtype=float), radii.reshape(-1), found.reshape(-1), EDGE, TABLE_STEP
        )
        return found
    rho = np.where(np.isfinite(radius), np.minimum(radius, EDGE), EDGE) / TABLE_STEP
    # the table is even: linear interpolation by index is exact to 1e-5 of the peak
    below = rho.astype(np.intp)
    light: np.ndarray = table[below] + (rho - below) * (table[below + 1] - table[below])
    return light


@functools.cache
def table_radii(n: int) -> np.ndarray:
    """Radii of the ``n`` entries of a table that goes on in steps to its end, in units of sigma."""
    radii = TABLE_STEP * np.arange(n)
    radii.flags.writeable = False
    return radii


def table_radius(index: np.ndarray) -> np.ndarray:
    """Radii in units of sigma that entries of :meth:`Profile.table` belong to."""
    return TABLE_STEP * np.minimum(index, len(_GRID) - 1)
