"""Width and shape of the stars of a crowded frame, each measured without the light of its neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.spatial import KDTree

from opticam_dask.kernels.robust import known_or
from opticam_dask.kernels.sources import moments, photometry
from opticam_dask.kernels.sources.profiles import field_form, spikes
from opticam_dask.kernels.sources.profiles.profile import Shape, profile_weights, typical_table
from opticam_dask.methods import frame_stars, places
from opticam_dask.methods.frame_view import FrameView

#: This many stars give the form of a frame, the brightest first.
_STARS = 30

#: The form is measured without the light of neighbours where more than this part of the stars are disturbed by them.
_MANY = 0.2
#: A star is disturbed when neighbours may change its second moments by more than this part.
_DISTURBED = 0.5

#: What is left of that after the neighbours are taken off.
_LEFT = 0.04

#: Stars within this many FWHM of one are fitted together with it.
_REACH = 3.0
#: Rounds after which form and fits have settled.
_ROUNDS = 2

#: Stars nearer than this many sigma to an edge of the frame do not count.
_MARGIN = 4.0


def in_separate_stars(view: FrameView) -> FrameView:
    """The view of a crowded frame with the shape of its stars, measured without the light of their neighbours.

    Stars that no single frame tells apart are one wide source to whoever looks at the frame alone; the catalogue knows
    better. Whether a form is measured again depends on the catalogue alone, so that it is the same in all frames.
    """
    flux, fwhm = view.catalog_flux, view.fwhm * view.scale
    if flux is None or not np.isfinite(fwhm):
        return view
    xy = np.asarray(view.predicted_xy, dtype=float)
    doubt = field_form.neighbour_doubt(xy, flux, fwhm)
    if np.mean(doubt[np.argsort(-flux, kind="stable")[:_STARS]] > _DISTURBED) <= _MANY:
        return view
    chosen = _choose_stars(view, flux, doubt, fwhm)
    found = _measured_form(view, chosen, doubt, fwhm) if len(chosen) else None
    if found is None:
        return view
    change = view.stars.change if view.stars is not None else None
    shape = Shape(found.semimajor_sigma, found.semiminor_sigma, found.orientation, change)
    return replace(view, stars=shape, frame_fwhm=found.fwhm) if shape.is_known() else view


def _choose_stars(view: FrameView, flux: np.ndarray, doubt: np.ndarray, fwhm: float) -> np.ndarray:
    """The brightest and least disturbed sources whose cores are on the frame and not saturated."""
    xy = np.asarray(view.predicted_xy, dtype=float)
    margin = np.min(np.concatenate([xy, np.array(view.shape[::-1]) - 1.0 - xy], axis=1), axis=1)
    inside = np.flatnonzero(margin > _MARGIN * fwhm / photometry.SIGMA_TO_FWHM)
    size = field_form.CORE_SIZE
    saturated = np.any(view.saturated_at(*photometry.origins(xy[inside], size), size), axis=(1, 2))
    inside = inside[~saturated]
    uncertain = np.hypot(field_form.moment_errors(flux[inside], 0.0), _LEFT * doubt[inside])
    return np.sort(inside[np.argsort(uncertain, kind="stable")[:_STARS]])


def _measured_form(view: FrameView, chosen: np.ndarray, doubt: np.ndarray, fwhm: float) -> field_form.FieldShape | None:
    """Form of some sources of the catalogue without the light of the others; None where no moments converge."""
    xy, sigma = np.asarray(view.predicted_xy, dtype=float), fwhm / photometry.SIGMA_TO_FWHM
    size = 2 * int(moments.reach_of(np.array([sigma]))[0]) + 1
    corners = photometry.origins(xy[chosen], size)
    cutouts, hit = view.cutouts_at(*corners, size), view.cosmic_rays_at(*corners, size)
    if hit is not None:
        cutouts = np.where(hit, np.nan, cutouts)
    noise = float(np.nanmedian(view.rms_at(*corners, 1)))
    groups = _neighbourhoods(xy, chosen, _REACH * fwhm)
    # one profile for all rounds of a reduction, so that all mean the same by the width of a star
    table = typical_table()
    plain = replace(view, profile=table)
    shape, found = frame_stars.star_shape(view, sigma), None
    inner = slice((size - field_form.CORE_SIZE) // 2, (size + field_form.CORE_SIZE) // 2)
    for _ in range(_ROUNDS):
        alone, places_of = _without_others(plain, table, chosen, cutouts, corners, groups, shape)
        *axes, known = moments.adaptive_moments(alone, *corners, places_of, shape.sigma)
        if not known.any():
            return None
        light = np.nansum(alone[:, inner, inner], axis=(1, 2))
        error, width = field_form.moment_errors(light, noise), (axes[0] ** 2 + axes[1] ** 2) / 2.0
        spiked = spikes.spike_doubt(photometry.inner_windows(alone, spikes.SIZE), light, noise, width)
        left = np.hypot(_LEFT * doubt[chosen], spiked)
        found = field_form.form_of_stars(
            places_of[known], np.array(axes)[:, known], error[known], view.shape, left[known]
        )
        shape = Shape(found.semimajor_sigma, found.semiminor_sigma, found.orientation)
        if not shape.is_known():
            return None
    return found


def _neighbourhoods(xy: np.ndarray, chosen: np.ndarray, reach: float) -> dict[tuple[int, ...], list[int]]:
    """Sources within reach of each chosen one that has any, and which of the chosen these are (rows of ``chosen``).

    Those of a source, not what is linked with it by others: in a crowded field that would be all of it.
    """
    found: dict[tuple[int, ...], list[int]] = {}
    known = np.flatnonzero(np.isfinite(xy).all(axis=1))
    for row, near in enumerate(KDTree(xy[known]).query_ball_point(xy[chosen], reach, return_sorted=True)):
        if len(near) > 1:
            found.setdefault(tuple(known[near].tolist()), []).append(row)
    return found


def _without_others(
    view: FrameView,
    table: np.ndarray,
    chosen: np.ndarray,
    cutouts: np.ndarray,
    corners: tuple[np.ndarray, np.ndarray],
    groups: Mapping[tuple[int, ...], Sequence[int]],
    shape: Shape,
) -> tuple[np.ndarray, np.ndarray]:
    """Windows of stars without the light of their neighbours, and where they are."""
    xy, size = np.asarray(view.predicted_xy, dtype=float), cutouts.shape[1]
    alone, at = cutouts.copy(), xy[chosen]
    for members, rows in groups.items():
        place, flux = places.fit_group(view, xy[list(members)], shape)
        for row in rows:
            others = np.array(members) != chosen[row]
            x0, y0 = (np.repeat(corner[row], np.count_nonzero(others)) for corner in corners)
            light = profile_weights(table, place[others], x0, y0, size, shape)
            alone[row] -= np.dot(known_or(flux[others])[None], light.reshape(len(light), -1)).reshape(size, size)
            at[row] = place[~others][0]
    return alone, at
