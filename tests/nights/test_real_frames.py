"""Real frames: a transit of HAT-P-32 b seen by a 6-inch telescope, and three simultaneous OPTICAM frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import least_squares

from opticam_dask import (
    AperturePhotometer,
    Instrument,
    Reducer,
    fits_in_store,
    light_curves,
    match_cameras,
    open_reduction,
    relative_light_curve,
)
from opticam_dask.cli import main
from opticam_dask.flags import UNUSABLE

MICROOBSERVATORY = Path(__file__).parents[2] / "notebooks" / "microobservatory.json"

#: Published for these frames, and by the ephemeris: BJD (TDB) and percent.
PUBLISHED_TIME, PREDICTED_TIME, PUBLISHED_DEPTH, LITERATURE_DEPTH = 2458107.71406, 2458107.7113, 2.37, 2.2

#: Target on the first frame, pixels.
TARGET = (423.2, 286.0)


@pytest.fixture(scope="module")
def transit(real_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("transit")
    instrument = Instrument.from_json(MICROOBSERVATORY)
    reducer = Reducer(out, real_data / "hat-p-32", instrument=instrument, figures=False, verbose=False)
    reducer.create_catalogs()
    reducer.photometry(AperturePhotometer(radius=1.6, radius_unit="frame_fwhm"))
    reducer.photometry(AperturePhotometer(radius=2.0, radius_unit="frame_fwhm"), label="wide")
    return out


def _fit(days, flux, error):
    """Trapezium with a linear trend: mid-time, depth, duration, ingress, level, slope."""

    def model(parameters):
        middle, depth, duration, ingress, level, slope = parameters
        inside = np.clip((duration / 2 + ingress / 2 - np.abs(days - middle)) / max(ingress, 1e-4), 0.0, 1.0)
        return (level + slope * (days - days.mean())) * (1.0 - depth * inside)

    start = [np.median(days), 0.02, 0.12, 0.02, 1.0, 0.0]
    fit = least_squares(lambda p: (model(p) - flux) / error, start, x_scale=[0.01, 0.01, 0.1, 0.02, 1.0, 0.1])
    scatter = np.std(flux - model(fit.x))
    covariance = np.linalg.inv(fit.jac.T @ fit.jac) * 2.0 * fit.cost / (len(flux) - 6)
    return fit.x, np.sqrt(np.diag(covariance)), scatter


def test_transit__every_frame_is_aligned(transit):
    flags = open_reduction(transit)["1-Clear/2017-12-19/frames/flags"].to_numpy()
    assert len(flags) == 142
    assert np.count_nonzero(flags & np.uint32(UNUSABLE)) == 0


def test_transit__is_seen_with_the_right_depth_and_time(transit, capsys):
    curves = light_curves(transit, "1:Clear").load()
    distance = np.hypot(curves["x"][0] - TARGET[0], curves["y"][0] - TARGET[1]).to_numpy()
    target = int(np.nanargmin(distance))
    assert distance[target] < 1.0
    curve = relative_light_curve(transit, "1:Clear", target + 1, "auto", weighting="optimal")
    flux = curve["relative_flux"].to_numpy()
    days = curve["bmjd_tdb"].to_numpy() - 58107.0
    found, errors, scatter = _fit(days, flux / np.median(flux), curve["relative_flux_err"].to_numpy() / np.median(flux))
    time = found[0] + 58107.0 + 2400000.5
    with capsys.disabled():
        print(
            f"\nHAT-P-32 b: mid-transit BJD(TDB) {time:.5f} +- {errors[0]:.5f} (published for these frames "
            f"{PUBLISHED_TIME}, ephemeris {PREDICTED_TIME}), depth {100 * found[1]:.2f} +- {100 * errors[1]:.2f} % "
            f"(published {PUBLISHED_DEPTH}, literature {LITERATURE_DEPTH}), scatter {100 * scatter:.2f} %"
        )
    assert 0.021 < found[1] < 0.025
    assert abs(time - PUBLISHED_TIME) < 0.002
    assert abs(time - PREDICTED_TIME) < 0.002
    assert scatter < 0.0053


def test_transit__is_fitted_and_sent_by_a_command_each(transit, tmp_path, capsys):
    curves = light_curves(transit, "1:Clear").load()
    distance = np.hypot(curves["x"][0] - TARGET[0], curves["y"][0] - TARGET[1]).to_numpy()
    target = str(int(np.nanargmin(distance)) + 1)
    told = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    assert f"(source {target} of the catalogue)" in told, "the commands of the documentation name another star"
    codes = tmp_path / "observer.toml"
    codes.write_text('[observer]\nname = "A. Observer"\naavso = "OBSA"\n[bands]\nClear = "CV"\n')
    # orbit and limb darkening are those of Hartman et al. 2011 and Claret & Bloemen 2011 for a clear filter
    fit = ["fit-transit", str(transit), "--target", target, "--label", "wide", "--period", "2.1500082"]
    fit += ["--a-over-rs", "6.05", "0.03", "--inclination", "88.9", "0.4", "--limb-darkening", "0.32", "0.28"]
    assert main([*fit, "--prefix", "hat_p_32", "--n-steps", "400"]) == 0
    send = ["submit", str(transit), "--format", "aavso-exoplanet", "--name", "hat_p_32", "--observer", str(codes)]
    assert main([*send, "--star", "HAT-P-32"]) == 0
    found = fits_in_store(transit, "1:Clear")["hat_p_32"]
    value = dict(zip(found["parameter"].to_numpy(), found["value"].to_numpy(), strict=True))
    error = dict(zip(found["parameter"].to_numpy(), found["error_plus"].to_numpy(), strict=True))
    with capsys.disabled():
        print(
            f"\nHAT-P-32 b by fit-transit: BJD(TDB) {value['mid_time']:.5f} +- {error['mid_time']:.5f}, depth "
            f"{value['depth']:.2f} +- {error['depth']:.2f} %"
        )
    assert abs(value["mid_time"] - PREDICTED_TIME) < 0.001
    assert error["mid_time"] < 0.002
    assert abs(value["depth"] - PUBLISHED_DEPTH) < error["depth"]
    # the literature's is of another band, and rounded to a tenth: 2.45 +- 0.26 was found, one error from it
    assert abs(value["depth"] - LITERATURE_DEPTH) < 2.0 * error["depth"]
    lines = (transit / "submissions" / "hat_p_32_1-Clear_aavso-exoplanet.txt").read_text().splitlines()
    rows = np.array([[float(word) for word in line.split(",")] for line in lines if not line.startswith("#")])
    assert rows.shape == (142, 6)
    assert "#DATE_TYPE=BJD_TDB" in lines
    assert np.median(rows[:20, 1]) == pytest.approx(1.0, abs=0.01)


def test_opticam__three_real_frames_are_classified_and_measured(real_data, tmp_path):
    reducer = Reducer(tmp_path, real_data / "opticam", figures=False, verbose=False, client="none")
    table = reducer.scan.table.set_index("key")
    assert sorted(table.index) == ["1:g", "2:r", "3:z"]
    assert set(table["binning"]) == {2}
    assert set(zip(table["ny"], table["nx"], strict=True)) == {(1024, 1024)}
    assert set(table["exposure_time"]) == {5.0}
    assert np.ptp(table["mjd_utc"]) * 86400.0 < 5.0
    assert np.isnan(table["ra"]).all()
    reducer.create_catalogs()
    reducer.photometry()
    for other, scale, shift in (("2:r", 0.937, (56.3, 63.6)), ("3:z", 0.834, (80.5, 125.6))):
        found = match_cameras(tmp_path, "1:g", other)
        assert not found.is_mirrored
        assert np.sqrt(np.linalg.det(found.transform)) == pytest.approx(scale, abs=0.004)
        # of the brightest sources; the cameras are distorted by a pixel or two
        assert np.hypot(*(found.transform[:2, 2] - shift)) < 4.0
        assert len(found.source_id) >= 9
        assert np.median(found.distance) < 0.6
    for key in ("1:g", "2:r", "3:z"):
        curves = light_curves(tmp_path, key).load()
        assert curves.sizes["frame"] == 1
        assert curves.sizes["source"] >= 5
        assert np.all(curves["flux"].to_numpy()[0, :3] > 10 * curves["flux_err"].to_numpy()[0, :3])
        assert np.isnan(curves["bmjd_tdb"]).all()
        assert np.isfinite(curves["mjd_utc"]).all()


def test_opticam__a_target_position_gives_barycentric_times(real_data, tmp_path):
    Reducer(
        tmp_path, real_data / "opticam", target_coord=(83.63, 22.01), figures=False, verbose=False, client="none"
    ).create_catalogs()
    frames = open_reduction(tmp_path)["1-g/2023-11-21/frames"]
    # light takes at most 8.4 minutes from the Sun, and TDB is 69.2 s ahead of UTC
    difference = (frames["bmjd_tdb"] - frames["mjd_utc"]).to_numpy() * 1440.0
    assert np.all((difference > -7.3) & (difference < 9.6))
    assert np.all(np.abs(difference) > 0.5)
