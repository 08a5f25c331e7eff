"""The command line, as a person uses it: real processes, real files, exit codes, one clear line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from opticam_dask import cli, light_curves, simulate_observations
from opticam_dask.store.store import Store

COMMAND = [sys.executable, "-m", "opticam_dask.cli"]
N_GOOD = 12


def _run(*arguments, code=0):
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    directory = tmp_path_factory.mktemp("good")
    simulate_observations(
        directory, n_frames=N_GOOD, shape=(112, 112), n_sources=6, filters=("g",), flux_range=(5e3, 1e5), fwhm=3.0,
        least_separation=6.0, seed=2,
    )  # fmt: skip
    return directory


OPTIONS = ("--n-pixels", 5, "--border-width", 4, "--cluster", "none")


@pytest.fixture(scope="module")
def reduced(good, tmp_path_factory):
    out = tmp_path_factory.mktemp("reduced") / "out"
    text = _run("reduce", good, "--out", out, *OPTIONS)
    return out, text


def test_module__is_the_program_where_that_is_not_on_the_path():
    names = ("opticam_dask", COMMAND[-1])
    said = [subprocess.check_output([sys.executable, "-m", name, "--version"]) for name in names]
    assert said[0] == said[1] != b""


def _rewrite(source, target, *, data=None, **header):
    with fits.open(source) as opened:
        image = opened[0].copy()
    if data is not None:
        image = fits.PrimaryHDU(data, header=image.header)
    for keyword, value in header.items():
        if value is None:
            del image.header[keyword]
        else:
            image.header[keyword] = value
    image.writeto(target)


def _broken_files(good, directory):
    """Break copies of good frames in every way of the list; give what `status` must say of each."""
    frames = sorted(good.glob("*.fits"))
    content = frames[0].read_bytes()
    pixels = fits.getdata(frames[3])
    (directory / "a_truncated.fits").write_bytes(content[:-6000])
    (directory / "b_empty.fits").write_bytes(b"")
    (directory / "c_text.fits").write_text("this is not a frame")
    later = {"UT": "2024-01-01 03:05:01.000"}
    _rewrite(frames[3], directory / "d_shape.fits", data=pixels[:60, :80], **later)
    _rewrite(frames[4], directory / "e_time.fits", UT="2024-13-45 99:00:00")
    _rewrite(frames[4], directory / "f_year.fits", UT="2031-01-01 03:00:00")
    _rewrite(frames[5], directory / "g_keyword.fits", EXPOSURE=None)
    _rewrite(frames[6], directory / "h_nan.fits", data=np.full(pixels.shape, np.nan, "f4"), UT="2024-01-01 03:05:02")
    _rewrite(frames[7], directory / "i_saturated.fits", data=np.full_like(pixels, 65535), UT="2024-01-01 03:05:03")
    _rewrite(frames[8], directory / "j_zero.fits", data=np.zeros_like(pixels), UT="2024-01-01 03:05:04")
    _rewrite(frames[9], directory / "k twin ü.fits")
    return {
        "a_truncated.fits": "bytes",
        "b_empty.fits": "empty",
        "c_text.fits": "FITS",
        "d_shape.fits": "",
        "e_time.fits": "UT",
        "f_year.fits": "",
        "g_keyword.fits": "EXPOSURE",
        "h_nan.fits": "finite",
        "i_saturated.fits": "65535",
        "j_zero.fits": "all pixels are 0",
        "k twin ü.fits": "time stamp",
    }


def test_reduce__broken_files_are_set_aside_and_nothing_else_changes(good, reduced, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(good, data)
    reasons = _broken_files(good, data)
    text = _run("reduce", data, "--out", tmp_path / "out", *OPTIONS)
    assert "Set aside" in text
    status = _run("status", tmp_path / "out", "--problems", 0)
    for name, words in reasons.items():
        lines = [line for line in status.splitlines() if name in line]
        assert lines, f"{name} is not in:\n{status}"
        assert any(words in line for line in lines), lines
    clean, mixed = (light_curves(out, "1:g").load() for out in (reduced[0], tmp_path / "out"))
    times = clean["mjd_utc"].to_numpy()
    kept = [int(np.flatnonzero(np.abs(mixed["mjd_utc"].to_numpy() - time) < 1e-9)[0]) for time in times]
    assert mixed.sizes["source"] == clean.sizes["source"]
    np.testing.assert_allclose(
        mixed["flux"].to_numpy()[kept], clean["flux"].to_numpy(), atol=float(clean["flux_err"].min()) / 5
    )


def test_check__counts_and_names_what_is_wrong(good, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(good, data)
    _broken_files(good, data)
    text = _run("check", data)
    assert "1:g 2023-12-31" in text
    for name in ("a_truncated.fits", "b_empty.fits", "c_text.fits", "e_time.fits", "g_keyword.fits"):
        assert f"{name}:" in text
    assert "EXPOSURE" in text


def test_reduce__again_changes_nothing_and_says_so(good, reduced):
    out, _ = reduced
    before = {path: path.read_bytes() for path in Store.at(out).path.rglob("c/**/*") if path.is_file()}
    _run("reduce", good, "--out", out, *OPTIONS)
    after = {path: path.read_bytes() for path in Store.at(out).path.rglob("c/**/*") if path.is_file()}
    assert before == after


def test_reduce__writes_the_files_for_people(reduced):
    out, text = reduced
    for name in (
        "cat/catalogs.pdf",
        "cat/1-g_catalog.ecsv",
        "diag/header_times.pdf",
        "diag/background.pdf",
        "diag/alignment.pdf",
        "lcs/aperture/1-g_source_1.csv",
        "opticam_dask.log",
    ):
        assert (out / name).is_file() or name.endswith(".log"), name
    assert f"{N_GOOD} 1:g images." in text
    assert f"1:g: {N_GOOD} image(s) aligned." in text


def test_lightcurve__is_written_and_plotted(reduced):
    out, _ = reduced
    text = _run("lightcurve", out, "--target", 2, "--comparisons", 1, 3)
    assert f"{N_GOOD} of {N_GOOD} frames" in text
    folder = out / "relative_light_curves" / "aperture"
    lines = (folder / "target_2_1-g_light_curve.csv").read_text().splitlines()
    assert lines[0] == "BMJD,rel_flux,rel_flux_err,flags"
    assert len(lines) == N_GOOD + 1
    assert (folder / "target_2_1-g_light_curve.pdf").is_file()


def test_verify__whole_store_and_comparison(good, reduced, tmp_path):
    out, _ = reduced
    assert "is whole" in _run("verify", out)
    other = tmp_path / "other"
    _run("reduce", good, "--out", other, *OPTIONS, "--frames-per-block", 8)
    assert "same bits" in _run("verify", out, "--against", other)
    chunk = next(path for path in (Store.at(other).path / "1-g/2023-12-31/sources/x/c").rglob("*") if path.is_file())
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(bytes(data))
    assert "sources/x" in _run("verify", other, code=1)


def test_reduce__configuration_file_and_options_before_it(good, tmp_path):
    config = tmp_path / "parameters.toml"
    config.write_text("threshold = 6.0\nn_pixels = 5\nborder_width = 4\nmax_catalog_sources = 3\n")
    _run("reduce", good, "--out", tmp_path / "out", "--config", config, "--threshold", 5, "--cluster", "none")
    status = _run("status", tmp_path / "out")
    assert "threshold 5.0" in status
    assert "max_catalog_sources 3" in status
    assert light_curves(tmp_path / "out", "1:g").sizes["source"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("reduce", "nowhere", "--out", "OUT"), "nowhere"),
        (("reduce", "DATA", "--out", "OUT", "--threshold", "-1"), "threshold must be greater than 0"),
        (("reduce", "DATA", "--out", "OUT", "--rebin", "0"), "rebin_factor must be"),
        (("reduce", "DATA", "--out", "OUT", "--radius", "0"), "radius must be greater than 0"),
        (("reduce", "DATA", "--out", "OUT", "--rebin", "5", "--cluster", "none"), "rebin_factor must divide"),
        (("reduce", "DATA", "--out", "OUT", "--box-size", "500", "--cluster", "none"), "larger than a frame of 112"),
        (("reduce", "DATA", "--out", "OUT", "--reference-night", "1999-01-01", "--cluster", "none"), "1999-01-01"),
        (("reduce", "DATA", "--out", "OUT", "--scale-limit", "0.5"), "scale_limit must be greater than 1"),
        (("reduce", "DATA", "--out", "OUT", "--config", "nothing.toml"), "nothing.toml"),
        (("reduce", "DATA", "--out", "OUT", "--instrument", "nothing.json"), "nothing.json"),
        (("reduce", "DATA", "--out", "OUT", "--threshold", "high"), "invalid float"),
        (("reduce", "DATA"), "--out"),
        (("status", "nowhere"), "holds no reduction"),
        (("lightcurve", "nowhere", "--target", "1", "--comparisons", "2"), "holds no reduction"),
        (("lightcurve", "REDUCED", "--target", "99", "--comparisons", "2"), "no source 99"),
        (("lightcurve", "REDUCED", "--target", "1", "--comparisons", "1"), "other sources than the target"),
        (("lightcurve", "REDUCED", "--target", "1", "--comparisons", "2", "--key", "9:z"), "it has 1:g"),
        (("lightcurve", "REDUCED", "--target", "1", "--comparisons", "2", "--label", "psf"), "psf"),
        (("generate", "OUT", "--n-images", "0"), "at least 1"),
        (("nonsense",), "invalid choice"),
        ((), "usage"),
    ],
)
def test_usage__wrong_calls_give_one_clear_line_and_exit_two(good, reduced, tmp_path, arguments, words):
    places = {"DATA": good, "OUT": tmp_path / "out", "REDUCED": reduced[0]}
    text = _run(*(places.get(argument, argument) for argument in arguments), code=2)
    assert words in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("reduc", "DATA"), "did you mean reduce?"),
        (
            ("reduce", "DATA", "--out", "OUT", "--frame-per-block=3"),
            "--frame-per-block=3; did you mean --frames-per-block?",
        ),
        (("instrument", "gues"), "did you mean guess?"),
        (("status", "OUT", "--zzz", "3"), "unrecognized arguments: --zzz 3. "),
        (("reduce", "DATA"), "required: --out. "),
    ],
)
def test_usage__one_line_by_the_command_itself__with_what_comes_nearest(capsys, arguments, expected):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert expected in told
    program = "opticam-dask" if arguments[0] == "reduc" else f"opticam-dask {arguments[0]}"
    assert told.startswith(f"{program}: ")
    assert told.endswith(f" {program} --help says what there is.\n")
    assert told.count("\n") == 1


def test_reduce__other_parameters_are_refused(good, reduced):
    text = _run("reduce", good, "--out", reduced[0], *OPTIONS, "--threshold", 7, code=2)
    assert "threshold: 5.0 before, 7.0 now" in text


@pytest.mark.parametrize("kind", ["empty directory", "only broken files"])
def test_reduce__nothing_to_reduce_is_exit_one(tmp_path, kind):
    data = tmp_path / "data"
    data.mkdir()
    if kind == "only broken files":
        (data / "broken.fits").write_bytes(b"")
    text = _run("reduce", data, "--out", tmp_path / "out", code=1)
    assert "no usable frame" in text


def test_reduce__nothing_detected_is_exit_one(good, tmp_path):
    text = _run("reduce", good, "--out", tmp_path / "out", *OPTIONS, "--threshold", 1e6, code=1)
    assert "threshold" in text


def test_generate__frames_and_flats(tmp_path):
    _run("generate", tmp_path, "--frames", 2, "--binning", 8, "--compress")
    assert len(list(tmp_path.glob("*.fits.gz"))) == 6
    _run("generate", tmp_path / "flats", "--frames", 2, "--binning", 8, "--flats")
    assert len(list((tmp_path / "flats").glob("*.fits"))) == 6


def test_help__names_every_command():
    text = _run("--help")
    for name in ("demo", "generate", "check", "reduce", "status", "verify", "lightcurve", "report"):
        assert name in text


def test_demo__finds_the_variable_source(tmp_path):
    text = _run("demo", tmp_path / "demo", "--n-images", 60)
    assert "The variable source is number 2" in text
    assert Path(tmp_path / "demo/reduced/cat/catalogs.pdf").is_file()
    assert f"Report:      {tmp_path / 'demo/reduced/report.html'}" in text
    assert "variable" in Path(tmp_path / "demo/reduced/report.html").read_text()
