"""The catalogue of a key: sources of the stack of its reference night, brightest first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from opticam_dask.kernels.sources import centroids, photometry
from opticam_dask.kernels.sources.photometry import SIGMA_TO_FWHM
from opticam_dask.passes.stack_sources.companions import with_companions
from opticam_dask.passes.stack_sources.finding import (
    SEEING_RANGE,
    TYPICAL_SOURCES,
    NoCatalog,
    StackedNight,
    believed,
    find_sources,
    isophotal_fwhm,
)
from opticam_dask.steps.background import BOX_OF_STARS, are_too_narrow
from opticam_dask.steps.frame_steps import FrameSteps

#: So many hot rows and columns are named.
_LINES_TOLD = 5

#: Two sources whose centroids are nearer than this part of the FWHM are one centroid found twice.
_SAME_PLACE = 0.25

#: More neighbours than this are not kept.
MOST_NEIGHBOURS = 5000


@dataclass(frozen=True)
class Catalog:
    """Sources of a stack, and facts about them.

    Attributes
    ----------
    arrays : dict of ndarray, shape (source,)
        The variables of ``schema.CATALOG``.
    fwhm : float
        Typical FWHM of its stars, pixels.
    neighbours : dict of ndarray, shape (neighbour,)
        Fainter sources and those in the border, which are not measured: the variables of ``schema.NEIGHBOURS``.
    warnings : tuple of str
        What the user should know.
    left_out : tuple of str
        Why parts of the stack were left out of it, a sentence each.
    """

    arrays: dict[str, np.ndarray]
    fwhm: float
    neighbours: dict[str, np.ndarray]
    warnings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def make_catalog(
    night: StackedNight,
    steps: FrameSteps,
    max_sources: int,
    select: Callable[[np.ndarray], float] = np.median,
) -> Catalog:
    """Detect the sources of a stack, and tell which are stars.

    The noise of a pixel is taken from the scatter of the frames and the number of them, not from the stack:
    resampling correlates neighbouring pixels, so that the scatter of the stack is too small. What is not as wide as a
    star must also stand out of the scatter of the stack around it, which is larger where the sky mesh cannot follow
    the sky, as at the edge of a round aperture.

    Parameters
    ----------
    night : StackedNight
        The stacked reference night of the key.
    steps : FrameSteps
        Mesh, finder and threshold.
    max_sources : int
        How many of the brightest sources to keep.
    select : callable
        Chooses the FWHM of the catalogue from those of its brightest stars.

    Raises
    ------
    NoCatalog
        When there is nothing above the threshold.
    """
    if not night.coverage.any():
        raise NoCatalog("no frame could be aligned, so there is no stack.")
    seen = find_sources(night, steps)
    found, is_whole, stack = seen.found, seen.is_whole, seen.stack
    fwhm = _fwhm_of(_brightest(found, max_sources), is_whole[:max_sources], night.seeing, select)
    _refine_positions(stack.pixels, found, fwhm)
    further = np.empty((0, 3))
    if steps.finds_by_segments:
        edge = getattr(steps.finder, "border_width", 0)
        found, is_whole, further = with_companions(
            found, is_whole, stack, night.coverage, seen.width, steps.threshold, edge, seen.patches
        )
    found, is_whole = believed(stack, found, is_whole, seen.width, steps.threshold)
    n_fainter, border = max(0, len(is_whole) - max_sources), seen.border
    neighbours = _neighbours({name: values[max_sources:] for name, values in found.items()}, border, further)
    found, is_whole = _brightest(found, max_sources), is_whole[:max_sources]
    fwhm = _fwhm_of(found, is_whole, night.seeing, select)
    found["source_id"] = np.arange(1, len(found["x"]) + 1, dtype=np.int32)
    warnings = _warnings(fwhm, night.seeing, found["is_star"]) + _box_warning(fwhm, steps)
    warnings += _lines_warning(seen.lines)
    return Catalog(found, fwhm, neighbours, warnings, _left_out(found["flux"], border[:, 2], n_fainter))


def _neighbours(fainter: Mapping[str, np.ndarray], border: np.ndarray, further: np.ndarray) -> dict[str, np.ndarray]:
    """Variables of ``schema.NEIGHBOURS``: what lies in the border, what is fainter than the catalogue, and other light.

    Places and fluxes of the first and the last, shape (n, 3). The last need not be stars: they give way to the others.
    """
    columns = zip(("x", "y", "flux"), border.T, further.T, strict=True)
    found = {
        f"neighbour_{name}": np.concatenate([first, fainter[name], last])[:MOST_NEIGHBOURS]
        for name, first, last in columns
    }
    return found if len(found["neighbour_x"]) else {}


def _left_out(flux: np.ndarray, border_flux: np.ndarray, n_fainter: int) -> tuple[str, ...]:
    """Sentences about what the catalogue leaves out; ``flux`` is that of its sources, brightest first."""
    said = []
    if len(border_flux):
        n_brighter = int(np.count_nonzero(border_flux > flux[0]))
        compared = f", brighter than all of the {len(flux)} in the catalogue" if n_brighter else ""
        said.append(
            f"{len(border_flux)} source(s) of the stack lie in the border of the field and are left out, the "
            f"brightest of {border_flux[0]:.4g} electrons{compared}; a smaller border_width (--border-width) keeps "
            "them."
        )
    if n_fainter:
        said.append(
            f"{n_fainter} source(s) of the stack are fainter than the {len(flux)} of the catalogue (the faintest of "
            f"{flux[-1]:.4g} electrons) and left out; a larger max_catalog_sources (--max-catalog-sources) keeps them."
        )
    return tuple(said)


def _box_warning(fwhm: float, steps: FrameSteps) -> tuple[str, ...]:
    """Say when stars fill the boxes of the sky mesh, as defocused ones may."""
    if not are_too_narrow(steps.image_shape, steps.box_size, fwhm):
        return ()
    return (
        f"stars are {fwhm:.0f} pixels wide (FWHM), the boxes of the sky mesh {min(steps.box_size)}: the mesh takes "
        f"part of their light for sky. A box_size (--box-size) of {BOX_OF_STARS * fwhm:.0f} or more is right for them, "
        "and apertures need a radius that holds them.",
    )


def _lines_warning(lines: Sequence[str]) -> tuple[str, ...]:
    """Say which hot rows and columns there are."""
    if not lines:
        return ()
    more = f" and {len(lines) - _LINES_TOLD} others" if len(lines) > _LINES_TOLD else ""
    return (
        f"{'; '.join(lines[:_LINES_TOLD])}{more} of the stack stand out of those beside them. Stars are told apart, "
        "but have their light in their fluxes where its pixels are not known to be bad; darks (--darks) take it off.",
    )


def _brightest(found: Mapping[str, np.ndarray], most: int) -> dict[str, np.ndarray]:
    """The ``most`` brightest sources."""
    return {name: values[:most] for name, values in found.items()}


def _fwhm_of(
    found: Mapping[str, np.ndarray], is_whole: np.ndarray, seeing: float, select: Callable[[np.ndarray], float]
) -> float:
    """FWHM of the unsaturated stars of a catalogue; the seeing where there is none."""
    if is_whole.any():
        return typical_fwhm({name: values[is_whole] for name, values in found.items()}, select)
    return seeing if np.isfinite(seeing) else typical_fwhm(found, select)


def _warnings(fwhm: float, seeing: float, is_star: np.ndarray) -> tuple[str, ...]:
    """Warnings about an odd catalogue, in words."""
    found = []
    n_stars, n_sources = int(np.count_nonzero(is_star)), len(is_star)
    if np.isfinite(seeing) and not SEEING_RANGE[0] <= fwhm / seeing <= SEEING_RANGE[1]:
        found.append(
            f"the stars of the catalogue are {fwhm:.1f} pixels wide (FWHM), but those of the frames {seeing:.1f}, and "
            "apertures scale with the catalogue's. The frames may not be well aligned, or the sources are no stars: "
            "look at cat/catalogs.pdf; a higher threshold, other n_pixels or another reference_night may help."
        )
    if n_stars < n_sources / 2.0:
        found.append(
            f"only {n_stars} of {n_sources} sources of the catalogue have the form of a star (is_star); the others are "
            "galaxies, blends, bled columns or patches of the sky. Do not take them for comparison stars; a higher "
            "threshold leaves them out."
        )
    return tuple(found)


def _refine_positions(image: np.ndarray, found: dict[str, np.ndarray], fwhm: float) -> None:
    """Replace the centroids of the segments, which lean towards whatever else is in them, by windowed ones.

    Where two sources end at one place, the fainter stays where its segment is.
    """
    sigma = fwhm / SIGMA_TO_FWHM
    size = 2 * int(np.ceil(4.0 * sigma)) + 3
    start = np.column_stack([found["x"], found["y"]])
    x0, y0 = photometry.origins(start, size)
    xy, _ = centroids.windowed_centroids(photometry.cut_out(image, x0, y0, size), x0, y0, start, sigma)
    for _, fainter in KDTree(xy).query_pairs(_SAME_PLACE * fwhm, output_type="ndarray"):
        xy[fainter] = start[fainter]
    found["x"], found["y"] = xy[:, 0], xy[:, 1]


def typical_fwhm(found: Mapping[str, np.ndarray], select: Callable[[np.ndarray], float] = np.median) -> float:
    """FWHM that stands for a catalogue, in pixels: ``select`` (the median) of its brightest stars."""
    fwhm = np.where(found["is_star"], found["fwhm"], np.nan) if "is_star" in found else found["fwhm"]
    widths = fwhm[np.isfinite(fwhm)][:TYPICAL_SOURCES]
    if len(widths):
        return float(select(widths))
    widths = isophotal_fwhm(found)
    widths = widths[np.isfinite(widths) & (widths > 0)]
    return float(select(widths)) if len(widths) else 2.0 * SIGMA_TO_FWHM


def missing_sources(
    catalog_xy: np.ndarray, frames: Sequence[np.ndarray], reach: float, max_sources: int
) -> tuple[float, float]:
    """Share of the detections of frames that the catalogue lacks, and share of the catalogue that the frames lack.

    Of each frame and of the catalogue only as many of the brightest sources are looked at as both have: a stack shows
    fainter stars than a frame, and a catalogue is limited.

    Parameters
    ----------
    catalog_xy : ndarray, shape (source, 2)
        Positions of the catalogue, brightest first, pixels.
    frames : sequence of ndarray, shape (n, 2)
        Detections of some frames where they are on the reference, brightest first.
    reach : float
        Distance in pixels within which two are the same source.
    max_sources : int
        Limit of the catalogue.

    Returns
    -------
    of_frames, of_catalog : float
        Median share of the detections that are not in the catalogue, and of the catalogue's sources that are not among
        the detections; NaN without a frame.
    """
    shares = []
    for xy in frames:
        n_detections, n_sources = min(len(xy), max_sources), min(len(xy), len(catalog_xy))
        if not n_sources:
            continue
        to_catalog = KDTree(catalog_xy).query(xy[:n_detections])[0]
        to_detections = KDTree(xy).query(catalog_xy[:n_sources])[0]
        shares.append([np.mean(to_catalog > reach), np.mean(to_detections > reach)])
    if not shares:
        return float("nan"), float("nan")
    of_frames, of_catalog = np.median(shares, axis=0)
    return float(of_frames), float(of_catalog)


def checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the bits of a catalogue, by which it is known again."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
