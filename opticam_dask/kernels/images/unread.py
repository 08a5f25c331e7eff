"""Parts of a frame that were not read out, or that nothing lies in: pixels of one value where others have noise."""

from __future__ import annotations

import numpy as np

#: The frame is looked at in this many pixels along each axis: hardly any frame has such parts.
_SAMPLED = 128
#: Such parts are at least this share of a frame,
_LEAST_SHARE = 0.01
#: and at most this one.
_MOST_SHARE = 0.9
#: They lie together: so far from chance to certainty is the share of their pixels that have another one beside them.
_TOGETHER = 0.5
#: All other pixels are this many times their own scatter above them: no sky of few electrons begins at the value.
_CLEAR_OF = 8.0


def unread_pixels(pixels: np.ndarray, lowest: float) -> np.ndarray | None:
    """Mask of the pixels of a frame that were not read out; None where there are none.

    A read-out that was cut off leaves the rest of the frame at 0; programs that shift frames onto each other, and masks
    of round fields, fill with 0. A star there would have no flux and hardly an error.

    Parameters
    ----------
    pixels : ndarray, shape (ny, nx)
        Pixels as read, ADU.
    lowest : float
        The lowest of them.

    Returns
    -------
    ndarray of bool, shape (ny, nx), or None
    """
    y, x = (slice(None, -1, max(length // _SAMPLED, 1)) for length in pixels.shape)
    sample = pixels[y, x]
    is_low = sample == lowest
    share = float(np.count_nonzero(is_low)) / max(sample.size, 1)
    if not _LEAST_SHARE <= share <= _MOST_SHARE:
        return None
    beside, below = pixels[y, slice(1, None, x.step)], pixels[slice(1, None, y.step), x]
    together = min(np.mean(other[is_low] == lowest) for other in (beside, below))
    others = sample[~is_low & np.isfinite(sample)].astype(float)
    if together < share + _TOGETHER * (1.0 - share) or not len(others):
        return None
    faint, middle = np.quantile(others, [0.16, 0.5])
    scatter = max(middle - faint, 1.0 if pixels.dtype.kind in "iu" else 0.0)
    is_clear = middle - lowest > _CLEAR_OF * scatter
    return pixels == lowest if is_clear else None
