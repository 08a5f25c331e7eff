"""Sum of a few frames, moved by whole pixels: no pixel is interpolated, so that the noise of pixels stays their own."""

from __future__ import annotations

import numpy as np

from opticam_dask.kernels.images.matching import align

#: A frame is moved as one piece: no corner may then be further from where it belongs than this, in pixels.
_MOST_TURNED = 1.0


def whole_shifts(transforms: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Whole pixels by which frames lie apart from the reference frame at the centre of the field.

    Parameters
    ----------
    transforms : ndarray, shape (frame, 3, 3)
        Reference to frame.
    shape : (int, int)
        Shape of a frame, ``(ny, nx)``.

    Returns
    -------
    ndarray of float, shape (frame, 2)
        Along x and y, not rounded; NaN where there is no transform.
    """
    centre = np.array([[(shape[1] - 1) / 2.0, (shape[0] - 1) / 2.0]])
    moved: np.ndarray = align.apply_transform(transforms, centre)[:, 0] - centre
    return moved


def are_turned(transforms: np.ndarray, first: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Which frames are turned or scaled against a first one by so much that they cannot be moved onto it.

    Parameters
    ----------
    transforms : ndarray, shape (frame, 3, 3)
        Reference to frame.
    first : ndarray, shape (3, 3)
        Transform of the first frame.
    shape : (int, int)
        Shape of a frame, ``(ny, nx)``.

    Returns
    -------
    ndarray of bool, shape (frame,)
    """
    ny, nx = shape
    corners = np.array([[0.0, 0.0], [nx - 1.0, 0.0], [0.0, ny - 1.0], [nx - 1.0, ny - 1.0]])
    apart = align.apply_transform(transforms, corners) - align.apply_transform(first, corners)
    left: np.ndarray = apart - apart.mean(axis=1, keepdims=True)
    return np.asarray(np.hypot(left[..., 0], left[..., 1]).max(axis=1) > _MOST_TURNED)


class ShiftedSum:
    """Sum of frames that are moved by whole pixels; NaN where a frame has no pixel.

    Parameters
    ----------
    shape : (int, int)
        Shape of a frame, ``(ny, nx)``.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self._total = np.zeros(shape)
        self._is_saturated = np.zeros(shape, dtype=bool)

    def add(
        self,
        image: np.ndarray,
        shift: tuple[int, int],
        saturated: np.ndarray | None = None,
        unknown: np.ndarray | None = None,
    ) -> None:
        """Add a frame whose stars lie ``shift = (x, y)`` pixels further than those of the sum.

        Parameters
        ----------
        image : ndarray, shape (ny, nx)
            Frame, electrons.
        shift : (int, int)
            Whole pixels along x and y.
        saturated, unknown : ndarray of bool, shape (ny, nx), optional
            Pixels at saturation, and pixels whose light is not known.
        """
        (ny, nx), (dx, dy) = image.shape, shift
        here = np.s_[max(0, -dy) : max(0, min(ny, ny - dy)), max(0, -dx) : max(0, min(nx, nx - dx))]
        there = np.s_[max(0, dy) : max(0, min(ny, ny + dy)), max(0, dx) : max(0, min(nx, nx + dx))]
        moved = np.full((ny, nx), np.nan)
        moved[here] = image[there]
        if unknown is not None:
            moved[here][unknown[there]] = np.nan
        self._total += moved
        if saturated is not None:
            self._is_saturated[here] |= saturated[there]

    def image(self, saturation: float) -> np.ndarray:
        """The sum; a pixel that was saturated in any frame is at the saturation of the sum (electrons)."""
        if np.isfinite(saturation):
            self._total[self._is_saturated] = np.fmax(self._total[self._is_saturated], saturation)
        return self._total
