"""The catalogue of a key: sources of the stack of its reference night, brightest first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter
from scipy.spatial import KDTree

from opticam_dask.kernels.images import detect, halos
from opticam_dask.kernels.images.bad_columns import bridged
from opticam_dask.kernels.images.matching import align, star_choice
from opticam_dask.kernels.images.sky import background
from opticam_dask.kernels.images.stack import mean_rms
from opticam_dask.kernels.sources import centroids, moments, photometry
from opticam_dask.passes.companions import with_companions
from opticam_dask.steps.frame_steps import FrameSteps

#: Sources are looked for where at least this share of the best-covered pixel's frames contribute,
_LEAST_COVERAGE = 0.25
#: and no fewer than two where others have more: a cosmic ray in a single frame looks like any other light.
_FEWEST_FRAMES = 2
#: Tracks that were left out of a stack are up to so many pixels wide.
_LEFT_OUT = 9

#: The typical width is the median over so many of the brightest stars.
_TYPICAL_SOURCES = 30

#: No star is sharper than the frames: what is narrower, along its short axis, than this share of the short axis of
#: their stars (which are elongated when the mount tracks badly) is the trace of a cosmic ray or of a hot pixel that the
#: field drifted across.
_LEAST_WIDTH = 0.6

#: The FWHM of a stack is that of its frames within these factors, or something is wrong with either.
_SEEING_RANGE = (0.75, 1.3)

#: A star is as wide as the others within these factors: its neighbours add to its width.
_STAR_RANGE = (0.6, 1.6)

#: A segment that is so many times wider than usual is no star, whatever its core looks like,
_WIDEST_SEGMENT = 4.0
#: nor is one that is so many times more elongated than usual.
_MOST_ELONGATED = 3.0

#: What is no star and wider than this part of a box of the sky mesh may be sky that the mesh does not follow:
_SMALL_PATCH = 0.5
#: it must stand out so many times as much as other sources.
_LARGE_PATCH = 4.0

#: A star whose peak on the stack is above this share of the saturation was saturated in some of the frames: seeing and
#: resampling spread the peak.
_NEARLY_SATURATED = 0.8

#: Nothing is looked for so many FWHM from a saturated pixel.
_CORE = 1.6

#: Stars wider (FWHM) than this part of a box of the sky mesh fill it.
_LARGEST_IN_BOX = 0.5
#: Boxes should be so many FWHM wide.
_BOX_OF_STARS = 3.0

#: Sources nearer than so many FWHM have each other's light in their moments,
_BLENDED = 3.0
#: and nearer than so many when the light of the others was taken off.
_STILL_BLENDED = 2.0

#: Two sources whose centroids are nearer than this part of the FWHM are one centroid found twice.
_SAME_PLACE = 0.25

#: Variance of a uniform distribution over one pixel.
_PIXEL_VARIANCE = 1.0 / 12.0

_SIGMA_TO_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))


class NoCatalog(Exception):
    """No source was found on the stack; the message says what may help."""


@dataclass(frozen=True)
class StackedNight:
    """Stack of a reference night, with the seeing and noise of its frames.

    Attributes
    ----------
    image : ndarray, shape (ny, nx)
        Mean of the aligned frames, electrons; NaN where no frame contributes.
    coverage : ndarray of int, shape (ny, nx)
        Number of frames in each pixel.
    frame_rms : ndarray, shape (stacked,)
        Background RMS of the frames in the stack, electrons.
    seeing : float
        Median FWHM of the frames, in pixels; NaN when unknown.
    transforms : ndarray, shape (stacked, 3, 3)
        Of the frames in the stack, by which they were resampled.
    saturation : float
        Electrons above the sky at which pixels of the frames are saturated; NaN when unknown.
    sharpest : float
        Median FWHM of the frames along the short axis of their stars, in pixels; NaN when unknown.
    """

    image: np.ndarray
    coverage: np.ndarray
    frame_rms: np.ndarray
    seeing: float
    transforms: np.ndarray
    saturation: float = float("nan")
    sharpest: float = float("nan")


@dataclass(frozen=True)
class Catalog:
    """Sources of a stack, and facts about them.

    Attributes
    ----------
    arrays : dict of ndarray, shape (source,)
        The variables of ``schema.CATALOG``.
    fwhm : float
        That stands for its stars, in pixels.
    warnings : tuple of str
        What the user should know.
    left_out : tuple of str
        What of the stack is not in it.
    """

    arrays: dict[str, np.ndarray]
    fwhm: float
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
    pixels = np.where(_are_seen(night.coverage), night.image.astype(float), np.nan)
    saturated = _NEARLY_SATURATED * np.nan_to_num(night.saturation, nan=np.inf)
    unveiled = _unveiled(night, pixels, saturated)
    pixels, noise = unveiled.image.copy(), unveiled.noise
    try:
        mesh, rms_mesh = background.sky_mesh(pixels, steps.box_size)
        pixels -= background.zoom_mesh(mesh, pixels.shape, steps.box_size)
    except ValueError:  # stars everywhere: the sky of the frames is all that is known
        rms_mesh = np.full([-(-side // box) for side, box in zip(pixels.shape, steps.box_size, strict=True)], 0.0)
    pixels = bridged(pixels)
    table = steps.finder(pixels, steps.threshold * noise)
    if table is None or not len(table):
        raise NoCatalog(
            f"no source above {steps.threshold:g} times the noise on the stack. A lower threshold or n_pixels may help."
        )
    found = _sources_of(pixels, detect.source_arrays(table, len(table)), night)
    if not len(found["x"]):
        raise NoCatalog("the stack holds nothing as wide as a star, only traces of cosmic rays or hot pixels.")
    peak = _peaks(pixels, found)
    is_whole = peak < saturated
    width = _stellar_width(found, is_whole, night.seeing)
    found["is_star"] = _are_stars(found, is_whole, width)
    scatter = _local_scatter(rms_mesh, steps, pixels.shape)
    is_small = found["fwhm"] < _SMALL_PATCH * min(steps.box_size)
    # light that saturates a pixel is no patch of the sky; the moments of a star between others may not converge
    stands_out = ~is_whole | (
        found["is_star"] & (np.isfinite(found["fwhm"]) | _have_neighbours(found, _BLENDED * width))
    )
    stands_out |= peak > steps.threshold * _at(found, scatter) * np.where(is_small, 1.0, _LARGE_PATCH)
    if not stands_out.any():
        raise NoCatalog("the stack holds nothing as wide as a star or that stands out of the scatter of the sky there.")
    patches = {name: values[~stands_out] for name, values in found.items()}
    found, is_whole = {name: values[stands_out] for name, values in found.items()}, is_whole[stands_out]
    fwhm = _fwhm_of(_brightest(found, max_sources), is_whole[:max_sources], night.seeing, select)
    _refine_positions(pixels, found, fwhm)
    if steps.finds_by_segments:
        stack = (pixels, noise, night.coverage)
        border = getattr(steps.finder, "border_width", 0)
        is_core = unveiled.is_core
        found, is_whole = with_companions(found, is_whole, stack, width, is_core, steps.threshold, border, patches)
    found, is_whole = _believed(pixels, found, is_whole, width, unveiled.in_halo, steps.threshold * noise)
    n_fainter = max(0, len(is_whole) - max_sources)
    found, is_whole = _brightest(found, max_sources), is_whole[:max_sources]
    fwhm = _fwhm_of(found, is_whole, night.seeing, select)
    found["source_id"] = np.arange(1, len(found["x"]) + 1, dtype=np.int32)
    warnings = _warnings(fwhm, night.seeing, found["is_star"]) + _box_warning(fwhm, steps.box_size)
    border_flux = table.meta.get("border_flux", np.empty(0))
    return Catalog(found, fwhm, warnings, _left_out(found["flux"], border_flux, n_fainter))


def _unveiled(night: StackedNight, pixels: np.ndarray, saturated: float) -> halos.Unveiled:
    """Stack and noise of its pixels, without the halos of saturated stars."""
    noise = mean_rms(night.frame_rms) / np.sqrt(np.maximum(night.coverage, 1))
    with np.errstate(invalid="ignore"):
        is_saturated = pixels > saturated
    fwhm = night.seeing if np.isfinite(night.seeing) else 2.0 * _SIGMA_TO_FWHM
    return halos.without_halos(pixels, noise, night.coverage, is_saturated, _CORE * fwhm, fwhm)


def _are_seen(coverage: np.ndarray) -> np.ndarray:
    """Pixels that enough frames show; where odd light was left out, those around them decide."""
    most = int(coverage.max())
    fewest, least = _FEWEST_FRAMES if most > _FEWEST_FRAMES else 1, _LEAST_COVERAGE * most
    around = maximum_filter(coverage, _LEFT_OUT, mode="nearest")
    return np.asarray((around >= max(fewest, least)) & (coverage >= max(fewest, least / 2.0)))


def _left_out(flux: np.ndarray, border_flux: np.ndarray, n_fainter: int) -> tuple[str, ...]:
    """What of the stack is not in the catalogue, in words; ``flux`` is of the sources which are, brightest first."""
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


def _box_warning(fwhm: float, box_size: tuple[int, int]) -> tuple[str, ...]:
    """Say when stars fill the boxes of the sky mesh, as defocused ones may."""
    if fwhm <= min(box_size) * _LARGEST_IN_BOX:
        return ()
    return (
        f"stars are {fwhm:.0f} pixels wide (FWHM), the boxes of the sky mesh {min(box_size)}: the mesh takes part of "
        f"their light for sky. A box_size (--box-size) of {_BOX_OF_STARS * fwhm:.0f} or more is right for them, and "
        "apertures need a radius that holds them.",
    )


def _brightest(found: Mapping[str, np.ndarray], most: int) -> dict[str, np.ndarray]:
    """So many of the brightest sources."""
    return {name: values[:most] for name, values in found.items()}


def _peaks(image: np.ndarray, found: Mapping[str, np.ndarray]) -> np.ndarray:
    """Highest of the 3 x 3 pixels around each source."""
    x0, y0 = photometry.origins(np.column_stack([found["x"], found["y"]]), 3)
    cores = photometry.cut_out(image, x0, y0, 3).reshape(len(x0), -1)
    return np.max(np.where(np.isfinite(cores), cores, -np.inf), axis=1)


def _light_around(image: np.ndarray, found: Mapping[str, np.ndarray], width: float) -> np.ndarray:
    """Median of the pixels around each source, from one FWHM to two."""
    size = 2 * int(np.ceil(2.0 * width)) + 1
    xy = np.column_stack([found["x"], found["y"]])
    x0, y0 = photometry.origins(xy, size)
    dx, dy = (np.arange(size) + corner[:, None] - xy[:, axis, None] for axis, corner in ((0, x0), (1, y0)))
    apart = np.hypot(dx[:, None, :], dy[:, :, None])
    cutouts = photometry.cut_out(image, x0, y0, size)
    is_around = (apart > width) & (apart < 2.0 * width) & np.isfinite(cutouts)
    return np.ma.median(np.ma.masked_where(~is_around, cutouts), axis=(1, 2)).filled(0.0)


def _local_scatter(rms_mesh: np.ndarray, steps: FrameSteps, shape: tuple[int, int]) -> np.ndarray:
    """Scatter of the stack in the box of each pixel or one next to it, whichever is larger."""
    (box_y, box_x), around = steps.box_size, maximum_filter(rms_mesh, size=3, mode="nearest")
    boxes: np.ndarray = around[np.arange(shape[0]) // box_y][:, np.arange(shape[1]) // box_x]
    return boxes


def _at(found: Mapping[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    """Values of an image at the pixels of the sources."""
    column, row = (
        np.clip(np.rint(found[name]).astype(int), 0, size - 1)
        for name, size in zip(("x", "y"), image.shape[::-1], strict=True)
    )
    values: np.ndarray = image[row, column]
    return values


def _believed(
    image: np.ndarray,
    found: dict[str, np.ndarray],
    is_whole: np.ndarray,
    width: float,
    in_halo: np.ndarray,
    least: np.ndarray,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Sources whose widths are now known without their neighbours: which are stars, and which of the others stay.

    In the halo of a saturated star, and where it has neither width nor neighbours and its middle does not stand out of
    what is around it, what is no star is nothing.
    """
    if not np.isfinite(width):
        return found, is_whole
    fwhm = found["fwhm"]
    is_wide_enough = (fwhm > _STAR_RANGE[0] * width) & (fwhm < _STAR_RANGE[1] * width)
    found = found | {"is_star": found["is_star"] & np.where(is_whole, is_wide_enough, np.isfinite(fwhm))}
    is_flat = np.isnan(fwhm) & ~_have_neighbours(found, _STILL_BLENDED * width)
    is_flat &= ~(_peaks(image, found) - _light_around(image, found, width) > _at(found, least))
    is_kept = found["is_star"] | ~is_whole | ~(is_flat | _at(found, in_halo))
    return {name: values[is_kept] for name, values in found.items()}, is_whole[is_kept]


def _isophotal_fwhm(found: Mapping[str, np.ndarray]) -> np.ndarray:
    """Width of each source by its segment, as the FWHM of a Gaussian."""
    return np.asarray(_SIGMA_TO_FWHM * np.sqrt(found["semimajor_sigma"] * found["semiminor_sigma"]))


def _have_neighbours(found: Mapping[str, np.ndarray], reach: float) -> np.ndarray:
    """Which sources have another one nearer than so many pixels."""
    xy = np.column_stack([found["x"], found["y"]])
    if len(xy) < 2 or not np.isfinite(reach):
        return np.zeros(len(xy), dtype=bool)
    return np.asarray(KDTree(xy).query(xy, k=2)[0][:, 1] < reach)


def _stellar_width(found: Mapping[str, np.ndarray], is_whole: np.ndarray, seeing: float) -> float:
    """FWHM of the stars of a stack: near the seeing of the frames, where there are such, or what most sources have."""
    widths = found["fwhm"][is_whole & np.isfinite(found["fwhm"])]
    near = widths[(widths > _SEEING_RANGE[0] * seeing) & (widths < _SEEING_RANGE[1] * seeing)][:_TYPICAL_SOURCES]
    return float(np.median(near)) if len(near) else star_choice.mode(widths[:_TYPICAL_SOURCES])


def _are_stars(found: Mapping[str, np.ndarray], is_whole: np.ndarray, width: float) -> np.ndarray:
    """Which sources have the width of a star, or could have it if they were not saturated."""
    if not np.isfinite(width):
        return np.ones(len(found["x"]), dtype=bool)
    major, minor, fwhm = found["semimajor_sigma"], found["semiminor_sigma"], found["fwhm"]
    is_measured = is_whole & (fwhm > _STAR_RANGE[0] * width) & (fwhm < _STAR_RANGE[1] * width)
    usual = major[is_measured] / minor[is_measured]
    with np.errstate(invalid="ignore", divide="ignore"):
        widest = np.where(is_whole, _STAR_RANGE[1], _WIDEST_SEGMENT)
        is_form = _isophotal_fwhm(found) < widest * width
        is_form &= major / minor < _MOST_ELONGATED * (np.median(usual) if len(usual) else 1.0)
    # a finder of the user's own may tell no segments
    is_form |= ~np.isfinite(major * minor)
    return is_measured | (is_form & (~is_whole | ~np.isfinite(fwhm)))


def _fwhm_of(
    found: Mapping[str, np.ndarray], is_whole: np.ndarray, seeing: float, select: Callable[[np.ndarray], float]
) -> float:
    """FWHM of the unsaturated stars of a catalogue; the seeing where there is none."""
    if is_whole.any():
        return typical_fwhm({name: values[is_whole] for name, values in found.items()}, select)
    return seeing if np.isfinite(seeing) else typical_fwhm(found, select)


def _warnings(fwhm: float, seeing: float, is_star: np.ndarray) -> tuple[str, ...]:
    """What is odd about a catalogue, in words."""
    found = []
    n_stars, n_sources = int(np.count_nonzero(is_star)), len(is_star)
    if np.isfinite(seeing) and not _SEEING_RANGE[0] <= fwhm / seeing <= _SEEING_RANGE[1]:
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


def _sources_of(image: np.ndarray, found: dict[str, np.ndarray], night: StackedNight) -> dict[str, np.ndarray]:
    """Add the FWHM of each source, and drop what is too sharp for the sky. Widths are those without resampling."""
    known = np.isfinite(found["x"]) & np.isfinite(found["y"])
    found = {name: values[known] for name, values in found.items()}
    xy = np.column_stack([found["x"], found["y"]])
    isophotal = np.sqrt(found["semimajor_sigma"] * found["semiminor_sigma"])
    start = np.full(len(xy), night.seeing / _SIGMA_TO_FWHM) if np.isfinite(night.seeing) else isophotal
    transforms = night.transforms
    resampling = np.mean(align.widening(transforms, xy), axis=0) if len(transforms) else np.zeros(len(xy))
    semimajor, semiminor = (_narrowed(width, resampling) for width in moments.source_widths(image, xy, start))
    for name in ("semimajor_sigma", "semiminor_sigma"):
        found[name] = _narrowed(found[name], resampling)
    found["fwhm"] = _SIGMA_TO_FWHM * np.sqrt((semimajor**2 + semiminor**2) / 2.0)
    narrow = _SIGMA_TO_FWHM * np.where(np.isfinite(semiminor), semiminor, found["semiminor_sigma"])
    is_sharp = narrow < _LEAST_WIDTH * np.fmin(night.seeing, night.sharpest)
    return {name: values[~is_sharp] for name, values in found.items()}


def _narrowed(sigma: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Width without what resampling added to its square; a pixel is the least that is left."""
    least = np.minimum(sigma**2, _PIXEL_VARIANCE)
    return np.sqrt(np.maximum(sigma**2 - variance, least))


def _refine_positions(image: np.ndarray, found: dict[str, np.ndarray], fwhm: float) -> None:
    """Replace the centroids of the segments, which lean towards whatever else is in them, by windowed ones.

    Where two sources end at one place, the fainter stays where its segment is.
    """
    sigma = fwhm / _SIGMA_TO_FWHM
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
    widths = fwhm[np.isfinite(fwhm)][:_TYPICAL_SOURCES]
    if len(widths):
        return float(select(widths))
    widths = _isophotal_fwhm(found)
    widths = widths[np.isfinite(widths) & (widths > 0)]
    return float(select(widths)) if len(widths) else 2.0 * _SIGMA_TO_FWHM


def missing_sources(
    catalog_xy: np.ndarray, frames: Sequence[np.ndarray], reach: float, max_sources: int
) -> tuple[float, float]:
    """Share of the frames' detections that is missing in the catalogue, and the other way round.

    Of each frame and of the catalogue only as many of the brightest sources are looked at as both have: a stack shows
    fainter stars than a frame, and a catalogue is limited.

    Parameters
    ----------
    catalog_xy : ndarray, shape (source, 2)
        Brightest first.
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
