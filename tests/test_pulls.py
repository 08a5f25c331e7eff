"""Fluxes and their errors from frames to the store, against the truth of simulated nights.

Every photometer, with the sky of the mesh and of an annulus, forced and recentred, without calibration frames, with
darks and flats, and with biases, darks and flats: the pulls ``(flux - truth) / error`` of constant stars, in all
frames, whether a star was detected or not.
"""

from __future__ import annotations

import numpy as np
import pytest

from opticam_dask import (
    AperturePhotometer,
    DefaultLocalBackground,
    OptimalPhotometer,
    PSFPhotometer,
    Reducer,
    light_curves,
    simulate_calibration_frames,
    simulate_observations,
)
from opticam_dask.flags import SourceFlag

N_FRAMES, N_SOURCES = 190, 60
RATIOS = ((3, 10), (10, 30), (30, 100), (100, 300))
NIGHTS = {
    "moffat": {"moffat_beta": 3.0, "gain": 1.0, "read_noise": 3.0},
    "gaussian": {"moffat_beta": None, "gain": 4.0, "read_noise": 6.0},
    "calibrated": {"moffat_beta": 3.0, "gain": 0.5, "read_noise": 3.0},
}
DETECTOR = {"flat_structure": 0.02, "vignetting": 0.4, "bias_structure": 5.0, "dead_pixels": 60, "hot_pixels": 60}
EXPOSURE = 5.0
#: Detector and kinds of calibration frames of a night. Darks without biases are exposed as long as the frames.
CALIBRATIONS = {
    "moffat": ({}, ()),
    "gaussian": (DETECTOR, ("dark", "flat")),
    "calibrated": (DETECTOR, ("bias", "dark", "flat")),
}
OPTIONS = {"bias": "biases", "dark": "darks", "flat": "flats"}
PHOTOMETERS = [
    kind(forced=forced, local_background_estimator=sky)
    for kind in (AperturePhotometer, OptimalPhotometer, PSFPhotometer)
    for forced in (False, True)
    for sky in (None, DefaultLocalBackground())
]
LABELS = [photometer.label for photometer in PHOTOMETERS]
UNUSABLE = np.uint32(SourceFlag.OFF_FRAME | SourceFlag.EDGE | SourceFlag.SATURATED | SourceFlag.NO_TRANSFORM)


@pytest.fixture(scope="module", params=sorted(NIGHTS))
def night(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    detector, kinds = CALIBRATIONS[request.param]
    model = {
        "n_frames": N_FRAMES, "shape": (640, 640), "n_sources": N_SOURCES, "filters": ("g",), "flux_range": (3e2, 2e5),
        "fwhm": 3.6, "seeing_amplitude": 0.2, "drift": (6.0, -4.0), "rotation": 0.3, "sky": 200.0, "sky_gradient": 0.4,
        "dark_current": 2.0, "least_separation": 7.0, "seed": 7, "exposure_time": EXPOSURE,
        **NIGHTS[request.param], **detector,
    }  # fmt: skip
    truth = simulate_observations(directory / "frames", **model)
    calibration = {}
    if kinds:
        times = {} if "bias" in kinds else {"dark_exposure_time": EXPOSURE, "flat_exposure_time": EXPOSURE}
        folders = simulate_calibration_frames(directory / "calibration", n_exposures=25, **model, **times)
        calibration = {OPTIONS[kind]: folders[kind] for kind in kinds}
    reducer = Reducer(directory / "out", directory / "frames", show_plots=False, verbose=False, **calibration)
    reducer.create_catalogs()
    reducer.photometry(PHOTOMETERS)
    return directory / "out", truth


def _against_truth(out, truth, label):
    """Pull, signal-to-noise ratio and relative deviation of every total flux, each (measurement,).

    The error is that of the frame and that of the flat, which is the same in all frames.
    """
    curves = light_curves(out, "1:g", label).load()
    x, y, flux = (truth[name].to_numpy() for name in ("x", "y", "flux"))
    correction = curves["aperture_correction"].to_numpy() if "aperture_correction" in curves else 1.0
    of_flat = curves["flux_err_sys"].to_numpy() if "flux_err_sys" in curves else 0.0
    error = np.hypot(curves["flux_err"].to_numpy(), of_flat) * correction
    total = curves["flux"].to_numpy() * correction
    is_usable = (curves["flags"].to_numpy() & UNUSABLE) == 0
    found = []
    for source in range(curves.sizes["source"]):
        away = np.hypot(curves["x"].to_numpy()[:, source, None] - x, curves["y"].to_numpy()[:, source, None] - y)
        star = int(np.argmin(np.nanmedian(away, axis=0)))
        assert np.nanmedian(away[:, star]) < 1.0, f"source {source + 1} is not a star"
        good, expected = is_usable[:, source], flux[0, :, star]
        deviation = total[good, source] - expected[good]
        assert np.isfinite(deviation).all()
        found.append([deviation / error[good, source], (expected / error[:, source])[good], deviation / expected[good]])
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize("label", LABELS)
def test_pulls__have_no_bias_and_a_width_of_one(night, label):
    pulls, ratio, _ = _against_truth(*night, label)
    for low, high in RATIOS:
        chosen = pulls[(ratio >= low) & (ratio < high)]
        assert len(chosen) >= 2000, f"S/N {low} to {high}: {len(chosen)} measurements"
        assert abs(chosen.mean()) < 0.1, f"S/N {low} to {high}: mean {chosen.mean():+.3f}"
        assert 0.9 < chosen.std() < 1.1, f"S/N {low} to {high}: width {chosen.std():.3f}"


@pytest.mark.parametrize("label", LABELS)
def test_fluxes__are_total_to_half_a_percent(night, label):
    _, ratio, deviation = _against_truth(*night, label)
    bright = ratio > 30
    assert abs(np.average(deviation[bright], weights=ratio[bright] ** 2)) < 0.005
