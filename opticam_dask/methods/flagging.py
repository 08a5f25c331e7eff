"""Flags of measurements from the pixels and the neighbours of their sources."""

from __future__ import annotations

import numpy as np

from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.robust import known_or
from opticam_dask.kernels.sources import window_sums
from opticam_dask.kernels.sources.profiles import intruders, misfit
from opticam_dask.methods.frame_view import FrameView
from opticam_dask.methods.measuring import Stars

#: A neighbour disturbs when its light in the aperture is more than this part of the source's.
_BLENDED = 0.01

#: A frame shows less of a star than its catalogue by this many errors, or it does not show it.
_SURE = 3.0

#: Pixels that are bad all night and would hold less than this part of the light of a star are made good by its profile.
_SLIGHT = 0.01


def pixel_flags(view: FrameView, stars: Stars, inside: np.ndarray) -> np.ndarray:
    """Flags from the pixels that count for each source.

    Parameters
    ----------
    view : FrameView
        The frame.
    stars : Stars
        Its sources.
    inside : ndarray of bool, shape (n, size, size)
        Which pixels count.

    Returns
    -------
    ndarray of uint32, shape (n,)
    """
    pixels = stars.pixels
    window = pixels.x0, pixels.y0, inside.shape[1]
    hit = view.cosmic_rays_at(*window)
    masks = stars.is_saturated, stars.is_stray
    facts = window_sums.pixel_facts(window[:2], inside, pixels.electrons, *masks, view.shape)
    nowhere = np.zeros(len(inside), dtype=bool)
    conditions = {
        SourceFlag.OFF_FRAME: facts.there == 0,
        SourceFlag.EDGE: (facts.there > 0) & (facts.beyond > 0),
        SourceFlag.BAD_PIXEL: facts.lacking > 0 if view.lasting_at is None else _lack_pixels(view, stars, inside),
        SourceFlag.SATURATED: facts.saturated > 0,
        SourceFlag.CONTAMINATED: (facts.stray > 0) | _are_crossed(facts, stars.is_stray, inside),
        SourceFlag.COSMIC_RAY: nowhere if hit is None else np.any(inside & hit, axis=(1, 2)),
        SourceFlag.NON_LINEAR: (
            nowhere if view.non_linear_at is None else np.any(inside & view.non_linear_at(*window), axis=(1, 2))
        ),
    }
    flags = np.zeros(len(inside), dtype=np.uint32)
    for flag, is_set in conditions.items():
        flags[is_set] |= np.uint32(flag)
    return flags


def _lack_pixels(view: FrameView, stars: Stars, inside: np.ndarray) -> np.ndarray:
    """Sources that lack the data of some of their pixels, shape (n,), where there are pixels that are bad all night.

    These are many: one that holds next to nothing of the star does not count.
    """
    assert view.lasting_at is not None
    pixels = stars.pixels
    window = pixels.x0, pixels.y0, inside.shape[1]
    missing: np.ndarray = inside & window_sums.on_frame(view.shape, *window) & ~np.isfinite(pixels.electrons)
    lasting = missing & view.lasting_at(*window)
    lost, whole = (np.sum(np.where(chosen, stars.light, 0.0), axis=(1, 2)) for chosen in (lasting, inside))
    missing &= ~(lasting & (lost < _SLIGHT * whole)[:, None, None])
    return np.any(missing, axis=(1, 2))


def _are_crossed(facts: window_sums.PixelFacts, is_stray: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Sources that something longer than a cosmic ray reaches into, such as the trail of a satellite; shape (n,).

    Where a trail crosses a star, the sum of both looks like a star, a little brighter and wider: stray pixels are
    found on both sides of it only. Of another star beside the pixels that count, some light is among them.
    """
    is_crossed = facts.all_stray > intruders.LONGEST_RAY
    if is_crossed.any():
        is_crossed[is_crossed] = np.any(misfit.grown(inside[is_crossed]) & is_stray[is_crossed], axis=(1, 2))
    return is_crossed


def blend_flags(stars: Stars, weights: np.ndarray) -> np.ndarray:
    """Flag sources whose flux contains too much light of neighbours: by the catalogue, or by what the frame shows.

    A star in eclipse has less light of its own than in the catalogue, and a neighbour that flares sheds more.

    Parameters
    ----------
    stars : Stars
        Sources of a frame.
    weights : ndarray, shape (n, size, size)
        Aperture or other weights of the pixels.

    Returns
    -------
    ndarray of uint32, shape (n,)
    """
    flags = np.zeros(len(weights), dtype=np.uint32)
    source, other, shed = stars.neighbours
    if stars.flux is None or not len(source):
        return flags
    own = np.sum(weights[source] * stars.light[source], axis=(1, 2))
    foreign = np.sum(weights[source] * shed, axis=(1, 2))
    # a source without light of its own on its pixels (off the frame, or of unknown flux) is not called a blend
    share = np.where(own > 0, foreign / np.where(own > 0, own, 1.0), 0.0)
    catalogued = stars.flux[source]
    is_known = catalogued > 0
    relative = np.where(is_known, share * stars.flux[other] / np.where(is_known, catalogued, 1.0), 0.0)
    if stars.seen is not None:
        relative = _as_seen(stars, source, other, share, relative)
    is_blended = _summed(relative, source, len(weights)) > _BLENDED
    if stars.seen is not None:
        flux, error = (values[: len(weights)] for values in stars.seen)
        light = _summed(share * np.maximum(stars.seen[0][other], 0.0), source, len(weights))
        is_blended |= (light > _BLENDED * (np.maximum(flux, 0.0) + _SURE * error)) & (light > error)
    flags[is_blended] = np.uint32(SourceFlag.BLENDED)
    return flags


def _as_seen(
    stars: Stars, source: np.ndarray, other: np.ndarray, share: np.ndarray, relative: np.ndarray
) -> np.ndarray:
    """Light of neighbours relative to that of their sources, one entry a pair, as the frame shows them.

    Of neighbours that are not measured, and need not be stars, there is no more than that: a star that flares
    leaves something beside itself on the stack, which has the seeing of the flare, and other frames do not show it.
    """
    assert stars.seen is not None
    n_sources = len(stars.xy)
    is_left = other >= n_sources
    if not is_left.any():
        return relative
    flux, error = stars.seen
    pairs = source[is_left]
    shown = _summed(share[is_left] * flux[other[is_left]], pairs, n_sources)
    doubt = _SURE * np.sqrt(_summed((share[is_left] * error[other[is_left]]) ** 2, pairs, n_sources))
    own = np.maximum(flux[:n_sources], 1.0)
    most, held = np.maximum(shown + doubt, 0.0) / own, _summed(relative[is_left], pairs, n_sources)
    factor = np.where(held > most, most / np.where(held > 0, held, 1.0), 1.0)
    return np.where(is_left, relative * factor[source], relative)


def _summed(values: np.ndarray, source: np.ndarray, n_sources: int) -> np.ndarray:
    """Sum of the values of each source, shape (n,)."""
    total = np.zeros(n_sources)
    np.add.at(total, source, known_or(values))
    return total
