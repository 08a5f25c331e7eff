"""Detection of the sources of one frame: segmentation, deblending, source table. The names of photutils stay here."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from opticam_dask.kernels.images.segments import Segments, connected, join_parts, within_border

if TYPE_CHECKING:
    from astropy.table import QTable

#: Names a column may have (photutils 3, photutils 2, plain), by the name it has here.
_COLUMNS = {
    "x": ("x_centroid", "xcentroid", "x"),
    "y": ("y_centroid", "ycentroid", "y"),
    "flux": ("segment_flux", "flux"),
    "semimajor_sigma": ("semimajor_axis", "semimajor_sigma"),
    "semiminor_sigma": ("semiminor_axis", "semiminor_sigma"),
    "orientation": ("orientation",),
}


def segment_sources(image: np.ndarray, threshold: float | np.ndarray, n_pixels: int, border_width: int = 0) -> QTable:
    """Segment an image, deblend, and tabulate the sources, brightest first.

    Parts that are closer than two stars can be told apart at are one source, see :func:`segments.join_parts`.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Sky-subtracted frame; NaN pixels do not count.
    threshold : float or ndarray, shape (ny, nx)
        Detection threshold in the unit of the image.
    n_pixels : int
        Least number of connected pixels.
    border_width : int
        Sources whose centre lies in this border are left out.

    Returns
    -------
    QTable
        Columns of photutils' ``SourceCatalog``; the same columns without a row when nothing is found. Its ``meta``
        holds x, y and flux of the sources that were left out for the border, ``border`` (n, 3), brightest first.
    """
    # a second, and no frame needs it
    from opticam_dask.kernels.images.segmentation import NoDetectionsWarning, SegmentationImage, SourceCatalog

    bad = ~np.isfinite(image)
    data = np.where(bad, 0.0, image) if bad.any() else np.asarray(image, dtype=float)
    level = np.broadcast_to(np.asarray(threshold, dtype=float), data.shape)
    level = np.where(np.isfinite(level), level, np.inf)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoDetectionsWarning)
        # a source with negative pixels is deblended in linear steps: what one would do by hand
        warnings.filterwarnings("ignore", message="The deblending mode")
        segments = _finder(n_pixels)(data, level, mask=bad if bad.any() else None)
    if segments is not None:
        segments = SegmentationImage(_without_parts(data, segments.data))
    if segments is None or not len(segments.labels):
        table = _empty_table()
    else:
        table = SourceCatalog(data, segments, mask=bad if bad.any() else None).to_table()
        table = table[np.argsort(-np.asarray(table["segment_flux"]), kind="stable")]
    is_inside = _are_inside(table, data.shape, border_width)
    left_out = source_arrays(table[~is_inside], int(np.count_nonzero(~is_inside)))
    table = table[is_inside]
    table.meta["border"] = np.column_stack([left_out[name] for name in ("x", "y", "flux")])
    return table


def _are_inside(table: QTable, shape: tuple[int, int], border_width: int) -> np.ndarray:
    """Which sources have their centre inside a border."""
    inside = np.ones(len(table), dtype=bool)
    for name, size in (("x", shape[1]), ("y", shape[0])):
        centre = _column(table, _COLUMNS[name])
        if centre is not None:
            inside &= within_border(centre, size, border_width)
    return inside


def _without_parts(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Labels in which the parts of one star, such as a defocused ring, are one source."""
    pixels = np.flatnonzero(labels)
    parts = Segments(pixels, image.ravel()[pixels], labels.ravel()[pixels] - 1, int(labels.max()))
    parents, _ = connected(pixels, image.shape)
    joined = np.zeros_like(labels)
    joined.ravel()[pixels] = join_parts(parts, parents, image.shape).labels + 1
    return joined


def _empty_table() -> QTable:
    """Make the table of an image without sources: that of an image with one, less its row."""
    from opticam_dask.kernels.images.segmentation import SegmentationImage, SourceCatalog

    image = np.zeros((5, 5))
    image[1:4, 1:4] = 1.0
    return SourceCatalog(image, SegmentationImage((image > 0).astype(int))).to_table()[:0]


def _finder(n_pixels: int) -> Any:
    from opticam_dask.kernels.images.segmentation import SourceFinder

    finder = SourceFinder(n_pixels=n_pixels, connectivity=8, n_levels=32, contrast=0.001, mode="exponential")
    finder.progress_bar = False  # photutils 3.0 draws one where tqdm is installed; 3.1 deprecates to be told not to
    return finder


def source_arrays(table: QTable, n_slots: int) -> dict[str, np.ndarray]:
    """Positions, fluxes and shapes of a source table as plain arrays, brightest first.

    Parameters
    ----------
    table : QTable
        Table of a finder; columns may have the names of photutils 2 or 3, or plain ``x``, ``y``, ``flux``.
    n_slots : int
        Length of the arrays: the brightest sources, and NaN where there are fewer.

    Returns
    -------
    dict of ndarray, shape (n_slots,)
        x, y, flux, semimajor_sigma, semiminor_sigma (pixels) and orientation (degrees); NaN where the table has
        no such column.

    Raises
    ------
    ValueError
        When the table has no positions.
    """
    columns = {name: _column(table, names) for name, names in _COLUMNS.items()}
    x, y, flux = columns["x"], columns["y"], columns["flux"]
    if x is None or y is None:
        raise ValueError(
            "a finder must return the columns x_centroid and y_centroid (or x and y), "
            f"found {', '.join(table.colnames)}"
        )
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if flux is not None:
        known = known[np.argsort(-np.nan_to_num(flux[known], nan=-np.inf), kind="stable")]
    chosen = known[:n_slots]
    arrays = {}
    for name, values in columns.items():
        arrays[name] = np.full(n_slots, np.nan)
        if values is not None:
            arrays[name][: len(chosen)] = values[chosen]
    return arrays


def _column(table: QTable, names: tuple[str, ...]) -> np.ndarray | None:
    for name in names:
        if name in table.colnames:
            values = table[name]
            if hasattr(values, "unit") and values.unit is not None and hasattr(values, "to_value"):
                values = values.to_value("deg") if values.unit.is_equivalent("deg") else values.value
            return np.ma.filled(np.ma.asarray(values, dtype=float), np.nan)
    return None
