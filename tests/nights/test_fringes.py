"""Fringes of a red sky, stronger in some frames than in others, are taken off and leave the stars as they are."""

from __future__ import annotations

import json

import numpy as np
import pytest
import small_nights
from astropy.io import fits

from opticam_dask import FringeCorrector, Instrument, calibrate, calibration_masters, cli, open_frames
from opticam_dask.kernels.images.fringes import FringeMap, only_waves
from opticam_dask.store.store import Store

SIDE, SKY, N_FRAMES = 200, 600.0, 8
#: Fringes as a share of the sky, frame by frame.
STRENGTH = np.linspace(0.02, 0.18, N_FRAMES)


def _waves(side=SIDE):
    y, x = np.mgrid[:side, :side]
    return np.sin(2 * np.pi * (x + 0.4 * y + 12 * np.sin(y / 40)) / 24)


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Frames with fringes, a map of them in units of its own, and exposures of the sky that make one."""
    directory, rng = tmp_path_factory.mktemp("fringes"), np.random.default_rng(4)
    y, x = np.mgrid[:SIDE, :SIDE]
    gradient = 1.0 + 0.1 * x / SIDE - 0.05 * y / SIDE
    for frame in range(N_FRAMES):
        image, shift = SKY * (gradient + STRENGTH[frame] * _waves()), rng.normal(0, 1.5, 2)
        for star in small_nights.FIELD:
            small_nights.add_star(image, *(star[:2] + shift), star[2])
        small_nights.write_frame(directory / f"frames/f{frame}.fits", small_nights.read_out(image, rng), 10.0 * frame)
    cards = {"IMAGETYP": "fringe"}
    for number in range(9):
        image = SKY * (1.0 + 0.05 * number) * (1.0 + 0.08 * _waves())
        for star in small_nights.FIELD:  # the telescope was moved on
            place = (star[:2] + np.array([53.0, 31.0]) * number) % SIDE
            small_nights.add_star(image, *place, star[2] / 4)
        small_nights.write_frame(
            directory / f"sky/s{number}.fits", small_nights.read_out(image, rng), 1000.0 + number, **cards
        )
    small_nights.write_frame(directory / "map/map.fits", (7.0 - 3.0 * _waves()).astype(np.float32), 0.0)
    (directory / "camera.json").write_text(json.dumps(small_nights.INSTRUMENT))
    return directory


@pytest.fixture(scope="module")
def reduced(night, tmp_path_factory):
    """Two reductions: with exposures of the sky, sorted by their headers, and without."""
    place = tmp_path_factory.mktemp("reduced")
    given = {"sky": ["--calibration", str(night / "sky")], "none": []}
    for name, option in given.items():
        words = [
            "reduce",
            str(night / "frames"),
            "--out",
            str(place / name),
            "--cluster",
            "none",
            "--no-figures",
            "--forced",
        ]
        assert cli.main([*words, "--instrument", str(night / "camera.json"), *option]) == 0
    return {name: small_nights.SmallNight(place / name) for name in given}


def _residuals(found):
    """Fluxes of the fainter stars (the bright ones vary by more than fringes) about their means, and their errors."""
    curves = found.curves("forced_aperture")
    sources = [found.source_at(x, y, within=6.0) for x, y, _ in small_nights.FIELD[3:]]
    flux, error = (curves[name].to_numpy()[:, sources] for name in ("flux", "flux_err"))
    assert np.isfinite(flux).all()
    return flux - flux.mean(axis=0), error


def test_night__light_curves_are_as_quiet_as_their_errors_say(reduced):
    residuals, error = _residuals(reduced["sky"])
    assert 0.7 < np.std(residuals / error) < 1.3
    raw, _ = _residuals(reduced["none"])
    assert np.std(raw / error) > 2.5  # they follow the fringes


def test_map__is_of_its_filter_and_in_the_store(reduced):
    master = Store.at(reduced["sky"].out).master("fringe_1-V_200x200_1x1").read_all()["fringe"]
    assert abs(np.corrcoef(master.ravel(), _waves().ravel())[0, 1]) > 0.96  # the noise of nine exposures
    assert not Store.at(reduced["none"].out).master("fringe_1-V_200x200_1x1").is_whole


def test_scale__is_beside_each_frame_with_its_unit(reduced):
    scale, without = (reduced[name].frames["fringe_scale"] for name in ("sky", "none"))
    master = Store.at(reduced["sky"].out).master("fringe_1-V_200x200_1x1").read_all()["fringe"]
    amplitude = (master.ravel() @ _waves().ravel()) / (_waves().ravel() @ _waves().ravel())
    np.testing.assert_allclose(scale.to_numpy() * amplitude, SKY * STRENGTH, rtol=0.1, atol=3.0)
    assert scale.attrs["units"] == "electron pixel-1"
    assert np.isnan(without).all()


def test_steps_and_corrector__take_the_same_fringes_off(night):
    camera = Instrument.from_json(small_nights.INSTRUMENT)
    masters = calibration_masters(key="1:V", fringes=night / "map", instrument=camera)
    frames = open_frames(night / "frames", key="1:V", instrument=camera, chunks=1).isel(frame=[0])
    found = calibrate(frames, masters)["image"][0].to_numpy()
    raw = fits.getdata(night / "frames/f0.fits").astype(float)
    by_hand, variance = FringeCorrector(night / "map", instrument=camera).correct(raw, "1:V")
    np.testing.assert_allclose(found, by_hand, atol=1e-9)
    assert not variance.any()
    taken = (raw - by_hand) / SKY
    np.testing.assert_allclose(np.ptp(taken) / 2.0, STRENGTH[0], rtol=0.1)


def test_other_filters__have_none(night, tmp_path, capsys):
    """A map of one filter leaves the frames of another alone, and says so."""
    camera = small_nights.INSTRUMENT | {"cameras": {"1": ["V", "R"]}}
    (tmp_path / "camera.json").write_text(json.dumps(camera))
    for name in ("a", "b"):
        pixels = np.full((SIDE, SIDE), 7, np.uint16) + np.arange(SIDE, dtype=np.uint16)
        small_nights.write_frame(tmp_path / f"map/{name}.fits", pixels, 0.0, FILTER="R")
    words = ["reduce", *(str(night / f"frames/f{frame}.fits") for frame in range(2)), "--out", str(tmp_path / "out")]
    words += ["--cluster", "none", "--no-figures", "--instrument", str(tmp_path / "camera.json")]
    assert cli.main([*words, "--fringe", str(tmp_path / "map")]) == 0
    assert "1:V: there are no fringe frames of its filter, so that none are taken off." in capsys.readouterr().out


def test_scale__is_that_of_the_fringes_whatever_stands_on_the_sky():
    rng, waves = np.random.default_rng(1), _waves(240)
    fringes = FringeMap.of(only_waves(0.03 * waves + rng.normal(0, 1e-3, waves.shape)))
    for strength in (-20.0, 0.0, 15.0, 200.0):
        image = rng.normal(500.0 + strength * waves + np.linspace(0, 200, 240), 22.0)
        image[60:80] += 5e4  # a satellite
        image[rng.random(image.shape) < 0.02] = np.nan
        for x, y in rng.uniform(0, 240, (60, 2)):
            small_nights.add_star(image, x, y, 10 ** rng.uniform(3, 5))
        assert fringes.scale(image[fringes.rows]) * 0.03 == pytest.approx(strength, abs=1.0, rel=0.02)
    assert fringes.scale(np.full((240, 240), np.nan)[fringes.rows]) == 0.0


def test_only_waves__stars_in_a_map_are_no_fringes():
    values = 1.0 + 0.03 * _waves()
    values[50, 60], values[70, 80] = 9.0, np.nan
    found = only_waves(values)
    assert (found[50, 60], found[70, 80]) == (0.0, 0.0)
    np.testing.assert_allclose(found[:40], values[:40] - np.nanmedian(values))
