"""Companions of catalogue sources, found on the stack without the light of the stars that are known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.spatial import KDTree

from opticam_dask.kernels.sources import moments, photometry, second_look, stack_psf
from opticam_dask.kernels.sources.profiles import profile
from opticam_dask.passes.stack_sources.finding import FORM, SkyFree, pixels_within

#: A new star has a signal-to-noise ratio of this many times the threshold of the pixels: 8 with the usual threshold.
_LEAST_RATIO = 1.6

#: A source up to this many times as wide as a star may be several stars.
_WIDEST_BLEND = 3.0

#: The profile comes from stars whose width differs from the usual one by less than this part,
_USUAL = 0.1
#: and that are this many FWHM from all others,
_ISOLATED = 4.0
#: if there are at least this many of these.
_ENOUGH = 3

#: Sources that are this many FWHM from each other shine on each other.
_BLENDED = 3.0

#: A star further than this many FWHM from all others is not hidden: whether it is a source is for the finder to say, by
#: its threshold and its least number of pixels.
_HIDDEN = 4.0

#: What is left of a blend of stars has this many times the variance at most that is expected, or that most known stars
#: leave, whichever is more; of a galaxy more is left.
_LARGEST_MISFIT = 4.0
#: Most known stars are this many of a hundred.
_MOST_STARS = 90.0

#: No star is looked for within this many semi-axes of the segment of a galaxy.
_BLOCKED = 3.0

#: Resampling never adds more to the square of a width than the rest of it.
_LEAST_WIDTH = 0.1

#: What is left nearer than this many FWHM to a source that was not fitted is its own light.
_BESIDE = 4.0
_NOTHING = np.empty((0, 3))

#: More sources than this are not fitted together.
_MOST = 5000


def with_companions(
    found: dict[str, np.ndarray],
    is_whole: np.ndarray,
    stack: SkyFree,
    coverage: np.ndarray,
    fwhm: float,
    threshold: float,
    border: int,
    not_looked_at: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Add stars hidden by known ones, and refine the positions of overlapping stars by a joint fit.

    Parameters
    ----------
    found : dict of ndarray, shape (source,)
        Variables of the catalogue, with ``is_star``, without numbers.
    is_whole : ndarray of bool, shape (source,)
        Which sources are not saturated.
    stack : SkyFree
        Sky-subtracted pixels and their noise.
    coverage : ndarray of int, shape (ny, nx)
        Number of frames in each pixel.
    fwhm : float
        FWHM of the stars on the stack, without what resampling adds to it, pixels.
    threshold : float
        Threshold of the finder, in units of the noise of a pixel.
    border : int
        Pixels along the edges in which no star is looked for.
    not_looked_at : mapping of ndarray, shape (patch,)
        Places and semi-axes, as in ``found``, of what else the stack shows; around them no star is looked for.

    Returns
    -------
    found, is_whole
        With the new stars, brightest first.
    further : ndarray, shape (m, 3)
        x, y and flux of what else shines beside them.
    """
    pixels = stack.pixels
    is_blend = is_whole & ~found["is_star"] & (found["fwhm"] < _WIDEST_BLEND * fwhm)
    is_fitted = (found["is_star"] & is_whole) | is_blend
    xy = np.column_stack([found["x"], found["y"]])
    covered = stack.is_core | pixels_within(not_looked_at, _BLOCKED, pixels.shape)
    covered |= pixels_within({name: found[name][~is_fitted & is_whole] for name in FORM}, _BLOCKED, pixels.shape)
    column, row = (np.clip(np.rint(xy[:, axis]).astype(int), 0, pixels.shape[1 - axis] - 1) for axis in (0, 1))
    fitted = np.flatnonzero(is_fitted & ~covered[row, column])
    if not 0 < len(fitted) <= _MOST:
        return found, is_whole, _NOTHING
    is_clean = _clean_stars(found, is_whole, xy, fwhm)
    shape = _shape_of(pixels, xy[is_clean], fwhm)
    if shape is None:
        return found, is_whole, _NOTHING
    looked_at = stack_psf.Stack(np.where(covered, np.nan, pixels), stack.noise, coverage)
    stars = second_look.look_again(
        looked_at, xy[fitted], found["flux"][fitted], is_clean[fitted], shape, _LEAST_RATIO * threshold, most=_MOST
    )
    if stars is None:
        return found, is_whole, _NOTHING
    last = np.array(pixels.shape[::-1]) - 1 - border
    is_inside = np.all((stars.xy >= border) & (stars.xy <= last), axis=1)
    others = np.delete(xy, fitted, axis=0)  # saturated stars and galaxies were not taken off
    further = stars.further
    if len(others) and len(further):
        further = further[KDTree(others).query(further[:, :2])[0] > _BESIDE * fwhm]
    return *_merged(found, is_whole, fitted, is_blend, stars, is_inside, fwhm), further


def _clean_stars(found: dict[str, np.ndarray], is_whole: np.ndarray, xy: np.ndarray, fwhm: float) -> np.ndarray:
    """Stars that the profile is measured with."""
    with np.errstate(invalid="ignore"):
        is_usual = found["is_star"] & is_whole & (np.abs(found["fwhm"] / fwhm - 1.0) < _USUAL)
    away = KDTree(xy).query(xy, k=2)[0][:, 1] if len(xy) > 1 else np.full(len(xy), np.inf)
    is_alone = is_usual & (away > _ISOLATED * fwhm)
    return is_alone if np.count_nonzero(is_alone) >= _ENOUGH else is_usual


def _shape_of(pixels: np.ndarray, xy: np.ndarray, fwhm: float) -> profile.Shape | None:
    """Median form of stars on the stack, as it was resampled."""
    if not len(xy):
        return None
    semimajor, semiminor, angle = moments.source_shapes(pixels, xy, np.full(len(xy), fwhm / photometry.SIGMA_TO_FWHM))
    known = np.isfinite(semiminor)
    if not known.any():
        return None
    twice = np.median(
        [
            ((semimajor**2 - semiminor**2) * np.cos(2.0 * angle))[known],
            ((semimajor**2 - semiminor**2) * np.sin(2.0 * angle))[known],
        ],
        axis=1,
    )
    mean, half = np.median((semimajor**2 + semiminor**2)[known]) / 2.0, np.hypot(*twice) / 2.0
    axes = np.sqrt(mean + half), np.sqrt(max(mean - half, 0.0))
    shape = profile.Shape(float(axes[0]), float(axes[1]), float(0.5 * np.arctan2(twice[1], twice[0])))
    return shape if shape.is_known() else None


def _merged(
    found: dict[str, np.ndarray],
    is_whole: np.ndarray,
    fitted: np.ndarray,
    is_blend: np.ndarray,
    stars: second_look.KnownStars,
    is_inside: np.ndarray,
    fwhm: float,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Catalogue with the stars of a fit, brightest first."""
    n_known, xy = len(fitted), np.column_stack([found["x"], found["y"]])
    found = {name: values.copy() for name, values in found.items()}
    left = stars.misfit(stars.xy, int(np.ceil(fwhm)))
    usual = left[:n_known][~is_blend[fitted]]
    most = _LARGEST_MISFIT * max(1.0, float(np.percentile(usual, _MOST_STARS)) if len(usual) else 1.0)
    is_galaxy = is_blend[fitted] & (left[:n_known] > most)
    is_new = (np.arange(len(stars.xy)) >= n_known) & is_inside & (left < most)
    is_new &= KDTree(xy).query(stars.xy)[0] < _HIDDEN * fwhm
    for galaxy in fitted[is_galaxy].tolist():  # what was found in a galaxy is part of it
        size = _BLOCKED * np.fmax(found["semimajor_sigma"][galaxy], fwhm)
        is_new &= np.hypot(*(stars.xy - xy[galaxy]).T) > size
    used = np.append(np.flatnonzero(~is_galaxy), np.flatnonzero(is_new))
    if not len(used):
        return found, is_whole
    near = used[KDTree(stars.xy[used]).query_pairs(_BLENDED * fwhm, output_type="ndarray")]
    members = np.unique(near[near < n_known])
    moved = np.hypot(*(stars.xy[members] - xy[fitted[members]]).T)
    placed = members[moved < fwhm]
    found["x"][fitted[placed]], found["y"][fitted[placed]] = stars.xy[placed].T
    # light in the segment of a star relative to its total light
    share = found["flux"][fitted] / np.maximum(stars.flux[:n_known], 1e-9)
    usual = float(np.median(share[~is_galaxy])) if not is_galaxy.all() else 1.0
    beside_new = np.unique(near[np.any(is_new[near], axis=1)])
    beside_new = beside_new[beside_new < n_known]
    found["flux"][fitted[beside_new]] = usual * stars.flux[beside_new]
    found["is_star"][fitted[~is_galaxy]] = True
    is_odd = ~(np.abs(found["fwhm"][fitted[members]] / fwhm - 1.0) < _USUAL)
    again, new = np.union1d(beside_new, members[is_odd]), np.flatnonzero(is_new)
    rows = {name: np.full(len(new), np.nan) for name in found}
    rows |= {"x": stars.xy[new, 0], "y": stars.xy[new, 1], "flux": usual * stars.flux[new]}
    rows["is_star"] = np.ones(len(new), dtype=bool)
    found = {name: np.append(values, rows[name]) for name, values in found.items()}
    is_whole = np.append(is_whole, np.ones(len(new), dtype=bool))
    _measure_forms(found, np.append(fitted[again], len(xy) + np.arange(len(new))), stars, np.append(again, new), fwhm)
    order = np.argsort(-found["flux"], kind="stable") if len(new) else np.arange(len(is_whole))
    return {name: values[order] for name, values in found.items()}, is_whole[order]


def _measure_forms(
    found: dict[str, np.ndarray], rows: np.ndarray, stars: second_look.KnownStars, chosen: np.ndarray, fwhm: float
) -> None:
    """Widths of stars without the light of the others, and without what resampling added."""
    if not len(chosen):
        return
    half, sigma = int(np.ceil(3.0 * fwhm)), fwhm / photometry.SIGMA_TO_FWHM
    cutouts, x0, y0 = stars.alone(chosen, half)
    start = np.full(len(chosen), sigma)
    semimajor, semiminor, angle, _ = moments.adaptive_moments(cutouts, x0, y0, stars.xy[chosen], start)
    of_stack = stars.psf.shape
    widened = max(0.0, (of_stack.semimajor_sigma**2 + of_stack.semiminor_sigma**2) / 2.0 - sigma**2)
    semimajor, semiminor = (
        np.sqrt(np.maximum(axis**2 - widened, _LEAST_WIDTH * axis**2)) for axis in (semimajor, semiminor)
    )
    found["semimajor_sigma"][rows], found["semiminor_sigma"][rows] = semimajor, semiminor
    found["orientation"][rows] = np.mod(np.rad2deg(angle), 360.0)
    found["fwhm"][rows] = photometry.SIGMA_TO_FWHM * np.sqrt((semimajor**2 + semiminor**2) / 2.0)
