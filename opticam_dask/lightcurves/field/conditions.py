"""Observing conditions along a light curve: airmass, seeing, sky, position of the target, exposure time."""

from __future__ import annotations

import numpy as np

from opticam_dask.lightcurves.reading.columns import CurveArrays, NamedArray

#: Conditions along ``frame`` that go with a light curve, by their names in the light curves of all sources.
_OF_FRAMES = ("exposure_time", "airmass", "fwhm", "background", "transparency", "ellipticity")

#: Conditions of the target.
_OF_TARGET = ("x", "y")

#: All of them, by the names they have beside a differential light curve.
CONDITIONS = (*_OF_FRAMES, *_OF_TARGET)


def conditions_of(members: CurveArrays) -> dict[str, NamedArray]:
    """Observing conditions of a differential light curve as coordinates along its frames.

    Parameters
    ----------
    members : CurveArrays
        Along ``frame`` and ``source``, the target first.

    Returns
    -------
    dict of NamedArray
        By name. Conditions that are not known of any frame are left out; lazy ones stay lazy and are always there.
    """
    found = {}
    for name in _OF_FRAMES:
        stored = "frame_background" if name == "background" and "frame_background" in members.coords else name
        if stored in members.coords:
            found[name] = members[stored].mapped(lambda values: values.astype(float))
    for name in _OF_TARGET:
        if name in members:
            found[name] = members[name].isel({"source": 0})
    return {
        name: one for name, one in found.items() if not isinstance(one.data, np.ndarray) or np.isfinite(one.data).any()
    }
