"""Light curves as tables that other programs read back."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
from astropy import units
from astropy.io import fits
from astropy.table import Table

from opticam_dask import AperturePhotometer, OptimalPhotometer, Reducer, cli, light_curves, simulate_observations
from opticam_dask.lightcurves.exports import export_light_curves
from opticam_dask.store.groups import Group
from opticam_dask.store.store import Store


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    directory = tmp_path_factory.mktemp("export")
    simulate_observations(
        directory / "frames", n_frames=4, shape=(96, 112), n_sources=4, filters=("g", "r"), flux_range=(2e4, 1e5),
        fwhm=3.0,
    )  # fmt: skip
    reducer = Reducer(directory / "out", directory / "frames", client="none", figures=False, verbose=False)
    reducer.create_catalogs()
    reducer.photometry([AperturePhotometer(), OptimalPhotometer()])
    reducer.photometry(AperturePhotometer(radius=(2.0, 4.0)), label="radii")
    return directory / "out"


def _read(file):
    if file.suffix == ".csv":
        # as text first: pandas before 3 rounds the last bit of numbers
        texts = pd.read_csv(file, dtype=str)
        numbers = {name: texts[name] if name == "night" else texts[name].astype(float) for name in texts}
        return Table.from_pandas(pd.DataFrame(numbers))
    if file.suffix == ".ecsv":
        return Table.read(file, format="ascii.ecsv")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", units.UnitsWarning)  # electrons are no unit of the FITS standard
        return Table.read(file, format="fits")


@pytest.mark.parametrize("form", ["csv", "ecsv", "fits"])
def test_export__equals_the_store(out, form):
    files = export_light_curves(out, form, label="aperture")
    assert [file.name for file in files] == [f"{key}_source_{n}.{form}" for key in ("1-g", "2-r") for n in range(1, 5)]
    of_key = {key: light_curves(out, key, "aperture").load() for key in ("1-g", "2-r")}
    for file in files:
        key, number = file.name[:3], int(file.stem.rsplit("_", 1)[1])
        curves = of_key[key].isel(source=number - 1)
        table = _read(file)
        for name in (
            "mjd_utc",
            "bmjd_tdb",
            "flux",
            "flux_err",
            "aperture_correction",
            "x",
            "y",
            "flags",
            "frame_flags",
        ):
            np.testing.assert_array_equal(np.asarray(table[name]), curves[name].to_numpy(), err_msg=name)
        assert set(np.asarray(table["night"]).astype(str)) == {"2023-12-31"}


def test_export__units_and_time_scale_are_in_the_file(out):
    ecsv = _read(export_light_curves(out, "ecsv", key="1:g", label="optimal", sources=[2])[0])
    file = export_light_curves(out, "fits", key="1:g", label="optimal", sources=[2])[0]
    assert (str(ecsv["flux"].unit), str(ecsv["mjd_utc"].unit), str(ecsv["x"].unit)) == ("electron", "d", "pix")
    header = fits.getheader(file, 1)
    assert (header["TIMESYS"], header["TIMECOL"], header["SOURCE"], header["CAMERA"]) == ("TDB", "bmjd_tdb", 2, "1:g")
    assert (header["TUNIT1"], header["TUNIT5"], header["TTYPE5"]) == ("d", "electron", "flux")
    assert ecsv.meta["LABEL"] == "optimal"


def test_export__several_radii_are_columns_of_vectors(out):
    table = _read(export_light_curves(out, "fits", key="1:g", label="radii", sources=[1])[0])
    curves = light_curves(out, "1:g", "radii").load().isel(source=0)
    np.testing.assert_array_equal(table["flux"], curves["flux"].to_numpy())
    assert table.meta["RADII"] == "2, 4"


def test_export__several_radii_in_a_csv_are_columns_each(out):
    table = _read(export_light_curves(out, "csv", key="1-g", label="radii", sources=[1])[0])
    for radius in (2, 4):
        curves = light_curves(out, "1:g", "radii", radius=radius).load().isel(source=0)
        for name in ("flux", "flux_err", "flags"):
            np.testing.assert_array_equal(np.asarray(table[f"{name}_r{radius}"]), curves[name].to_numpy())
    assert not {"flux", "flux_r3"} & set(table.colnames)


def test_export__of_a_camera_has_the_labels_of_that_camera(out, tmp_path):
    copied = shutil.copytree(out, tmp_path / "out")
    path = Store.open(copied).path
    Store(path).drop_consolidated()
    for part in Store(path).camera("1:g").parts:
        Group(path, f"{part.group}/photometry/optimal").remove()
    files = export_light_curves(copied, "csv", key="1-g")
    assert {file.parent.name for file in files} == {"aperture", "radii"}
    assert {file.name[:3] for file in files} == {"1-g"}
    assert {file.name[:3] for file in export_light_curves(copied, "csv", label="optimal")} == {"2-r"}


def test_export__command_line(out, capsys):
    assert cli.main(["export", str(out), "--format", "ecsv", "--key", "2:r", "--sources", "1", "3"]) == 0
    assert capsys.readouterr().out.count("2 file(s) in ") == 3
    for wrong, words in (
        (["--label", "psf"], "no photometry 'psf'"),
        (["--key", "9:z"], "there is no such key: '9:z'"),
        (["--sources", "44"], "no source 44 in the catalogue of 1:g; it has 1 to 4"),
    ):
        assert cli.main(["export", str(out), "--format", "csv", *wrong]) == 2
        assert words in capsys.readouterr().err
    assert cli.main(["export", str(out.parent / "nowhere"), "--format", "csv"]) == 2
