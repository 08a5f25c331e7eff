"""Simulated nights with their truth, reduced; fluxes and errors are held against it. Used by the tests of the pulls."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from known_frames import LABELS, PHOTOMETERS

from opticam_dask import (
    Reducer,
    light_curves,
    open_reduction,
    simulate_calibration_frames,
    simulate_observations,
)
from opticam_dask.flags import SourceFlag

RATIOS = ((3, 10), (10, 30), (30, 100), (100, 300))
EXPOSURE = 5.0
MODEL = {
    "n_frames": 200, "shape": (640, 640), "n_sources": 60, "filters": ("g",), "flux_range": (2.5e2, 2e5), "fwhm": 3.6,
    "seeing_amplitude": 0.2, "drift": (6.0, -4.0), "rotation": 0.3, "sky": 200.0, "sky_gradient": 0.4,
    "least_separation": 7.0, "seed": 7, "exposure_time": EXPOSURE,
}  # fmt: skip
BIAS = {"bias_structure": 5.0}
MOFFAT, GAUSSIAN = {"moffat_beta": 3.0}, {"moffat_beta": None}
DARK = {"dark_current": 2.0, "hot_pixels": 60}
FLAT = {"flat_structure": 0.02, "vignetting": 0.4, "dead_pixels": 60}
OPTIONS = {"bias": "biases", "dark": "darks", "flat": "flats"}
UNUSABLE = np.uint32(SourceFlag.OFF_FRAME | SourceFlag.EDGE | SourceFlag.SATURATED | SourceFlag.NO_TRANSFORM)


class StoreOnly(Reducer):
    """Leaves files and diagrams of the light curves away: what is looked at is in the store."""

    def _write_light_curves(self, outcome: object, labels: list[str]) -> None:
        pass


@dataclass(frozen=True, eq=False)
class Night:
    """A night that was reduced: output directory, and truth in pixels as they are after rebinning."""

    out: Path
    truth: xr.Dataset


def reduced_night(directory: Path, detector: dict, kinds: tuple[str, ...], rebin_factor: int = 1) -> Night:
    """Simulate a night and its calibration frames and reduce it with all photometers."""
    model = MODEL | detector
    truth = simulate_observations(directory / "frames", **model)
    calibration = {}
    if kinds:
        # darks that have the bias in them only fit what was exposed as long as they were
        times = {} if "bias" in kinds else {"dark_exposure_time": EXPOSURE, "flat_exposure_time": EXPOSURE}
        folders = simulate_calibration_frames(directory / "calibration", n_exposures=25, **model, **times)
        calibration = {OPTIONS[kind]: folders[kind] for kind in kinds}
    reducer = StoreOnly(
        directory / "out",
        directory / "frames",
        client="none",
        rebin_factor=rebin_factor,
        figures=False,
        verbose=False,
        **calibration,
    )
    reducer.create_catalogs()
    reducer.photometry(PHOTOMETERS)
    for name in ("x", "y"):
        truth[name] = (truth[name] - (rebin_factor - 1) / 2.0) / rebin_factor
    return Night(directory / "out", truth)


@functools.cache  # two tests look at each
def against_truth(night: Night, label: str) -> np.ndarray:
    """Pull, signal-to-noise ratio and relative deviation of every total flux, each (measurement,).

    The error is that of the frame and that of the flat, which is the same in all frames.
    """
    curves = light_curves(night.out, "1:g", label).load()
    x, y, flux = (night.truth[name].to_numpy() for name in ("x", "y", "flux"))
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


def error_of_totals(out: Path) -> float:
    """Relative error of the star profile's total: the same for all stars and frames of a night."""
    with open_reduction(out) as tree:
        return max(float(group.attrs.get("total_err", 0.0)) for group in tree.subtree if group.path.endswith("/psf"))


def night_of(nights: Mapping[str, tuple]):
    """Fixture of nights, each by its arguments of :func:`reduced_night`; files of tests share the nights out."""

    @pytest.fixture(scope="module", params=sorted(nights))
    def night(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Night:
        return reduced_night(tmp_path_factory.mktemp(request.param), *nights[request.param])

    return night


@pytest.mark.parametrize("label", LABELS)
def unbiased_with_width_one(night: Night, label: str) -> None:
    """In each range of S/N, at least 2000 pulls, their mean within 0.1 of 0 and their width within 0.1 of 1.

    To the 0.1 comes what the night tells of its totals: the mean of all stars of a night cannot be better than the
    total of the profile that all of them share (0.03 % is 0.06 of an error at S/N 200, and nothing below S/N 30).
    """
    pulls, ratio, _ = against_truth(night, label)
    of_totals = error_of_totals(night.out)
    assert of_totals < 0.0004
    for low, high in RATIOS:
        is_chosen = (ratio >= low) & (ratio < high)
        chosen = pulls[is_chosen]
        assert len(chosen) >= 2000, f"S/N {low} to {high}: {len(chosen)} measurements"
        most = 0.1 + of_totals * ratio[is_chosen].mean()
        assert abs(chosen.mean()) < most, f"S/N {low} to {high}: mean {chosen.mean():+.3f}, at most {most:.3f}"
        assert 0.9 < chosen.std() < 1.1, f"S/N {low} to {high}: width {chosen.std():.3f}"


@pytest.mark.parametrize("label", LABELS)
def total_to_half_a_percent(night: Night, label: str) -> None:
    """The mean deviation of the fluxes of bright stars from the truth."""
    _, ratio, deviation = against_truth(night, label)
    bright = ratio > 30
    assert abs(np.average(deviation[bright], weights=ratio[bright] ** 2)) < 0.005
