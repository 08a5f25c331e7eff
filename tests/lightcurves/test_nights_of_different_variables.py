"""Nights of which only some have a variable of photometry: it has its fill value in the others."""

import csv
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import opticam_dask as opticam
from opticam_dask import schema
from opticam_dask.lightcurves.reading import opening
from opticam_dask.store.migrations import migrate
from opticam_dask.store.store import STORE_NAME

DATA = Path(__file__).parents[1] / "data"

NAMES = ("flux_err_sys", "profile_chi2", "aperture_correction", "background")


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    directory = tmp_path_factory.mktemp("nights")
    with tarfile.open(DATA / "store-1.0.tar.xz") as archive:
        known = hasattr(tarfile, "data_filter")  # Python 3.11.3 and earlier know no filter
        archive.extractall(directory, **({"filter": "data"} if known else {}))
    migrate(directory / "out")
    return directory / "out"


def _two_nights(reduced, out, name, has):
    """The night twice, a variable (with the values of flux_err) in the first or second of them."""
    shutil.copytree(reduced, out)
    camera = out / STORE_NAME / "1-g"
    first = next(camera.glob("20*"))
    nights = [first, shutil.copytree(first, camera / "2024-12-31")]
    for number, night in enumerate(nights):
        label = night / "photometry" / "aperture"
        shutil.rmtree(label / name, ignore_errors=True)
        if number == has:
            shutil.copytree(label / "flux_err", label / name)
    file = out / STORE_NAME / "zarr.json"
    document = json.loads(file.read_text())
    del document["consolidated_metadata"]
    file.write_text(json.dumps(document))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("has", [0, 1])
def test_variable__of_one_night_is_in_all_that_is_read(reduced, tmp_path, name, has):
    out, key = tmp_path / "out", "1:g"
    _two_nights(reduced, out, name, has)
    curves = opticam.light_curves(out, key)
    frames = [curves["night"].to_numpy() == night for night in sorted(set(curves["night"].to_numpy()))]
    expected = curves["flux_err"].load().copy()
    expected[frames[1 - has]] = schema.variable("photometry", name).fill
    xr.testing.assert_equal(curves[name].variable, expected.variable)
    for names in (None, (name,)):
        (group,) = opening.curves_of_source_groups(out, key, "aperture", names)
        xr.testing.assert_equal(group.to_xarray()[name].variable, expected.variable)
    (file,) = opticam.export_light_curves(out, "csv", key=key, sources=[1])
    rows = list(csv.DictReader(file.read_text().splitlines()))
    if name != "profile_chi2":  # no column of the files
        np.testing.assert_array_equal([float(row[name]) for row in rows], expected[:, 0])
    assert opticam.relative_light_curve(out, key, 1, [2]).sizes["frame"] == len(rows) == 12


def test_array__that_somebody_added_is_left_out(reduced, tmp_path):
    _two_nights(reduced, tmp_path / "out", "background", 0)
    label = next(tmp_path.glob(f"out/{STORE_NAME}/1-g/20*/photometry/aperture"))
    zarr.open_group(label, mode="r+").create_array("mine", data=np.zeros(3))
    assert opticam.relative_light_curve(tmp_path / "out", "1:g", 1, [2]).sizes["frame"] == 12
    assert opticam.export_light_curves(tmp_path / "out", "csv", key="1:g", sources=[1])
