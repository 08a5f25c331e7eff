# Arrays are native, C-contiguous and of the named type; anything else is a TypeError, a wrong shape a ValueError.

import numpy as np

INTERFACE: int

def box_statistics(boxes: np.ndarray, result: np.ndarray, least: float, readmit: bool, /) -> None:
    """`boxes` (row, column, y, x) float32 or float64, rows in one piece; `result` (2, row, column) float64."""

def adaptive_moments(
    cutouts: np.ndarray,
    centres: np.ndarray,
    sigma: np.ndarray,
    windows: np.ndarray,
    limits: np.ndarray,
    forms: np.ndarray,
    good: np.ndarray,
    /,
) -> None:
    """Covariances `forms` (n, 3) (xx, yy, xy) of sources at `centres` (n, 2) of `cutouts` (n, size, size); float64.

    `sigma` (n,) are their first widths; `good` (n,) bool says where the moments converged.
    """

def connected_components(one: np.ndarray, other: np.ndarray, numbers: np.ndarray, /) -> int:
    """Fill `numbers` (node,) with the component of each node, from edges `one`, `other` (n,); int64. Their number."""

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

def star_light(
    table: np.ndarray,
    xy: np.ndarray,
    x0: np.ndarray,
    y0: np.ndarray,
    forms: np.ndarray,
    light: np.ndarray,
    edge: float,
    table_step: float,
    step: float,
    /,
) -> None:
    """`light` (n, 1, size, size) of stars at `xy` (n, 2), or (n, 2, size, size) its slopes, by differences of `step`.

    Corners `x0` and `y0` (n,) int64; `forms` (n, 5) cosine, sine, semimajor, semiminor, area; float64.
    """

def fit_stars(arrays: tuple[np.ndarray | None, ...], edge: float, table_step: float, /) -> None:
    """Fit stars one by one.

    Given: electrons, rms (n, size, size), near (the same, bool), foreign, response or None, unlike (size, size) or
    None, x0, y0 (n,) int64, forms (n, 5), expected (n, 2), table, limits. Filled: xy (n, 2, with the first guess),
    flux, model_error, is_no_star (n,), is_stray, deviation, errors (n, size, size).
    """

def fit_windows(
    values: np.ndarray,
    weights: np.ndarray,
    kernel: np.ndarray,
    basis: np.ndarray,
    found: np.ndarray,
    model: np.ndarray | None,
    ridge: float,
    /,
) -> None:
    """Least squares of `values` (neighbour, window), weights `weights` times `kernel` (neighbour,).

    `basis` (term, neighbour);
    `found` (3, window): value in the middle, weighted sum of squares, sum of the kernel where there is a weight;
    `model` (neighbour, window).
    """

def judge_pixels(
    electrons: np.ndarray,
    model: np.ndarray,
    rms: np.ndarray,
    response: np.ndarray | None,
    unknown: np.ndarray | None,
    good: np.ndarray,
    limits: np.ndarray,
    errors: np.ndarray,
    is_stray: np.ndarray,
    /,
) -> None:
    """`errors` and `is_stray` (size, size) of the pixels of a window about `model`; `limits` as for `fit_stars`."""

def field_fit(
    design: np.ndarray,
    moments: np.ndarray,
    error: np.ndarray,
    trust: np.ndarray,
    limits: np.ndarray,
    coefficients: np.ndarray,
    first: int,
    /,
) -> float:
    """Fit `coefficients` (3, term) to `moments` (3, n) with terms `design` (n, term); significance from `first` on."""

def windowed_centroids(
    cutouts: np.ndarray,
    sigma: np.ndarray,
    windows: np.ndarray,
    centres: np.ndarray,
    converged: np.ndarray,
    n_iterations: int,
    nearly_at_rest: float,
    /,
) -> None:
    """`centres` (n, 2) in `cutouts` (n, size, size) move to the centroids; float64."""
