"""Interactive plots of light curves and frames against time by ``.hvplot``, where hvplot is installed.

hvplot makes a table of an array first, and xarray puts an index into a table only where it is that of a dimension.
``time`` is an index along the dimension ``frame`` and would be missing, so the dimension is renamed to ``time`` first.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import numpy as np
import xarray as xr

from opticam_dask.lightcurves.indexes import by_time

#: The module whose import gives xarray its ``.hvplot``.
_HVPLOT = "hvplot.xarray"


def plot_along_time() -> None:
    """Let ``.hvplot`` of all that has ``time`` as an index along another dimension find its times.

    hvplot is not imported for this: that takes seconds, and few sessions need it.
    """
    if _HVPLOT in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _AfterImport())


class _AfterImport(MetaPathFinder, Loader):
    """Registers our ``.hvplot`` as soon as hvplot has registered its own."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Take over the loading of hvplot, and of nothing else."""
        found = PathFinder.find_spec(fullname, path) if fullname == _HVPLOT else None
        if found is None or found.loader is None:
            return None
        self._loader, found.loader = found.loader, self
        return found

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """The module that the usual loader makes."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, and register behind it."""
        self._loader.exec_module(module)
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        _register()


def _register() -> None:
    from hvplot import hvPlot

    class PlotsAlongTime(hvPlot):
        """As ``hvPlot``; light curves and frames along ``time``, which is also where they are drawn by default."""

        def __init__(self, data: Any, *given: Any, **options: Any) -> None:
            super().__init__(_along_time(data), *given, **options)

        def __call__(self, x: Any = None, y: Any = None, kind: Any = None, **options: Any) -> Any:
            is_series = isinstance(self._data, (xr.Dataset, xr.DataArray)) and _is_series(self._data)
            if is_series and x is None and y is None and kind is None:
                x, kind = "time", "line"
            return super().__call__(x, y, kind, **options)

    for owner, register in (
        (xr.Dataset, xr.register_dataset_accessor),
        (xr.DataArray, xr.register_dataarray_accessor),
    ):
        if hasattr(owner, "hvplot"):  # xarray warns where one accessor takes the place of another
            del owner.hvplot
        register("hvplot")(PlotsAlongTime)


def _along_time(data: Any) -> Any:
    """What has ``time`` as an index along another dimension with the dimension ``time``, the last coordinate."""
    if not isinstance(data, (xr.Dataset, xr.DataArray)) or "time" not in data.xindexes:
        return data
    (dim,) = data["time"].dims
    if dim == "time":
        return data
    if isinstance(data, xr.Dataset):  # a table repeats every row for each value of what is along others alone
        along = {other for one in data.data_vars.values() if dim in one.dims for other in one.dims}
        data = data.drop_dims(set(data.dims) - along - {dim})
    numbers = {} if dim in data.coords else {dim: (dim, np.arange(data.sizes[dim]))}
    found = by_time(data.assign_coords(numbers).reset_index(list(numbers)))
    # where no x is named hvplot takes the last coordinate
    return found.drop_vars("time").assign_coords(time=found["time"])


def _is_series(data: xr.Dataset | xr.DataArray) -> bool:
    return "time" in data.dims and not {"x", "y"} <= set(data.dims)
