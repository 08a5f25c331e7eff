"""Transforms between the pixels of two frames: apply, invert, judge, resample.

A transform is a 3 x 3 matrix that takes positions ``(x, y, 1)`` on the reference frame to positions on another frame.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np

#: Interpolated positions this close to a whole number of pixels are taken as whole.
_WHOLE_PIXEL = 1e-9


def apply_transform(transform: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Take positions through a transform.

    Parameters
    ----------
    transform : ndarray, shape (3, 3) or (n_frames, 3, 3)
        One transform, or one a frame.
    xy : ndarray, shape (n, 2)
        Positions ``(x, y)`` in pixels.

    Returns
    -------
    ndarray, shape (n, 2) or (n_frames, n, 2)
        NaN where the transform or the position is NaN. The bits of a position do not depend on the others.
    """
    transform = np.asarray(transform, dtype=float)
    xy = np.asarray(xy, dtype=float)
    x, y = xy[..., 0], xy[..., 1]
    # Written out, since a matrix product may add in another order for another number of positions.
    if transform.ndim == 2 and xy.ndim == 2:
        placed, (along_x, along_y) = np.empty((len(xy), 2)), transform[:2].tolist()
        for axis, (by_x, by_y, shift) in enumerate((along_x, along_y)):
            np.add(by_x * x + by_y * y, shift, out=placed[:, axis])
        return placed
    part = transform[..., None]
    return np.stack(
        [
            part[..., 0, 0, :] * x + part[..., 0, 1, :] * y + part[..., 0, 2, :],
            part[..., 1, 0, :] * x + part[..., 1, 1, :] * y + part[..., 1, 2, :],
        ],
        axis=-1,
    )


def invert_transform(transform: np.ndarray) -> np.ndarray:
    """Transform back from the frame to the reference.

    Parameters
    ----------
    transform : ndarray, shape (3, 3)
        Transform from pixels of the reference to pixels of the frame.

    Returns
    -------
    ndarray, shape (3, 3)
        All NaN for a transform that holds NaN.

    Raises
    ------
    ValueError
        When the transform takes an area to a line or a point.
    """
    (a, b, c), (d, e, f) = np.asarray(transform, dtype=float)[:2]
    determinant = a * e - b * d
    if determinant == 0:
        raise ValueError("a transform that can be inverted was expected, found one of scale 0")
    inverse = np.array([[e, -b, b * f - c * e], [-d, a, c * d - a * f], [0, 0, determinant]]) / determinant
    return inverse if np.isfinite(inverse).all() else np.full((3, 3), np.nan)


def compose(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Transform that does ``first`` and then ``second``; both and the result are 3 x 3."""
    return np.asarray(second, dtype=float) @ np.asarray(first, dtype=float)


def rotation_of(transform: np.ndarray) -> float:
    """Rotation in degrees, -180 to 180, positive from +x to +y."""
    return math.degrees(math.atan2(transform[1][0], transform[0][0]))


def scale_of(transform: np.ndarray) -> float:
    """Length on the frame of one reference pixel: square root of the change of area."""
    (a, b, _), (d, e, _) = np.asarray(transform, dtype=float)[:2]
    return math.sqrt(abs(a * e - b * d))


def limit_reason(
    transform: np.ndarray,
    *,
    rotation_limit: float | None = None,
    translation_limit: float | tuple[float, float] | None = None,
    scale_limit: float | None = None,
    shape: tuple[int, int] | None = None,
    expected_scale: float = 1.0,
) -> str | None:
    """Say which limit a transform exceeds. A limit of None or 0 is no limit; all hold both ways.

    Parameters
    ----------
    transform : ndarray, shape (3, 3)
        Transform from pixels of the reference to pixels of the frame.
    rotation_limit : float, optional
        Largest rotation, degrees.
    translation_limit : float or (float, float), optional
        Pixels of the frame, for x and y.
    scale_limit : float, optional
        Factor above 1: scales within ``1 / scale_limit`` to ``scale_limit`` times ``expected_scale`` pass.
    shape : (int, int), optional
        ``(ny, nx)`` of the reference. The shift is then that of the field centre; without it, the shift of pixel
        ``(0, 0)``, which grows with any rotation.
    expected_scale : float
        Scale of a frame that has not moved, for example 2 for 1 x 1 binning against a reference of 2 x 2.

    Returns
    -------
    str or None
        A sentence, or None when the transform is within all limits.

    Raises
    ------
    ValueError
        For a limit that cannot mean anything, such as ``scale_limit=0.05`` (give 1.05).
    """
    limits = _translation_limits(translation_limit)
    _check_limits(rotation_limit, limits, scale_limit)
    if not np.isfinite(transform).all():
        return "the transform is not finite"
    rotation = rotation_of(transform)
    if rotation_limit and abs(rotation) > rotation_limit:
        return f"the frame is rotated by {rotation:.3f} degrees, the limit is {rotation_limit:g}"
    for axis, shift, limit in zip("xy", _shift(transform, shape, expected_scale), limits, strict=True):
        if limit and abs(shift) > limit:
            return f"the frame is shifted by {shift:.2f} pixels in {axis}, the limit is {limit:g}"
    scale = scale_of(transform) / expected_scale
    if scale_limit and not 1 / scale_limit <= scale <= scale_limit:
        return f"the scale is {scale:.4f} of the expected one, the limits are {1 / scale_limit:.4f} to {scale_limit:g}"
    return None


def _translation_limits(limit: Any) -> tuple[float, float]:
    along_x, along_y = limit if np.ndim(limit) else (limit, limit)
    return float(along_x or 0), float(along_y or 0)


def _check_limits(rotation: float | None, translation: tuple[float, float], scale: float | None) -> None:
    for name, value in (("rotation_limit", rotation or 0), ("translation_limit", min(translation))):
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}; it holds both ways")
    if scale and not scale > 1:
        raise ValueError(
            f"scale_limit must be a factor above 1 (1.05 accepts 0.952 to 1.05), got {scale}; "
            f"for a change of {abs(scale):g} give {1 + abs(scale):g}"
        )


def _shift(transform: np.ndarray, shape: tuple[int, int] | None, expected_scale: float) -> tuple[float, float]:
    """Displacement, in pixels of the frame, from where a frame that has not moved would show the same place."""
    centre = np.array([[0.0, 0.0] if shape is None else [(shape[1] - 1) / 2, (shape[0] - 1) / 2]])
    moved = apply_transform(transform, centre) - apply_transform(unmoved_transform(expected_scale), centre)
    return float(moved[0, 0]), float(moved[0, 1])


def unmoved_transform(scale: float = 1.0) -> np.ndarray:
    """Transform of a detector that has not moved: corners of the first pixels coincide, ``scale`` pixels for one."""
    offset = (scale - 1) / 2
    return np.array([[scale, 0.0, offset], [0.0, scale, offset], [0.0, 0.0, 1.0]])


def resample(image: np.ndarray, transform: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Put a frame on the grid of the reference: ``out(x, y) = image(transform @ (x, y, 1))``.

    A shift by whole pixels copies them; anything else is interpolated linearly between the four pixels around. Stars
    stay where they are and keep their light; see :func:`widening` for what their width gains. Values are those of the
    frame (brightness per pixel of the frame): with another scale, the sum over a star changes with its square.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        The image.
    transform : ndarray, shape (3, 3)
        Reference to frame.
    shape : (int, int)
        ``(ny, nx)`` of the reference.

    Returns
    -------
    ndarray of float32
        NaN outside the frame and where a pixel that is interpolated between is not finite. NaN everywhere when the
        transform is not finite.
    """
    transform = np.asarray(transform, dtype=float)
    # of other types OpenCV rounds positions to 1/32 pixel
    image = np.asarray(image, dtype=np.float32)
    if not np.isfinite(transform).all():
        return np.full(shape, np.nan, dtype=np.float32)
    whole = np.rint(transform)
    if np.allclose(transform[:2, :2], np.eye(2), rtol=0, atol=_WHOLE_PIXEL / max(*shape, 1)) and np.allclose(
        transform, whole, rtol=0, atol=_WHOLE_PIXEL
    ):
        return _copy_shifted(image, int(whole[0, 2]), int(whole[1, 2]), shape)
    resampled: np.ndarray = cv2.warpAffine(
        image,
        transform[:2],
        shape[::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=float("nan"),
    )
    return resampled


def widening(transform: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Mean variance (square pixels) that linear interpolation adds to a star along an axis.

    Halfway between two pixels each gets half of the light: the variance grows by ``f (1 - f)``, where ``f`` is how far
    the star is from the pixel before.

    Parameters
    ----------
    transform : ndarray, shape (3, 3) or (n_frames, 3, 3)
        See :func:`resample`; none of them NaN.
    xy : ndarray, shape (n, 2)
        Positions on the reference.

    Returns
    -------
    ndarray, shape (n,) or (n_frames, n)
    """
    moved = apply_transform(transform, np.rint(xy))
    part = moved - np.floor(moved)
    variance: np.ndarray = np.mean(part * (1.0 - part), axis=-1)
    return variance


def _copy_shifted(image: np.ndarray, dx: int, dy: int, shape: tuple[int, int]) -> np.ndarray:
    """``out[y, x] = image[y + dy, x + dx]``, NaN outside."""
    out = np.full(shape, np.nan, dtype=image.dtype)
    y0, y1 = max(0, -dy), min(shape[0], image.shape[0] - dy)
    x0, x1 = max(0, -dx), min(shape[1], image.shape[1] - dx)
    if y1 > y0 and x1 > x0:
        out[y0:y1, x0:x1] = image[y0 + dy : y1 + dy, x0 + dx : x1 + dx]
    return out
