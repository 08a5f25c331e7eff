"""Named arrays of light curves: read when asked for, the same as Datasets; text as pandas and astropy write it."""

import gc
import io
import weakref

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from astropy.table import Table

from opticam_dask.lightcurves import exports
from opticam_dask.lightcurves.reading.columns import CurveArrays, NamedArray, together
from opticam_dask.lightcurves.reading.tables import as_csv, cells

FRAMES, SOURCES = 5, 3


@pytest.fixture
def read():
    return []


@pytest.fixture
def curves(read):
    def column(name, values, *dims):
        def get():
            read.append(name)
            return values

        return NamedArray(dims, get, {"units": name})

    numbers = np.arange(FRAMES * SOURCES, dtype=float).reshape(FRAMES, SOURCES)
    columns = {
        "flux": column("flux", numbers, "frame", "source"),
        "other": column("other", -numbers, "frame", "source"),
        "mjd_utc": column("mjd_utc", 60000.0 + np.arange(FRAMES), "frame"),
        "source_id": column("source_id", np.arange(1, SOURCES + 1), "source"),
    }
    return CurveArrays(columns, ("mjd_utc", "source_id"), {"frame": FRAMES, "source": SOURCES}, {"key": "1:g"})


def test_curves__read_what_is_asked_for_once(curves, read):
    some = curves.isel(source=np.array([2, 0])).isel(frame=slice(1, 3))
    assert not read
    assert some.sizes == {"frame": 2, "source": 2}
    for _ in range(2):
        np.testing.assert_array_equal(some["flux"].to_numpy(), [[5.0, 3.0], [8.0, 6.0]])
    assert read == ["flux"]


def test_curves__are_cut_and_joined_as_xarray_does(curves):
    whole = curves.to_xarray()
    chosen = {"frame": np.array([3, 1, 4]), "source": np.array([True, False, True])}
    xr.testing.assert_identical(curves.isel(**chosen).to_xarray(), whole.isel(chosen))
    xr.testing.assert_identical(curves.isel(source=1)["flux"].to_numpy() + xr.zeros_like(whole["flux"][:, 1]),
                                whole["flux"][:, 1].assign_attrs(whole["flux"].attrs))  # fmt: skip
    joined = together([curves.isel(frame=slice(0, 2)), curves.isel(frame=slice(2, None))])
    xr.testing.assert_identical(joined.to_xarray(), whole)
    xr.testing.assert_identical(CurveArrays.of(whole).to_xarray(), whole)


def test_curves__stay_lazy_where_the_dataset_was(curves):
    lazy = CurveArrays.of(curves.to_xarray().chunk(frame=2)).isel(source=0)
    assert lazy["flux"].data.chunks == ((2, 2, 1),)
    np.testing.assert_array_equal(lazy["flux"].to_numpy(), curves["flux"].to_numpy()[:, 0])


def test_curves__that_are_joined_and_marked_keep_one_copy(curves):
    alive = []

    def column(name):
        def get():
            values = curves[name].to_numpy().copy()
            alive.append(weakref.ref(values))
            return values

        return NamedArray(curves[name].dims, get)

    part = CurveArrays({name: column(name) for name in curves}, curves.coords, curves.sizes)
    joined = together([part, part], np.arange(2 * FRAMES)[::-1])
    marked = joined["flux"].mapped(lambda values: values + 1.0)
    np.testing.assert_array_equal(marked.to_numpy()[::-1], np.tile(curves["flux"].to_numpy() + 1.0, (2, 1)))
    gc.collect()
    assert [reference() for reference in alive] == [None, None]
    assert not any("data" in vars(one) for one in (part["flux"], joined["flux"]))


#: Numbers of every length.
NUMBERS = np.array([0.1 + 0.2, 1e-300, -1.5e22, np.nan, np.inf, 60310.000005787035, 1.0])


def test_csv__as_pandas_writes_it():
    flags = np.arange(len(NUMBERS), dtype=np.uint32)
    text = as_csv([["time", "flags"], *zip(cells(NUMBERS), cells(flags), strict=True)])
    assert text.decode() == pd.DataFrame({"time": NUMBERS, "flags": flags}).to_csv(index=False)


def test_export__as_astropy_writes_it():
    n = len(NUMBERS)
    night = np.array(["2024-01-01"] * n, dtype=object)
    flux = np.column_stack([NUMBERS, NUMBERS[::-1]])
    columns = {
        "mjd_utc": NamedArray.of(["frame"], NUMBERS),
        "night": NamedArray.of(["frame"], night),
        "frame_flags": NamedArray.of(["frame"], np.arange(n, dtype=np.uint32)),
        "flux": NamedArray.of(["frame", "radius"], flux),
        "x": NamedArray.of(["frame"], NUMBERS.astype(np.float32)),
        "radius": NamedArray.of(["radius"], np.array([2.5, 4.0])),
    }
    names = ("mjd_utc", "missing", "night", "frame_flags", "flux", "x")
    text = exports._csv(CurveArrays(columns, (), {"frame": n, "radius": 2}), names)
    table = Table({"mjd_utc": NUMBERS, "night": night.astype(str), "frame_flags": np.arange(n, dtype=np.uint32),
                   "flux_r2.5": flux[:, 0], "flux_r4": flux[:, 1], "x": NUMBERS.astype(np.float32)})  # fmt: skip
    expected = io.StringIO()
    table.write(expected, format="ascii.csv")
    assert text.decode().splitlines() == expected.getvalue().splitlines()
