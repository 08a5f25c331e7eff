"""The photometers of this package: by name, and made again from the record in a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from opticam_dask.methods.local_backgrounds import DefaultLocalBackground
from opticam_dask.methods.photometers import AperturePhotometer, BasePhotometer, OptimalPhotometer
from opticam_dask.methods.psf_photometer import PSFPhotometer

#: By the name of the command line.
PHOTOMETERS: dict[str, type[BasePhotometer]] = {
    "aperture": AperturePhotometer,
    "optimal": OptimalPhotometer,
    "psf": PSFPhotometer,
}


def photometer_from_record(record: Mapping[str, Any]) -> BasePhotometer | None:
    """Make a photometer of this package again from what the store says of it (``identities.describe``).

    Parameters
    ----------
    record : dict
        What the store says of the photometer.

    Returns
    -------
    BasePhotometer or None
        None where it, or its local sky, is of the user's own.
    """
    kinds = {kind.__qualname__: kind for kind in PHOTOMETERS.values()}
    values = dict(record)
    kind = kinds.get(values.pop("class", ""))
    local = values.get("local_background_estimator")
    if local is not None and local.get("class") == DefaultLocalBackground.__qualname__:
        own = {name: value for name, value in local.items() if name != "class"}
        values["local_background_estimator"] = DefaultLocalBackground(**own)
    elif local is not None:
        return None
    if kind is None or set(values) - {entry.name for entry in fields(kind)}:
        return None
    return kind(**values)
