"""Stacks painted pixel by pixel, and the steps by which a catalogue is made of them."""

from __future__ import annotations

import numpy as np

from opticam_dask.frames.scanning import FitsReader
from opticam_dask.methods.finders import DefaultFinder
from opticam_dask.passes.catalog import StackedNight
from opticam_dask.steps.frame_steps import FrameSteps

N_FRAMES, RMS = 100, 15.0


def steps_for(shape, border_width=6):
    return FrameSteps(
        reader=FitsReader(0), shape=shape, rebin_factor=1, remove_cosmic_rays=False, background=None, box_size=(32, 32),
        finder=DefaultFinder(9, border_width=border_width), threshold=5.0, n_slots=300,
    )  # fmt: skip


def stacked(image, seeing, rng, coverage=N_FRAMES):
    """The stack of frames of which each has a background RMS of 15 electrons."""
    coverage = np.broadcast_to(np.asarray(coverage, dtype=np.uint32), image.shape)
    noise = rng.normal(0.0, 1.0, image.shape) * np.sqrt((RMS**2 + image) / np.maximum(coverage, 1))
    return StackedNight(
        image + noise, coverage, np.full(N_FRAMES, RMS), seeing, np.tile(np.eye(3), (N_FRAMES, 1, 1))
    )  # fmt: skip
