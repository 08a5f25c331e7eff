"""Magnitudes of a sky catalogue: those of the simulated stars, with upper limits where the target is gone."""

from __future__ import annotations

import numpy as np
import pytest
from small_nights import FIELD, add_star, read_out, reduce_frames, write_frame

import opticam_dask as opticam
from opticam_dask.cli import main
from opticam_dask.store.store import Store

ZERO, TERM = 25.0, 0.1
GONE = range(10, 14)


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A star that is gone for four frames of fourteen, and a catalogue that knows the others."""
    directory = tmp_path_factory.mktemp("magnitudes")
    rng = np.random.default_rng(21)
    others, target = np.full((200, 200), 60.0), np.zeros((200, 200))
    for place, (x, y, flux) in enumerate(FIELD):
        add_star(target if place == 4 else others, x, y, flux)
    for number in range(14):
        clouds = 1.0 - 0.02 * (number % 5)
        image = 60.0 + clouds * (others - 60.0 + (number not in GONE) * target)
        write_frame(directory / "frames" / f"{number:03d}.fits", read_out(image, rng), 60.0 * number)
    night = reduce_frames(directory)
    _add_magnitudes(night)
    return night


def _add_magnitudes(night):
    """What ``opticam-dask sky`` adds: V and the colour B-V of each star, but for the target's magnitude."""
    rng = np.random.default_rng(5)
    catalog = Store.open(night.out).camera("1:V").catalog
    places = np.column_stack([catalog["x"], catalog["y"]])
    nearest = [int(np.argmin(np.hypot(*(FIELD[:, :2] - place).T))) for place in places]
    colour = rng.normal(0.6, 0.25, len(places))
    true = ZERO - 2.5 * np.log10(FIELD[nearest, 2]) + TERM * (colour - 0.6)
    listed = true + rng.normal(0, 0.01, len(places))
    listed[np.array(nearest) == 4] = np.nan
    table = np.column_stack([listed, listed + colour])
    catalog.extend({"magnitude": table, "band": np.array(["V", "B"], dtype=object)})


def test_magnitudes__are_those_of_the_star_with_limits_where_it_is_gone(night):
    target = night.source_at(*FIELD[4][:2]) + 1
    curve = opticam.magnitudes(night.out, "1:V", target, colour=("B", "V"), target_colour=0.6)
    true = ZERO - 2.5 * np.log10(FIELD[4][2])
    magnitude, error = curve["magnitude"].to_numpy(), curve["magnitude_err"].to_numpy()
    seen = np.setdiff1d(np.arange(14), list(GONE))
    assert np.isnan(magnitude[list(GONE)]).all()
    assert np.isfinite(magnitude[seen]).all()
    systematic = curve["magnitude_err_sys"].to_numpy()[0]
    assert abs(np.mean(magnitude[seen]) - true) < 3.5 * systematic + 0.003
    assert 0.002 < systematic < 0.02
    assert np.all(error[seen] >= systematic)
    limits = curve["magnitude_limit"].to_numpy()[list(GONE)]
    assert np.all(limits > true + 1.5)
    assert curve.attrs["magnitude_band"] == "V"
    assert curve.attrs["n_zero_point_stars_2024-01-01"] >= 6
    assert abs(curve.attrs["colour_term_2024-01-01"] - TERM) < 3.5 * curve.attrs["colour_term_err_2024-01-01"]


def test_magnitudes__by_command_are_kept_and_sent(night, tmp_path, capsys):
    target = str(night.source_at(*FIELD[4][:2]) + 1)
    out = str(night.out)
    assert main(["magnitudes", out, "--target", target, "--prefix", "star"]) == 0
    assert "upper limits" in capsys.readouterr().out
    kept = opticam.differential_light_curves(out, "1:V")["star"]
    assert np.isfinite(kept["magnitude"]).sum() == 10
    assert (night.out / "magnitudes" / "aperture" / "star_1-V_magnitudes.ecsv").is_file()
    codes = tmp_path / "observer.toml"
    codes.write_text('[observer]\nname = "A. Observer"\naavso = "OBSA"\n')
    send = ["submit", out, "--format", "aavso-extended", "--name", "star", "--observer", str(codes)]
    assert main([*send, "--star", "SS Cyg"]) == 0
    text = (night.out / "submissions" / "star_1-V_aavso-extended.txt").read_text()
    rows = [line.split(",") for line in text.splitlines() if not line.startswith("#")]
    assert sum(row[2].startswith("<") for row in rows) == 4
    assert {row[6] for row in rows} == {"STD"}


def test_magnitudes__a_star_that_is_marked_junk_gives_no_zero_point_until_the_mark_is_taken_back(night):
    out, target = night.out, night.source_at(*FIELD[4][:2]) + 1
    assert main(["magnitudes", str(out), "--target", str(target), "--prefix", "marked"]) == 0
    file = out / "magnitudes" / "aperture" / "marked_1-V_magnitudes.ecsv"
    before, written = opticam.differential_light_curves(out, "1:V")["marked"].load(), file.read_bytes()
    star = before.attrs["comparisons"][0]
    opticam.mark(out, "junk", "1:V", sources=[star])
    opticam.mark(out, "cloud", "1:V", times=(before["mjd_utc"].to_numpy()[2],) * 2)
    after = opticam.differential_light_curves(out, "1:V")["marked"].load()
    assert after.attrs["comparisons"] == before.attrs["comparisons"][1:]
    name = "n_zero_point_stars_2024-01-01"
    assert after.attrs[name] == before.attrs[name] - 1
    assert np.flatnonzero(np.isnan(after["magnitude"])).tolist() == [2, *GONE]
    opticam.unmark(out, opticam.marks(out).index.tolist())
    assert opticam.differential_light_curves(out, "1:V")["marked"].load()["magnitude"].equals(before["magnitude"])
    assert file.read_bytes().count(b"nan") == written.count(b"nan")


def test_magnitudes__what_is_missing_is_said(night, capsys):
    out = str(night.out)
    assert main(["magnitudes", out, "--target", "3", "--band", "z"]) == 2
    assert "has no band 'z'; it has V, B" in capsys.readouterr().err
