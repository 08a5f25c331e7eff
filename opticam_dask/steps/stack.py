"""What the stack of a night takes from one frame: its image on the reference grid, and its sharp pixels."""

from __future__ import annotations

import numpy as np

from opticam_dask.kernels.images import lasting
from opticam_dask.kernels.images.matching import align
from opticam_dask.steps.frame_steps import FrameResult


def resampled(shape: tuple[int, int], result: FrameResult) -> np.ndarray:
    """Image of a usable frame without its sky on the grid of the reference frame, of a shape (ny, nx)."""
    assert result.subtracted is not None  # only a frame that was set aside has none
    return align.resample(result.subtracted, result.values["transform"], shape)


def sharp_pixels(result: FrameResult) -> np.ndarray:
    """Places, in the flattened frame, of the pixels of a usable frame that are too sharp to be stars."""
    assert result.subtracted is not None  # only a frame that was set aside has none
    rms, fwhm = (float(result.values[name]) for name in ("background_rms", "fwhm"))
    return lasting.sharp_pixels(result.subtracted, rms, fwhm)
