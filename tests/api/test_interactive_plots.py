"""Light curves and relative curves are plotted by hvplot in the form that the documentation gives."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import xarray as xr

from opticam_dask.lightcurves import interactive_plots, selection  # noqa: F401  # selection gives datasets .opticam
from opticam_dask.lightcurves.indexes import with_indexes


@pytest.fixture
def lc() -> xr.Dataset:
    """Light curves of three sources, lazy and labelled as `photometry` labels them."""
    n_frames, rng = 20, np.random.default_rng(3)
    coords = {
        "mjd_utc": ("frame", 60310.0 + np.arange(n_frames) / 1440.0),
        "night": ("frame", np.full(n_frames, "2024-01-01", dtype=object)),
        "exposure_time": ("frame", np.full(n_frames, 5.0)),
        "source_id": ("source", np.array([1, 2, 3], dtype=np.int32)),
    }
    about = {"units": "electron", "long_name": "flux per exposure"}
    flux = ("frame", "source"), rng.normal(1000.0, 30.0, (n_frames, 3)), about
    return with_indexes(xr.Dataset({"flux": flux}, coords=coords).chunk(frame=5))


@pytest.fixture(scope="module")
def hvplot() -> None:
    if not os.environ.get("OPTICAM_DASK_CI"):
        pytest.importorskip("hvplot", reason="pip install 'opticam-dask[test]'")
    with warnings.catch_warnings():  # of the plotting libraries, about each other
        warnings.simplefilter("ignore")
        import hvplot.xarray  # noqa: F401  # gives datasets their .hvplot


@pytest.mark.filterwarnings("ignore")
def test_light_curves__are_drawn_along_time(lc, hvplot):
    drawn = lc.flux.hvplot.scatter(x="time", by="source")
    assert drawn.keys() == [1, 2, 3]
    table = drawn[2].data.reset_index()
    np.testing.assert_array_equal(table["time"], lc["time"])
    np.testing.assert_array_equal(table["flux"], lc["flux"].sel(source=2))
    one = lc.sel(source=3).hvplot.line(x="time", y="flux")
    np.testing.assert_array_equal(one.data["flux"], lc["flux"].sel(source=3))
    means = lc.flux.resample(time="5min").mean().hvplot.line(x="time", by="source")
    assert len(means[1].data) == 4


@pytest.mark.filterwarnings("ignore")
def test_light_curve_of_one_source__is_drawn_along_time_unless_another_axis_is_asked_for(lc, hvplot):
    one, of_others = lc.flux.sel(source=1), lc.assign(weight=("source", np.ones(3)))[["flux", "weight"]]
    for drawn in (one.hvplot(), one.hvplot(x="time"), one.rename(frame="row").hvplot.line()):
        assert [str(dim) for dim in drawn.kdims] == ["time"]
        np.testing.assert_array_equal(drawn.data["flux"], one)
        np.testing.assert_array_equal(drawn.data.reset_index()["time"], lc["time"])
    assert [str(dim) for dim in one.hvplot(x="frame").kdims] == ["frame"]
    assert len(of_others.isel(source=0).hvplot.scatter(y="flux").data) == lc.sizes["frame"]
    alone = xr.Dataset({"relative": one.reset_coords(drop=True), "weight": of_others["weight"]}).hvplot.line(
        y="relative"
    )
    assert len(alone.data) == lc.sizes["frame"]


#: What a session does: with times to plot, or a KeyError.
SESSION = """
import warnings
warnings.simplefilter("error")
import xarray as xr
import hvplot.xarray
import opticam_dask.lightcurves.selection
from opticam_dask.lightcurves.indexes import with_indexes
lc = with_indexes(xr.Dataset({"flux": ("frame", [1.0, 2.0])}, {"mjd_utc": ("frame", [60310.0, 60311.0])}))
assert lc.flux.hvplot(x="time") == ("time",)
"""

#: Stands in for hvplot, whose import takes seconds.
PRETENDED = """
class hvPlot:
    def __init__(self, data):
        self._data = data

    def __call__(self, x=None, y=None, kind=None, **options):
        return self._data.xindexes[x].to_pandas_index().name, *(set(self._data.dims) - {x})
"""
REGISTERED = """
import xarray as xr
from hvplot import hvPlot

xr.register_dataset_accessor("hvplot")(hvPlot)
xr.register_dataarray_accessor("hvplot")(hvPlot)
"""


def test_plots__are_along_time_where_hvplot_was_imported_first(tmp_path):
    (tmp_path / "hvplot").mkdir()
    (tmp_path / "hvplot" / "__init__.py").write_text(PRETENDED)
    (tmp_path / "hvplot" / "xarray.py").write_text(REGISTERED)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    run = [sys.executable, "-c", SESSION]
    subprocess.run(run, env=os.environ | {"PYTHONPATH": path}, check=True, timeout=60)


def test_finder__stays_until_hvplot_is_imported(tmp_path, monkeypatch):
    """It is also there after a look for hvplot, and after an import that failed."""
    (tmp_path / "hvplot").mkdir()
    (tmp_path / "hvplot" / "__init__.py").write_text("")
    (tmp_path / "hvplot" / "xarray.py").write_text("1 / 0")
    finder, registered = interactive_plots._AfterImport(), []
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    monkeypatch.setattr(interactive_plots, "_register", lambda: registered.append(True))
    for name in [name for name in sys.modules if name.split(".")[0] == "hvplot"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("hvplot.xarray")
    with pytest.raises(ZeroDivisionError):
        importlib.import_module("hvplot.xarray")
    (tmp_path / "hvplot" / "xarray.py").write_text("is_there = True")
    importlib.invalidate_caches()
    importlib.import_module("hvplot.xarray")
    for name in ("hvplot", "hvplot.xarray"):
        monkeypatch.delitem(sys.modules, name)
    assert registered == [True]
    assert finder not in sys.meta_path


def test_tables__have_the_times(lc):
    table = lc.opticam.by_time().sel(source=2).to_dataframe()
    np.testing.assert_array_equal(table.index, lc["time"])
    np.testing.assert_array_equal(table["flux"], lc["flux"].sel(source=2))
