"""Trial of several aperture radii in some frames of the reference night, to choose the best one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from opticam_dask.flags import USELESS, SourceFlag
from opticam_dask.methods.frame_view import FrameView, TrialFluxes
from opticam_dask.methods.photometers import TRIAL_RADII, AperturePhotometer

#: Frames that are measured: the scatter of a star is then known to a tenth, its ratio in two apertures better.
N_FRAMES = 64

#: A measurement with one of these says nothing about its aperture; light of neighbours does.
_USELESS = np.uint32(USELESS | SourceFlag.COSMIC_RAY)


#: Fluxes, errors and flags of one frame, shape (source, radius) each.
Measured = tuple[np.ndarray, np.ndarray, np.ndarray]


def measure_apertures(photometer: AperturePhotometer, view: FrameView) -> Measured:
    """Fluxes in the trial apertures of a photometer in one frame."""
    measured = photometer.measure(view)
    return measured.flux, measured.flux_err, measured.flags


def collect(found: Mapping[int, Measured | None]) -> TrialFluxes | None:
    """Fluxes of all frames that could be read, in the order of the frames; None without any."""
    measured = [one for _, one in sorted(found.items()) if one is not None]
    if not measured:
        return None
    flux, error, flags = (np.stack(column) for column in zip(*measured, strict=True))
    return TrialFluxes(TRIAL_RADII, flux, error, (flags & _USELESS) != 0)
