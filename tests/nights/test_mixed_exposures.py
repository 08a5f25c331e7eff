"""Nights that mix exposure times and gains, with darks of yet another of both: everything per electron and second."""

from __future__ import annotations

import numpy as np
import pytest
import small_nights
from small_nights import FIELD

from opticam_dask import relative_light_curve
from opticam_dask.display import diagnostics
from opticam_dask.flags import QualityFlag, SourceFlag

#: Exposure time (s), gain (electrons per ADU) and number of frames of the pieces of the night.
PIECES = ((6.0, 1.0, 10), (2.0, 1.0, 10), (2.0, 2.0, 10))
#: Electrons per pixel and second of sky and dark current, and the read noise.
SKY, DARK, READ_NOISE = 20.0, 4.0, 3.0
#: Darks are of 10 s and gain 2; a fifth of the pixels has twice the dark current, 25 sigma above the others.
DARK_TIME, DARK_GAIN, N_DARKS = 10.0, 2.0, 20
SHAPE = (200, 200)


def _dark_current():
    rates = np.full(SHAPE, DARK)
    rates.ravel()[np.random.default_rng(1).choice(rates.size, rates.size // 5, replace=False)] *= 2.0
    return rates


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """The night, reduced with biases and darks; stars of constant light."""
    directory, rng, dark = tmp_path_factory.mktemp("mixed"), np.random.default_rng(7), _dark_current()
    shifts = rng.normal(0, 0.6, (5, 2))
    painted = []
    for shift in shifts:
        image = np.zeros(SHAPE)
        for x, y, flux in FIELD:
            small_nights.add_star(image, x + shift[0], y + shift[1], flux / 5.0)
        painted.append(image)
    seconds = 0.0
    for exposure, gain, n_frames in PIECES:
        for _ in range(n_frames):
            electrons = (painted[int(seconds) % len(painted)] + SKY + dark) * exposure
            pixels = small_nights.read_out(electrons, rng, READ_NOISE, gain=gain)
            file = directory / f"frames/f{int(seconds * 10):06d}.fits"
            small_nights.write_frame(file, pixels, seconds, EXPTIME=exposure, GAIN=gain)
            seconds += exposure + 1.0
    for number in range(N_DARKS):
        for name, time in (("darks", DARK_TIME), ("biases", 0.0)):
            pixels = small_nights.read_out(dark * time, rng, READ_NOISE, gain=DARK_GAIN)
            file = directory / f"{name}/{number:02d}.fits"
            small_nights.write_frame(file, pixels, number, EXPTIME=time, GAIN=DARK_GAIN)
    return small_nights.reduce_frames(
        directory, biases=directory / "biases", darks=directory / "darks", frames_per_block=8
    )


def _exposures():
    return np.concatenate([np.full(n_frames, exposure) for exposure, _, n_frames in PIECES])


def test_transparency__is_one_in_long_and_in_short_exposures(night):
    quality = night.group(f"{night.night}/quality")
    transparency, error = (quality[name].to_numpy() for name in ("transparency", "transparency_err"))
    assert np.all(np.abs(transparency - 1.0) < 5.0 * error + 0.003)  # 0.3 %: seeing and profile
    assert not np.any(quality["flags"].to_numpy() & np.uint32(QualityFlag.CLOUD))


def test_fluxes__are_the_true_electrons_with_errors_of_the_right_size(night):
    found, pulls = night.curves(), []
    exposures = _exposures()
    for x, y, flux in FIELD:
        column = night.source_at(x, y)
        truth = flux / 5.0 * exposures
        pulls.append((found["total"].to_numpy()[:, column] - truth) / found["total_err"].to_numpy()[:, column])
    pulls = np.array(pulls)
    for piece in np.split(np.arange(len(exposures)), np.cumsum([n for *_, n in PIECES])[:-1]):
        # 100 measurements: the mean is known to 0.1 of an error and the width to 7 %; totals share the profile's error
        assert abs(np.mean(pulls[:, piece])) < 0.45
        assert 0.8 < np.std(pulls[:, piece] - pulls[:, piece].mean(axis=1, keepdims=True)) / np.sqrt(0.9) < 1.2


def test_warm_pixels__that_are_quieter_than_the_sky_are_used(night):
    # 4 electrons per second more than others, against 24 of sky and dark
    assert not np.any(night.curves()["flags"].to_numpy() & np.uint32(SourceFlag.BAD_PIXEL))


def test_comparisons__are_chosen_in_a_night_of_several_exposure_times(night):
    curve = relative_light_curve(night.out, night.key, 3, "auto")
    assert len(curve.attrs["comparisons"]) >= 3
    relative = curve["relative_flux"].to_numpy()
    pulls = (relative - np.median(relative)) / curve["relative_flux_err"].to_numpy()
    assert np.std(pulls) < 1.3
    assert not np.any(curve["flags"].to_numpy() & np.uint32(SourceFlag.OUTLIER))


def test_detrending__by_transparency_takes_nothing_off(night):
    plain = relative_light_curve(night.out, night.key, 3, [1, 2])
    detrended = relative_light_curve(night.out, night.key, 3, [1, 2], detrend=["transparency"])
    change = (detrended["relative_flux"] / plain["relative_flux"]).to_numpy()
    error = np.median((plain["relative_flux_err"] / plain["relative_flux"]).to_numpy())
    assert np.max(np.abs(change / np.median(change) - 1.0)) < 3.0 * error


def test_noise__is_that_of_the_usual_exposure(night):
    statistics = diagnostics.statistics_of_sources(night.out, "aperture")[night.key]
    # 20 of 30 frames are of 2 s: scatter and error of these, not the step to others
    assert np.all(statistics["scatter"] < 2.0 * statistics["median_error"])
    brightest = statistics.isel(source=0)
    assert 0.7 < float(brightest["median_flux"]) / (2.0 * FIELD[0, 2] / 5.0) < 0.95  # within one FWHM
    model = diagnostics.noise_model(night.out, night.key, "aperture", statistics)
    expected = np.interp(float(brightest["median_flux"]), model["flux"], model["total"])
    assert expected == pytest.approx(float(brightest["median_error"]), rel=0.15)
