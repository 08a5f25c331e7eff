"""Differential light curves in memory say who the comparisons are at each radius, and want measured sources."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import opticam_dask as opticam

FLUX = np.array([4e4, 1e5, 2e5, 3e5, 6e4])
RADII = [1.0, 1.5]
N_FRAMES = 40


@pytest.fixture
def curves() -> xr.Dataset:
    """Five sources; at the smaller radius one varies, at the larger another, and a sixth was never measured."""
    rng = np.random.default_rng(5)
    shape = (N_FRAMES, len(FLUX) + 1, len(RADII))
    error = np.broadcast_to(np.sqrt(np.append(FLUX, np.nan))[:, None], shape)
    flux = np.append(FLUX, np.nan)[:, None] + error * rng.standard_normal(shape)
    for radius, source in enumerate((1, 2)):
        flux[:, source, radius] *= 1.0 + 0.3 * np.sin(np.arange(N_FRAMES) / 3.0)
    flags = np.ones(shape, dtype=np.uint32)
    flags[:, -1] = 0
    times, dims = 60310.0 + np.arange(N_FRAMES) / 1440, ("frame", "source", "radius")
    return xr.Dataset(
        {"flux": (dims, flux), "flux_err": (dims, error.copy()), "flags": (dims, flags)},
        coords={
            "mjd_utc": ("frame", times),
            "bmjd_tdb": ("frame", times),
            "night": ("frame", np.full(N_FRAMES, "2024-01-01", dtype=object)),
            "source_id": ("source", np.arange(1, len(FLUX) + 2)),
            "radius": RADII,
        },
        attrs={"key": "1:g"},
    )


@pytest.mark.parametrize("comparisons", ["auto", [4, 5]])
def test_weights__are_those_of_each_radius_and_as_of_lazy_curves(curves: xr.Dataset, comparisons) -> None:
    options = {"weighting": "optimal"}
    found = opticam.relative(curves, 1, comparisons, **options)
    assert found["weight"].dims == ("source", "radius")
    for radius in RADII:
        one = opticam.relative(curves.sel(radius=radius), 1, comparisons, **options)
        of_sources = found["weight"].sel(radius=radius)
        weights = dict(zip(of_sources["source_id"].to_numpy().tolist(), of_sources.to_numpy().tolist(), strict=True))
        named = dict(zip(one.attrs["comparisons"], one.attrs["weights"], strict=True))
        assert {number: weight for number, weight in weights.items() if weight} == named
        np.testing.assert_array_equal(found["relative_flux"].sel(radius=radius), one["relative_flux"])
    lazily = opticam.relative(curves.chunk(frame=7), 1, comparisons, **options).compute(scheduler="sync")
    for name in ("relative_flux", "relative_flux_err", "weight", "source_id"):
        np.testing.assert_array_equal(found[name], lazily[name], err_msg=name)
    if comparisons == "auto":
        assert (found["weight"].sel(radius=1.0) > 0).to_numpy().tolist() != (
            found["weight"][:, 1] > 0
        ).to_numpy().tolist()


def test_transposed_curves__give_the_same(curves: xr.Dataset) -> None:
    for one, turned in ((curves, curves.transpose()), (curves.isel(radius=0), curves.isel(radius=0).transpose())):
        expected = opticam.relative(one, 1, [4, 5], detrend=["time"])
        for given in (turned, turned.chunk(frame=7)):
            found = opticam.relative(given, 1, [4, 5], detrend=["time"])
            assert found["relative_flux"].dims == expected["relative_flux"].dims
            np.testing.assert_array_equal(found["relative_flux"], expected["relative_flux"])


def test_a_source_that_was_never_measured__is_refused_in_memory_as_lazily(curves: xr.Dataset) -> None:
    for given in (curves.isel(radius=0), curves.isel(radius=0).chunk(frame=7)):
        for target, comparisons in ((1, [4, 6]), (6, [4, 5])):
            with pytest.raises(ValueError, match="no source 6 in the catalogue"):
                opticam.relative(given, target, comparisons).compute(scheduler="sync")
