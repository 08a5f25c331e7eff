"""Real frames by the steps on datasets: the numbers of the reduction bit for bit."""

from __future__ import annotations

from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster

import opticam_dask as opticam
from opticam_dask import Instrument

MICROOBSERVATORY = Path(__file__).parents[2] / "notebooks" / "microobservatory.json"


def by_steps(files: list[Path], key: str, instrument: Instrument | None, chunks: int) -> dict[str, xr.DataArray]:
    """Light curves and what they come from, from the frames alone."""
    ds = opticam.open_frames(files, key=key, instrument=instrument, chunks=chunks)
    ds = opticam.detect(opticam.background(opticam.calibrate(ds)))
    ref = opticam.reference(ds).load()
    ds = opticam.persist(opticam.align(ds, ref))
    cat = opticam.catalog(opticam.stack(ds, ref).load())
    curves = opticam.photometry(ds, cat).compute()
    first = ds[["transform", "fwhm", "background", "n_sources"]].compute()
    return {"source_x": cat["x"]} | {name: curves[name] for name in MEASURED} | dict(first.data_vars)


MEASURED = ("flux", "flux_err", "x", "y", "flags", "frame_flags", "aperture_correction")


def assert_steps_agree(files: list[Path], keys: list[str], instrument: Instrument | None, out: Path) -> None:
    reducer = opticam.Reducer(out, files, instrument=instrument, figures=False, verbose=False, client="none")
    reducer.create_catalogs()
    reducer.photometry()
    for key in keys:
        with dask.config.set(scheduler="sync"):
            found = by_steps(files, key, instrument, 5)
        stored = opticam.light_curves(out, key).load()
        tree = opticam.open_reduction(out)[key.replace(":", "-")]
        night = next(name for name in tree.children if name.startswith("20"))
        frames, catalog = tree[f"{night}/frames"], tree["catalog"]
        expected = {name: stored[name] for name in MEASURED} | {"source_x": catalog["x"]}
        expected |= {name: frames[name] for name in ("transform", "fwhm", "background", "n_sources")}
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name].to_numpy(), values.to_numpy(), err_msg=f"{key}: {name}")
        assert np.isfinite(found["flux"]).any()


def test_hat_p_32__has_the_fluxes_of_the_reduction(real_data, tmp_path) -> None:
    files = sorted((real_data / "hat-p-32").iterdir())[:60:5]
    assert_steps_agree(files, ["1:Clear"], Instrument.from_json(MICROOBSERVATORY), tmp_path)


def test_hat_p_32__has_the_same_bits_by_every_scheduler(real_data) -> None:
    files = sorted((real_data / "hat-p-32").iterdir())[:60:15]
    instrument = Instrument.from_json(MICROOBSERVATORY)
    ds = opticam.open_frames(files, key="1:Clear", instrument=instrument, chunks=3)
    ds = opticam.detect(opticam.background(opticam.calibrate(ds)))
    with dask.config.set(scheduler="sync"):
        ref = opticam.reference(ds).load()
        cat = opticam.catalog(opticam.stack(opticam.align(ds, ref), ref))
        # another alignment: nothing is kept for it
        flux = opticam.photometry(opticam.align(ds, ref), cat)["flux"]
        expected = flux.compute()
    assert np.isfinite(expected).any()
    for how in ({"scheduler": "threads"}, {"scheduler": "processes", "num_workers": 1}):
        with dask.config.set(**how):
            np.testing.assert_array_equal(flux.compute(), expected, err_msg=str(how))
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster):
        np.testing.assert_array_equal(flux.compute(), expected, err_msg="LocalCluster")


def test_opticam__has_the_fluxes_of_the_reduction_in_each_camera(real_data, tmp_path) -> None:
    files = sorted(path for path in (real_data / "opticam").rglob("*") if ".fit" in path.name.lower())
    if not files:
        pytest.skip("no OPTICAM frames")
    assert_steps_agree(files, ["1:g", "2:r", "3:z"], None, tmp_path)
