"""Differential light curves from frames to tables: detrending, outliers, other cameras, the store, other packages."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.timeseries import TimeSeries

from opticam_dask import (
    AperturePhotometer,
    DifferentialPhotometer,
    Reducer,
    cli,
    differential_light_curves,
    match_cameras,
    relative_light_curve,
    simulate_observations,
)
from opticam_dask.flags import SourceFlag
from opticam_dask.lightcurves import conversions, results
from opticam_dask.lightcurves.differential import compute_relative
from opticam_dask.passes import camera_matching
from opticam_dask.store.camera import group_name
from opticam_dask.store.errors import StoreError
from opticam_dask.store.groups import Group
from opticam_dask.store.store import Store

FIELD = {
    "n_frames": 40, "shape": (160, 176), "n_sources": 8, "filters": ("g", "r", "i"), "flux_range": (3e4, 4e5),
    "fwhm": 3.5, "variable_source": 3, "amplitude": 0.1, "frequency": 0.01, "cadence": 120.0, "seed": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    """Three cameras: the second sees the field mirrored, the third upside down."""
    root = tmp_path_factory.mktemp("differential")
    simulate_observations(root / "frames", **FIELD)
    for file in (root / "frames").glob("*.fits"):
        with fits.open(file, mode="update") as hdus:
            if hdus[0].header["FILTER"] == "r":
                hdus[0].data = hdus[0].data[:, ::-1].copy()
            elif hdus[0].header["FILTER"] == "i":
                hdus[0].data = hdus[0].data[::-1, ::-1].copy()
    reducer = Reducer(root / "out", root / "frames", client="none", figures=False, verbose=False)
    reducer.create_catalogs()
    reducer.photometry(AperturePhotometer())
    return root / "out"


def _numbers_by_brightness(out, key):
    found = Group(Store.at(out).path, f"{group_name(key)}/catalog").read_all()
    return found["source_id"][np.argsort(-found["flux"])].tolist()


# ---------------------------------------------------------------- other cameras


@pytest.mark.parametrize(("other", "is_mirrored"), [("2:r", True), ("3:i", False)])
def test_match_cameras__finds_every_source(reduced, other, is_mirrored):
    found = match_cameras(reduced, "1:g", other)
    assert found.is_mirrored is is_mirrored
    assert len(found.source_id) == 8
    assert found.distance.max() < 0.2
    here = dict(zip(found.source_id.tolist(), found.other_id.tolist(), strict=True))
    catalogues = [
        Group(Store.at(reduced).path, f"{key}/catalog").read_all() for key in ("1-g", f"{other[0]}-{other[2]}")
    ]
    for number, counterpart in here.items():
        x, y = (catalogues[0][name][number - 1] for name in ("x", "y"))
        x_other, y_other = (catalogues[1][name][counterpart - 1] for name in ("x", "y"))
        assert abs(x_other - (175 - x)) < 1.5  # pointing jitters by half a pixel
        assert abs(y_other - (y if is_mirrored else 159 - y)) < 1.5


def test_match_cameras__another_scale_and_sources_that_only_one_sees(tmp_path, monkeypatch):
    rng = np.random.default_rng(8)
    xy = rng.uniform(20, 1000, (40, 2))
    angle, scale = np.radians(37.0), 0.84
    turn = scale * np.array([[np.cos(angle), np.sin(angle)], [np.sin(angle), -np.cos(angle)]])
    other = xy @ turn.T + [300.0, 50.0] + rng.normal(0, 0.1, xy.shape)
    flux = rng.uniform(1e3, 1e5, 40)
    seen, seen_other = np.arange(0, 34), np.arange(6, 40)
    rng.shuffle(seen_other)
    catalogues = {
        "1:g": {"xy": xy[seen], "flux": flux[seen], "source_id": seen + 1},
        "2:r": {"xy": other[seen_other], "flux": flux[seen_other], "source_id": np.arange(1, 35)},
    }
    monkeypatch.setattr(camera_matching, "_read_catalogue", lambda path, key: catalogues[key])
    monkeypatch.setattr(camera_matching, "_fwhm", lambda path, key: 3.0)
    monkeypatch.setattr(camera_matching.Store, "open", lambda out: out)
    found = match_cameras(tmp_path, "1:g", "2:r")
    assert found.is_mirrored
    assert np.sqrt(-np.linalg.det(found.transform)) == pytest.approx(scale, abs=0.002)
    assert sorted(found.source_id.tolist()) == list(range(7, 35))
    truth = {int(star) + 1: position + 1 for position, star in enumerate(seen_other)}
    assert dict(zip(found.source_id.tolist(), found.other_id.tolist(), strict=True)) == {
        number: truth[number] for number in range(7, 35)
    }
    with pytest.raises(ValueError, match="source 2 of 1:g is not in the catalogue of 2:r; of 1:g it has 7, 8"):
        found.numbers([2, 8])


def test_match_cameras__unlike_fields_are_refused(reduced, tmp_path):
    simulate_observations(tmp_path / "a", **FIELD | {"n_frames": 3, "filters": ("g",), "lags": (0.0,)})
    simulate_observations(tmp_path / "b", **FIELD | {"n_frames": 3, "filters": ("g", "r"), "seed": 99})
    frames = [*(tmp_path / "a").glob("*g*.fits"), *(tmp_path / "b").glob("*r2*.fits")]
    Reducer(tmp_path / "out", frames, client="none", show_plots=False, verbose=False).create_catalogs()
    with pytest.raises(ValueError, match=r"catalogues of 1:g \(8 sources\) and 2:r \(8\) cannot be matched"):
        match_cameras(tmp_path / "out", "1:g", "2:r")
    with pytest.raises(ValueError, match=r"there is no such key: '3:z' in .*; it has 1:g, 2:r, 3:i"):
        match_cameras(reduced, "1:g", "3:z")


# ---------------------------------------------------------------- DifferentialPhotometer


@pytest.mark.parametrize("name", ["1:g", "g", "g-band", "1-g"])
def test_photometer__knows_a_camera_by_key_or_filter(reduced, name):
    photometer = DifferentialPhotometer(reduced, show_plots=False, verbose=False)
    found = photometer.get_relative_light_curve(name, 1, [2, 4], "aperture", show_diagnostics=False)
    assert list(found) == ["1:g"]
    expected = relative_light_curve(reduced, "1:g", 1, [2, 4])
    np.testing.assert_array_equal(found["1:g"]["relative_flux"], expected["relative_flux"])


def test_photometer__finds_target_and_comparisons_in_the_other_cameras(reduced, capsys):
    target, *others = _numbers_by_brightness(reduced, "1:g")[2:6]
    photometer = DifferentialPhotometer(reduced, show_plots=False)
    found = photometer.get_relative_light_curve("g", target, others, match_other_cameras=True, prefix="star")
    assert list(found) == ["1:g", "2:r", "3:i"]
    for key, curve in found.items():
        flux = curve["relative_flux"].to_numpy()
        phase = 2 * np.pi * 0.01 * (curve["mjd_utc"].to_numpy() - curve["mjd_utc"].to_numpy()[0]) * 86400
        design = np.column_stack([np.sin(phase), np.cos(phase), np.ones(len(phase))])
        sine, cosine, level = np.linalg.lstsq(design, flux, rcond=None)[0]
        assert np.hypot(sine, cosine) / level == pytest.approx(0.1, abs=0.02), key
        directory = reduced / "relative_light_curves" / "aperture"
        group = group_name(key)
        assert (directory / f"star_{group}_light_curve.csv").is_file()
        assert (directory / "diag" / f"star_{group}_comparisons.pdf").stat().st_size > 5000
        kept = differential_light_curves(reduced, key)["star"].load()
        np.testing.assert_array_equal(kept["relative_flux"], flux)
        assert kept.attrs["comparisons"] == curve.attrs["comparisons"]
    assert (reduced / "relative_light_curves" / "aperture" / "star_1-g_2-r_3-i_light_curve.pdf").is_file()
    assert "2:r: target" in capsys.readouterr().out
    assert cli.main(["verify", str(reduced)]) == 0


def test_photometer__says_which_filters_there_are(reduced):
    photometer = DifferentialPhotometer(reduced, show_plots=False, verbose=False)
    with pytest.raises(ValueError, match=r"there is no such key: .* has 1:g, 2:r, 3:i"):
        photometer.get_relative_light_curve("z", 1, [2])
    with pytest.raises(StoreError):
        DifferentialPhotometer(reduced / "nowhere")


def test_photometer__while_a_run_works_on_the_store_the_files_are_written(reduced, capsys):
    program = (
        "import sys; from opticam_dask.store import ownership\n"
        "with ownership.own(sys.argv[1]): print(); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(reduced)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        photometer = DifferentialPhotometer(reduced, show_plots=False)
        photometer.get_relative_light_curve("g", 1, 2, prefix="busy", show_diagnostics=False)
        other.stdin.close()
    assert "Not kept in the store" in capsys.readouterr().out
    assert "busy" not in differential_light_curves(reduced, "1:g")
    assert (reduced / "relative_light_curves" / "aperture" / "busy_1-g_light_curve.csv").is_file()


# ---------------------------------------------------------------- detrending, outliers


def _altered(reduced, **coordinates):
    """Fluxes of the reduction with other coordinates along the frames."""
    curves = results.light_curves(reduced, "1:g").load()
    return curves.assign_coords({name: ("frame", values) for name, values in coordinates.items()})


def test_detrend__takes_a_planted_trend_off(reduced):
    airmass = np.linspace(1.0, 2.0, 40)
    curves = _altered(reduced, airmass=airmass)
    scaled = (airmass - airmass.mean()) / airmass.std()
    curves["flux"][:, 0] *= 1.0 + 0.05 * scaled
    curves["flux_err"][:, 0] *= 1.0 + 0.05 * scaled
    plain = compute_relative(curves, 1, [2, 4])
    found = compute_relative(curves, 1, [2, 4], detrend=["airmass", "fwhm"])
    told = json.loads(found.attrs["detrend"])
    assert told["coefficients"]["airmass"] == pytest.approx(0.05, abs=5 * told["errors"]["airmass"])
    assert told["degrees_of_freedom"] == 40 - 3
    assert float(plain["relative_flux"].std() / plain["relative_flux"].mean()) > 0.04
    scatter = found["relative_flux"] / found["relative_flux"].mean() - 1
    assert float(scatter.std()) < 1.5 * float((found["relative_flux_err"] / found["relative_flux"]).mean())
    assert np.all(found["relative_flux_err"] >= 0.99 * plain["relative_flux_err"] / (1.0 + 0.05 * scaled))


def test_detrend__knows_the_vectors_of_a_reduction(reduced):
    names = ["airmass", "fwhm", "background", "x", "y", "ellipticity", "transparency", "time"]
    for name in names:
        curve = relative_light_curve(reduced, "1:g", 1, [2, 4], detrend=[name])
        assert list(json.loads(curve.attrs["detrend"])["coefficients"]) == [name]
    together = relative_light_curve(reduced, "1:g", 1, [2, 4], detrend=["airmass", "time"])
    assert np.isfinite(together["relative_flux"]).all()
    with pytest.raises(ValueError, match=r"is detrended against airmass, fwhm, .* got colour"):
        relative_light_curve(reduced, "1:g", 1, [2, 4], detrend=["colour"])
    with pytest.raises(ValueError, match="airmass is not known in any frame"):
        compute_relative(_altered(reduced, airmass=np.full(40, np.nan)), 1, [2, 4], detrend=["airmass"])


def test_outliers__are_flagged_and_kept(reduced):
    curves = _altered(reduced)
    curves["flux"][12, 0] *= 1.5
    found = compute_relative(curves, 1, [2, 4])
    flagged = (found["flags"].to_numpy() & SourceFlag.OUTLIER) != 0
    assert np.flatnonzero(flagged).tolist() == [12]
    assert np.isfinite(found["relative_flux"][12])


# ---------------------------------------------------------------- command line and tables


def test_command__all_cameras_detrended_and_exported(reduced, capsys):
    target, *others = _numbers_by_brightness(reduced, "1:g")[2:6]
    arguments = ["lightcurve", reduced, "--key", "1:g", "--target", target, "--comparisons", *others]
    arguments += ["--match-cameras", "--detrend", "airmass", "--prefix", "command"]
    assert cli.main([*map(str, arguments)]) == 0
    printed = capsys.readouterr().out
    assert "3:i: target" in printed
    for form in ("csv", "ecsv", "fits"):
        assert cli.main(["export", str(reduced), "--format", form]) == 0
        table = Table.read(reduced / "export" / "differential" / f"1-g_command.{form}")
        kept = differential_light_curves(reduced, "1:g")["command"]
        np.testing.assert_array_equal(table["relative_flux"], kept["relative_flux"])
        np.testing.assert_array_equal(table["bmjd_tdb"], kept["bmjd_tdb"])
    assert table.meta["TIMESYS"] == "TDB"
    assert cli.main(["lightcurve", str(reduced), "--target", "1", "--comparisons", "2", "--match-cameras"]) == 2
    assert "--key" in capsys.readouterr().err


# ---------------------------------------------------------------- other packages


def _gappy(reduced):
    curve = relative_light_curve(reduced, "1:g", 1, [2, 4]).load()
    curve = curve.isel(frame=np.r_[0:15, 22:40])
    curve["relative_flux"][3] = np.nan
    return curve


def test_to_timeseries__is_what_astropy_reads(reduced):
    curve = _gappy(reduced)
    series = conversions.to_timeseries(curve)
    assert isinstance(series, TimeSeries)
    assert series.time.scale == "tdb"
    np.testing.assert_array_equal(series.time.mjd, curve["bmjd_tdb"])
    np.testing.assert_array_equal(series["relative_flux"].value, curve["relative_flux"])
    assert series.meta["comparisons"] == [2, 4]
    utc = conversions.to_timeseries(curve.assign_coords(bmjd_tdb=("frame", np.full(33, np.nan))))
    assert utc.time.scale == "utc"
    np.testing.assert_array_equal(utc.time.mjd, curve["mjd_utc"])


def test_to_lightkurve__has_the_same_numbers(reduced):
    # it asks for an older pandas: .ci/run has an environment of its own for it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("lightkurve", reason="pip install 'opticam-dask[timing]'")
    curve = _gappy(reduced)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what lightkurve warns of when it is imported is not ours
        found = conversions.to_lightkurve(curve)
    assert type(found).__module__.startswith("lightkurve")
    np.testing.assert_array_equal(found.time.mjd, curve["bmjd_tdb"])
    np.testing.assert_array_equal(np.asarray(found.flux), curve["relative_flux"])
    np.testing.assert_array_equal(np.asarray(found["quality"]), curve["flags"])


def test_to_stingray__is_in_seconds_with_gaps(reduced):
    curve = _gappy(reduced)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what stingray warns of when it is imported is not ours
        found = conversions.to_stingray(curve)
    good = np.isfinite(curve["relative_flux"].to_numpy())
    assert found.err_dist == "gauss"
    np.testing.assert_array_equal(found.counts, curve["relative_flux"].to_numpy()[good])
    np.testing.assert_array_equal(found.counts_err, curve["relative_flux_err"].to_numpy()[good])
    seconds = (curve["bmjd_tdb"].to_numpy()[good] - found.mjdref) * 86400
    np.testing.assert_allclose(found.time, seconds, atol=1e-5)
    assert found.dt == pytest.approx(120.0, abs=0.02)  # barycentric
    assert found.gti.shape == (3, 2)
    np.testing.assert_allclose(found.gti[0], [found.time[0] - 60, found.time[2] + 60], atol=0.01)


def test_conversions__name_what_is_missing(reduced, monkeypatch):
    whole = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.split(".")[0] in ("lightkurve", "stingray"):
            raise ImportError(name)
        return whole(name, *arguments, **options)

    monkeypatch.setattr(conversions.importlib, "import_module", lambda name: refuse(name))
    for convert in (conversions.to_lightkurve, conversions.to_stingray):
        with pytest.raises(ImportError, match=r"pip install 'opticam-dask\[timing\]'"):
            convert(_gappy(reduced))
