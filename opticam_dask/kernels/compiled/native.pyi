# Arrays are native, C-contiguous and of the named type; anything else is a TypeError, a wrong shape a ValueError.

import numpy as np

INTERFACE: int

def box_statistics(boxes: np.ndarray, result: np.ndarray, least: float, readmit: bool, /) -> None:
    """`boxes` (row, column, y, x) uint16, float32 or float64, rows in one piece; `result` (2, row, column) float64."""

def add_windows(sums: np.ndarray, of: np.ndarray, amounts: np.ndarray, windows: np.ndarray, /) -> None:
    """Add `windows` (m, size, size), each times its own of `amounts` (m,), to `sums` (n, size, size); float64.

    `of` (m,) int64 says to which; below 0 is none.
    """

def inner_windows(windows: np.ndarray, x: np.ndarray, y: np.ndarray, inner: np.ndarray, /) -> None:
    """Fill `inner` (n, size, size) from `windows` (n, wide, wide) at `x`, `y` (n,) int64; both float64 or bool."""

def aperture_sums(
    weights: np.ndarray,
    electrons: np.ndarray,
    rms: np.ndarray,
    light: np.ndarray | None,
    sums: np.ndarray,
    /,
) -> None:
    """Fill `sums` (7, n), those of ``window_sums.ApertureSums``, from windows (n, size, size) float64.

    `rms` may be (n, 1, 1): the same in all pixels of a window.
    """

def block_excess(deviation: np.ndarray, used: np.ndarray, found: np.ndarray, block: int, /) -> None:
    """Fill `found` (3, n), what ``window_sums.block_excess`` gives, from windows (n, size, size), float64 and bool."""

def centroid_sums(cutouts: np.ndarray, rms: np.ndarray, along: np.ndarray, sums: np.ndarray, reach: float, /) -> None:
    """Fill `sums` (3, n) from windows (n, size, size) and `along` (4, n, size); see ``window_sums``, all float64.

    `rms` may be (n, 1, 1): the same in all pixels of a window.
    """

def pixel_facts(
    corners: np.ndarray,
    counted: np.ndarray,
    electrons: np.ndarray,
    saturated: np.ndarray,
    stray: np.ndarray,
    facts: np.ndarray,
    ny: int,
    nx: int,
    /,
) -> None:
    """Fill `facts` (6, n) int64, those of ``window_sums.PixelFacts``, from windows (n, size, size) on a frame (ny, nx).

    `corners` (2, n) int64 are x0 and y0; `electrons` float64, the others bool.
    """

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

def compare_stars(arrays: tuple[np.ndarray | None, ...], /) -> None:
    """Hold stars against their profile before any is fitted.

    Windows (n, ny, nx), rms and noise also (n, 1, 1): electrons, light, rms, noise, foreign or None, response or None;
    bool: good, saturated, and judged, which is filled; deviation, filled with what the judged pixels are off by in
    their errors, 0 in the others. Numbers (n,): flux, least light of a pixel that counts; chi2 and suspect (bool) are
    filled. At last the limits of ``judging``.
    """

def connected_components(one: np.ndarray, other: np.ndarray, numbers: np.ndarray, /) -> int:
    """Fill `numbers` (node,) with the component of each node, from edges `one`, `other` (n,); int64. Their number."""

def disk_shares(edges: np.ndarray, shares: np.ndarray, least: float, /) -> None:
    """Fill `shares` (n, size, size) of pixels in a disk, those up to `least` with 0; float64.

    `edges` (5, n, size + 1) are those of the pixels along x and y, the area below the circle up to each along x, where
    a line at each along y meets the circle, and the area below the circle up to there.
    """

def disk_stretches(xy: np.ndarray, radius: np.ndarray, ny: int, nx: int, /) -> bytearray:
    """First place and end (int64) of the stretches of a frame (ny, nx) that disks at `xy` (n, 2) cover, ascending."""

def match_positions(one: np.ndarray, other: np.ndarray, matched: np.ndarray, reach: float, /) -> None:
    """Fill `matched` (n,) int64 with the match of each of `one` (n, 2) among `other` (m, 2), the closest pair first."""

def median(values: np.ndarray, /) -> float:
    """Median of `values` (n,) float64; NaN without any, or where one is NaN."""

def merge_basins(
    pixels: np.ndarray,
    values: np.ndarray,
    labels: np.ndarray,
    owner: np.ndarray,
    basins: np.ndarray,
    n_labels: int,
    nx: int,
    n_pixels: float,
    n_levels: float,
    contrast: float,
    /,
) -> None:
    """`basins` (n,) of `pixels` (n,), ascending in a frame of `nx` columns, join those beside them; int64.

    `values` (n,) float64; `labels` (n,) the segment of each pixel, `owner` (n_basins,) that of each basin.
    """

def mesh_medians(mesh: np.ndarray, filtered: np.ndarray, /) -> None:
    """Fill `filtered` with the 3 x 3 medians of `mesh`, in which NaN does not count; (ny, nx) float64."""

def label_pixels(pixels: np.ndarray, labels: np.ndarray, nx: int, /) -> int:
    """Fill `labels` (n,) with the 8-connected segment of each of `pixels` (n,), ascending; int64. Their number."""

def large_segments(
    image: np.ndarray, pixels: np.ndarray, places: np.ndarray, values: np.ndarray, labels: np.ndarray, least: int, /
) -> tuple[int, int]:
    """Segments of `least` pixels (n,) of `image` (float32 or float64) or more: how many of the pixels, and of segments.

    As many of `places`, `values` (float64) and `labels` (n,) are filled; places int64, ascending.
    """

def find_basins(image: np.ndarray, pixels: np.ndarray, basins: np.ndarray, /) -> int:
    """Fill `basins` (n,) with the maximum above each of `pixels` (n,) of `image` (float32 or float64). Their number."""

def cosmic_rays(
    pixels: np.ndarray,
    mask: np.ndarray | None,
    found: np.ndarray,
    read_noise: float,
    saturation: float,
    limit: float,
    fraction: float,
    object_limit: float,
    n_rounds: int,
    gain: float = 1.0,
    offset: float = 0.0,
    /,
) -> tuple[bytes, bytes]:
    """Fill `found` (ny, nx) bool with the cosmic rays of `pixels` (ny, nx), float32 or uint16, but where `mask` is.

    Electrons are float32 pixels, or `gain` times uint16 ones minus `offset`. Returns places (int64, ascending) in the
    flattened frame, and what stands there now (float32).
    """

def cut_out(image: np.ndarray, x0: np.ndarray, y0: np.ndarray, windows: np.ndarray, /) -> None:
    """Fill `windows` (n, size, size) with `image` from corners `x0`, `y0` (n,) int64 on, NaN beyond it.

    The image (ny, nx) is uint16, float32, float64 or bool.
    """

def zoom_windows(
    knots: np.ndarray,
    along_y: np.ndarray,
    along_x: np.ndarray,
    y0: np.ndarray,
    x0: np.ndarray,
    windows: np.ndarray,
    shape: tuple[int, int],
    box_size: tuple[int, int],
    low: float,
    high: float,
    /,
) -> None:
    """Spline of a mesh in windows (n, size, size) with their corners at `y0`, `x0` (n,) int64, clipped to a range.

    `knots` (mesh_y + 4, mesh_x + 4); weights (pixel, knot + 1) along both axes; float64. NaN beyond the frame.
    """

def elliptical_radius(dx: np.ndarray, dy: np.ndarray, forms: np.ndarray, radius: np.ndarray, /) -> None:
    """Offsets (n, size); cosine, sine, semimajor, semiminor (n, 4); `radius` (n, size, size) is filled; float64."""

def light_at(table: np.ndarray, radius: np.ndarray, light: np.ndarray, edge: float, step: float, /) -> None:
    """`light` (n,) at `radius` (n,), no further out than `edge`, from a table with an entry every `step`; float64."""

def spline_at(
    wide: np.ndarray, knots: np.ndarray, weights: np.ndarray, places: np.ndarray, values: np.ndarray, /
) -> None:
    """Fill `values` (n,) with the spline along y at `places` (n,) int64 of a frame.

    Coefficients `wide` (m, nx); those that reach a row `knots` (4, ny) int64, and their `weights`; float64.
    """

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

def fit_group(
    arrays: tuple[np.ndarray | None, ...], edge: float, table_step: float, largest_step: float, larger_error: float, /
) -> bool:
    """Fit fluxes and places of stars that overlap in one window.

    Given: electrons, rms (size, size), response (the same) or None, good (the same, bool), table, x0, y0 (n,) int64,
    forms (n, 5), expected (n, 2), limits as for `fit_stars`. Filled: xy (n, 2, with the first guess), flux (n,). False,
    with nothing of use in these, when there are stray pixels and `larger_error` of the profile is NaN.
    """

def fit_stars(arrays: tuple[np.ndarray | None, ...], edge: float, table_step: float, /) -> None:
    """Fit stars one by one.

    Given: electrons, rms (n, size, size), near (the same, bool), foreign, response or None, unlike (size, size) or
    None, x0, y0 (n,) int64, forms (n, 5), expected (n, 2), table, limits. Filled: xy (n, 2, with the first guess),
    flux, model_error, is_no_star (n,), is_stray, deviation, errors (n, size, size).
    """

def near_pairs(xy: np.ndarray, reach: float, /) -> bytearray:
    """Pairs (int64, ascending) of `xy` (n, 2) float64 that are no further apart than `reach`."""

def nearest_distances(one: np.ndarray, other: np.ndarray, away: np.ndarray, /) -> None:
    """Fill `away` (n,) with the distance of each of `one` (n, 2) to the nearest of `other` (m, 2); float64."""

def refine_match(
    reference: np.ndarray,
    frame: np.ndarray,
    reference_weights: np.ndarray,
    frame_weights: np.ndarray,
    log_factorial: np.ndarray,
    rules: np.ndarray,
    start: np.ndarray,
    i: np.ndarray,
    j: np.ndarray,
    /,
) -> int:
    """Refine a similarity between `reference` (n, 2) and `frame` (m, 2); the number of pairs, 0 where there is none.

    `start` (5,) is its a and b (real, imaginary), which are moved; the log of the chance behind them is filled, as are
    the pairs `i`, `j` (n,) int64. `rules` are those of ``refinement``.
    """

def segment_moments(
    pixels: np.ndarray, labels: np.ndarray, values: np.ndarray, first: np.ndarray, sums: np.ndarray, nx: int, /
) -> None:
    """Fill `first` (n_labels,) with the first of `pixels` (n,) of each segment, and `sums` (6, n_labels) of `values`.

    Sums of the values and of these times x, y, x^2, y^2 and x y, from the first pixel of the segment on, in a frame
    of `nx` columns; float64, places and `labels` int64.
    """

def smooth_course(
    values: np.ndarray,
    weights: np.ndarray,
    terms: np.ndarray,
    limits: np.ndarray,
    broad: np.ndarray,
    course: np.ndarray,
    noise: float,
    /,
) -> None:
    """Fill `broad` with a polynomial of `terms` (term, box) through `values`, and `course` with what is beyond it.

    All but `terms` are meshes (ny, nx).
    """

def fluxes_alone(pixels: np.ndarray, light: np.ndarray, used: np.ndarray, of: np.ndarray, flux: np.ndarray, /) -> None:
    """Fill `flux` (n,) with that of `pixels` (n, ny, nx) by the `light` of star `of` (n,) int64, where it is `used`."""

def half_sample_mode(values: np.ndarray, /) -> float:
    """Half-sample mode of the finite ones of `values` (n,) float64; NaN without any."""

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

def extremes(pixels: np.ndarray, /) -> tuple[int, int]:
    """Lowest and highest of `pixels` (ny, nx) uint16."""

def field_form(
    uv: np.ndarray,
    moments: np.ndarray,
    noise: np.ndarray,
    doubt: np.ndarray,
    limits: np.ndarray,
    form: np.ndarray,
    terms: np.ndarray,
    /,
) -> None:
    """Form of stars at places `uv` (2, n), with `moments` (3, n) and their errors `noise`, `doubt` (n,); float64.

    Filled: `form` (4,), the median width (sigma) and the mean moments; `terms` (3, 6), their change over the frame.
    """

def unsigned_counts(pixels: np.ndarray, /) -> None:
    """Make `pixels` (ny, nx) uint16, as a FITS file with BZERO = 32768 has them, counts."""

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

def subtract_sky(arrays: tuple[np.ndarray | None, ...], box_y: int, box_x: int, /) -> tuple[int, int]:
    """Take the sky off a frame; numbers of flagged and of deviant pixels.

    Given: image (ny, nx) float32 or float64, changed, or filled from counts (the same, uint16) or None; wide
    (mesh_y, nx); weights (box_y, 5); rms_wide as wide; rows of both (mesh_y + 4,) int64, of which five reach a row of
    boxes; limits: gain, offset, low, high, least, threshold, rms_low, rms_high, clip, tail. Filled: sums, sky_sums
    (mesh_y, mesh_x); flagged, deviant int64, with room for all pixels.
    """

def take_pixels(
    image: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    alone: np.ndarray,
    taken: np.ndarray,
    light: np.ndarray,
    box_y: int,
    box_x: int,
    /,
) -> None:
    """Add number and sum of pixels of `image` to those of their boxes `taken` (int64) and `light` (mesh_y, mesh_x).

    The pixels are stretches of a row from `start` to `stop` (n,), ascending and apart, and those of `alone` that lie in
    none; int64.
    """
