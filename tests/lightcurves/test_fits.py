"""Fits of transits, eclipses and sinusoids to light curves of several cameras: truth within the errors told."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import opticam_dask as opticam
from opticam_dask.kernels.fitting import shapes
from opticam_dask.lightcurves.fitting.outcome import _not_seen, describe, value_of

ORIGIN, JD = 60000.0, 2400000.5
PERIOD, AXIS, INCLINATION, RATIO = 2.15, 6.05, 88.9, 0.12
MIDDLE = 60000.1312
DARKENING = {"1:g": (0.5, 0.2), "2:r": (0.35, 0.25), "3:z": (0.2, 0.25)}


def _curve(key, shape, rng, noise=0.002, n_frames=150, slow=0.0, exposure=60.0, span=0.26):
    """Light curve with a baseline in airmass and position, and perhaps slow noise."""
    days = ORIGIN + np.sort(rng.uniform(0.0, span, n_frames))
    airmass = 1.1 + 8.0 * (days - ORIGIN - 0.1) ** 2
    x, y = np.cumsum(rng.normal(0, 0.3, n_frames)), np.cumsum(rng.normal(0, 0.3, n_frames))
    base = 0.4 * (1.0 + 0.01 * (airmass - 1.1) + 2e-4 * x - 1e-4 * y)
    flux = base * shape(days) * (1.0 + rng.normal(0, noise, n_frames))
    if slow:
        flux *= 1.0 + slow * np.interp(days, np.linspace(days[0], days[-1], 18), rng.standard_normal(18))
    frame = "frame"
    return xr.Dataset(
        {
            "relative_flux": (frame, flux),
            "relative_flux_err": (frame, np.full(n_frames, 0.4 * noise)),
            "flags": (frame, np.ones(n_frames, np.uint32)),
        },
        coords={
            "mjd_utc": (frame, days - 0.005),
            "bmjd_tdb": (frame, days),
            "night": (frame, np.full(n_frames, "2023-02-25", dtype=object)),
            "airmass": (frame, airmass),
            "x": (frame, x),
            "y": (frame, y),
            "exposure_time": (frame, np.full(n_frames, exposure)),
        },
        attrs={"key": key, "label": "aperture"},
    )


def _transit(key):
    def shape(days):
        model = shapes.Transit(np.ascontiguousarray(days), PERIOD, DARKENING[key], 60.0 / 86400.0)
        return model.flux(MIDDLE, RATIO, AXIS, INCLINATION)

    return shape


def _pull(fit, name, truth):
    value, error = value_of(fit, name)
    return (value - truth) / error


@pytest.fixture(scope="module")
def cameras():
    rng = np.random.default_rng(3)
    return {key: _curve(key, _transit(key), rng, 0.002 + 0.0005 * place) for place, key in enumerate(DARKENING)}


def test_transit__of_three_cameras_jointly_is_right_and_better_than_of_one(cameras):
    options = {"limb_darkening": DARKENING, "a_over_rs": (AXIS, 0.05), "inclination": (INCLINATION, 0.4)}
    joint = opticam.fit_transit(cameras, PERIOD, n_steps=150, **options)
    alone = opticam.fit_transit(cameras["1:g"], PERIOD, n_steps=0, **options)
    for name, truth in (("mid_time", MIDDLE + JD), ("radius_ratio", RATIO), ("depth", 100 * RATIO**2)):
        assert abs(_pull(joint, name, truth)) < 3.0, name
    assert value_of(joint, "mid_time")[1] < 0.9 * value_of(alone, "mid_time")[1]
    assert value_of(joint, "mid_time")[1] < 0.0006
    assert value_of(joint, "duration")[0] == pytest.approx(
        24 * shapes.transit_duration(PERIOD, RATIO, AXIS, INCLINATION), abs=0.1
    )
    assert set(joint["key"].to_numpy()) == set(cameras)
    # what is left is the noise that was put in, not the baseline
    assert joint.attrs["scatter"] == pytest.approx(0.0025, rel=0.12)
    assert all(isinstance(value, (int, float, str)) for value in joint.attrs.values())


def test_transit__same_call_gives_the_same_numbers_and_another_seed_others(cameras):
    options = {"n_steps": 30, "a_over_rs": AXIS, "inclination": INCLINATION}
    one, two = (opticam.fit_transit(cameras["1:g"], PERIOD, **options) for _ in range(2))
    other = opticam.fit_transit(cameras["1:g"], PERIOD, seed=1, **options)
    np.testing.assert_array_equal(one["samples"], two["samples"])
    assert not np.array_equal(one["samples"], other["samples"])


def test_transit__errors_are_right_with_white_and_with_red_noise():
    options = {"n_steps": 0, "a_over_rs": AXIS, "inclination": INCLINATION, "limb_darkening": DARKENING["1:g"]}
    for slow, widest in ((0.0, 1.3), (0.001, 1.75)):
        pulls = []
        for seed in range(25):
            curve = _curve("1:g", _transit("1:g"), np.random.default_rng(100 + seed), slow=slow)
            fit = opticam.fit_transit(curve, PERIOD, **options)
            pulls.append([_pull(fit, "mid_time", MIDDLE + JD), _pull(fit, "radius_ratio", RATIO)])
        spread = np.sqrt(np.mean(np.square(pulls), axis=0))
        assert np.all(spread < widest), (slow, spread)
        assert np.all(spread > 0.5), (slow, spread)


def test_transit__outliers_are_left_out_and_counted(cameras):
    curve = cameras["1:g"].copy(deep=True)
    curve["relative_flux"][[10, 60, 61]] *= [1.1, 0.8, 0.8]
    curve["relative_flux"][20] = np.nan
    fit = opticam.fit_transit(curve, PERIOD, n_steps=0, a_over_rs=AXIS, inclination=INCLINATION)
    assert fit.attrs["n_outliers"] == 3
    assert "1 of 150 frames" in fit.attrs["notes"]
    assert abs(_pull(fit, "mid_time", MIDDLE + JD)) < 3.0


def test_transit__mid_time_of_an_old_ephemeris_is_carried_to_the_data(cameras):
    old = MIDDLE + JD - 1042 * PERIOD
    fit = opticam.fit_transit(cameras["1:g"], PERIOD, mid_time=old, n_steps=0, a_over_rs=AXIS, inclination=INCLINATION)
    assert abs(_pull(fit, "mid_time", MIDDLE + JD)) < 3.0


def test_eclipse__depths_of_two_cameras_come_back():
    rng = np.random.default_rng(8)
    truth = {"1:g": 0.35, "2:r": 0.2}
    curves = {
        key: _curve(
            key, lambda days, depth=depth: shapes.eclipse_flux(days, 60000.09, depth, 0.03, 0.005), rng, 0.01, 400
        )
        for key, depth in truth.items()
    }
    fit = opticam.fit_eclipse(curves, n_steps=150, baseline=("airmass",))
    assert abs(_pull(fit, "mid_time", 60000.09 + JD)) < 3.5
    assert value_of(fit, "mid_time")[1] < 3e-4
    for key, depth in truth.items():
        assert abs(_pull(fit, f"depth_{key}", 100 * depth)) < 3.5
    assert value_of(fit, "duration")[0] == pytest.approx(24 * 0.03, abs=0.05)


def test_sinusoid__period_and_amplitude_come_back():
    rng = np.random.default_rng(9)
    period, amplitude = 0.0371, 0.02
    curves = {
        key: _curve(key, lambda days: shapes.sinusoid_flux(days, amplitude, 1 / period, 0.7, ORIGIN), rng, 0.01, 400)
        for key in ("1:g", "2:r")
    }
    fit = opticam.fit_sinusoid(curves, n_steps=100, depths="shared")
    assert abs(_pull(fit, "period", period)) < 3.5
    assert abs(_pull(fit, "amplitude", 100 * amplitude)) < 3.5
    at = value_of(fit, "maximum_time")[0] - JD - ORIGIN
    assert np.sin(2 * np.pi * at / period + 0.7) > 0.98


def test_sinusoid__a_camera_that_does_not_vary_has_an_error_all_the_same():
    """The error of an amplitude of nothing is that of the others."""
    rng = np.random.default_rng(2)
    period = 0.03
    curves = {
        key: _curve(
            key, lambda days, size=size: shapes.sinusoid_flux(days, size, 1 / period, 0.7, ORIGIN), rng, 0.01, 300
        )
        for key, size in (("1:g", 0.02), ("2:r", 0.0), ("3:z", 0.0))
    }
    fit = opticam.fit_sinusoid(curves, n_steps=0)
    errors = {key: value_of(fit, f"amplitude_{key}")[1] for key in curves}
    assert max(errors.values()) < 0.2, errors
    for key in ("2:r", "3:z"):
        assert value_of(fit, f"amplitude_{key}")[0] < 4.0 * errors["1:g"]


def test_long_series__is_averaged_and_says_so():
    rng = np.random.default_rng(4)
    curve = _curve("1:g", _transit("1:g"), rng, 0.01, 9000, exposure=2.0)
    fit = opticam.fit_transit(curve, PERIOD, n_steps=0, a_over_rs=AXIS, inclination=INCLINATION)
    assert fit.sizes["point"] == 3000
    assert "averaged over 3 frames" in fit.attrs["notes"]
    assert abs(_pull(fit, "mid_time", MIDDLE + JD)) < 3.0
    assert any("averaged" in line for line in describe(fit))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"period": -1.0}, "greater than 0"),
        ({"a_over_rs": 0.5}, "a_over_rs must be a value above 1.2"),
        ({"inclination": (95.0, 1.0)}, "inclination must be"),
        ({"limb_darkening": (0.8, 0.9)}, "limb darkening"),
        ({"baseline": ("moon",)}, "a baseline is made of"),
        ({"depths": "both"}, "depths must be"),
    ],
)
def test_transit__nonsense_is_refused(cameras, change, words):
    with pytest.raises(ValueError, match=words):
        opticam.fit_transit(cameras["1:g"], **({"period": PERIOD, "n_steps": 0} | change))


def test_transit__that_is_not_there_or_has_no_errors_is_told(cameras):
    curve = next(iter(cameras.values())) if isinstance(cameras, dict) else cameras
    with pytest.raises(ValueError, match="no frame with a flux has an error above 0"):
        opticam.fit_transit(curve.assign(relative_flux_err=0.0 * curve["relative_flux_err"]), PERIOD)
    rng = np.random.default_rng(3)
    flat = curve.assign(relative_flux=("frame", rng.normal(1.0, 0.002, curve.sizes["frame"])))
    fit = opticam.fit_transit(flat, PERIOD, a_over_rs=AXIS, inclination=INCLINATION, n_steps=0)
    assert "times its error: it is not sure that there is any" in fit.attrs["notes"]


def test_depth__that_is_less_than_three_errors_or_negative_is_told():
    found = {"parameter": ["depth_1:g", "depth_2:r", "depth_3:z"], "value": [2.0, -5.0, 3.0]}
    found = {name: np.array(values) for name, values in found.items()}
    assert _not_seen(found | {"error_minus": np.ones(3), "error_plus": np.ones(3)}) == [
        "depth_1:g is 2.0 times its error: it is not sure that there is any",
        "depth_2:r is negative: it is not sure that there is any",
    ]


def test_transit__without_barycentric_times_says_what_is_needed(cameras):
    curve = cameras["1:g"].assign_coords(bmjd_tdb=("frame", np.full(150, np.nan)))
    with pytest.raises(ValueError, match="target-coord"):
        opticam.fit_transit(curve, PERIOD)
