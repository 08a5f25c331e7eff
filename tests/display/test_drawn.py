"""Figures and tables for people are made anew when what they show has changed, and only then."""

import numpy as np
import pytest
import xarray as xr

from opticam_dask.display import drawn, plotting


def times(**changes):
    values = {"1:g": 60310.0 + np.arange(20) / 86400.0, "2:r": 60310.0 + np.arange(12) / 86400.0}
    return values | changes


@pytest.fixture
def counted(monkeypatch):
    calls = []

    def draw(shown):
        calls.append(shown)
        return plotting.plot_header_times(shown)

    return calls, draw


def test_keep_drawn__draws_again_when_a_number_has_changed_or_the_file_is_lost(tmp_path, counted):
    calls, draw = counted
    file = tmp_path / "times.pdf"
    drawn.keep_drawn(file, draw, times())
    before = file.read_bytes()
    drawn.keep_drawn(file, draw, times())
    assert len(calls) == 1
    assert file.read_bytes() == before
    changed = times()["2:r"].copy()
    changed[3] += 1e-9
    drawn.keep_drawn(file, draw, times(**{"2:r": changed}))
    assert len(calls) == 2
    file.unlink()
    drawn.keep_drawn(file, draw, times())
    assert len(calls) == 3
    assert file.read_bytes() == before  # the same numbers give the same bytes


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": np.arange(3)}, {"a": np.arange(3.0)}),
        ({"a": np.arange(4)}, {"a": np.arange(4).reshape(2, 2)}),
        ({"a": 1, "b": 2}, {"a": 12, "b": ""}),
        (xr.Dataset({"x": ("frame", [1.0, np.nan])}), xr.Dataset({"x": ("frame", [np.nan, 1.0])})),
        (xr.Dataset({"x": ("frame", [1.0])}), xr.Dataset({"x": ("source", [1.0])})),
        (np.array(["a", "b"], dtype=object), np.array(["a", "c"], dtype=object)),
    ],
)
def test_mark_of__tells_what_differs(one, other):
    assert drawn.mark_of(one) != drawn.mark_of(other)
    assert drawn.mark_of(one) == drawn.mark_of(one.copy())


def test_mark__does_not_depend_on_the_order_of_the_variables_of_a_dataset():
    x, y = ("frame", [1.0, 2.0]), ("frame", [3.0, 4.0])
    assert drawn.mark_of(xr.Dataset({"x": x, "y": y})) == drawn.mark_of(xr.Dataset({"y": y, "x": x}))
    assert drawn.mark_of(xr.Dataset({"x": x, "y": y})) != drawn.mark_of(xr.Dataset({"x": y, "y": x}))
