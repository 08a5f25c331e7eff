"""Background estimators: callables ``image -> Background2D`` that users may replace or subclass."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from photutils.background import Background2D


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
        sizes = tuple(box_size) if isinstance(box_size, (tuple, list, np.ndarray)) else (box_size, box_size)
        if len(sizes) != 2 or any(int(size) != size or size < 1 for size in sizes):
            raise ValueError(f"box_size must be a whole number of pixels or two of them (ny, nx), got {box_size!r}")
        self.box_size: tuple[int, int] = (int(sizes[0]), int(sizes[1]))

    @abstractmethod
    def __call__(self, image: np.ndarray) -> Background2D:
        """Estimate the background of an image ``(ny, nx)``."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), self.box_size))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(box_size={self.box_size})"


class DefaultBackground(BaseBackground):
    """photutils' ``Background2D`` with its default estimators.

    3-sigma clip, SExtractor's mode estimate, standard deviation, 3 x 3 median filter, cubic-spline zoom.
    """

    def __call__(self, image: np.ndarray) -> Background2D:
        """Estimate the background of an image ``(ny, nx)``."""
        return Background2D(np.asarray(image), self.box_size)
