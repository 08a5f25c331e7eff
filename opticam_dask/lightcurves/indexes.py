"""Labels that xarray selects by: the time along ``frame`` and the number of the source along ``source``."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from opticam_dask.kernels.units import MJD_OF_1970

if TYPE_CHECKING:
    import xarray as xr

_Labelled = TypeVar("_Labelled", "xr.Dataset", "xr.DataArray")

#: Microseconds of a day.
_MICROSECONDS = 86_400e6

_TIME = {"long_name": "time of mid-exposure, UTC", "standard_name": "time"}
_SOURCE = {"long_name": "number of the source in the catalogue"}


def times_of(mjd_utc: np.ndarray) -> np.ndarray:
    """Dates of Modified Julian Dates (UTC), to the microsecond that 64 bits of days hold; NaT where there is none.

    Parameters
    ----------
    mjd_utc : ndarray
        Modified Julian Dates (UTC), days.

    Returns
    -------
    ndarray of datetime64[ns]
    """
    days = np.asarray(mjd_utc, dtype=float)
    known = np.isfinite(days)
    microseconds = np.rint((np.where(known, days, MJD_OF_1970) - MJD_OF_1970) * _MICROSECONDS).astype(np.int64)
    times = microseconds.astype("datetime64[us]").astype("datetime64[ns]")
    times[~known] = np.datetime64("NaT", "ns")
    return times


def in_memory(dims: Sequence[Hashable], values: Any, attributes: Mapping[Any, Any]) -> xr.Variable:
    """A variable of an array, in memory or Dask's.

    Of any other way to hand it an array xarray asks whether it is Dask's, and imports ``dask.array`` for that, which
    takes longer than to read a night.
    """
    import xarray as xr

    return xr.Variable(dims, values, dict(attributes), fastpath=isinstance(values, np.ndarray))


def pixel_coordinates(shape: tuple[int, int]) -> dict[str, Any]:
    """Coordinates ``y`` and ``x`` of images of a shape (ny, nx): 0-based pixel centres, as positions are counted."""
    return {
        axis: (axis, np.arange(size), {"units": "pixel", "long_name": axis})
        for axis, size in zip("yx", shape, strict=True)
    }


def box_coordinates(mesh_shape: tuple[int, int], box_size: tuple[int, int]) -> dict[str, Any]:
    """Coordinates ``mesh_y`` and ``mesh_x`` of meshes: the centres of their boxes, in pixels of the images."""
    return {
        f"mesh_{axis}": (
            f"mesh_{axis}",
            (np.arange(n_boxes) + 0.5) * box - 0.5,
            {"units": "pixel", "long_name": f"{axis} of the centre of the box"},
        )
        for axis, n_boxes, box in zip("yx", mesh_shape, box_size, strict=True)
    }


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
        dataset = dataset.assign_coords(time=in_memory(["frame"], times, _TIME)).set_xindex("time")
    if "source_id" in dataset.variables and dataset["source_id"].dims == ("source",):
        dataset = dataset.assign_coords(source=in_memory(["source"], dataset["source_id"].to_numpy(), _SOURCE))
    return dataset


def by_time(data: _Labelled) -> _Labelled:
    """Light curves or frames along ``time`` instead of ``frame``, as tables want them.

    xarray leaves an index that is not that of a dimension out of ``to_dataframe``, and ``swap_dims`` alone takes the
    old dimension along with such an index.

    Parameters
    ----------
    data : Dataset or DataArray
        With ``time`` along ``frame``.

    Returns
    -------
    Dataset or DataArray
        The same values with the dimension ``time``.
    """
    (dim,) = data["time"].dims
    found: _Labelled = data.drop_indexes("time").swap_dims({dim: "time"}) if dim != "time" else data
    return found


def plain_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes that every file format holds: dictionaries are JSON, and lists of texts are lines.

    Parameters
    ----------
    attributes : dict
        As the store has them.

    Returns
    -------
    dict
        ``to_netcdf`` and ``to_zarr`` write them.
    """
    return {_NAMES.get(str(name), str(name)): _plain(value) for name, value in attributes.items()}


#: Names that the writer of netCDF 3 files needs for itself.
_NAMES = {"variables": "measured_variables", "dimensions": "measured_dimensions"}


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and value and all(isinstance(one, str) for one in value):
        return "\n".join(value)
    is_nested = isinstance(value, (list, tuple)) and any(isinstance(one, (dict, list, tuple, str)) for one in value)
    if isinstance(value, dict) or is_nested or value is None:
        return json.dumps(value)
    return int(value) if isinstance(value, (bool, np.bool_)) else value
