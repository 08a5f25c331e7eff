"""Files for archives: their rules are kept, and readers that know nothing of the writers find the numbers again."""

from __future__ import annotations

import csv
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from ades import psvtoxml
from astropy.io import ascii as tables
from astropy.time import Time
from lxml import etree
from small_nights import FIELD, add_star, read_out, reduce_frames, write_frame

import opticam_dask as opticam
from opticam_dask.cli import main
from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.fitting import shapes
from opticam_dask.lightcurves.submission import aavso_exoplanet
from opticam_dask.lightcurves.submission.aavso_exoplanet import make_aavso_exoplanet, problems_of_aavso_exoplanet
from opticam_dask.lightcurves.submission.aavso_extended import make_aavso_extended, problems_of_aavso_extended
from opticam_dask.lightcurves.submission.ades import make_ades, problems_of_ades
from opticam_dask.lightcurves.submission.alcdef import make_alcdef, problems_of_alcdef
from opticam_dask.lightcurves.submission.cds import make_cds, problems_of_cds
from opticam_dask.lightcurves.submission.observer import Submission
from opticam_dask.lightcurves.submission.places import SkyPlaces
from opticam_dask.lightcurves.submission.transit_tables import make_etd, make_exoclock, problems_of_table

JD, N = 2400000.5, 120
PERIOD, AXIS, INCLINATION = 2.15, 6.05, 88.9

CODES = """
[observer]
name = "A. Observer"
aavso = "OBSA"
secondary = ["OBSB"]
mpc = "I11"
contact = "observer@example.org"

[telescope]
design = "Reflector"
aperture = 0.15
detector = "CCD"

[bands]
odd = { aavso = "O", ades = "G", alcdef = "C" }
"""


@pytest.fixture(scope="module")
def observer(tmp_path_factory):
    file = tmp_path_factory.mktemp("codes") / "observer.toml"
    file.write_text(CODES)
    return opticam.read_observer(file)


@pytest.fixture(scope="module")
def curve():
    """A transit with frames that have no flux, no error or no time, and an outlier."""
    rng = np.random.default_rng(2)
    days = 60000.0 + np.linspace(0.0, 0.26, N)
    model = shapes.Transit(days, PERIOD, (0.4, 0.25)).flux(60000.13, 0.14, AXIS, INCLINATION)
    flux = 0.4 * model * (1.0 + rng.normal(0, 0.002, N))
    error = np.full(N, 0.0008)
    flags = np.ones(N, np.uint32)
    flux[7], error[11], flux[15] = np.nan, np.nan, 0.5
    flags[15] |= np.uint32(SourceFlag.OUTLIER)
    bjd = days.copy()
    bjd[20] = np.nan
    frame = "frame"
    return xr.Dataset(
        {
            "relative_flux": (frame, flux),
            "relative_flux_err": (frame, error),
            "flags": (frame, flags),
        },
        coords={
            "mjd_utc": (frame, days - 0.004),
            "bmjd_tdb": (frame, bjd),
            "night": (frame, np.full(N, "2023-02-24", dtype=object)),
            # the number of the frame can be read off its conditions
            "airmass": (frame, 1.0 + np.arange(N) / 1000.0),
            "x": (frame, 100.0 + np.arange(N)),
            "y": (frame, 300.0 - np.arange(N)),
            "exposure_time": (frame, np.full(N, 60.0)),
            "fwhm": (frame, np.full(N, 3.0)),
        },
        attrs={
            "key": "1:g",
            "label": "aperture",
            "target": 3,
            "comparisons": [1, 2],
            "filter": "g",
            "binning": 2,
        },
    )


@pytest.fixture(scope="module")
def with_magnitudes(curve):
    magnitude = 14.2 - 2.5 * np.log10(curve["relative_flux"].to_numpy() / 0.4)
    magnitude[30] = np.nan
    limit = np.full(N, 18.25)
    return curve.assign(
        magnitude=("frame", magnitude),
        magnitude_err=("frame", np.where(np.isfinite(magnitude), 0.004, np.nan)),
        magnitude_limit=("frame", limit),
    ).assign_attrs(magnitude_band="g")


@pytest.fixture(scope="module")
def fit(curve):
    return opticam.fit_transit(curve, PERIOD, a_over_rs=AXIS, inclination=INCLINATION, n_steps=0)


def _frames_of_rows(airmass):
    return np.rint((np.asarray(airmass, float) - 1.0) * 1000).astype(int)


def test_exoplanet__has_the_limb_darkening_of_a_filter_whose_name_has_a_slash():
    fit = xr.Dataset(attrs={"u1_1-H_a": 0.3, "u2_1-H_a": 0.2})
    assert aavso_exoplanet._priors(fit, "1:H/a") == "u1=0.3,u2=0.2"


def test_exoplanet__an_independent_reader_finds_every_number_in_its_row(curve, fit, observer):
    text = make_aavso_exoplanet(curve, Submission(observer, "HAT-P-32", notes="clear"), fit)
    assert problems_of_aavso_exoplanet(text) == []
    lines = text.splitlines()
    header = dict(line[1:].split("=", 1) for line in lines if line.startswith("#") and "=" in line)
    assert header["TYPE"] == "EXOPLANET"
    assert header["DATE_TYPE"] == "BJD_TDB"
    assert header["OBSCODE"] == "OBSA"
    assert header["FILTER"] == "SG"
    assert header["BINNING"] == "2x2"
    assert header["EXOPLANET_NAME"] == "HAT-P-32 b"
    assert header["DETREND_PARAMETERS"] == "AIRMASS,X,Y"
    rows = list(csv.reader(line for line in lines if not line.startswith("#")))
    frames = _frames_of_rows([row[3] for row in rows])
    # no flux, an outlier, no barycentric time: left out of every column at once
    assert sorted(set(range(N)) - set(frames)) == [7, 15, 20]
    kept = curve.isel(frame=frames)
    np.testing.assert_allclose([float(row[0]) for row in rows], kept["bmjd_tdb"].to_numpy() + JD, atol=1e-8)
    np.testing.assert_allclose([float(row[4]) for row in rows], kept["x"], atol=1e-6)
    np.testing.assert_allclose([float(row[5]) for row in rows], kept["y"], atol=1e-6)
    flux = np.array([float(row[1]) for row in rows])
    np.testing.assert_allclose(flux / flux[0], (kept["relative_flux"] / kept["relative_flux"][0]).to_numpy(), rtol=1e-6)
    assert np.mean(np.r_[flux[:20], flux[-20:]]) == pytest.approx(1.0, abs=0.002)
    # an error that is not known is no number
    assert [row[2] for row in rows].count("na") == 1
    assert rows[int(np.flatnonzero(frames == 11)[0])][2] == "na"
    assert "nan" not in text.lower()


def test_exoplanet__fluxes_are_1_out_of_transit_where_the_light_curve_has_another_level_than_its_fit(
    curve, fit, observer
):
    def rows(given):
        text = make_aavso_exoplanet(given, Submission(observer, "HAT-P-32"), fit)
        return [line for line in text.splitlines() if not line.startswith("#")]

    other = curve.assign({name: 0.5 * curve[name] for name in ("relative_flux", "relative_flux_err")})
    assert rows(other) == rows(curve)


def test_exoplanet__says_what_is_missing(curve, fit, observer):
    with pytest.raises(ValueError, match="fit-transit"):
        make_aavso_exoplanet(curve, Submission(observer, "HAT-P-32"), None)
    with pytest.raises(ValueError, match="name of the star"):
        make_aavso_exoplanet(curve, Submission(observer), fit)
    with pytest.raises(ValueError, match="must tell aavso"):
        make_aavso_exoplanet(curve, Submission(star="HAT-P-32"), fit)
    with pytest.raises(ValueError, match="without --detrend"):
        make_aavso_exoplanet(curve.assign_attrs(detrend={}), Submission(observer, "HAT-P-32"), fit)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("#TYPE=EXOPLANET", "#TYPE=Exoplanet", "is not one of EXOPLANET"),
        ("#OBSCODE=OBSA", "#OBSCODE=TOOLONG", "TOOLONG is no code: up to 5 letters and digits"),
        ("#DATE_TYPE=BJD_TDB", "#DATE_TYPE=BJD", "DATE_TYPE"),
        ("#EXPOSURE_TIME=60", "#EXPOSURE_TIME=900", "up to 600"),
        ("na", "nan", "'nan'"),
        ("#DETREND_PARAMETERS=AIRMASS,X,Y", "#DETREND_PARAMETERS=AIRMASS", "6 fields, 4 are named"),
        ("#BINNING=2x2\n", "", "#BINNING= is missing"),
    ],
)
def test_exoplanet__rules_that_are_broken_are_named(curve, fit, observer, old, new, words):
    text = make_aavso_exoplanet(curve, Submission(observer, "HAT-P-32"), fit)
    assert old in text
    assert any(words in problem for problem in problems_of_aavso_exoplanet(text.replace(old, new)))


def test_extended__has_no_barycentric_times(curve, observer):
    text = make_aavso_extended(curve, Submission(observer, "HAT-P-32"))
    assert problems_of_aavso_extended(text) == []
    assert "#DATE=JD\n" in text
    table = pd.read_csv(
        pd.io.common.StringIO("\n".join(line for line in text.splitlines() if not line.startswith("#"))),
        header=None,
        names=next(line[1:] for line in text.splitlines() if line.startswith("#NAME")).split(","),
        na_values=["na"],
    )
    frames = _frames_of_rows(table["AMASS"])
    assert sorted(set(range(N)) - set(frames)) == [7, 15]
    kept = curve.isel(frame=frames)
    np.testing.assert_allclose(table["DATE"], kept["mjd_utc"].to_numpy() + JD, atol=1e-6)
    np.testing.assert_allclose(table["MAG"], -2.5 * np.log10(kept["relative_flux"].to_numpy()), atol=1e-4)
    assert table["MERR"].isna().sum() == 1
    assert set(table["MTYPE"]) == {"DIF"}
    assert set(table["CNAME"]) == {"ENSEMBLE"}
    barycentric = text.replace("#DATE=JD", "#DATE=BJD_TDB")
    assert any("no barycentric times" in problem for problem in problems_of_aavso_extended(barycentric))


def test_extended__calibrated_magnitudes_and_upper_limits(with_magnitudes, observer):
    about = Submission(observer, "SS Cyg", chart="X123", notes="thin, high clouds")
    text = make_aavso_extended(with_magnitudes, about)
    assert problems_of_aavso_extended(text) == []
    rows = [line.split(",") for line in text.splitlines() if not line.startswith("#")]
    faint = [row for row in rows if row[2].startswith("<")]
    assert _frames_of_rows([row[11] for row in faint]).tolist() == [7, 30]
    assert faint[0][2:4] == ["<18.250", "na"]
    assert {row[6] for row in rows} == {"STD"}
    assert rows[0][14] == "thin; high clouds"


def test_exoclock_and_etd__are_three_columns_of_numbers(curve):
    exoclock = make_exoclock(curve, Submission())
    etd = make_etd(curve, Submission())
    for text in (exoclock, etd):
        assert problems_of_table(text) == []
    table = np.loadtxt(exoclock.splitlines())
    # without flux, error or barycentric time, and the outlier
    assert table.shape == (N - 4, 3)
    known = np.delete(np.arange(N), [7, 11, 15, 20])
    np.testing.assert_allclose(table[:, 0], curve["bmjd_tdb"].to_numpy()[known] + JD, atol=1e-8)
    flux = curve["relative_flux"].to_numpy()[known]
    np.testing.assert_allclose(table[:, 1], flux / np.median(flux), rtol=1e-7)
    table = np.loadtxt(etd.splitlines())
    known = np.delete(np.arange(N), [7, 11, 15])
    np.testing.assert_allclose(table[:, 0], curve["mjd_utc"].to_numpy()[known] + JD, atol=1e-6)
    flux = curve["relative_flux"].to_numpy()[known]
    np.testing.assert_allclose(table[:, 1], -2.5 * np.log10(flux / np.median(flux)), atol=1e-5)
    assert any("no whole Julian Date" in problem for problem in problems_of_table("57000.0 1.0 0.1\n" * 12))
    assert any("not three numbers" in problem for problem in problems_of_table("2457000.0 1.0 nan\n" * 12))


def test_alcdef__sessions_have_what_is_required_and_their_rows(with_magnitudes, curve, observer):
    text = make_alcdef(with_magnitudes, Submission(observer, "Jarvis", number=3353))
    assert problems_of_alcdef(text) == []
    assert "DIFFERMAGS=FALSE" in text
    # the code of the band, not its name in the catalogue
    assert "MAGBAND=SG" in text.splitlines()
    assert "SESSIONDATE=2023-02-25" in text
    rows = [line.removeprefix("DATA=").split("|") for line in text.splitlines() if line.startswith("DATA=")]
    frames = _frames_of_rows([row[3] for row in rows])
    np.testing.assert_allclose(
        [float(row[0]) for row in rows], with_magnitudes["mjd_utc"].to_numpy()[frames] + JD, atol=1e-6
    )
    np.testing.assert_allclose(
        [float(row[1]) for row in rows], with_magnitudes["magnitude"].to_numpy()[frames], atol=1e-4
    )
    differential = make_alcdef(curve, Submission(observer, designation="2023 MQ5"))
    assert problems_of_alcdef(differential) == []
    assert "DIFFERMAGS=TRUE" in differential
    assert any("MAGBAND" in problem for problem in problems_of_alcdef(text.replace("MAGBAND=SG\n", "")))
    with pytest.raises(ValueError, match="name of the minor planet"):
        make_alcdef(curve, Submission(observer))


def test_ades__the_reader_of_the_iau_takes_it_for_submission(with_magnitudes, observer, tmp_path):
    n = with_magnitudes.sizes["frame"]
    ra = 273.13 + np.arange(n) * 1e-4
    ra[3] = np.nan
    places = SkyPlaces(ra, np.full(n, 40.61), np.full(n, 0.12), np.full(n, 0.15), "gaia_dr2.csv")
    text = make_ades(with_magnitudes, Submission(observer, designation="2023 MQ5"), places)
    assert problems_of_ades(text) == []
    psv, xml = tmp_path / "night.psv", tmp_path / "night.xml"
    psv.write_text(text)
    psvtoxml.psvtoxml(str(psv), str(xml))
    document = etree.parse(str(xml))
    etree.XMLSchema(etree.parse(str(files("ades") / "data" / "xsd" / "submit.xsd"))).assertValid(document)
    rows = document.findall(".//optical")
    assert {row.findtext("provID") for row in rows} == {"2023 MQ5"}
    assert {row.findtext("astCat") for row in rows} == {"Gaia2"}
    assert {row.findtext("band") for row in rows if row.findtext("mag")} == {"Sg"}
    # without a flux, an outlier, without a place
    kept = np.delete(np.arange(n), [3, 7, 15])
    assert len(rows) == len(kept)
    times = Time([row.findtext("obsTime").rstrip("Z") for row in rows], scale="utc").mjd
    np.testing.assert_allclose(times, with_magnitudes["mjd_utc"].to_numpy()[kept], atol=1e-8)
    np.testing.assert_allclose([float(row.findtext("ra")) for row in rows], ra[kept], atol=1e-6)
    assert any("no UTC time" in problem for problem in problems_of_ades(text.replace("2023-02-2", "2023/02/2")))
    with pytest.raises(ValueError, match="--designation"):
        make_ades(with_magnitudes, Submission(observer), places)


@pytest.mark.parametrize("form", ["mrt", "cds"])
def test_cds__astropy_reads_the_table(with_magnitudes, form):
    about = Submission(opticam.Observer(name="Observer A."), "HAT-P-32", leave_out=())
    text = make_cds(with_magnitudes, about)
    assert problems_of_cds(text) == []
    table = tables.read(text, format=form)
    kept = np.delete(np.arange(N), [7])
    np.testing.assert_allclose(table["JD"], with_magnitudes["mjd_utc"].to_numpy()[kept] + JD, atol=1e-7)
    np.testing.assert_allclose(table["Flux"], with_magnitudes["relative_flux"].to_numpy()[kept], atol=1e-7)
    # what is not known is masked, not a number
    assert np.flatnonzero(table["e_Flux"].mask).tolist() == [10]
    assert np.flatnonzero(table["BJD"].mask).tolist() == [19]
    assert str(table["JD"].unit) == "d"
    assert any("bytes" in problem for problem in problems_of_cds(text.rstrip("\n") + "0\n"))


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"star": "SS\nCyg"}, "star must be one line of text"),
        ({"star": "SS Cyg", "notes": "clouds\n#next=1"}, "notes must be one line of text"),
        ({"star": "SS, Cyg"}, "takes no comma, and no # at the start, in the name of the star: SS, Cyg"),
        ({"star": "#1"}, "no # at the start, in the name of the star"),
        ({"star": "SS Cyg", "chart": "X1,X2"}, "in the chart: X1,X2"),
    ],
)
def test_extended__names_that_would_break_the_file_are_refused(curve, observer, told, words):
    with pytest.raises(ValueError, match=words):
        make_aavso_extended(curve, Submission(observer, **told))


def test_observer__names_are_one_line_and_codes_are_codes(curve, observer):
    with pytest.raises(ValueError, match="name must be one line of text"):
        replace(observer, name="A.\nObserver")
    with pytest.raises(ValueError, match="secondary must be one line of text"):
        replace(observer, secondary=("OBSB", "OB\nSC"))
    unicode = replace(observer, name="Zoë Müller, M.Sc.")
    assert "CONTACTNAME=Zoë Müller, M.Sc." in make_alcdef(curve, Submission(unicode, "Vesta"))
    assert any("are ASCII" in line for line in problems_of_cds(make_cds(curve, Submission(unicode, "Vesta"))))
    text = make_aavso_extended(curve, Submission(replace(observer, aavso="O,A"), "SS Cyg"))
    assert problems_of_aavso_extended(text) == ["#OBSCODE=O,A is no code: up to 5 letters and digits"]


def test_observer__yaml_and_json_say_the_same_as_toml(tmp_path, observer):
    yaml = tmp_path / "observer.yaml"
    yaml.write_text(
        'observer: {name: A. Observer, aavso: OBSA, secondary: [OBSB], mpc: "I11", contact: observer@example.org}\n'
        "telescope: {design: Reflector, aperture: 0.15, detector: CCD}\n"
        "bands: {odd: {aavso: O, ades: G, alcdef: C}}\n"
    )
    assert opticam.read_observer(yaml) == observer
    assert observer.band("odd", "ades") == "G"
    assert [observer.band(name, "aavso") for name in ("g", "V", "Clear", "z")] == ["SG", "V", "CV", "SZ"]
    yaml.write_text(
        yaml.read_text().replace("name: A. Observer", 'name: "A. Observer\\n"').replace("[OBSB]", '["OBSB\\n"]')
    )
    assert opticam.read_observer(yaml) == observer, "spaces and line breaks at the ends are nothing"
    with pytest.raises(ValueError, match="no aavso code is known for the filter 'W7'"):
        observer.band("W7", "aavso")
    broken = tmp_path / "broken.yaml"
    broken.write_text("observer: [")
    with pytest.raises(ValueError, match="cannot be read as"):
        opticam.read_observer(broken)
    broken.write_text("observer: {code: X}")
    with pytest.raises(ValueError, match="code is not known"):
        opticam.read_observer(broken)


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A transit of 3 per cent painted into frames, from frames to the end by three commands."""
    directory = tmp_path_factory.mktemp("three-commands")
    rng = np.random.default_rng(12)
    days = np.arange(48) * 0.005
    model = shapes.Transit(days, PERIOD, (0.4, 0.25), 5.0 / 86400.0).flux(0.115, 0.17, AXIS, INCLINATION)
    others, target = np.full((200, 200), 60.0), np.zeros((200, 200))
    for place, (x, y, flux) in enumerate(FIELD):
        add_star(target if place == 2 else others, x, y, 4.0 * flux)
    for number, (day, dimming) in enumerate(zip(days, model, strict=True)):
        image = others + dimming * target
        write_frame(directory / "frames" / f"{number:03d}.fits", read_out(image, rng), day * 86400.0)
    return reduce_frames(directory)


def test_three_commands__lead_from_frames_to_a_fit_and_a_file(night, tmp_path, capsys):
    codes = tmp_path / "observer.toml"
    codes.write_text(CODES)
    target = night.source_at(FIELD[2][0], FIELD[2][1]) + 1
    out = str(night.out)
    given = ["--period", str(PERIOD), "--a-over-rs", str(AXIS), "--inclination", str(INCLINATION)]
    assert main(["fit-transit", out, "--target", str(target), *given, "--n-steps", "60", "--prefix", "planet"]) == 0
    assert "mid_time" in capsys.readouterr().out
    fit = opticam.fits_in_store(out, "1:V")["planet"]
    values = dict(zip(fit["parameter"].to_numpy(), fit["value"].to_numpy(), strict=True))
    errors = dict(zip(fit["parameter"].to_numpy(), fit["error_plus"].to_numpy(), strict=True))
    frames = night.frames
    light_time = np.median((frames["bmjd_tdb"] - frames["mjd_utc"]).to_numpy())
    truth = float(frames["mjd_utc"][0]) + 0.115 + light_time + JD
    assert abs(values["mid_time"] - truth) < max(3.5 * errors["mid_time"], 1e-4)
    assert errors["mid_time"] < 0.001
    assert abs(values["radius_ratio"] - 0.17) < 3.5 * errors["radius_ratio"]
    for name in ("planet_transit.ecsv", "planet_transit_points.csv", "planet_transit.pdf"):
        assert (night.out / "fits" / name).stat().st_size > 1000
    send = ["submit", out, "--format", "aavso-exoplanet", "--observer", str(codes)]
    assert main([*send, "--star", "Test star"]) == 0
    file = night.out / "submissions" / "planet_1-V_aavso-exoplanet.txt"
    assert problems_of_aavso_exoplanet(file.read_text()) == []
    assert main(["verify", out]) == 0
    # a mark leaves its frame out of the file, in which the fit is as old as it is
    (number,) = opticam.mark(out, "cloud", "1:V", frames=["005.fits"])
    assert main([*send, "--star", "Test star"]) == 0
    lines = file.read_text().splitlines()
    assert len([line for line in lines if not line.startswith("#")]) == 47
    assert "fit it again" in next(line for line in lines if line.startswith("#NOTES"))
    assert opticam.fits_in_store(out, "1:V")["planet"]["value"].equals(fit["value"])
    opticam.unmark(out, [number])
    # a new light curve of the name has no fit
    assert main(["lightcurve", out, "--target", str(target), "--comparisons", "auto", "--prefix", "planet"]) == 0
    assert opticam.fits_in_store(out, "1:V") == {}


def test_submit__writes_nothing_that_would_be_refused(night, tmp_path, capsys):
    out = str(night.out)
    codes = tmp_path / "observer.toml"
    codes.write_text(CODES.replace('aavso = "OBSA"', 'aavso = "TOOLONG"'))
    assert main(["lightcurve", out, "--target", "4", "--comparisons", "auto", "--prefix", "other"]) == 0
    send = ["submit", out, "--format", "aavso-extended", "--name", "other", "--observer", str(codes)]
    assert main([*send, "--star", "x" * 40]) == 2
    assert "characters" in capsys.readouterr().err
    assert not list((night.out / "submissions").glob("other*"))
    assert main(["submit", out, "--format", "etd", "--name", "nobody"]) == 2
    assert "other" in capsys.readouterr().err
