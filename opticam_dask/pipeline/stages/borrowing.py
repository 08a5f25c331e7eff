"""Borrowed transforms: frames with too few stars take that of simultaneous frames of other cameras."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from opticam_dask.flags import UNUSABLE, FrameFlag
from opticam_dask.kernels.images.matching import align, problem, relation
from opticam_dask.kernels.sources import photometry
from opticam_dask.passes.camera_matching import match_cameras
from opticam_dask.pipeline.reduction import Progress, Setup
from opticam_dask.store.camera import Camera, Part

#: Frames of a part have too few stars when half of them detect no more than this many sources.
_FEW_SOURCES = 8

#: A detection is a source of the catalogue when it is within this many FWHM of its place,
_REACH = 1.0
#: and at least within this many pixels.
_LEAST_REACH = 3.0

#: What may be wrong with a frame that borrows its transform.
_TOO_FEW = np.uint32(FrameFlag.NO_SOURCES | FrameFlag.NOT_ALIGNED)
#: Why a frame has no transform of its own.
NOT_PLACED = _TOO_FEW | np.uint32(FrameFlag.BEYOND_LIMIT)


class Borrowed(NamedTuple):
    """Frames of a part that got their transform from other cameras.

    Attributes
    ----------
    part : Part
        The part.
    frames : ndarray of int, shape (n,)
        Indices of the frames in the part.
    transform : ndarray, shape (n, 3, 3)
        Transforms that were borrowed.
    error : ndarray, shape (n,)
        Rms error of a position, pixels.
    n_before : int
        Frames of the part that could be used without.
    others : tuple of str
        Keys of the cameras.
    """

    part: Part
    frames: np.ndarray
    transform: np.ndarray
    error: np.ndarray
    n_before: int
    others: tuple[str, ...]


def find_borrowed(setup: Setup) -> Iterator[Borrowed]:
    """Frames of all parts that can borrow a transform, and have not."""
    cameras = [camera for camera in setup.store.cameras if camera.catalog.is_whole]
    for camera in cameras:
        others = [other for other in cameras if other != camera]
        for part in camera.parts if others else ():
            found = _borrowed(setup, part, others)
            if found is not None:
                yield found


def write_transforms(part: Part, frames: np.ndarray, values: Mapping[str, np.ndarray], flag: FrameFlag) -> list[int]:
    """Write transforms from elsewhere into frames of a part, with a flag; return the blocks to measure again.

    Parameters
    ----------
    part : Part
        The part.
    frames : ndarray of int, shape (n,)
        Indices, in rising order.
    values : dict of ndarray, shape (n, ...)
        ``transform`` and others of the variables of the frames.
    flag : FrameFlag
        What is set in place of why the frames were not aligned.
    """
    blocks = sorted(set((frames // part.frames_per_block).tolist()))
    for label in part.labels:
        part.photometry(label).forget(blocks)
    for block in blocks:
        start, stop = part.block_range(block)
        chosen = np.flatnonzero((frames >= start) & (frames < stop))
        rows = frames[chosen] - start
        arrays = {name: np.array(part.frames.read(name, start, stop)) for name in (*values, "message", "flags")}
        for name, given in values.items():
            arrays[name][rows] = given[chosen]
        arrays["message"][rows] = ""
        arrays["flags"][rows] = (arrays["flags"][rows] & ~NOT_PLACED) | np.uint32(flag)
        part.write_block(block, {"frames": arrays})
    return blocks


def write_borrowed(found: Borrowed, progress: Progress) -> list[int]:
    """Write the transforms into the frames of a part; return the blocks that changed."""
    part, flags = found.part, found.part.frames["flags"]
    values = {"transform": found.transform, "transform_rms": found.error}
    blocks = write_transforms(part, found.frames, values, FrameFlag.BORROWED)
    n_lost = int(np.count_nonzero(flags[found.frames] & np.uint32(UNUSABLE)))
    progress.tell(
        f"{part.key} {part.night}: {len(found.frames)} frames with too few stars take their transform from "
        f"{' and '.join(found.others)} (flag borrowed), to {np.median(found.error):.2f} pixels; {found.n_before} of "
        f"{part.n_frames} frames could be used without, {found.n_before + n_lost} can now."
    )
    return blocks


def _borrowed(setup: Setup, part: Part, others: Sequence[Camera]) -> Borrowed | None:
    flags, n_matched = part.frames["flags"], part.frames["n_matched"]
    wrong = flags & np.uint32(UNUSABLE)
    is_lost = (wrong != 0) & (wrong & ~_TOO_FEW == 0)
    is_weak = (wrong == 0) & (n_matched < problem.LEAST_FOR_ROTATION)
    due = (flags != 0) & (is_lost | is_weak) & (flags & np.uint32(FrameFlag.BORROWED) == 0)
    counted = part.frames["n_sources"][(flags != 0) & (wrong & ~_TOO_FEW == 0)]
    if not due.any() or np.median(counted) > _FEW_SOURCES:
        return None
    stars = _TrackedStars.of(part)
    found = [one for other in others if (one := _by_camera(setup, part, other, stars)) is not None]
    if not found:
        return None
    # cameras count by how well they are known
    weights = np.array([np.where(np.isfinite(one.error), one.error, np.inf) ** -2.0 for one in found])
    transforms = np.array([np.nan_to_num(one.transform) for one in found])
    total = weights.sum(axis=0)
    frames = np.flatnonzero(due & (total > 0))
    if not len(frames):
        return None
    mean = np.einsum("cn,cnij->nij", weights[:, frames], transforms[:, frames]) / total[frames, None, None]
    n_before = int(np.count_nonzero((flags != 0) & (wrong == 0)))
    return Borrowed(part, frames, mean, np.sqrt(2.0 / total[frames]), n_before, tuple(one.key for one in found))


@dataclass(frozen=True, eq=False)
class _TrackedStars:
    """Sources of the catalogue of a part's camera, and what its frames detect.

    Attributes
    ----------
    catalog_xy : ndarray, shape (source, 2)
    x, y, flux : ndarray, shape (frame, slot)
    reach : float
        Pixels.
    """

    catalog_xy: np.ndarray
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    reach: float

    @classmethod
    def of(cls, part: Part) -> _TrackedStars:
        catalog, n_found = part.camera.catalog, part.camera.n_found
        xy = np.column_stack([catalog["x"][:n_found], catalog["y"][:n_found]])
        reach = max(_LEAST_REACH, _REACH * float(np.nan_to_num(catalog.attributes["fwhm"])))
        x, y, flux = (part.sources[name] for name in ("x", "y", "flux"))
        return cls(xy, x, y, flux, reach)

    def shifts(self, transforms: np.ndarray) -> np.ndarray:
        """By how much the detections of frames are from where transforms put the sources, shape (frame, 2)."""
        shifts = np.full((len(transforms), 2), np.nan)
        for frame in np.flatnonzero(np.isfinite(transforms).all(axis=(1, 2))).tolist():
            known = np.isfinite(self.x[frame])
            detected = np.column_stack([self.x[frame][known], self.y[frame][known]])
            predicted = align.apply_transform(transforms[frame], self.catalog_xy)
            matched = photometry.match_one_to_one(predicted, detected, self.reach)
            if np.any(matched >= 0):
                rows = matched[matched >= 0]
                # the variance of a place goes with the square of the flux of a faint star
                weights = self.flux[frame][known][rows] ** 2
                shifts[frame] = np.average(detected[rows] - predicted[matched >= 0], axis=0, weights=weights)
        return shifts


class _OfCamera(NamedTuple):
    """Transforms of the frames of a part by one other camera, and the error of a position along an axis."""

    key: str
    transform: np.ndarray
    error: np.ndarray


def _by_camera(setup: Setup, part: Part, other: Camera, stars: _TrackedStars) -> _OfCamera | None:
    """Transforms of all frames of a part by one other camera; None where the two cannot be matched."""
    try:
        between = match_cameras(setup.out_directory, part.key, other.key).transform
    except ValueError:
        return None
    attributes = part.camera.reference.attributes
    reference = part.camera.part(attributes["reference_night"])
    assert reference is not None  # a reference frame is of a night that is there
    index = int(attributes["reference_index"])
    when, known, rms = _frames_of(other)
    at_reference = relation.transforms_at(reference.frames["mjd_utc"][index : index + 1], when, known)[0]
    if not np.isfinite(at_reference).all():
        return None
    times = part.frames["mjd_utc"]
    there = relation.transforms_at(times, when, known)
    bare = relation.borrowed_transforms(there, at_reference, between)
    drift = relation.fit_drift(times, stars.shifts(bare))
    found = relation.borrowed_transforms(there, at_reference, between, drift.at(times))
    # the first pass says how far the stars of the other camera are from its transforms
    error = np.hypot(np.nan_to_num(drift.error, nan=stars.reach), rms)
    return _OfCamera(other.key, found, np.where(np.isfinite(found).all(axis=(1, 2)), error, np.nan))


def _frames_of(camera: Camera) -> tuple[np.ndarray, np.ndarray, float]:
    """Times and transforms of all frames of a camera that have stars enough, and the usual error of a transform."""
    times, transforms, errors = [], [], []
    for part in camera.parts:
        flags, n_matched = part.frames["flags"], part.frames["n_matched"]
        good = (flags != 0) & (flags & np.uint32(UNUSABLE | FrameFlag.BORROWED) == 0)
        good &= n_matched >= problem.LEAST_FOR_ROTATION
        matrices = np.where(good[:, None, None], part.frames["transform"], np.nan)
        times.append(part.frames["mjd_utc"])
        transforms.append(matrices)
        errors.append((part.frames["transform_rms"] / np.sqrt(np.maximum(n_matched, 1)))[good])
    every = np.concatenate(errors)
    usual = float(np.nanmedian(every)) / np.sqrt(2.0) if np.isfinite(every).any() else 0.0
    return np.concatenate(times), np.concatenate(transforms), usual
