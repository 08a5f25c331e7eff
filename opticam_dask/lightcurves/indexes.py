"""Labels that xarray selects by: the time along ``frame`` and the number of the source along ``source``."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr

#: Days from the zero of MJD to that of NumPy's dates (1970-01-01).
_UNIX_EPOCH = 40587.0
#: Microseconds of a day.
_MICROSECONDS = 86_400e6

_TIME = {"long_name": "time of mid-exposure, UTC", "standard_name": "time"}
_SOURCE = {"long_name": "number of the source in the catalogue"}


def times_of(mjd_utc: np.ndarray) -> np.ndarray:
    """Dates of Modified Julian Dates (UTC), to the microsecond that 64 bits of days hold; NaT where there is none.

    Parameters
    ----------
    mjd_utc : ndarray
        Days.

    Returns
    -------
    ndarray of datetime64[ns]
    """
    days = np.asarray(mjd_utc, dtype=float)
    known = np.isfinite(days)
    microseconds = np.rint((np.where(known, days, _UNIX_EPOCH) - _UNIX_EPOCH) * _MICROSECONDS).astype(np.int64)
    times = microseconds.astype("datetime64[us]").astype("datetime64[ns]")
    times[~known] = np.datetime64("NaT")
    return times


def with_indexes(dataset: xr.Dataset) -> xr.Dataset:
    """A dataset whose frames are found by ``time`` and whose sources by their number, ``source``.

    Parameters
    ----------
    dataset : Dataset
        With ``mjd_utc`` along ``frame``, ``source_id`` along ``source``, or both; others are as they were.

    Returns
    -------
    Dataset
        With the coordinates ``time`` (datetime64, UTC, mid-exposure) and ``source`` as indexes:
        ``sel(time=slice(...))``, ``resample(time=...)``, ``groupby("time.hour")`` and ``sel(source=2)`` mean what they
        say.
    """
    if "mjd_utc" in dataset.variables and dataset["mjd_utc"].dims == ("frame",) and "time" not in dataset.xindexes:
        times = times_of(dataset["mjd_utc"].to_numpy())
        dataset = dataset.assign_coords(time=("frame", times, _TIME)).set_xindex("time")
    if "source_id" in dataset.variables and dataset["source_id"].dims == ("source",):
        dataset = dataset.assign_coords(source=("source", dataset["source_id"].to_numpy(), _SOURCE))
    return dataset


def with_plain_attributes(dataset: xr.Dataset) -> xr.Dataset:
    """A dataset whose attributes every file format holds: dictionaries are JSON, and lists of texts are lines.

    Parameters
    ----------
    dataset : Dataset
        With attributes as the store has them.

    Returns
    -------
    Dataset
        ``to_netcdf`` and ``to_zarr`` write it.
    """
    found = {_NAMES.get(str(name), str(name)): _plain(value) for name, value in dataset.attrs.items()}
    return dataset.drop_attrs(deep=False).assign_attrs(found)


#: Names that the writer of netCDF 3 files needs for itself.
_NAMES = {"variables": "measured_variables", "dimensions": "measured_dimensions"}


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and value and all(isinstance(one, str) for one in value):
        return "\n".join(value)
    is_nested = isinstance(value, (list, tuple)) and any(isinstance(one, (dict, list, tuple, str)) for one in value)
    if isinstance(value, dict) or is_nested or value is None:
        return json.dumps(value)
    return int(value) if isinstance(value, (bool, np.bool_)) else value
