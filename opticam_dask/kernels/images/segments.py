"""Sources of one frame from its flagged pixels alone: segmentation, deblending, moments.

The segments are those of photutils' ``SourceFinder`` and ``SourceCatalog`` (8-connected; multi-threshold deblending
after Bertin & Arnouts 1996, A&AS 117, 393), but no step touches the pixels that are sky, and every step is done for
all sources at once; in crowded fields fewer are divided (89 sources for 105). Deblending is asked for where a segment
has more than one local maximum, and works on the basins of those maxima: a basin that does not stand out from its
highest saddle joins its neighbour there. Parts that are closer to each other than two stars can be told apart at,
judged by the size of the stars of the same frame, are one star: a defocused star is a ring, whose brightest places
are maxima.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opticam_dask.kernels import compiled, graphs
from opticam_dask.kernels.robust import median

#: Names of the columns of a source list.
COLUMNS = ("x", "y", "flux", "semimajor_sigma", "semiminor_sigma", "orientation")

#: Parts of a segment whose centroids are closer than this many sizes of a star (see :func:`_star_size`) are one star.
#: The halves of a ring are 1.8 sizes apart, its opposite sides up to 2.8; a point source is 4 sizes wide (FWHM).
_ONE_STAR = 2.8

#: Segments whose brightest pixel is this many times their faintest tell the size of stars: all of their core is seen.
_WELL_SEEN = 2.0

#: Levels at which the maxima of a segment are told apart.
_N_LEVELS = 32
#: Each of them has at least this share of the flux of the segment.
_CONTRAST = 0.001

#: Variance of a uniform distribution over one pixel: the least that a source is wide.
_PIXEL_VARIANCE = 1.0 / 12.0


def row_and_column(places: np.ndarray, nx: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of places in a flattened frame of ``nx`` columns; ``np.divmod`` takes five times as long."""
    row = places // nx
    return row, places - row * nx


def column_of(places: np.ndarray, nx: int) -> np.ndarray:
    """Column of places in a flattened frame of ``nx`` columns."""
    return row_and_column(places, nx)[1]


@dataclass(frozen=True)
class Segments:
    """The pixels of all sources of a frame.

    Attributes
    ----------
    pixels : ndarray of int, shape (n_pixels,)
        Places in the flattened frame, ascending.
    values : ndarray of float, shape (n_pixels,)
        Values of the pixels.
    labels : ndarray of int, shape (n_pixels,)
        Segment of each pixel, from 0.
    n_labels : int
        Number of segments.
    """

    pixels: np.ndarray
    values: np.ndarray
    labels: np.ndarray
    n_labels: int

    def chosen(self, is_chosen: np.ndarray) -> Segments:
        """Segments for which ``is_chosen`` (n_labels,) is true, numbered anew."""
        if is_chosen.all():
            return self
        kept = is_chosen[self.labels]
        numbers = np.cumsum(is_chosen) - 1
        return Segments(
            self.pixels[kept], self.values[kept], numbers[self.labels[kept]], int(np.count_nonzero(is_chosen))
        )


def find_sources(image: np.ndarray, flagged: np.ndarray, n_pixels: int, border_width: int = 0) -> dict[str, np.ndarray]:
    """Sources of a frame, brightest first, told apart as photutils' ``SourceFinder`` does.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Sky-subtracted frame.
    flagged : ndarray of int
        Places of the pixels above the threshold in the flattened frame, ascending.
    n_pixels : int
        Least number of connected pixels of a source.
    border_width : int
        Sources whose centre lies in this border are left out.

    Returns
    -------
    dict of ndarray, shape (n,)
        x, y (pixels), flux (sum over the segment), semimajor_sigma, semiminor_sigma (pixels), orientation (degrees).
    """
    shape = image.shape
    segments = deblend(large_segments(image, flagged, n_pixels), image, n_pixels)
    found = _source_list(segments, shape[1])
    inside = within_border(found["x"], shape[1], border_width) & within_border(found["y"], shape[0], border_width)
    return found if inside.all() else {name: values[inside] for name, values in found.items()}


def large_segments(image: np.ndarray, flagged: np.ndarray, n_pixels: int) -> Segments:
    """Segments of ``n_pixels`` 8-connected pixels or more; see :func:`find_sources`."""
    if compiled.native is not None and image.dtype in (np.float32, np.float64):
        pixels = compiled.ready(flagged, dtype=np.int64)
        places, values, labels = np.empty_like(pixels), np.empty(len(pixels)), np.empty_like(pixels)
        n, n_labels = compiled.native.large_segments(compiled.ready(image), pixels, places, values, labels, n_pixels)
        return Segments(places[:n], values[:n], labels[:n], n_labels)
    labels, n_labels = connected(flagged, image.shape)
    segments = Segments(flagged, image.ravel()[flagged].astype(float), labels, n_labels)
    return segments.chosen(np.bincount(labels, minlength=n_labels) >= n_pixels)


def connected(flagged: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, int]:
    """Label 8-connected pixels: runs along the rows are the nodes of a graph, runs that touch its edges."""
    if not len(flagged):
        return np.empty(0, dtype=np.intp), 0
    nx = shape[1]
    if compiled.native is not None:
        pixels = compiled.ready(flagged, dtype=np.int64)
        labels = np.empty(len(pixels), dtype=np.int64)
        n_labels = compiled.native.label_pixels(pixels, labels, nx)
        return labels, n_labels
    is_start = np.ones(len(flagged), dtype=bool)
    is_start[1:] = (np.diff(flagged) != 1) | (column_of(flagged[1:], nx) == 0)
    first = np.flatnonzero(is_start)
    length = np.diff(np.append(first, len(flagged)))
    start = flagged[first]
    stop = start + length
    column = column_of(start, nx)
    # the stretch of the row above that touches a run, diagonals included
    low, high = start - nx - (column > 0), stop - nx + (column + length < nx)
    from_run, to_run = np.searchsorted(stop, low, side="right"), np.searchsorted(start, high, side="left")
    n_above = np.maximum(to_run - from_run, 0)
    below = np.repeat(np.arange(len(start)), n_above)
    above = np.arange(n_above.sum()) + np.repeat(from_run - np.cumsum(n_above) + n_above, n_above)
    n_labels, of_run = graphs.components(below, above, len(start))
    return np.repeat(of_run, length), n_labels


def deblend(segments: Segments, image: np.ndarray, n_pixels: int) -> Segments:
    """Split segments with several maxima that stand out.

    A basin stands out when, at the lowest of 32 levels between the faintest and the brightest pixel of its segment
    (evenly in the logarithm) that separates it from its neighbours, it has ``n_pixels`` pixels and a thousandth of the
    flux of the segment.

    Parameters
    ----------
    segments : Segments
        The segments of the frame.
    image : ndarray, shape (ny, nx)
        The image.
    n_pixels : int
        Least number of pixels of a part.

    Returns
    -------
    Segments
    """
    basins, n_basins = _basins(segments, image)
    owner = np.empty(n_basins, dtype=np.intp)
    owner[basins] = segments.labels
    is_split = np.bincount(owner, minlength=segments.n_labels) > 1
    if not is_split.any():
        return segments
    # from here on only the pixels of segments with several maxima
    inside = np.flatnonzero(is_split[segments.labels])
    part = Segments(segments.pixels[inside], segments.values[inside], segments.labels[inside], segments.n_labels)
    merged = _merge_basins(part, basins[inside], owner, image.shape, n_pixels)
    new = basins.copy()
    new[inside] = merged
    numbers = np.zeros(n_basins, dtype=np.intp)
    numbers[new] = 1
    numbers = np.cumsum(numbers) - 1
    parts = Segments(segments.pixels, segments.values, numbers[new], int(numbers[-1]) + 1)
    return join_parts(parts, segments.labels, image.shape)


def join_parts(parts: Segments, parents: np.ndarray, shape: tuple[int, int]) -> Segments:
    """Join parts of a segment that are too close to each other to be two stars.

    The closest two are joined first, and count from then on as one at their common centroid, so that two defocused
    stars side by side stay two.

    Parameters
    ----------
    parts : Segments
        Deblended segments.
    parents : ndarray of int, shape (n_pixels,)
        Segment of each pixel before deblending, from 0.
    shape : (int, int)
        Shape ``(ny, nx)`` of the frame.

    Returns
    -------
    Segments
    """
    parent = np.empty(parts.n_labels, dtype=np.intp)
    parent[parts.labels] = parents
    has_siblings = np.bincount(parent)[parent] > 1
    if not has_siblings.any():
        return parts
    reach = _ONE_STAR * _star_size(parts, parents, shape)
    inside = has_siblings[parts.labels]
    labels, values = parts.labels[inside], parts.values[inside]
    y, x = row_and_column(parts.pixels[inside], shape[1])
    flux, of_x, of_y = (
        np.bincount(labels, weights=weight, minlength=parts.n_labels) for weight in (values, values * x, values * y)
    )
    siblings = np.flatnonzero(has_siblings)
    at = np.full((parts.n_labels, 2), np.inf)
    at[siblings] = np.column_stack([of_x, of_y])[siblings] / flux[siblings, np.newaxis]
    close = siblings[graphs.near_pairs(at[siblings], reach)]
    close = close[parent[close[:, 0]] == parent[close[:, 1]]]
    if not len(close):
        return parts
    _, cluster = graphs.components(close[:, 0], close[:, 1], parts.n_labels)
    new = np.arange(parts.n_labels)
    for one in np.unique(cluster[close[:, 0]]).tolist():
        members = np.flatnonzero(cluster == one)
        new[members] = members[_joined(at[members, 0] + 1j * at[members, 1], flux[members], reach)]
    numbers = np.cumsum(np.bincount(new, minlength=parts.n_labels) > 0) - 1
    return Segments(parts.pixels, parts.values, numbers[new[parts.labels]], int(numbers[-1]) + 1)


def _joined(at: np.ndarray, flux: np.ndarray, reach: float) -> np.ndarray:
    """Which of n sources each of them is part of, from their positions (complex, pixels) and fluxes, shape (n,)."""
    at, flux = at.copy(), flux.copy()
    new = np.arange(len(flux))
    apart = np.abs(at[:, np.newaxis] - at)
    np.fill_diagonal(apart, np.inf)
    while apart.min() < reach:
        one, other = sorted(np.unravel_index(np.argmin(apart), apart.shape))
        at[one] = (flux[one] * at[one] + flux[other] * at[other]) / (flux[one] + flux[other])
        flux[one] += flux[other]
        new[new == other] = one
        apart[other] = apart[:, other] = np.inf
        is_left = np.isfinite(apart[one])
        apart[one, is_left] = apart[is_left, one] = np.abs(at[is_left] - at[one])
    return new


def _star_size(segments: Segments, parents: np.ndarray, shape: tuple[int, int]) -> float:
    """Size of the stars of a frame in pixels: a quarter of the FWHM of a point source, half the radius of a disk.

    It is the median over the segments of the standard deviation, along their short axis, of the places of the pixels
    above half of their maximum, each counted once. Faint wings and fainter neighbours do not count.

    Returns
    -------
    float
        0 when no segment is well seen.
    """
    n = int(parents.max()) + 1
    highest, lowest = np.zeros(n), np.full(n, np.inf)
    np.maximum.at(highest, parents, segments.values)
    np.minimum.at(lowest, parents, segments.values)
    is_core = segments.values >= 0.5 * highest[parents]
    owner = parents[is_core]
    y, x = row_and_column(segments.pixels[is_core], shape[1])

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(owner, weights=values, minlength=n) / np.bincount(owner, minlength=n)

    dx, dy = x - mean(x)[owner], y - mean(y)[owner]
    _, minor, _ = _ellipse(mean(dx * dx), mean(dy * dy), mean(dx * dy))
    sizes = minor[highest >= _WELL_SEEN * lowest]
    return median(sizes) if len(sizes) else 0.0


#: Offsets (row, column) of the pixels around one, in the order of their places in the frame.
_AROUND = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))


def _neighbours(pixels: np.ndarray, shape: tuple[int, int], dy: int, dx: int) -> np.ndarray:
    """Index among ``pixels`` of the neighbour of each pixel in one direction, -1 where it is not among them."""
    wanted = pixels + dy * shape[1] + dx
    index = np.searchsorted(pixels, wanted)
    index[index == len(pixels)] = 0
    found = pixels[index] == wanted
    if dx:
        found &= column_of(pixels, shape[1]) != (0 if dx < 0 else shape[1] - 1)
    return np.where(found, index, -1)


def _basins(segments: Segments, image: np.ndarray) -> tuple[np.ndarray, int]:
    """Basin of each pixel: the local maximum that the steepest way up from it ends at. Basins are numbered from 0."""
    pixels, flat = segments.pixels, image.ravel()
    (ny, nx), n = image.shape, len(pixels)
    if compiled.native is not None and image.dtype in (np.float32, np.float64):
        basins = np.empty(n, dtype=np.int64)
        places = compiled.ready(pixels, dtype=np.int64)
        return basins, compiled.native.find_basins(compiled.ready(image), places, basins)
    row, column = row_and_column(pixels, nx)
    beyond = {(0, -1): row == 0, (0, 1): row == ny - 1, (1, -1): column == 0, (1, 1): column == nx - 1}
    highest = flat[pixels]
    uphill = pixels.copy()
    for dy, dx in _AROUND:
        value = flat.take(pixels + (dy * nx + dx), mode="clip")
        is_higher = value > highest
        if (dy, dx) < (0, 0):  # of equal pixels the first is the higher one
            is_higher |= (value == highest) & (uphill == pixels)
        for outside in ((0, dy), (1, dx)):
            if outside[1] and beyond[outside].any():
                is_higher &= ~beyond[outside]
        np.copyto(highest, value, where=is_higher)
        np.copyto(uphill, pixels + (dy * nx + dx), where=is_higher)
    way = np.searchsorted(pixels, uphill)
    way[way == n] = 0
    # a higher neighbour may be no pixel of a source, where the threshold changes
    way = np.where(pixels[way] == uphill, way, np.arange(n))
    while True:
        further = way[way]
        if np.array_equal(further, way):
            break
        way = further
    is_top = way == np.arange(n)
    return (np.cumsum(is_top) - 1)[way], int(np.count_nonzero(is_top))


def _merge_basins(
    part: Segments,
    basins: np.ndarray,
    owner: np.ndarray,
    shape: tuple[int, int],
    n_pixels: int,
) -> np.ndarray:
    """Join basins that do not stand out to the neighbour across their highest saddle, until all do."""
    if compiled.native is not None:
        given = (compiled.ready(numbers, dtype=np.int64) for numbers in (part.labels, owner))
        joined, limits = np.array(basins, dtype=np.int64), (n_pixels, _N_LEVELS, _CONTRAST)
        compiled.native.merge_basins(part.pixels, part.values, *given, joined, part.n_labels, shape[1], *limits)
        return joined
    n_basins = len(owner)
    total = np.bincount(part.labels, weights=part.values, minlength=part.n_labels)
    order = np.argsort(part.labels, kind="stable")
    starts = np.flatnonzero(np.diff(part.labels[order], prepend=-1))
    present = part.labels[order][starts]
    lowest, highest = np.zeros(part.n_labels), np.zeros(part.n_labels)
    lowest[present] = np.minimum.reduceat(part.values[order], starts)
    highest[present] = np.maximum.reduceat(part.values[order], starts)
    one, other, saddle = _saddles(part, basins, shape)
    while len(one):
        # the highest saddle of each basin, and the basin on its other side
        ends, beyond = np.concatenate([one, other]), np.concatenate([other, one])
        height = np.concatenate([saddle, saddle])
        ranked = np.lexsort((beyond, -height, ends))
        first = ranked[np.flatnonzero(np.diff(ends[ranked], prepend=-1))]
        basin, neighbour, height = ends[first], beyond[first], height[first]
        level = np.full(n_basins, np.inf)
        level[basin] = _level_above(height, lowest[owner[basin]], highest[owner[basin]])
        is_above = part.values > level[basins]
        above = basins[is_above]
        count = np.bincount(above, minlength=n_basins)[basin]
        flux = np.bincount(above, weights=part.values[is_above], minlength=n_basins)[basin]
        is_weak = (count < n_pixels) | (flux < _CONTRAST * total[owner[basin]])
        if not is_weak.any():
            break
        _, joined = graphs.components(basin[is_weak], neighbour[is_weak], n_basins)
        # a joined basin goes by the number of its first one
        representative = np.full(n_basins, n_basins, dtype=np.intp)
        np.minimum.at(representative, joined, np.arange(n_basins))
        new = representative[joined]
        basins, one, other = new[basins], new[one], new[other]
        apart = one != other
        one, other, saddle = one[apart], other[apart], saddle[apart]
    return basins


def _saddles(part: Segments, basins: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of basins that touch, and the height of each place where they do."""
    ones, others, heights = [], [], []
    for dy, dx in _AROUND[4:]:
        index = _neighbours(part.pixels, shape, dy, dx)
        here = np.flatnonzero((index >= 0) & (basins != basins[index]))
        there = index[here]
        ones.append(basins[here])
        others.append(basins[there])
        heights.append(np.minimum(part.values[here], part.values[there]))
    return np.concatenate(ones), np.concatenate(others), np.concatenate(heights)


def _level_above(height: np.ndarray, lowest: np.ndarray, highest: np.ndarray) -> np.ndarray:
    """Lowest level of a segment that is not below a height; infinite where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(highest / lowest)
        step = np.ceil(np.log(height / lowest) / ratio * (_N_LEVELS + 1) - 1e-9)
        level = lowest * np.exp(np.maximum(step, 1.0) / (_N_LEVELS + 1) * ratio)
    return np.where(step <= _N_LEVELS, np.maximum(level, height), np.inf)


def within_border(centre: np.ndarray, size: int, width: int) -> np.ndarray:
    """Whether centres (n,) along an axis of ``size`` pixels lie inside a border of some pixels.

    The centre decides, not the segment: the wings of a bright star reach far.
    """
    inside: np.ndarray = (centre > width - 0.5) & (centre < size - width - 0.5)
    return inside


def _source_list(segments: Segments, nx: int) -> dict[str, np.ndarray]:
    """Positions, fluxes and shapes of segments from their moments, brightest first."""
    first, (flux, of_x, of_y, of_xx, of_yy, of_xy) = _moments(segments, nx)
    y0, x0 = row_and_column(first, nx)
    mean_x, mean_y = of_x / flux, of_y / flux
    xx, yy = of_xx / flux - mean_x**2, of_yy / flux - mean_y**2
    xy = of_xy / flux - mean_x * mean_y
    major, minor, angle = _ellipse(xx, yy, xy)
    columns = (x0 + mean_x, y0 + mean_y, flux, major, minor, angle)
    order = np.argsort(-flux, kind="stable")
    return {name: values[order] for name, values in zip(COLUMNS, columns, strict=True)}


def _moments(segments: Segments, nx: int) -> tuple[np.ndarray, np.ndarray]:
    """First pixel of each segment (n,), and sums (6, n) of values and of these times x, y, x^2, y^2, x y from there.

    Moments about a pixel of the source lose no digits.
    """
    n, labels, values = segments.n_labels, segments.labels, segments.values
    if compiled.native is not None:
        first, sums = np.empty(n, dtype=np.int64), np.empty((6, n))
        places = (compiled.ready(of, dtype=np.int64) for of in (segments.pixels, labels))
        compiled.native.segment_moments(*places, compiled.ready(values, dtype=float), first, sums, nx)
        return first, sums
    first = np.zeros(n, dtype=np.int64)
    first[labels[::-1]] = segments.pixels[::-1]
    (y0, x0), (y, x) = row_and_column(first, nx), row_and_column(segments.pixels, nx)
    dx, dy = (x - x0[labels]).astype(float), (y - y0[labels]).astype(float)
    of_x, of_y = values * dx, values * dy
    weights = values, of_x, of_y, of_x * dx, of_y * dy, of_x * dy
    return first, np.array([np.bincount(labels, weights=of, minlength=n) for of in weights]).reshape(6, n)


def _ellipse(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Semi-axes (1 sigma, pixels) and orientation (degrees) from second moments.

    A source no wider than a pixel gets the width of a pixel, as in SExtractor and photutils.
    """
    narrow = xx * yy - xy**2 < _PIXEL_VARIANCE**2
    xx, yy = np.where(narrow, xx + _PIXEL_VARIANCE, xx), np.where(narrow, yy + _PIXEL_VARIANCE, yy)
    mean, difference = (xx + yy) / 2.0, np.hypot((xx - yy) / 2.0, xy)
    angle = np.mod(np.rad2deg(0.5 * np.arctan2(2.0 * xy, xx - yy)), 360.0)
    return np.sqrt(mean + difference), np.sqrt(np.maximum(mean - difference, 0.0)), angle
