"""Resampling of one frame to the grid of the reference frame, for the stack."""

from __future__ import annotations

import numpy as np

from opticam_dask.kernels.images.matching import align
from opticam_dask.steps.frame_steps import FrameResult


def resampled(shape: tuple[int, int], result: FrameResult) -> np.ndarray:
    """Image of a usable frame without its sky on the grid of the reference frame, of a shape (ny, nx)."""
    assert result.subtracted is not None  # only a frame that was set aside has none
    return align.resample(result.subtracted, result.values["transform"], shape)
