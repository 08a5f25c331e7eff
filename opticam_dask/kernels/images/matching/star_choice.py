"""Which detections of a frame are whole stars, and the level at which its pixels pile up.

Saturated stars, bled columns and the halo around them are often the brightest detections of a frame. Positions and
widths are to be taken from the stars that are left.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from opticam_dask.kernels import compiled, graphs

#: The usual width of stars is looked for among this many of the brightest detections without saturated pixels.
_MODE_SOURCES = 60

#: The wings of a bright Moffat star make its segment up to three times as wide as that of a faint one; a detection
#: that is wider than this many times the usual width is no star,
_WIDEST = 4.0
#: nor is one that is this many times more elongated.
_MOST_ELONGATED = 3.0

#: A detection is saturated when a saturated pixel is nearer than this many pixels,
_NEAR_SATURATED = 2.5
#: or than this many of its semi-major axes.
_NEAR_AXES = 1.5

#: Fewer detections than this have no usual width.
_FEWEST = 3

#: Hot pixels and those hit by rays, of a frame: fewer than this are above all stars.
_SINGLE = 10
#: Where pixels pile up, at least this many have the highest value,
_PILED = 3
#: and this many times as many as lie just below it:
_PILE_RATIO = 3.0
#: within this part of that value,
_PILE_BELOW = 0.005
#: or this many steps of the converter.
_PILE_LEVELS = 3


def mode(values: np.ndarray) -> float:
    """Half-sample mode of some numbers (Bickel & Fruehwirth 2006, CSDA 50, 3500); NaN without any."""
    if compiled.native is not None:
        return compiled.native.half_sample_mode(compiled.ready(values, dtype=float))
    values = np.sort(values[np.isfinite(values)])
    while len(values) > 3:
        half = -(-len(values) // 2)
        spans = values[half - 1 :] - values[: len(values) - half + 1]
        start = int(np.argmin(spans))
        values = values[start : start + half]
    if len(values) == 3 and values[1] - values[0] != values[2] - values[1]:
        values = values[:2] if values[1] - values[0] < values[2] - values[1] else values[1:]
    return float(np.mean(values)) if len(values) else float("nan")


def whole_stars(sources: Mapping[str, np.ndarray], saturated: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Tell detections that are whole stars from those that are saturated, bled, or far too wide.

    Parameters
    ----------
    sources : mapping of ndarray, shape (slot,)
        x, y, semimajor_sigma and semiminor_sigma in pixels, brightest first; NaN where there is none.
    saturated : ndarray of bool, shape (ny, nx), or None
        Saturated pixels of the frame.

    Returns
    -------
    is_whole, is_saturated : ndarray of bool, shape (slot,)
        Detections of the width and elongation that most of the bright ones have without a saturated pixel, and with
        one. Where fewer than three detections are unsaturated there is no usual width: all of these are
        whole.
    """
    xy = np.column_stack([sources["x"], sources["y"]])
    major, minor = sources["semimajor_sigma"], sources["semiminor_sigma"]
    is_known = np.isfinite(xy).all(axis=1)
    is_saturated = np.zeros(len(xy), dtype=bool)
    if saturated is not None and is_known.any():
        row, column = np.nonzero(saturated)
        if len(row):
            reach = np.fmax(_NEAR_SATURATED, _NEAR_AXES * major[is_known])
            is_saturated[is_known] = graphs.nearest_distances(xy[is_known], np.column_stack([column, row])) < reach
    is_whole = is_known & ~is_saturated
    with np.errstate(invalid="ignore", divide="ignore"):
        width, elongation = np.sqrt(major * minor), major / minor
    measured = np.flatnonzero(is_whole & (width > 0))[:_MODE_SOURCES]
    if len(measured) >= _FEWEST:
        with np.errstate(invalid="ignore"):
            is_wide = width > _WIDEST * np.exp(mode(np.log(width[measured])))
            is_wide |= elongation > _MOST_ELONGATED * mode(elongation[measured])
        is_whole, is_saturated = is_whole & ~is_wide, is_saturated & ~is_wide
    return is_whole, is_saturated


def highest(raw: np.ndarray) -> float:
    """Level that the highest pixels of a raw frame reach, in its unit; hot ones and those hit by rays do not count."""
    known = raw[np.isfinite(raw)] if raw.dtype.kind == "f" else raw.ravel()
    return float(np.partition(known, -_SINGLE)[-_SINGLE]) if known.size >= _SINGLE else float("nan")


def pile_up(raw: np.ndarray) -> float:
    """Level at which the pixels of a raw frame pile up, in its unit; NaN when they do not.

    A star that is not clipped has one brightest pixel. Where many pixels share the highest value of the frame and
    hardly any is just below it, the camera could not count further. Bled columns may have a level of their own above
    that of the stars: of several levels with nothing else above them the lowest counts.

    Parameters
    ----------
    raw : ndarray, shape (ny, nx)
        Frame as read, ADU.

    Returns
    -------
    float
    """
    highest = float(np.fmax.reduce(raw, axis=None))
    if not np.isfinite(highest) or highest <= 0 or np.count_nonzero(raw == highest) < _PILED:
        return float("nan")
    with np.errstate(invalid="ignore"):
        levels, counts = np.unique(raw[raw >= highest / 2.0].astype(float), return_counts=True)
    level, step = float("nan"), float(np.min(np.diff(levels))) if len(levels) > 1 else 1.0
    while len(levels):
        width = max(_PILE_BELOW * levels[-1], _PILE_LEVELS * step)
        n_below = int(np.sum(counts[:-1][levels[:-1] >= levels[-1] - width]))
        if counts[-1] < max(_PILED, _PILE_RATIO * n_below):
            break
        level, levels, counts = float(levels[-1]), levels[:-1], counts[:-1]
    return level
