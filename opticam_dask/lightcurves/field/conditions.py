"""Observing conditions along a light curve: airmass, seeing, sky, position of the target, exposure time."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

#: Conditions along ``frame`` that go with a light curve, by their names in the light curves of all sources.
_OF_FRAMES = ("exposure_time", "airmass", "fwhm", "background", "transparency", "ellipticity")

#: Conditions of the target.
_OF_TARGET = ("x", "y")

#: All of them, by the names they have beside a differential light curve.
CONDITIONS = (*_OF_FRAMES, *_OF_TARGET)


def conditions_of(members: xr.Dataset) -> dict[str, Any]:
    """Observing conditions of a differential light curve as coordinates along its frames.

    Parameters
    ----------
    members : Dataset
        Dims ``(frame, source)``, the target first, as from :func:`~opticam_dask.light_curves`.

    Returns
    -------
    dict
        By name, as xarray takes coordinates along ``frame``; without what is not known of any frame.
    """
    found = {}
    for name in _OF_FRAMES:
        stored = "frame_background" if name == "background" and "frame_background" in members.coords else name
        if stored in members.coords:
            found[name] = ("frame", members[stored].to_numpy().astype(float), members[stored].attrs)
    for name in _OF_TARGET:
        if name in members:
            found[name] = ("frame", members[name].to_numpy()[:, 0], members[name].attrs)
    return {name: entry for name, entry in found.items() if np.isfinite(entry[1]).any()}
