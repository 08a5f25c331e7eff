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

def zoom_windows(
    knots: np.ndarray,
    first_y: np.ndarray,
    first_x: np.ndarray,
    along_y: np.ndarray,
    along_x: np.ndarray,
    windows: np.ndarray,
    /,
) -> None:
    """Spline of a mesh in windows (n, size, size), which are filled.

    `knots` (row, column) float64; the first knots of each window (n,) int64; weights (n, size, knot) float64.
    """

def elliptical_radius(dx: np.ndarray, dy: np.ndarray, forms: np.ndarray, radius: np.ndarray, /) -> None:
    """Offsets (n, size); cosine, sine, semimajor, semiminor (n, 4); `radius` (n, size, size) is filled; float64."""

def light_at(table: np.ndarray, radius: np.ndarray, light: np.ndarray, edge: float, step: float, /) -> None:
    """`light` (n,) at `radius` (n,), no further out than `edge`, from a table with an entry every `step`; float64."""
