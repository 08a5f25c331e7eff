"""Relation between two cameras that see one field: the transform of one from that of the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opticam_dask.kernels.robust import MAD_TO_SIGMA

#: Frames of the other camera on either side of a moment are this many of its usual steps apart at most.
_LONGEST_GAP = 3.0

#: Frames to which a drift along time is fitted, at least.
_LEAST_FOR_DRIFT = 8
#: Frames to which a constant shift is fitted, at least.
_LEAST_FOR_SHIFT = 2

#: Frames that are further than this many sigma from the drift are left out.
_CLIP = 4.0
#: Rounds in which frames are left out.
_ROUNDS = 3


def transforms_at(times: np.ndarray, other_times: np.ndarray, transforms: np.ndarray) -> np.ndarray:
    """Transforms of a camera at the moments of another one, between the frames on either side.

    Parameters
    ----------
    times : ndarray, shape (n,)
        Moments, days.
    other_times : ndarray, shape (m,)
        Times of the frames of the camera, days.
    transforms : ndarray, shape (m, 3, 3)
        NaN where a frame is not aligned.

    Returns
    -------
    ndarray, shape (n, 3, 3)
        NaN where no aligned frames are near on both sides, or at the very moment.
    """
    found = np.full((len(times), 3, 3), np.nan)
    good = np.isfinite(other_times) & np.isfinite(transforms).all(axis=(1, 2))
    if not good.any():
        return found
    order = np.argsort(other_times[good], kind="stable")
    when, known = other_times[good][order], transforms[good][order]
    step = float(np.median(np.diff(np.sort(other_times[np.isfinite(other_times)])))) if len(other_times) > 1 else 0.0
    after = np.clip(np.searchsorted(when, times), 0, len(when) - 1)
    before = np.clip(after - 1, 0, None)
    gap = when[after] - when[before]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(gap > 0, (times - when[before]) / np.where(gap > 0, gap, 1.0), 0.0)
    is_between = (share >= 0) & (share <= 1) & (gap <= _LONGEST_GAP * step)
    between = known[before] + share[:, None, None] * (known[after] - known[before])
    found[is_between] = between[is_between]
    nearest = np.where(np.abs(times - when[before]) <= np.abs(times - when[after]), before, after)
    is_near = ~is_between & (np.abs(times - when[nearest]) <= step)
    found[is_near] = known[nearest][is_near]
    return found


@dataclass(frozen=True, eq=False)
class Drift:
    """Slow shift between two cameras.

    Attributes
    ----------
    coefficients : ndarray, shape (k, 2)
        Of the powers of time (days since ``middle``) for x and y, pixels.
    middle : float
        Time that the powers are counted from, days.
    error : float
        1-sigma error of the shift along an axis, pixels.
    n_frames : int
        By which it was found.
    """

    coefficients: np.ndarray
    middle: float
    error: float
    n_frames: int

    def at(self, times: np.ndarray) -> np.ndarray:
        """Shift at some times, shape (n, 2)."""
        powers = np.arange(len(self.coefficients))
        shift: np.ndarray = ((times - self.middle)[:, None] ** powers) @ self.coefficients
        return shift


def fit_drift(times: np.ndarray, shifts: np.ndarray) -> Drift:
    """Drift through the shifts of frames, straight in time; frames that stand out do not count.

    Parameters
    ----------
    times : ndarray, shape (n,)
        Times of the frames, days.
    shifts : ndarray, shape (n, 2)
        By how much the stars of each frame are from where the other camera puts them; NaN where none was found.
    """
    good = np.isfinite(times) & np.isfinite(shifts).all(axis=1)
    n_terms = 2 if np.count_nonzero(good) >= _LEAST_FOR_DRIFT else 1
    if np.count_nonzero(good) < _LEAST_FOR_SHIFT:
        return Drift(np.zeros((1, 2)), 0.0, np.nan, 0)
    middle = float(np.median(times[good]))
    design = (times - middle)[:, None] ** np.arange(n_terms)
    coefficients = np.zeros((n_terms, 2))
    coefficients[0] = np.median(shifts[good], axis=0)
    scatter = np.inf
    for _ in range(_ROUNDS):
        rest = shifts - design @ coefficients
        scatter = MAD_TO_SIGMA * float(np.median(np.abs(rest[good])))
        used = good & (np.abs(rest).max(axis=1, initial=0.0, where=np.isfinite(rest)) <= _CLIP * max(scatter, 1e-6))
        if np.count_nonzero(used) <= n_terms:
            break
        coefficients = np.linalg.lstsq(design[used], shifts[used], rcond=None)[0]
        good = used
    if n_terms > 1 and np.any(design[good, 1]):
        # a slope counts by how sure it is (positive-part shrinkage; James & Stein 1961)
        error = scatter / np.sqrt(np.sum(design[good, 1] ** 2))
        coefficients[1] *= np.clip(1.0 - (error / np.maximum(np.abs(coefficients[1]), 1e-30)) ** 2, 0.0, None)
    return Drift(coefficients, middle, scatter / np.sqrt(np.count_nonzero(good)), int(np.count_nonzero(good)))


def borrowed_transforms(
    there: np.ndarray, at_reference: np.ndarray, between: np.ndarray, shift: np.ndarray | None = None
) -> np.ndarray:
    """Transforms of a camera from those of another one at the same moments.

    A pixel of the one camera is the same pixel of the other in all frames, whatever the telescope does:
    ``T(t) = C T'(t) M`` with the match ``M`` of the two reference frames and ``C = (T'(t0) M)^-1``, where ``t0`` is
    when the reference frame was taken, whose own transform is the identity.

    Parameters
    ----------
    there : ndarray, shape (n, 3, 3)
        Transforms of the other camera.
    at_reference : ndarray, shape (3, 3)
        Its transform at the moment of the reference frame.
    between : ndarray, shape (3, 3)
        Pixels of the reference frame to those of the other camera's.
    shift : ndarray, shape (n, 2), optional
        Drift of the one camera against the other, pixels.

    Returns
    -------
    ndarray, shape (n, 3, 3)
    """
    back = np.linalg.inv(at_reference @ between)
    found = np.full(there.shape, np.nan)
    good = np.isfinite(there).all(axis=(1, 2))
    found[good] = np.einsum("ij,njk,kl->nil", back, there[good], between)
    if shift is not None:
        found[:, :2, 2] += shift
    return found
