"""Light curves that have the names of their sources are divided by name."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import opticam_dask as opticam

FLUX = np.array([4e4, 1e5, 2e5, 3e5])


@pytest.fixture
def curves() -> xr.Dataset:
    rng = np.random.default_rng(2)
    error = np.tile(np.sqrt(FLUX), (30, 1))
    variables = {"flux": FLUX + error * rng.standard_normal(error.shape), "flux_err": error}
    times = 60310.0 + np.arange(30) / 1440
    return xr.Dataset(
        {name: (("frame", "source"), values) for name, values in variables.items()}
        | {"flags": (("frame", "source"), np.zeros(error.shape, dtype=np.uint32))},
        coords={
            "mjd_utc": ("frame", times),
            "bmjd_tdb": ("frame", times),
            "night": ("frame", np.full(30, "2024-01-01", dtype=object)),
            "source_id": ("source", [1, 2, 3, 4]),
            "name": ("source", np.array(["AY Psc", "Star A", "", "Star B"], dtype=object)),
        },
        attrs={"key": "1:g"},
    )


def test_target_and_comparisons_by_name(curves: xr.Dataset) -> None:
    expected = opticam.relative(curves, 1, [2, 4])
    for target, comparisons in (("ay psc", ["Star A", "Star B"]), ("1", [2, "star b"]), ("AY Psc", (np.int64(2), 4))):
        found = opticam.relative(curves, target, comparisons)
        xr.testing.assert_identical(found, expected)
    np.testing.assert_allclose(expected["relative_flux"].mean(), 4e4 / 4e5, rtol=0.01)
    assert opticam.relative(curves, "AY Psc", "Star B").attrs["comparisons"] == [4]


def test_a_name_that_is_not_there_is_refused_with_those_that_are(curves: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"no source of 1:g has the name 'Star C'.*AY Psc, Star A, Star B"):
        opticam.relative(curves, "Star C", [2, 4])
    with pytest.raises(ValueError, match="of 0 names: none"):
        opticam.relative(curves.drop_vars("name"), "AY Psc", [2, 4])
