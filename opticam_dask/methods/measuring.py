"""Steps that photometers share: where to measure, on which pixels, and what there is to say about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.sources import annulus, noise, photometry
from opticam_dask.kernels.sources.profile import Shape, gaussian_profile, profile_weights
from opticam_dask.methods.frame_view import FrameView
from opticam_dask.methods.local_backgrounds import BaseLocalBackground, DefaultLocalBackground, LocalBackground

#: A centroid this many sigma of the PSF away from its detection was dragged by a neighbour.
_LARGEST_DRAG = 0.6

#: A neighbour disturbs when its light in the aperture is more than this part of the source's.
_BLENDED = 0.01

#: The light of a neighbour is looked for up to this many sigma.
_NEIGHBOUR_REACH = 10.0

#: Pixels nearer than so many sigma to a neighbour do not count for a local sky.
_NEIGHBOUR_SKY = 5.0


def star_sigma(view: FrameView, otherwise: float) -> float:
    """Sigma of the stars in pixels of the frame; ``otherwise`` where nobody knows the seeing."""
    for fwhm in (view.frame_fwhm, view.fwhm * view.scale):
        if np.isfinite(fwhm) and fwhm > 0:
            return float(fwhm / photometry.SIGMA_TO_FWHM)
    return otherwise


def star_shape(view: FrameView, sigma: float) -> Shape:
    """Form of the frame's stars; round with ``sigma`` where it is not known."""
    return view.stars if view.stars is not None and view.stars.is_known() else Shape(sigma, sigma, 0.0)


def sampling_error(shape: Shape) -> float:
    """Relative error of fluxes where pixels are as large as the stars; 0 where they are not."""
    return noise.sampling_error(photometry.SIGMA_TO_FWHM * shape.sigma)


def profile_table(view: FrameView) -> np.ndarray:
    """Table of the night's profile; a Gaussian where it is not known."""
    return gaussian_profile().table() if view.profile is None else view.profile


def positions(view: FrameView, sigma: float, tolerance: float, *, forced: bool) -> tuple[np.ndarray, np.ndarray]:
    """Where to measure, and what there is to say about it.

    Parameters
    ----------
    view : FrameView
    sigma : float
        Of the stars, in pixels of the frame.
    tolerance : float
        A detection is the source when it is within this many sigma.
    forced : bool
        Stay at the predicted positions.

    Returns
    -------
    xy : ndarray, shape (n, 2)
    flags : ndarray of uint32, shape (n,)
    """
    predicted = np.asarray(view.predicted_xy, dtype=float)
    matched = photometry.match_one_to_one(predicted, view.detected_xy, tolerance * sigma)
    flags = np.where(matched < 0, np.uint32(SourceFlag.NOT_DETECTED), np.uint32(0))
    found = np.flatnonzero(matched >= 0)
    if forced or not len(found):
        return predicted, flags
    detected = np.asarray(view.detected_xy, dtype=float)[matched[found]]
    size = 2 * int(np.ceil(4.0 * sigma)) + 3
    x0, y0 = photometry.origins(detected, size)
    cutouts, rms = view.cutouts_at(x0, y0, size), view.rms_at(x0, y0, size)
    centres, converged = photometry.windowed_centroids(cutouts, x0, y0, detected, sigma)
    converged &= np.hypot(*(centres - detected).T) < _LARGEST_DRAG * sigma
    xy = predicted.copy()
    weight = photometry.recentring_weight(cutouts, rms, x0, y0, centres, sigma, prior_sigma=view.position_error)
    moved = predicted[found] + weight[:, None] * (centres - predicted[found])
    xy[found] = np.where(converged[:, None], moved, predicted[found])
    flags[found[~converged]] |= np.uint32(SourceFlag.NOT_RECENTRED)
    return xy, flags


@dataclass(frozen=True)
class Pixels:
    """Windows around the sources, minus the sky.

    Attributes
    ----------
    x0, y0 : ndarray of int, shape (n,)
        Lower corners.
    electrons, rms : ndarray, shape (n, size, size)
    is_good : ndarray of bool, shape (n, size, size)
        False beyond the frame, where there are no data, and where a cosmic ray was taken out.
    sky_error : ndarray, shape (n,)
        Error of the sky level, electrons per pixel, common to the pixels of a window.
    background, background_err : ndarray, shape (n,), or None
        Local sky, where there is one.
    """

    x0: np.ndarray
    y0: np.ndarray
    electrons: np.ndarray
    rms: np.ndarray
    is_good: np.ndarray
    sky_error: np.ndarray
    background: np.ndarray | None = None
    background_err: np.ndarray | None = None


def read_pixels(
    view: FrameView, xy: np.ndarray, size: int, local_background: LocalBackground | None, shape: Shape
) -> Pixels:
    """Windows of ``size`` pixels around the sources, minus the sky of the mesh or of an annulus.

    Parameters
    ----------
    view : FrameView
    xy : ndarray, shape (n, 2)
    size : int
    local_background : callable or None
    shape : Shape
        Of the frame's stars, which the annulus is scaled to.
    """
    x0, y0 = photometry.origins(xy, size)
    electrons, rms = view.cutouts_at(x0, y0, size), view.rms_at(x0, y0, size)
    hit = view.cosmic_rays_at(x0, y0, size)
    is_good = np.isfinite(electrons) if hit is None else np.isfinite(electrons) & ~hit
    if local_background is None:
        centre = rms[:, size // 2, size // 2]
        return Pixels(x0, y0, electrons, rms, is_good, view.sky_error * np.where(np.isfinite(centre), centre, 0.0))
    level, scatter, error = local_sky(view, xy, local_background, shape)
    taken_off = 0.0 if view.level_at is None else view.level_at(x0, y0, size)
    electrons = electrons + taken_off - level[:, None, None]
    rms = np.where(np.isfinite(rms), scatter[:, None, None], np.nan)
    return Pixels(x0, y0, electrons, rms, is_good & np.isfinite(electrons), error, level, error)


def local_sky(
    view: FrameView, xy: np.ndarray, estimate: LocalBackground, shape: Shape
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sky around each source, its scatter per pixel, and its own error; electrons per pixel, shape (n,) each."""
    axes = (shape.semimajor_sigma, shape.semiminor_sigma)
    edges = (estimate if isinstance(estimate, BaseLocalBackground) else DefaultLocalBackground()).edges(*axes)
    size = 2 * int(np.ceil(max(edges[1]))) + 3
    x0, y0 = photometry.origins(xy, size)
    windows = view.cutouts_at(x0, y0, size)
    if view.level_at is not None:
        windows = windows + view.level_at(x0, y0, size)
    mask = annulus.annulus_mask(xy, x0, y0, size, *edges, shape.orientation)
    if type(estimate) is DefaultLocalBackground:
        usable = mask & ~_near_neighbours(xy, x0, y0, size, shape)
        level, scatter, n_pixels = annulus.clipped_statistics(windows, usable, estimate.n_sigma)
    else:
        level, scatter = np.full(len(xy), np.nan), np.full(len(xy), np.nan)
        for index in np.flatnonzero(np.any(np.isfinite(windows), axis=(1, 2))):
            place = float(xy[index, 0] - x0[index]), float(xy[index, 1] - y0[index])
            level[index], scatter[index] = estimate(windows[index], place, *axes, shape.orientation)
        n_pixels = np.count_nonzero(mask & np.isfinite(windows), axis=(1, 2))
    return level, scatter, scatter / np.sqrt(np.maximum(n_pixels, 1))


def _near_neighbours(xy: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: int, shape: Shape) -> np.ndarray:
    """Pixels of each window that lie close to another source of the catalogue."""
    near = np.zeros((len(xy), size, size), dtype=bool)
    reach = _NEIGHBOUR_SKY * shape.semimajor_sigma
    offsets = np.arange(size)
    for index, other in _pairs(xy, size + reach):
        columns = (x0[index] + offsets - xy[other, 0])[None, :]
        rows = (y0[index] + offsets - xy[other, 1])[:, None]
        near[index] |= columns**2 + rows**2 < reach**2
    return near


def _pairs(xy: np.ndarray, reach: float) -> list[tuple[int, int]]:
    """Pairs (source, neighbour) that are nearer to each other than ``reach``, both ways."""
    known = np.flatnonzero(np.all(np.isfinite(xy), axis=1)) if len(xy) else np.empty(0, dtype=int)
    if len(known) < 2:
        return []
    pairs = known[KDTree(xy[known]).query_pairs(reach, output_type="ndarray")]
    both = np.concatenate([pairs, pairs[:, ::-1]])
    return [(int(i), int(j)) for i, j in both[np.lexsort((both[:, 1], both[:, 0]))]]


def pixel_flags(view: FrameView, pixels: Pixels, inside: np.ndarray) -> np.ndarray:
    """Flags from the pixels that count for each source.

    Parameters
    ----------
    view : FrameView
    pixels : Pixels
    inside : ndarray of bool, shape (n, size, size)
        Which pixels count.

    Returns
    -------
    ndarray of uint32, shape (n,)
    """
    window = pixels.x0, pixels.y0, inside.shape[1]
    on_frame = _on_frame(view.shape, *window)
    hit = view.cosmic_rays_at(*window)
    is_there = np.any(inside & on_frame, axis=(1, 2))
    nowhere = np.zeros(len(inside), dtype=bool)
    conditions = {
        SourceFlag.OFF_FRAME: ~is_there,
        SourceFlag.EDGE: is_there & np.any(inside & ~on_frame, axis=(1, 2)),
        SourceFlag.BAD_PIXEL: np.any(inside & on_frame & ~np.isfinite(pixels.electrons), axis=(1, 2)),
        SourceFlag.SATURATED: np.any(inside & view.saturated_at(*window), axis=(1, 2)),
        SourceFlag.COSMIC_RAY: nowhere if hit is None else np.any(inside & hit, axis=(1, 2)),
        SourceFlag.NON_LINEAR: (
            nowhere if view.non_linear_at is None else np.any(inside & view.non_linear_at(*window), axis=(1, 2))
        ),
    }
    flags = np.zeros(len(inside), dtype=np.uint32)
    for flag, is_set in conditions.items():
        flags[is_set] |= np.uint32(flag)
    return flags


def _on_frame(shape: tuple[int, int], x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
    """Which pixels of the windows lie on the frame, shape (n, size, size)."""
    offsets = np.arange(size)
    rows, columns = np.asarray(y0)[:, None] + offsets, np.asarray(x0)[:, None] + offsets
    return ((rows >= 0) & (rows < shape[0]))[:, :, None] & ((columns >= 0) & (columns < shape[1]))[:, None, :]


def blend_flags(view: FrameView, xy: np.ndarray, pixels: Pixels, weights: np.ndarray, shape: Shape) -> np.ndarray:
    """Flag sources with so much light of neighbours in their weights that it matters.

    Parameters
    ----------
    view : FrameView
    xy : ndarray, shape (n, 2)
    pixels : Pixels
    weights : ndarray, shape (n, size, size)
        Aperture or other weights of the pixels.
    shape : Shape

    Returns
    -------
    ndarray of uint32, shape (n,)
    """
    flags = np.zeros(len(xy), dtype=np.uint32)
    if view.catalog_flux is None:
        return flags
    pairs = _pairs(xy, weights.shape[1] / 2.0 + _NEIGHBOUR_REACH * shape.semimajor_sigma)
    if not pairs:
        return flags
    table, size = profile_table(view), weights.shape[1]
    source, other = np.array(pairs).T
    window = pixels.x0[source], pixels.y0[source], size
    own = np.sum(weights[source] * profile_weights(table, xy[source], *window, shape), axis=(1, 2))
    foreign = np.sum(weights[source] * profile_weights(table, xy[other], *window, shape), axis=(1, 2))
    own *= view.catalog_flux[source]
    # a source without light of its own on its pixels (off the frame, or of unknown flux) is not called a blend
    relative = np.where(own > 0, view.catalog_flux[other] * foreign / np.where(own > 0, own, 1.0), 0.0)
    light = np.zeros(len(xy))
    np.add.at(light, source, np.nan_to_num(relative))
    flags[light > _BLENDED] = np.uint32(SourceFlag.BLENDED)
    return flags
