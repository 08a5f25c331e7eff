# Arrays are native, C-contiguous and of the named type; anything else is a TypeError, a wrong shape a ValueError.

import numpy as np

def box_statistics(boxes: np.ndarray, result: np.ndarray, least: float, readmit: bool, /) -> None:
    """`boxes` (row, column, y, x) float32 or float64, rows in one piece; `result` (2, row, column) float64."""

def cosmic_rays(
    pixels: np.ndarray,
    mask: np.ndarray,
    found: np.ndarray,
    read_noise: float,
    saturation: float,
    limit: float,
    fraction: float,
    object_limit: float,
    n_rounds: int,
    /,
) -> None:
    """`pixels` (ny, nx) float32 are cleaned, `mask` bool grows, `found` bool is filled."""
