"""The star profile of a night, between the two passes: tasks, and the sum of what they find."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from opticam_dask.cluster import watchdog
from opticam_dask.flags import UNUSABLE
from opticam_dask.kernels.sources import photometry, profile
from opticam_dask.methods.frame_view import FrameView
from opticam_dask.passes.second_pass import SecondPass, frame_view
from opticam_dask.steps.frame_steps import FrameProblem, entry_of

#: Frames of a night that are measured, and stars of each: with 64 frames, the light of a star in its wings would be
#: uncertain by nearly 0.1 %. The profile that neighbours are taken off by needs fewer.
N_FRAMES, _FIRST_FRAMES, _N_STARS = 256, 64, 25

#: Wings of neighbours are taken off up to this many sigma.
_WING_REACH = 25.0

#: A star is fit to be measured when its light is so many times the noise within one FWHM.
_LEAST_RATIO = 30.0


@dataclass(frozen=True)
class ProfileJob:
    """What every task needs to measure the star profile of a part.

    Attributes
    ----------
    second_pass : SecondPass
        What a frame looks like to a photometer.
    has_profile : bool
        Whether its profile is one of the first round, by which neighbours are taken off.
    frames : tuple of int
        The frames that are measured; there is an upper limit to how many.
    frames_per_block : int
    read_manifest, read_results : callable
        Bound functions of the store.
    """

    second_pass: SecondPass
    has_profile: bool
    frames: tuple[int, ...]
    frames_per_block: int
    read_manifest: Callable[[int], Mapping[str, np.ndarray]]
    read_results: Callable[[int], Mapping[str, np.ndarray]]


def choose_frames(flags: np.ndarray, n_frames: int = N_FRAMES) -> list[int]:
    """Usable frames of a part, evenly spaced.

    Parameters
    ----------
    flags : ndarray of uint32, shape (frame,)
    n_frames : int
        At most so many.
    """
    usable = np.flatnonzero((flags != 0) & ((flags & np.uint32(UNUSABLE)) == 0))
    if len(usable) <= n_frames:
        return usable.tolist()
    return usable[np.linspace(0, len(usable) - 1, n_frames).round().astype(int)].tolist()


def some_of(frames: list[int]) -> list[int]:
    """Those of the chosen frames that the profile of the first round is measured in, evenly spaced."""
    return frames[:: -(-len(frames) // _FIRST_FRAMES)] if frames else []


def measure_block(
    job: ProfileJob, block: int, lost: Mapping[int, str] | None = None
) -> dict[int, profile.Rings | None]:
    """Sums over the pixels of the bright stars of the chosen frames of a block, by the index of the frame.

    There is nothing where a frame cannot be read; frames in ``lost`` are not touched.
    """
    manifest, results = job.read_manifest(block), job.read_results(block)
    found: dict[int, profile.Rings | None] = {}
    for index in job.frames:
        if index // job.frames_per_block != block:
            continue
        watchdog.still_working()
        offset = index % job.frames_per_block
        is_lost = lost is not None and offset in lost
        found[index] = None if is_lost else _measure_frame(job, entry_of(manifest, offset), entry_of(results, offset))
    return found


def try_frame(job: ProfileJob, block: int, offset: int) -> None:
    """Do the work on one frame of a block, if it is a chosen one."""
    if block * job.frames_per_block + offset in job.frames:
        _measure_frame(job, entry_of(job.read_manifest(block), offset), entry_of(job.read_results(block), offset))


def _measure_frame(job: ProfileJob, entry: Mapping[str, Any], result: Mapping[str, Any]) -> profile.Rings | None:
    try:
        view = frame_view(job.second_pass, entry, result)
        return star_rings(view if job.has_profile else replace(view, profile=None))
    except FrameProblem:
        return None


def star_rings(view: FrameView) -> profile.Rings | None:
    """Sums over the pixels of the bright, whole, unsaturated stars of one frame.

    The light of their neighbours is taken off as far as ``view.profile`` is known.
    """
    shape = view.stars
    if shape is None or not shape.is_known():
        return None
    half = int(np.ceil(profile.SKY_REACH * shape.semimajor_sigma)) + 1
    size = 2 * half + 1
    xy = np.asarray(view.predicted_xy, dtype=float)
    ny, nx = view.shape
    inside = np.all((xy > half) & (xy < np.array([nx, ny]) - 1 - half), axis=1)
    chosen = np.flatnonzero(inside)[:_N_STARS]
    start = xy[chosen]
    x0, y0 = photometry.origins(start, size)
    cutouts, rms = view.cutouts_at(x0, y0, size), view.rms_at(x0, y0, size)
    hit = view.cosmic_rays_at(x0, y0, size)
    if hit is not None:
        cutouts = np.where(hit, np.nan, cutouts)
    inner = photometry.inner_windows(cutouts, 2 * int(np.ceil(4.0 * shape.semimajor_sigma)) + 5)
    margin = (size - inner.shape[1]) // 2
    centres, converged = photometry.windowed_centroids(inner, x0 + margin, y0 + margin, start, shape.sigma)
    core = profile.elliptical_radius(centres, x0, y0, size, shape) < photometry.SIGMA_TO_FWHM
    is_good = np.isfinite(cutouts) & ~view.saturated_at(x0, y0, size)
    light = np.sum(np.where(core & is_good, cutouts, 0.0), axis=(1, 2))
    noise = np.sqrt(np.maximum(light, 0.0) + np.sum(np.where(core, np.nan_to_num(rms), 0.0) ** 2, axis=(1, 2)))
    converged &= np.all(is_good | ~core, axis=(1, 2)) & (light > _LEAST_RATIO * noise)
    best = np.flatnonzero(converged)
    if not len(best):
        return None
    with_sky = cutouts if view.level_at is None else cutouts + view.level_at(x0, y0, size)
    with_sky = with_sky - _neighbours(view, shape, chosen, x0, y0, size)
    return profile.measure_rings(with_sky[best], rms[best], centres[best], x0[best], y0[best], shape, xy)


def _neighbours(
    view: FrameView, shape: profile.Shape, chosen: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: int
) -> np.ndarray:
    """Light of the other sources in the windows of the chosen ones, as far as their profile is known."""
    foreign = np.zeros((len(chosen), size, size))
    if view.profile is None:
        return foreign
    xy = np.asarray(view.predicted_xy, dtype=float)
    core_size = 2 * int(np.ceil(photometry.SIGMA_TO_FWHM * shape.semimajor_sigma)) + 3
    corners = photometry.origins(xy, core_size)
    core = profile.elliptical_radius(xy, *corners, core_size, shape) < photometry.SIGMA_TO_FWHM
    share = np.sum(np.where(core, profile.profile_weights(view.profile, xy, *corners, core_size, shape), 0.0), (1, 2))
    light = np.sum(np.where(core, np.nan_to_num(view.cutouts_at(*corners, core_size)), 0.0), axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        flux = np.where(share > 0, np.maximum(light, 0.0) / share, 0.0)
    reach = size / 2.0 + _WING_REACH * shape.semimajor_sigma
    for row, source in enumerate(chosen):
        away = np.hypot(*(xy - xy[source]).T)
        others = np.flatnonzero((away < reach) & (flux > 0) & (np.arange(len(xy)) != source))
        if len(others):
            windows = np.full(len(others), x0[row]), np.full(len(others), y0[row]), size
            shares = profile.profile_weights(view.profile, xy[others], *windows, shape)
            foreign[row] = np.sum(flux[others, None, None] * shares, axis=0)
    return foreign


def add(found: Mapping[int, profile.Rings | None]) -> profile.Rings | None:
    """Sums of all frames of a night, added in the order of the frames; None where no frame has any."""
    rings: Sequence[profile.Rings] = [entry for _, entry in sorted(found.items()) if entry is not None]
    if not rings:
        return None
    return profile.Rings(
        np.sum([entry.signal for entry in rings], axis=0),
        np.sum([entry.weight for entry in rings], axis=0),
        sum(entry.n_stars for entry in rings),
        sum(entry.pixel_area for entry in rings),
    )


def fit(found: Mapping[int, profile.Rings | None]) -> profile.Profile | None:
    """Profile of a night from the sums of its frames; None where there are too few bright stars."""
    total = add(found)
    return None if total is None else profile.fit_profile(total)


def describe(fitted: profile.Profile, rings: profile.Rings | None) -> dict[str, np.ndarray]:
    """Profile as the variables of ``schema.PSF``."""
    radius = (np.arange(profile.N_RINGS) + 0.5) * profile.REACH / profile.N_RINGS
    values = fitted.at(radius)
    measured, error = np.full(len(radius), np.nan), np.full(len(radius), np.nan)
    if rings is not None:
        has_data = rings.weight > 0
        light = rings.signal[has_data] / rings.weight[has_data]
        # the rings are relative to the core: the fit says how much light that is
        scale = float(np.sum(values[has_data] * radius[has_data]) / np.sum(light * radius[has_data]))
        measured[has_data] = scale * light
        error[has_data] = scale / np.sqrt(rings.weight[has_data])
    return {
        "coefficient": fitted.coefficients,
        "radius": radius,
        "profile": values,
        "measured": measured,
        "measured_err": error,
    }
