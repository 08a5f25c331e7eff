"""Sky around the sources of a frame where it is uneven, from the pixels around each of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from opticam_dask.kernels.images.sky.uneven import N_TERMS, LocalSky, fit_sky
from opticam_dask.kernels.sources import photometry
from opticam_dask.kernels.sources.profiles.profile import Shape, profile_weights
from opticam_dask.methods import frame_stars
from opticam_dask.methods.frame_view import FrameView

#: Windows reach this many FWHM from their star: further out the sky may be another one.
_REACH = 3.0
#: They have this many pixels to each side at least.
_LEAST_HALF = 8

#: Stars this many times wider tell how their light depends on their width.
_WIDER = 1.05

#: Windows of more stars are not fitted at once, which bounds the memory.
_AT_ONCE = 64


def with_local_sky(view: FrameView, unevenness: np.ndarray) -> FrameView:
    """The view with the sky around its sources, fitted to the pixels around each where it is uneven.

    Parameters
    ----------
    view : FrameView
        The frame.
    unevenness : ndarray, shape (n,)
        How far the sky of the mesh may be from that under each source, electrons per pixel; 0 where it is right.
    """
    chosen = np.flatnonzero(unevenness)
    shape = frame_stars.star_shape(view, frame_stars.star_sigma(view, np.nan))
    if not len(chosen) or not shape.is_known() or view.profile is None:
        return view
    size = 2 * max(int(np.ceil(_REACH * photometry.SIGMA_TO_FWHM * shape.semimajor_sigma)), _LEAST_HALF) + 1
    xy = np.asarray(view.predicted_xy, dtype=float)
    terms, error, scale = np.zeros((len(xy), N_TERMS)), np.full(len(xy), np.nan), 1.0
    for first in range(0, len(chosen), _AT_ONCE):
        rows = chosen[first : first + _AT_ONCE]
        found = _fit(view, rows, unevenness[rows], size, shape)
        terms[rows], error[rows], scale = found.terms, found.error, found.scale
    return replace(view, local_sky=LocalSky(xy, scale, terms, error, unevenness))


def _fit(view: FrameView, rows: np.ndarray, expected: np.ndarray, size: int, shape: Shape) -> LocalSky:
    """Sky around some sources."""
    xy = np.asarray(view.predicted_xy, dtype=float)
    x0, y0 = photometry.origins(xy[rows], size)
    electrons, noise = view.cutouts_at(x0, y0, size), frame_stars.sky_noise(view, x0, y0, size)
    table = frame_stars.profile_table(view)
    usable = np.isfinite(electrons) & ~view.saturated_at(x0, y0, size)
    hit = view.cosmic_rays_at(x0, y0, size)
    if hit is not None:
        usable &= ~hit
    foreign = np.zeros(electrons.shape)
    others, flux = xy, view.catalog_flux
    if flux is not None:
        if view.neighbours is not None:
            others, flux = np.concatenate([xy, view.neighbours[:, :2]]), np.append(flux, view.neighbours[:, 2])
        is_near = np.abs(others - xy[rows][:, None]).max(axis=2) < size
        is_near[np.arange(len(rows)), rows] = False
        window, other = np.nonzero(is_near)
        shed = profile_weights(table, others[other], x0[window], y0[window], size, shape)
        np.add.at(foreign, window, view.flux_scale * np.nan_to_num(flux[other])[:, None, None] * shed)
    light = profile_weights(table, xy[rows], x0, y0, size, shape)
    axes = {name: _WIDER * getattr(shape, name) for name in ("semimajor_sigma", "semiminor_sigma")}
    wider = (profile_weights(table, xy[rows], x0, y0, size, replace(shape, **axes)) - light) / np.log(_WIDER)
    return fit_sky(electrons, usable, noise[:, 0, 0], light, wider, foreign, xy[rows], (x0, y0), expected)
