"""Background estimators: callables ``image -> Background2D`` that users may replace or subclass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from photutils.background import Background2D


def _is_size(size: object) -> bool:
    return isinstance(size, (int, float, np.integer, np.floating)) and float(size).is_integer() and int(size) >= 1


class BaseBackground(ABC):
    """Background on a mesh of boxes.

    Parameters
    ----------
    box_size : int or (int, int)
        Box size in pixels, ``(ny, nx)``.

    Raises
    ------
    ValueError
        When ``box_size`` is neither a number nor two of them.
    """

    def __init__(self, box_size: int | tuple[int, int]) -> None:
        given: Any = box_size
        sizes = (given, given) if np.ndim(given) == 0 else tuple(given)
        if len(sizes) != 2 or not all(_is_size(size) for size in sizes):
            raise ValueError(f"box_size must be a whole number of pixels or two of them (ny, nx), got {box_size!r}")
        self.box_size: tuple[int, int] = (int(sizes[0]), int(sizes[1]))

    @abstractmethod
    def __call__(self, image: np.ndarray) -> Background2D:
        """Estimate the background of an image ``(ny, nx)``."""

    def __eq__(self, other: object) -> bool:
        """Two of one class with equal parameters are equal."""
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        """Hash the class and the box size."""
        return hash((type(self), self.box_size))

    def __repr__(self) -> str:
        """Name the class and the box size."""
        return f"{type(self).__name__}(box_size={self.box_size})"


class DefaultBackground(BaseBackground):
    """photutils' ``Background2D`` with its default estimators.

    3-sigma clip, SExtractor's mode estimate, standard deviation, 3 x 3 median filter, cubic-spline zoom.
    """

    def __call__(self, image: np.ndarray) -> Background2D:
        """Estimate the background of an image ``(ny, nx)``."""
        from photutils.background import Background2D  # a second, and the reduction has a mesh of its own

        return Background2D(np.asarray(image), self.box_size)
