"""Positions at which sources are measured: trusted centroids, joint fits of overlapping stars, or predictions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np

from opticam_dask.flags import SourceFlag
from opticam_dask.kernels import compiled, graphs
from opticam_dask.kernels.robust import known_or
from opticam_dask.kernels.sources import centroids, joint_fit, photometry, window_sums
from opticam_dask.kernels.sources.profiles import misfit
from opticam_dask.kernels.sources.profiles.profile import (
    EDGE,
    TABLE_STEP,
    Shape,
    elliptical_radius,
    forms_at,
    light_of_forms,
    position_slopes,
    profile_weights,
    table_radii,
)
from opticam_dask.methods import frame_stars
from opticam_dask.methods.frame_view import FrameView

#: A centroid is believed up to this many errors (its own and the transform's) from where the transform puts the star,
BELIEVED = 5.0
#: and this many pixels beyond: what distortion and refraction may move it by.
REALLY_MOVED = 0.1

#: Windows for centroids reach this many sigma.
_CENTROID_REACH = 4.0

#: A neighbour that would drag a centroid by more than this many pixels is fitted together with the star.
_DRAG = 0.02

#: A source that is not measured matters where its light in a pixel is more than this part of the noise.
_MATTERS = 0.3

#: Groups are fitted to this many sigma from each of their stars.
_GROUP_REACH = 4.5

#: Iterations of the joint fit of places.
_PLACE_STEPS = 4

#: The light of a neighbour is looked for up to this many sigma,
NEIGHBOUR_REACH = 10.0
#: and where it is more than this part of the source's brightest pixel.
_LEAST_NEIGHBOUR = 1e-4


@dataclass(frozen=True, eq=False)
class Places:
    """Positions at which sources are measured, with windows of the frame around them.

    The measured sources come first, then neighbours that shine on them and are not measured themselves.

    Attributes
    ----------
    xy : ndarray, shape (n, 2)
        Positions at which sources are measured, pixels.
    flags : ndarray of uint32, shape (n,)
        What there is to say about the places.
    x0, y0 : ndarray of int, shape (n,)
        Lower corners of the windows.
    electrons, rms : ndarray, shape (n, size, size)
        Windows less the sky of the mesh, and the background RMS in them, electrons.
    flux : ndarray, shape (n,), or None
        Flux in the catalogue, electrons; None without a catalogue.
    n_measured : int
        How many of them are measured.
    """

    xy: np.ndarray
    flags: np.ndarray
    x0: np.ndarray
    y0: np.ndarray
    electrons: np.ndarray
    rms: np.ndarray
    flux: np.ndarray | None
    n_measured: int

    @property
    def size(self) -> int:
        """Side of the windows."""
        return self.electrons.shape[1]


def find_places(view: FrameView, shape: Shape, sigma: float, tolerance: float, *, forced: bool, reach: float) -> Places:
    """Position at which each source is measured, with flags.

    The centroid of a source that was detected is believed when it is where the transform puts the source, as far as the
    errors of both and what a star may really move allow. Sources that drag each other's centroids are fitted together.

    Parameters
    ----------
    view : FrameView
        The frame.
    shape : Shape
        Width and form of the frame's stars.
    sigma : float
        Sigma of the stars, in pixels of the frame.
    tolerance : float
        A detection is the source when it is within this many sigma.
    forced : bool
        Stay at the predicted positions.
    reach : float
        Pixels around each source that will be looked at.

    Returns
    -------
    Places
    """
    predicted = np.asarray(view.predicted_xy, dtype=float)
    matched = photometry.match_one_to_one(predicted, view.detected_xy, tolerance * sigma)
    flags = np.where(matched < 0, np.uint32(SourceFlag.NOT_DETECTED), np.uint32(0))
    start = predicted.copy()
    if forced:
        return _with_windows(view, start, flags, 2 * int(np.ceil(reach)) + 3, shape)
    found = np.flatnonzero(matched >= 0)
    detected = np.asarray(view.detected_xy, dtype=float)[matched[found]] if len(found) else np.empty((0, 2))
    # a detection that something has dragged away is no place to start from
    is_near = np.hypot(*(detected - predicted[found]).T) < BELIEVED * view.position_error + sigma
    start[found[is_near]] = detected[is_near]
    half = max(int(np.ceil(_CENTROID_REACH * sigma)) + 1, int(np.ceil(reach)) + 2)
    places = _with_windows(view, start, flags, 2 * half + 1, shape)
    expected = np.concatenate([predicted, places.xy[len(predicted) :]])
    xy, flags = expected.copy(), places.flags
    centred, converged = _centroids(view, places, found, start[found], sigma)
    xy[found] = np.where(converged[:, None], centred, predicted[found])
    flags[found[~converged]] |= np.uint32(SourceFlag.NOT_RECENTRED)
    for members in _dragged_groups(view, places, expected, sigma, shape):
        _fit_together(view, members, expected, xy, flags, shape)
    return _follow(view, places, xy)


def _with_windows(view: FrameView, xy: np.ndarray, flags: np.ndarray, size: int, shape: Shape) -> Places:
    n_measured, flux = len(xy), view.catalog_flux
    others = neighbours_of(view, xy, size / 2.0, shape)
    if flux is not None and len(others):
        xy, flux = np.concatenate([xy, others[:, :2]]), np.concatenate([flux, others[:, 2]])
        flags = np.concatenate([flags, np.zeros(len(others), dtype=np.uint32)])
    x0, y0 = photometry.origins(xy, size)
    electrons, rms = view.cutouts_at(x0, y0, size), frame_stars.sky_noise(view, x0, y0, size)
    return Places(xy, flags, x0, y0, electrons, rms, flux, n_measured)


def neighbours_of(view: FrameView, xy: np.ndarray, reach: float, shape: Shape) -> np.ndarray:
    """Sources that are not measured and shine on something nearer than ``reach`` to those that are.

    Parameters
    ----------
    view : FrameView
        The frame.
    xy : ndarray, shape (n, 2)
        Positions of the sources that are measured.
    reach : float
        Largest distance of such a neighbour, pixels.
    shape : Shape
        Width and form of the frame's stars.

    Returns
    -------
    ndarray, shape (m, 3)
        Their x, y and flux in the catalogue.
    """
    known = np.all(np.isfinite(xy), axis=1)
    if view.neighbours is None or view.profile is None or not known.any():
        return np.empty((0, 3))
    away = graphs.nearest_distances(view.neighbours[:, :2], xy[known])
    rho = np.maximum(away - reach, 0.0) / shape.semimajor_sigma
    light = np.interp(rho, table_radii(len(view.profile)), view.profile, right=0.0)
    brightest = view.flux_scale * view.neighbours[:, 2] * light / (shape.semimajor_sigma * shape.semiminor_sigma)
    column, row = (
        np.clip(np.rint(view.neighbours[:, axis]).astype(np.int64), 0, view.shape[1 - axis] - 1) for axis in (0, 1)
    )
    return view.neighbours[brightest > _MATTERS * view.rms_at(column, row, 1)[:, 0, 0]]


def _follow(view: FrameView, places: Places, xy: np.ndarray) -> Places:
    """The places ``xy``, with new windows where they are no longer in the middle of theirs."""
    x0, y0 = photometry.origins(xy, places.size)
    away = (np.abs(x0 - places.x0) > 1) | (np.abs(y0 - places.y0) > 1)
    if not away.any():
        return replace(places, xy=xy)
    corners = np.where(away, x0, places.x0), np.where(away, y0, places.y0)
    electrons, rms = places.electrons.copy(), places.rms.copy()
    electrons[away] = view.cutouts_at(x0[away], y0[away], places.size)
    rms[away] = frame_stars.sky_noise(view, x0[away], y0[away], places.size)
    return replace(places, xy=xy, x0=corners[0], y0=corners[1], electrons=electrons, rms=rms)


def _centroids(
    view: FrameView, places: Places, found: np.ndarray, start: np.ndarray, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Centroids of the sources ``found``, drawn towards the prediction, and which of them are believed."""
    cutouts, x0, y0 = places.electrons[found], places.x0[found], places.y0[found]
    rms = window_sums.of_window(places.rms)[found]
    predicted = np.asarray(view.predicted_xy, dtype=float)[found]
    centres, converged = centroids.windowed_centroids(cutouts, x0, y0, start, sigma)
    errors = centroids.centroid_errors(cutouts, rms, x0, y0, centres, sigma)
    weight = centroids.recentring_weight(errors, view.position_error)
    allowed = BELIEVED * np.hypot(errors, view.position_error) + REALLY_MOVED
    converged &= np.hypot(*(centres - predicted).T) < allowed
    return predicted + weight[:, None] * (centres - predicted), converged


def _dragged_groups(
    view: FrameView, places: Places, expected: np.ndarray, sigma: float, shape: Shape
) -> list[np.ndarray]:
    """Groups of sources that lie so close together that the centroid of one that is measured is dragged by another."""
    flux, size = places.flux, places.size
    if flux is None or view.profile is None:
        return []
    source, other, light = neighbour_light(view, expected, places, shape, 2.0 * _CENTROID_REACH * sigma)
    is_measured = source < places.n_measured
    source, other, light = source[is_measured], other[is_measured], light[is_measured]
    if not len(source):
        return []
    corners = places.x0[source], places.y0[source]
    drag = centroids.centroid_drag(
        profile_weights(view.profile, expected[source], *corners, size, shape),
        light * (flux[other] / flux[source])[:, None, None],
        *corners,
        expected[source],
        sigma,
    )
    is_strong = drag > _DRAG
    return joint_fit.linked_groups(len(expected), source[is_strong], other[is_strong])


def _fit_together(
    view: FrameView, members: np.ndarray, expected: np.ndarray, xy: np.ndarray, flags: np.ndarray, shape: Shape
) -> None:
    """Put the places of a group of sources where a joint fit finds them, or where they are expected."""
    predicted = expected[members]
    place, _ = fit_group(view, predicted, shape)
    believed = np.hypot(*(place - predicted).T) < BELIEVED * view.position_error + REALLY_MOVED
    xy[members] = np.where(believed[:, None], place, predicted)
    flags[members] &= ~np.uint32(SourceFlag.NOT_RECENTRED)
    flags[members[~believed]] |= np.uint32(SourceFlag.NOT_RECENTRED)


def fit_group(view: FrameView, predicted: np.ndarray, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Places (n, 2) and fluxes (n,) of sources that overlap, fitted together from where they are expected."""
    group = read_group(view, predicted, shape)
    if compiled.native is not None:
        return _compiled_fit(compiled.native, view, group, predicted, shape)
    table = frame_stars.profile_table(view)
    place, response, forms = predicted.copy(), group.response, forms_at(shape, predicted)
    corners = np.repeat(group.x0, len(place)), np.repeat(group.y0, len(place))
    light = light_of_forms(table, place, *corners, group.size, forms)
    flux = joint_fit.fit_fluxes(light, group.electrons, group.rms, group.is_good, response, 0.0)[0]
    for _ in range(_PLACE_STEPS):
        slopes = position_slopes(table, place, corners, group.size, forms)
        model = np.tensordot(np.nan_to_num(flux), light, axes=1)
        errors, stray = stray_in_group(view, group, group.electrons, model, shape)
        used = group.is_good & ~stray & np.isfinite(errors)
        flux, step = joint_fit.fit_places(
            light, slopes, group.electrons, errors**2, used, np.nan_to_num(flux), place - predicted, view.position_error
        )
        place = place + np.clip(step, -shape.sigma, shape.sigma)
        light = light_of_forms(table, place, *corners, group.size, forms)
    return place, flux


def _compiled_fit(
    native: ModuleType, view: FrameView, group: GroupPixels, predicted: np.ndarray, shape: Shape
) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`fit_group`, in C."""
    corners = (np.repeat(corner.astype(np.int64), len(predicted)) for corner in (group.x0, group.y0))
    windows = (
        None if values is None else compiled.ready(values, dtype=float)
        for values in (group.electrons, group.rms, group.response)
    )
    expected = compiled.ready(predicted, dtype=float)
    given = (*windows, compiled.ready(group.is_good), frame_stars.profile_table(view), *corners)
    forms, known = forms_at(shape, predicted), frame_stars.known_misfit(view, shape, _size_of_standards(shape))
    larger_error = np.nan if known is None else _larger_error(known)
    limits = misfit.limits(view.position_error, _usual_error(view, shape), _PLACE_STEPS)
    for _ in range(2):
        place, flux = expected.copy(), np.empty(len(expected))
        arrays = (*given, forms, expected, limits, place, flux)
        if native.fit_group(arrays, EDGE, TABLE_STEP, shape.sigma, larger_error):
            break  # without the error that the stars show, which takes a while to find out
        larger_error = _larger_error(frame_stars.profile_misfit(view, shape, _size_of_standards(shape)))
    return place, flux


@dataclass(frozen=True, eq=False)
class GroupPixels:
    """One window around a group of sources.

    Attributes
    ----------
    x0, y0 : ndarray of int, shape (1,)
        Lower corner of the window.
    electrons, rms : ndarray, shape (size, size)
        Window without its sky, and the background RMS in it, electrons.
    is_good : ndarray of bool, shape (size, size)
        Pixels with data, near a source of the group, and not saturated.
    response : ndarray, shape (size, size), or None
        Master flat in the window.
    """

    x0: np.ndarray
    y0: np.ndarray
    electrons: np.ndarray
    rms: np.ndarray
    is_good: np.ndarray
    response: np.ndarray | None

    @property
    def size(self) -> int:
        """Side of the window."""
        return len(self.electrons)


def read_group(view: FrameView, xy: np.ndarray, shape: Shape) -> GroupPixels:
    """Read one window that holds all sources of a group."""
    half = int(np.ceil(np.ptp(xy, axis=0).max() / 2.0 + _GROUP_REACH * shape.semimajor_sigma)) + 1
    size = 2 * half + 1
    x0, y0 = photometry.origins((xy.min(axis=0) + xy.max(axis=0))[None] / 2.0, size)
    electrons, rms = view.cutouts_at(x0, y0, size)[0], view.rms_at(x0, y0, size)[0]
    hit = view.cosmic_rays_at(x0, y0, size)
    corners = np.repeat(x0, len(xy)), np.repeat(y0, len(xy))
    is_good = np.any(elliptical_radius(xy, *corners, size, shape) < _GROUP_REACH, axis=0)
    is_good &= np.isfinite(electrons) & ~view.saturated_at(x0, y0, size)[0]
    if hit is not None:
        is_good &= ~hit[0]
    response = None if view.response_at is None else view.response_at(x0, y0, size)[0]
    return GroupPixels(x0, y0, electrons, rms, is_good, response)


def stray_in_group(
    view: FrameView,
    group: GroupPixels,
    electrons: np.ndarray,
    model: np.ndarray,
    shape: Shape,
    unknown: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Errors of the pixels of a group about a model of its stars, and the pixels that do not belong to them.

    Parameters
    ----------
    view : FrameView
        The frame.
    group : GroupPixels
        Window around the group.
    electrons, model : ndarray, shape (size, size)
        Sky-subtracted pixels, and what the stars are fitted to shed there.
    shape : Shape
        Shape of the stars of the frame.
    unknown : ndarray, shape (size, size), optional
        Variance of the model by the places of the stars; without it, of a fit that has not arrived yet, the limits
        are as wide as the deviations.

    Returns
    -------
    errors : ndarray, shape (size, size)
        1-sigma errors of the pixels, electrons.
    is_stray : ndarray of bool, shape (size, size)
        Pixels that do not belong to the stars.
    """

    def judge(model_error: float) -> tuple[np.ndarray, np.ndarray]:
        pixels = electrons, model, group.rms, group.response
        return misfit.judge_pixels(*pixels, group.is_good, model_error, unknown)

    errors, is_stray = judge(_usual_error(view, shape))
    return judge(_found_error(view, shape)) if is_stray.any() else (errors, is_stray)


def _usual_error(view: FrameView, shape: Shape) -> float:
    """What the profile gets wrong in a pixel of a star, relative to its light, unless something stands out."""
    return misfit.usual_error(frame_stars.sampling_error(view, shape))


def _found_error(view: FrameView, shape: Shape) -> float:
    """The same by the brightest stars of the frame."""
    return frame_stars.profile_misfit(view, shape, _size_of_standards(shape)).core


def _size_of_standards(shape: Shape) -> int:
    """Side of the windows of the stars that tell the error of the profile in groups."""
    return 2 * int(np.ceil(_CENTROID_REACH * shape.semimajor_sigma)) + 3


def _larger_error(standards: frame_stars.Standards) -> float:
    """What these stars say, as the kernel in C takes it: a number."""
    return float(np.nan_to_num(standards.core))


def neighbour_light(
    view: FrameView, xy: np.ndarray, places: Places, shape: Shape, reach: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of a source and a neighbour, and the neighbour's light in the window of the source.

    Parameters
    ----------
    view : FrameView
        The frame.
    xy : ndarray, shape (n, 2)
        Positions of the sources, pixels.
    places : Places
        Whose windows are meant.
    shape : Shape
        Shape of the stars of the frame.
    reach : float
        Largest distance of a pair, in pixels.

    Returns
    -------
    source, other : ndarray of int, shape (pair,)
        Rows of the source and of its neighbour.
    light : ndarray, shape (pair, size, size)
        Share of the light of the other source.
    """
    pairs = frame_stars.pairs_within(xy, reach)
    if len(pairs) and places.flux is not None:
        # light at the side of the window that faces the neighbour
        table, away = frame_stars.profile_table(view), np.hypot(*(xy[pairs[:, 0]] - xy[pairs[:, 1]]).T)
        rho = np.maximum(away - places.size / 2.0, 0.0) / shape.semimajor_sigma
        side = np.interp(rho, table_radii(len(table)), table) / table.max()
        ratio = places.flux[pairs[:, 1]] / np.maximum(places.flux[pairs[:, 0]], 1.0)
        pairs = pairs[side * known_or(ratio) > _LEAST_NEIGHBOUR]
    source, other = pairs.T
    corners = places.x0[source], places.y0[source]
    return source, other, profile_weights(frame_stars.profile_table(view), xy[other], *corners, places.size, shape)
