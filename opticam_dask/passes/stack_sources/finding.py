"""Sources that the finder sees on a stack, and which of them are stars or stand out of the sky."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import find_objects, label, maximum_filter
from scipy.spatial import KDTree

from opticam_dask.kernels.images import detect, halos
from opticam_dask.kernels.images.bad_columns import bridged, without_lines
from opticam_dask.kernels.images.matching import align, star_choice
from opticam_dask.kernels.images.sky import background
from opticam_dask.kernels.images.sky.ring_median import ring_median
from opticam_dask.kernels.images.stack import mean_rms
from opticam_dask.kernels.sources import moments, photometry
from opticam_dask.kernels.sources.photometry import SIGMA_TO_FWHM
from opticam_dask.steps.background import widened
from opticam_dask.steps.frame_steps import FrameSteps

#: Sources are looked for where at least this share of the best-covered pixel's frames contribute,
_LEAST_COVERAGE = 0.25
#: and no fewer than two where others have more: a cosmic ray in a single frame looks like any other light.
_FEWEST_FRAMES = 2
#: Tracks that were left out of a stack are up to this many pixels wide.
_LEFT_OUT = 9

#: No star is sharper than the frames: what is narrower, along its short axis, than this share of the short axis of the
#: mean of their stars (which are elongated when the mount tracks badly) is the trace of a cosmic ray or of a hot pixel
#: that the field drifted across.
_LEAST_WIDTH = 0.6

#: The FWHM of a stack is that of its frames within these factors, or something is wrong with either.
SEEING_RANGE = (0.75, 1.3)
#: The typical width is the median over this many of the brightest stars.
TYPICAL_SOURCES = 30

#: A star is as wide as the others within these factors: its neighbours add to its width.
_STAR_RANGE = (0.6, 1.6)

#: A segment that is this many times wider than usual is no star, whatever its core looks like,
_WIDEST_SEGMENT = 4.0
#: nor is one that is this many times more elongated than usual.
_MOST_ELONGATED = 3.0

#: A source may be a line of the detector when its semi-axis is longer than this (pixels),
_LONG = 8.0
#: and so many times as long as the other.
_LINE = 4.0

#: What is no star and wider than this part of a box of the sky mesh may be sky that the mesh does not follow:
_SMALL_PATCH = 0.5
#: it must stand out this many times as much as other sources.
_LARGE_PATCH = 4.0

#: A patch reaches this many semi-axes of its segment,
_PATCH = 4.0
#: a source within this many semi-axes of a star that stands on it was that star and the patch in one,
_ONE_HILL = 1.5
#: its light is looked at this many FWHM of a star beyond that,
_AROUND = 4.0
#: and what is left of it in boxes of this many FWHM.
_FINE_BOX = 3.0

#: Where a source is and how far it reaches.
FORM = ("x", "y", "semimajor_sigma", "semiminor_sigma", "orientation")

#: A star whose peak on the stack is above this share of the saturation was saturated in some of the frames: seeing and
#: resampling spread the peak.
_NEARLY_SATURATED = 0.8

#: Boxes with light above this part of it tell no sky: a patch may saturate some of the frames alone.
_BRIGHT = 0.25

#: Nothing is looked for this many FWHM from a saturated pixel.
_CORE = 1.6

#: Sources nearer than this many FWHM have each other's light in their moments,
_BLENDED = 3.0
#: and nearer than this many when the light of the others was taken off.
_STILL_BLENDED = 2.0

#: Variance of a uniform distribution over one pixel.
_PIXEL_VARIANCE = 1.0 / 12.0


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
        Transforms of the frames in the stack, by which they were resampled.
    saturation : float
        Electrons above the sky at which pixels of the frames are saturated; NaN when unknown.
    sharpest : float
        FWHM along the short axis of the stars on the mean of the frames, in pixels; NaN when unknown.
    """

    image: np.ndarray
    coverage: np.ndarray
    frame_rms: np.ndarray
    seeing: float
    transforms: np.ndarray
    saturation: float = float("nan")
    sharpest: float = float("nan")


@dataclass(frozen=True)
class SkyFree:
    """Stack without its sky and without the halos of saturated stars.

    Attributes
    ----------
    pixels, noise : ndarray, shape (ny, nx)
        Electrons above the sky, and their 1-sigma errors.
    scatter : ndarray, shape (ny, nx)
        Scatter of the stack around each pixel, electrons.
    is_core, in_halo : ndarray of bool, shape (ny, nx)
        Saturated pixels and those too near to them for a source to be found, and pixels in which there was a halo.
    in_patch : ndarray of bool, shape (ny, nx)
        Where the light of a patch was taken off with the sky.
    """

    pixels: np.ndarray
    noise: np.ndarray
    scatter: np.ndarray
    is_core: np.ndarray
    in_halo: np.ndarray
    in_patch: np.ndarray


@dataclass(frozen=True)
class StackSources:
    """Sources of a stack, brightest first.

    Attributes
    ----------
    found : dict of ndarray, shape (source,)
        What the finder measures, ``fwhm`` and ``is_star``.
    is_whole : ndarray of bool, shape (source,)
        Which are not saturated.
    width : float
        FWHM of the stars, pixels.
    patches : dict of ndarray, shape (patch,)
        As ``found``, for light of the sky that its mesh does not follow: what is no star and does not stand out.
    border : ndarray, shape (n, 3)
        Places and fluxes of sources in the border of the field.
    stack : SkyFree
        What they were found on.
    lines : tuple of str
        Hot rows and columns whose light was taken off before, in words.
    """

    found: dict[str, np.ndarray]
    is_whole: np.ndarray
    width: float
    patches: dict[str, np.ndarray]
    border: np.ndarray
    stack: SkyFree
    lines: tuple[str, ...] = ()


def find_sources(night: StackedNight, steps: FrameSteps) -> StackSources:
    """Find the sources of a stack; where patches of the sky hide stars, once more without the light of the patches.

    Parameters
    ----------
    night : StackedNight
        Stack, with the seeing and noise of its frames.
    steps : FrameSteps
        Mesh, finder and threshold.

    Raises
    ------
    NoCatalog
        When there is nothing above the threshold, or nothing of it is a source.
    """
    steps = replace(steps, box_size=widened(steps.image_shape, steps.box_size, night.seeing))
    stack = _sky_free(night, steps)
    sources = _look(night, stack, steps)
    if _are_lines(sources.found).any():
        pixels, lines = without_lines(stack.pixels, stack.noise, stack.is_core)
        if lines:
            with contextlib.suppress(NoCatalog):
                sources = replace(_look(night, replace(stack, pixels=pixels), steps), lines=tuple(lines))
    flattened = _without_patches(sources, night, steps)
    if flattened is not None:
        sources = _with_stars_of_patches(sources, flattened, night, steps)
    if not len(sources.is_whole):
        raise NoCatalog("the stack holds nothing as wide as a star or that stands out of the scatter of the sky there.")
    return sources


def _sky_free(night: StackedNight, steps: FrameSteps) -> SkyFree:
    """Take the sky that the stack still has off it, and the halos of saturated stars."""
    pixels = np.where(_are_seen(night.coverage), night.image.astype(float), np.nan)
    with np.errstate(invalid="ignore"):
        is_saturated = pixels > _saturated(night)
    unveiled = _unveiled(night, pixels, is_saturated)
    pixels = unveiled.image.copy()
    try:
        mesh, rms_mesh = background.sky_mesh(pixels, steps.box_size, saturated=is_saturated)
        with contextlib.suppress(ValueError), np.errstate(invalid="ignore"):  # wide bright stars may be in every box
            mesh, _ = background.sky_mesh(pixels, steps.box_size, saturated=pixels > _BRIGHT * _saturated(night))
        pixels -= background.zoom_mesh(mesh, pixels.shape, steps.box_size)
    except ValueError:  # stars everywhere: the sky of the frames is all that is known
        rms_mesh = np.full([-(-side // box) for side, box in zip(pixels.shape, steps.box_size, strict=True)], 0.0)
    scatter = _local_scatter(rms_mesh, steps.box_size, pixels.shape)
    nowhere = np.zeros(pixels.shape, dtype=bool)
    return SkyFree(bridged(pixels), unveiled.noise, scatter, unveiled.is_core, unveiled.in_halo, nowhere)


def _look(night: StackedNight, stack: SkyFree, steps: FrameSteps) -> StackSources:
    """Find sources on a stack, and tell stars and what stands out from patches of the sky."""
    pixels = stack.pixels
    table = steps.finder(pixels, steps.threshold * stack.noise)
    if table is None or not len(table):
        raise NoCatalog(
            f"no source above {steps.threshold:g} times the noise on the stack. A lower threshold or n_pixels may help."
        )
    found = _sources_of(pixels, detect.source_arrays(table, len(table)), night)
    if not len(found["x"]):
        raise NoCatalog("the stack holds nothing as wide as a star, only traces of cosmic rays or hot pixels.")
    peak = _peaks(pixels, found)
    is_whole = peak < _saturated(night)
    width = _stellar_width(found, is_whole, night.seeing)
    found["is_star"] = _are_stars(found, is_whole, width)
    is_small = found["fwhm"] < _SMALL_PATCH * min(steps.box_size)
    # light that saturates a pixel is no patch of the sky; the moments of a star between others may not converge
    is_formed = found["is_star"] & (np.isfinite(found["fwhm"]) | _have_neighbours(found, _BLENDED * width))
    of_scatter = peak / np.maximum(steps.threshold * at_sources(found, stack.scatter), 1e-9)
    stands_out = ~is_whole | is_formed | (of_scatter > np.where(is_small, 1.0, _LARGE_PATCH))
    chosen, patches = ({name: values[rows] for name, values in found.items()} for rows in (stands_out, ~stands_out))
    border = table.meta.get("border", np.empty((0, 3)))
    return StackSources(chosen, is_whole[stands_out], width, patches, border, stack)


def _without_patches(sources: StackSources, night: StackedNight, steps: FrameSteps) -> SkyFree | None:
    """Stack without the smooth light of its patches and galaxies, of which what is left counts as noise.

    None where there are none.
    """
    stack, fwhm = sources.stack, _usual_fwhm(sources, night)
    is_hill = _are_hills(sources, fwhm)
    hills = {name: np.append(sources.patches[name], sources.found[name][is_hill]) for name in FORM}
    if not len(hills["x"]) or not np.isfinite(fwhm):
        return None
    in_patch = pixels_within(hills, _PATCH, stack.pixels.shape)
    pixels, around = stack.pixels.copy(), int(np.ceil(_AROUND * fwhm))
    numbers, _ = label(in_patch)
    for number, (rows, columns) in enumerate(find_objects(numbers), start=1):
        region = tuple(slice(max(0, side.start - around), side.stop + around) for side in (rows, columns))
        pixels[region] -= np.where(numbers[region] == number, ring_median(stack.pixels[region], fwhm), 0.0)
    box = min(int(np.ceil(_FINE_BOX * fwhm)), *steps.box_size)
    try:
        _, rms_mesh = background.sky_mesh(pixels, (box, box))
    except ValueError:  # no box has sky in it
        return None
    scatter = np.where(in_patch, _local_scatter(rms_mesh, (box, box), pixels.shape), stack.scatter)
    noise = np.where(in_patch, np.maximum(stack.noise, scatter), stack.noise)
    return replace(stack, pixels=pixels, noise=noise, scatter=scatter, in_patch=in_patch)


def _are_lines(found: Mapping[str, np.ndarray]) -> np.ndarray:
    """Sources so long and so narrow that they may be a hot row or column of the detector, with the stars on it."""
    return (found["semimajor_sigma"] > _LONG) & (found["semimajor_sigma"] > _LINE * found["semiminor_sigma"])


def _usual_fwhm(sources: StackSources, night: StackedNight) -> float:
    """FWHM of stars in the frames, or on the stack where that is unknown."""
    return night.seeing if np.isfinite(night.seeing) else sources.width


def _with_stars_of_patches(
    sources: StackSources, flattened: SkyFree, night: StackedNight, steps: FrameSteps
) -> StackSources:
    """Add the stars that stand on patches: as wide as others, and out of what is left of the patch."""
    try:
        again = _look(night, flattened, steps)
    except NoCatalog:
        return sources
    new, fwhm = again.found, _usual_fwhm(sources, night)
    is_new = at_sources(new, flattened.in_patch) & again.is_whole & new["is_star"] & np.isfinite(new["fwhm"])
    is_new &= _peaks(flattened.pixels, new) > steps.threshold * at_sources(new, flattened.scatter)
    found, is_hill = sources.found, _are_hills(sources, fwhm)
    # in a patch, a source that is no star, or one that reaches far, may be a star with part of the patch
    may_be_both = sources.is_whole & at_sources(found, flattened.in_patch) & (is_hill | ~found["is_star"])
    stays = ~may_be_both | (is_hill & ~found["is_star"])
    is_new &= _distance(new, {name: found[name][stays] for name in ("x", "y")}) > fwhm
    stars = {name: values[is_new] for name, values in new.items()}
    is_kept = ~may_be_both | ~(_distance(found, stars) < np.fmax(_ONE_HILL * found["semimajor_sigma"], fwhm))
    merged = {name: np.append(values[is_kept], stars[name]) for name, values in found.items()}
    order = np.argsort(-merged["flux"], kind="stable")
    is_whole = np.append(sources.is_whole[is_kept], again.is_whole[is_new])[order]
    width = sources.width if len(sources.is_whole) else again.width
    merged = {name: values[order] for name, values in merged.items()}
    patches = {name: np.append(sources.patches[name], values[~is_kept]) for name, values in found.items()}
    return replace(sources, found=merged, is_whole=is_whole, width=width, patches=patches, stack=flattened)


def _are_hills(sources: StackSources, fwhm: float) -> np.ndarray:
    """Sources so much wider than a star that one may stand on them."""
    return sources.is_whole & (isophotal_fwhm(sources.found) > _WIDEST_SEGMENT * fwhm)


def _distance(of: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> np.ndarray:
    """Distance of each source to the nearest of others, in pixels; infinite where there are none."""
    if not len(others["x"]):
        return np.full(len(of["x"]), np.inf)
    return np.asarray(KDTree(np.column_stack([others["x"], others["y"]])).query(np.column_stack([of["x"], of["y"]]))[0])


def _saturated(night: StackedNight) -> float:
    """Electrons above which a star of the stack was saturated in some of the frames; infinite when unknown."""
    return float(_NEARLY_SATURATED * np.nan_to_num(night.saturation, nan=np.inf))


def _unveiled(night: StackedNight, pixels: np.ndarray, is_saturated: np.ndarray) -> halos.Unveiled:
    """Stack and noise of its pixels, without the halos of saturated stars."""
    noise = mean_rms(night.frame_rms) / np.sqrt(np.maximum(night.coverage, 1))
    fwhm = night.seeing if np.isfinite(night.seeing) else 2.0 * SIGMA_TO_FWHM
    return halos.without_halos(pixels, noise, night.coverage, is_saturated, _CORE * fwhm, fwhm)


def _are_seen(coverage: np.ndarray) -> np.ndarray:
    """Pixels that enough frames show; where odd light was left out, those around them decide."""
    most = int(coverage.max())
    fewest, least = _FEWEST_FRAMES if most > _FEWEST_FRAMES else 1, _LEAST_COVERAGE * most
    around = maximum_filter(coverage, _LEFT_OUT, mode="nearest")
    return np.asarray((around >= max(fewest, least)) & (coverage >= max(fewest, least / 2.0)))


def _sources_of(image: np.ndarray, found: dict[str, np.ndarray], night: StackedNight) -> dict[str, np.ndarray]:
    """Add the FWHM of each source, and drop what is too sharp for the sky. Widths are those without resampling."""
    known = np.isfinite(found["x"]) & np.isfinite(found["y"])
    found = {name: values[known] for name, values in found.items()}
    xy = np.column_stack([found["x"], found["y"]])
    isophotal = np.sqrt(found["semimajor_sigma"] * found["semiminor_sigma"])
    start = np.full(len(xy), night.seeing / SIGMA_TO_FWHM) if np.isfinite(night.seeing) else isophotal
    transforms = night.transforms
    resampling = np.mean(align.widening(transforms, xy), axis=0) if len(transforms) else np.zeros(len(xy))
    semimajor, semiminor = (_narrowed(width, resampling) for width in moments.source_widths(image, xy, start))
    for name in ("semimajor_sigma", "semiminor_sigma"):
        found[name] = _narrowed(found[name], resampling)
    found["fwhm"] = SIGMA_TO_FWHM * np.sqrt((semimajor**2 + semiminor**2) / 2.0)
    narrow = SIGMA_TO_FWHM * np.where(np.isfinite(semiminor), semiminor, found["semiminor_sigma"])
    is_sharp = narrow < _LEAST_WIDTH * np.fmin(night.seeing, night.sharpest)
    return {name: values[~is_sharp] for name, values in found.items()}


def _narrowed(sigma: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Width without what resampling added to its square; a pixel is the least that is left."""
    least = np.minimum(sigma**2, _PIXEL_VARIANCE)
    return np.sqrt(np.maximum(sigma**2 - variance, least))


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


def _local_scatter(rms_mesh: np.ndarray, box_size: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """Scatter of the stack in the box of each pixel or one next to it, whichever is larger."""
    (box_y, box_x), around = box_size, maximum_filter(rms_mesh, size=3, mode="nearest")
    boxes: np.ndarray = around[np.arange(shape[0]) // box_y][:, np.arange(shape[1]) // box_x]
    return boxes


def at_sources(found: Mapping[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    """Values of an image at the pixels of the sources."""
    column, row = (
        np.clip(np.rint(found[name]).astype(int), 0, size - 1)
        for name, size in zip(("x", "y"), image.shape[::-1], strict=True)
    )
    values: np.ndarray = image[row, column]
    return values


def believed(
    stack: SkyFree, found: dict[str, np.ndarray], is_whole: np.ndarray, width: float, threshold: float
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Sources whose widths are now known without their neighbours: which are stars, and which of the others stay.

    Of the sources that are no stars, two kinds are dropped: those in the halo of a saturated star, and those with
    neither a width nor neighbours whose middle does not stand out of the light around it.
    """
    if not np.isfinite(width):
        return found, is_whole
    fwhm = found["fwhm"]
    is_wide_enough = (fwhm > _STAR_RANGE[0] * width) & (fwhm < _STAR_RANGE[1] * width)
    found = found | {"is_star": found["is_star"] & np.where(is_whole, is_wide_enough, np.isfinite(fwhm))}
    is_flat = np.isnan(fwhm) & ~_have_neighbours(found, _STILL_BLENDED * width)
    is_flat &= ~(
        _peaks(stack.pixels, found) - _light_around(stack.pixels, found, width)
        > threshold * at_sources(found, stack.noise)
    )
    is_kept = found["is_star"] | ~is_whole | ~(is_flat | at_sources(found, stack.in_halo))
    return {name: values[is_kept] for name, values in found.items()}, is_whole[is_kept]


def isophotal_fwhm(found: Mapping[str, np.ndarray]) -> np.ndarray:
    """Width of each source by its segment, as the FWHM of a Gaussian."""
    return np.asarray(SIGMA_TO_FWHM * np.sqrt(found["semimajor_sigma"] * found["semiminor_sigma"]))


def _have_neighbours(found: Mapping[str, np.ndarray], reach: float) -> np.ndarray:
    """Which sources have another one nearer than a distance in pixels."""
    xy = np.column_stack([found["x"], found["y"]])
    if len(xy) < 2 or not np.isfinite(reach):
        return np.zeros(len(xy), dtype=bool)
    return np.asarray(KDTree(xy).query(xy, k=2)[0][:, 1] < reach)


def _stellar_width(found: Mapping[str, np.ndarray], is_whole: np.ndarray, seeing: float) -> float:
    """FWHM of the stars of a stack: near the seeing of the frames, where there are such, or what most sources have."""
    widths = found["fwhm"][is_whole & np.isfinite(found["fwhm"])]
    near = widths[(widths > SEEING_RANGE[0] * seeing) & (widths < SEEING_RANGE[1] * seeing)][:TYPICAL_SOURCES]
    return float(np.median(near)) if len(near) else star_choice.mode(widths[:TYPICAL_SOURCES])


def _are_stars(found: Mapping[str, np.ndarray], is_whole: np.ndarray, width: float) -> np.ndarray:
    """Which sources have the width of a star, or could have it if they were not saturated."""
    if not np.isfinite(width):
        return np.ones(len(found["x"]), dtype=bool)
    major, minor, fwhm = found["semimajor_sigma"], found["semiminor_sigma"], found["fwhm"]
    is_measured = is_whole & (fwhm > _STAR_RANGE[0] * width) & (fwhm < _STAR_RANGE[1] * width)
    usual = major[is_measured] / minor[is_measured]
    with np.errstate(invalid="ignore", divide="ignore"):
        widest = np.where(is_whole, _STAR_RANGE[1], _WIDEST_SEGMENT)
        is_form = isophotal_fwhm(found) < widest * width
        is_form &= major / minor < _MOST_ELONGATED * (np.median(usual) if len(usual) else 1.0)
    # a finder of the user's own may tell no segments
    is_form |= ~np.isfinite(major * minor)
    return is_measured | (is_form & (~is_whole | ~np.isfinite(fwhm)))


def pixels_within(found: Mapping[str, np.ndarray], reach: float, shape: tuple[int, int]) -> np.ndarray:
    """Pixels within a multiple of the semi-axes of some sources."""
    covered = np.zeros(shape, dtype=bool)
    for x, y, semimajor, semiminor, orientation in zip(*(found[name] for name in FORM), strict=True):
        axes = [max(1.0, reach * np.nan_to_num(sigma, nan=3.0)) for sigma in (semimajor, semiminor)]
        angle = np.deg2rad(np.nan_to_num(orientation))
        half = int(np.ceil(axes[0])) + 1
        rows, columns = (
            np.arange(max(0, int(centre) - half), min(size, int(centre) + half + 2))
            for centre, size in ((y, shape[0]), (x, shape[1]))
        )
        dy, dx = (rows - y)[:, None], (columns - x)[None, :]
        along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        covered[np.ix_(rows, columns)] |= (along / axes[0]) ** 2 + (across / axes[1]) ** 2 < 1.0
    return covered
