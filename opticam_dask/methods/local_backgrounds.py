"""Local sky around a source: the default annulus, and the base of users' own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from opticam_dask.kernels.sources import annulus

#: ``(data, position, semimajor_axis, semiminor_axis, theta) -> (background, background_rms)`` per pixel; ``data`` is a
#: window with its sky in it, ``position`` is (x, y) in it, ``theta`` is in radians, and the axes are 1-sigma widths.
LocalBackground = Callable[[np.ndarray, tuple[float, float], float, float | None, float], tuple[float, float]]


@dataclass(frozen=True)
class BaseLocalBackground(ABC):
    """Base of local sky estimators: an annulus from ``r_in_scale`` to ``r_out_scale`` sigma of the stars.

    Parameters
    ----------
    r_in_scale, r_out_scale : float
        Inner and outer edge in units of the 1-sigma axes of the stars.

    Raises
    ------
    ValueError
        When the edges are not ``0 < r_in_scale < r_out_scale``.
    """

    r_in_scale: float = 5.0
    r_out_scale: float = 7.5

    def __post_init__(self) -> None:
        """Refuse an annulus without pixels."""
        if not 0 < self.r_in_scale < self.r_out_scale < np.inf:
            raise ValueError(f"0 < r_in_scale < r_out_scale is needed, got {self.r_in_scale} and {self.r_out_scale}")

    @abstractmethod
    def __call__(
        self,
        data: np.ndarray,
        position: tuple[float, float],
        semimajor_axis: float,
        semiminor_axis: float | None = None,
        theta: float = 0.0,
    ) -> tuple[float, float]:
        """Sky level and its scatter per pixel around a position of ``data``."""

    def edges(
        self, semimajor_axis: float, semiminor_axis: float | None
    ) -> tuple[tuple[float, float], tuple[float, float]]:
        """Semi-axes of the inner and of the outer edge, in pixels."""
        axes = (semimajor_axis, semimajor_axis if semiminor_axis is None else semiminor_axis)
        inner, outer = ((scale * axes[0], scale * axes[1]) for scale in (self.r_in_scale, self.r_out_scale))
        return inner, outer


@dataclass(frozen=True)
class DefaultLocalBackground(BaseLocalBackground):
    """Mean and standard deviation of the pixels of the annulus, clipped at ``n_sigma``.

    Parameters
    ----------
    r_in_scale, r_out_scale : float
        Inner and outer edge in units of the 1-sigma axes of the stars.
    n_sigma : float
        Limit of the clipping about the median, in standard deviations; it is repeated 10 times at most.
    """

    n_sigma: float = 3.0

    def __call__(
        self,
        data: np.ndarray,
        position: tuple[float, float],
        semimajor_axis: float,
        semiminor_axis: float | None = None,
        theta: float = 0.0,
    ) -> tuple[float, float]:
        """Sky level and its scatter per pixel around a position of ``data`` (x, y); ``theta`` in radians."""
        shape, corner = np.shape(data), np.zeros(1, dtype=int)
        side = max(shape)
        window = np.full((1, side, side), np.nan)
        window[0, : shape[0], : shape[1]] = data
        edges = self.edges(semimajor_axis, semiminor_axis)
        mask = annulus.annulus_mask(np.array([position], dtype=float), corner, corner, side, *edges, theta)
        mean, scatter, _ = annulus.clipped_statistics(window, mask, self.n_sigma)
        return float(mean[0]), float(scatter[0])
