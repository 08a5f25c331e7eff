"""Fringes of thin detectors: night-sky lines interfere in the silicon and draw waves on a red sky.

The waves of a filter stay where they are on the detector; how strong they are changes with the sky lines, from frame to
frame. A map of them is scaled to each frame and taken off (Snodgrass and Carry 2013, The Messenger 152, 14, scale by
pairs of crests and troughs; here every pixel of the sky counts).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opticam_dask.kernels.robust import MAD_TO_SIGMA

#: Boxes along each axis in which a map is compared with a frame, each with a sky gradient of its own,
_MOST_BOXES = 8
#: but none smaller than this many pixels.
_SMALLEST_BOX = 24
#: Pixels of a frame that are compared, at most: rows are left out evenly in a larger one.
_MOST_PIXELS = 1 << 18
#: What differs from sky and fringes by this many sigma is a star,
_CLIP_SIGMA = 3.0
#: in this many rounds.
_ROUNDS = 4
#: A box of which less than this share is known and sky tells nothing.
_LEAST_KNOWN = 0.25
#: Pixels of a map this many sigma of its waves from their mean are stars or hits: a wave has no such crests.
_NO_WAVE_SIGMA = 6.0


def only_waves(values: np.ndarray) -> np.ndarray:
    """A map of fringes about 0, and 0 where it shows something that is no wave, or nothing.

    Parameters
    ----------
    values : ndarray, shape (ny, nx)
        Sky with fringes, in any unit.
    """
    finite = values[np.isfinite(values)]
    centre = np.median(finite) if finite.size else 0.0
    waves = np.nan_to_num(values - centre, nan=0.0, posinf=0.0, neginf=0.0)
    sigma = MAD_TO_SIGMA * np.median(np.abs(waves))
    return np.where(np.abs(waves) > _NO_WAVE_SIGMA * sigma, 0.0, waves) if sigma > 0 else waves


@dataclass(frozen=True, eq=False)
class FringeMap:
    """Fringes of a filter, ready to be compared with frames.

    Attributes
    ----------
    waves : ndarray, shape (ny, nx)
        Fringes about 0, in any unit; 0 where they are not known.
    rows : slice
        Rows of a frame that are compared.
    boxes : tuple of (slice, slice, ndarray)
        Rows (of those) and columns of each box, and the fringes in it without their plane.
    """

    waves: np.ndarray
    rows: slice
    boxes: tuple[tuple[slice, slice, np.ndarray], ...]

    @classmethod
    def of(cls, values: np.ndarray) -> FringeMap:
        """Map from its pixels, shape (ny, nx)."""
        waves = np.nan_to_num(values.astype(float))
        rows = slice(0, None, max(1, -(-waves.size // _MOST_PIXELS)))
        sample = waves[rows]
        edges = [np.linspace(0, n, int(np.clip(n // _SMALLEST_BOX, 1, _MOST_BOXES)) + 1).astype(int).tolist()
                 for n in sample.shape]  # fmt: skip
        boxes = [
            (slice(top, bottom), slice(left, right), _without_plane(sample[top:bottom, left:right]))
            for top, bottom in zip(edges[0][:-1], edges[0][1:], strict=True)
            for left, right in zip(edges[1][:-1], edges[1][1:], strict=True)
        ]
        return cls(waves, rows, tuple(boxes))

    def scale(self, sample: np.ndarray) -> float:
        """Number that the map is multiplied by to be the fringes of a frame; 0 where no pixel tells.

        In each box the frame is fitted by a level and the fringes without their plane, so that a gradient of the sky
        is no fringe; pixels of stars are left out. Boxes are weighed by how well they tell, and their median is taken:
        a bright star or a nebula spoils its own box.

        Parameters
        ----------
        sample : ndarray
            Electrons of the ``rows`` of the frame; NaN for bad pixels.
        """
        fits = np.array([_fit_box(sample[rows, columns], waves) for rows, columns, waves in self.boxes])
        fits = fits[fits[:, 1] > 0]
        if not len(fits):
            return 0.0
        fits = fits[np.argsort(fits[:, 0], kind="stable")]
        share = np.cumsum(fits[:, 1]) / fits[:, 1].sum()
        middle = (share - 0.5 * fits[:, 1] / fits[:, 1].sum()).clip(0.0, 1.0)
        return float(np.interp(0.5, middle, fits[:, 0]))


def _without_plane(values: np.ndarray) -> np.ndarray:
    """Values of a box without their mean and their slope along either axis."""
    y, x = (np.arange(n) - (n - 1) / 2.0 for n in values.shape)
    flat: np.ndarray = values - values.mean()
    flat = flat - np.outer(np.ones(len(y)), x * (flat.mean(axis=0) @ x) / max(float(x @ x), 1.0))
    return flat - np.outer(y * (flat.mean(axis=1) @ y) / max(float(y @ y), 1.0), np.ones(len(x)))


def _fit_box(pixels: np.ndarray, waves: np.ndarray) -> tuple[float, float]:
    """Scale of the fringes in one box, and its weight; a weight of 0 where too little is known."""
    known = np.isfinite(pixels)
    values, waves = pixels[known].astype(float), waves[known]
    scale = weight = 0.0
    for _ in range(_ROUNDS):
        if len(values) < _LEAST_KNOWN * pixels.size:
            return 0.0, 0.0
        rest = values - scale * waves
        away = np.abs(rest - np.median(rest))
        kept = away <= _CLIP_SIGMA * MAD_TO_SIGMA * np.median(away)
        x, y = waves[kept] - waves[kept].mean(), values[kept]
        weight = float(x @ x)
        if not weight > 0:
            return 0.0, 0.0
        scale = float(x @ (y - y.mean())) / weight
    return scale, weight
