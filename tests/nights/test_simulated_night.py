"""A simulated night with everything that goes wrong in a real one, reduced on worker processes, against its truth."""

from __future__ import annotations

import numpy as np
import pytest

from opticam_dask import Reducer, light_curves, open_reduction, simulate_observations
from opticam_dask.flags import UNUSABLE
from opticam_dask.kernels.images.matching.align import apply_transform
from opticam_dask.kernels.series.lightcurve import fit_sinusoid
from opticam_dask.lightcurves import differential
from opticam_dask.store.camera import group_name

FILTERS, KEYS, LAGS = ("g", "r"), ("1:g", "2:r"), (0.0, 1.2)
FREQUENCY, VARIABLE, FWHM, BETA, SKY, READ_NOISE = 0.02, 3, 3.5, 3.0, 200.0, 1.3


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    directory = tmp_path_factory.mktemp("night")
    truth = simulate_observations(
        directory / "frames",
        n_frames=300,
        shape=(168, 168),
        n_sources=9,
        filters=FILTERS,
        flux_range=(5e3, 2e5),
        fwhm=FWHM,
        moffat_beta=BETA,
        seeing_amplitude=0.3,
        drift=(14.0, -10.0),
        rotation=1.0,
        sky=SKY,
        sky_gradient=0.5,
        read_noise=READ_NOISE,
        cosmic_rays=1.0,
        cloud=(0.7, 0.5, 0.05),
        variable_source=VARIABLE,
        amplitude=0.02,
        frequency=FREQUENCY,
        lags=LAGS,
        least_separation=7.0,
    )
    options = {"client": "none", "remove_cosmic_rays": True, "show_plots": False, "verbose": False}
    reducer = Reducer(directory / "out", directory / "frames", **options)
    reducer.create_catalogs()
    reducer.photometry()
    return directory / "out", truth


def _catalogue_of_truth(out, truth, key):
    """Number in the catalogue of each true source that is in it; nothing else is in it."""
    curves = light_curves(out, key).load()
    numbers = {}
    for column, number in enumerate(curves["source_id"].to_numpy()):
        distance = np.hypot(
            curves["x"].to_numpy()[:, column, None] - truth["x"].to_numpy(),
            curves["y"].to_numpy()[:, column, None] - truth["y"].to_numpy(),
        )
        nearest = int(np.argmin(np.nanmedian(distance, axis=0)))
        assert np.nanmedian(distance[:, nearest]) < 1.0, f"source {number} of {key} is not a star"
        numbers[nearest + 1] = int(number)
    return numbers


@pytest.mark.parametrize("key", KEYS)
def test_night__every_frame_is_used(night, key):
    out, _ = night
    frames = open_reduction(out)[f"{group_name(key)}/2023-12-31/frames"]
    assert frames.sizes["frame"] == 300
    assert np.count_nonzero(frames["flags"].to_numpy() & np.uint32(UNUSABLE)) == 0


@pytest.mark.parametrize("key", KEYS)
def test_night__tracking_is_better_than_a_tenth_of_a_pixel(night, key):
    out, truth = night
    tree = open_reduction(out)
    catalogue = tree[f"{group_name(key)}/catalog"]
    transforms = tree[f"{group_name(key)}/2023-12-31/frames/transform"].to_numpy()
    xy = np.column_stack([catalogue["x"], catalogue["y"]])
    predicted = np.array([apply_transform(matrix, xy) for matrix in transforms])
    for true, number in _catalogue_of_truth(out, truth, key).items():
        dx = predicted[:, number - 1, 0] - truth["x"].to_numpy()[:, true - 1]
        dy = predicted[:, number - 1, 1] - truth["y"].to_numpy()[:, true - 1]
        assert np.sqrt(np.mean(dx**2 + dy**2)) < 0.1


def _best_relative_error(flux, fwhm):
    """Photon-noise limit of a flux in the best aperture, as a fraction; flux (frame,), fwhm (frame,)."""
    alpha2 = (fwhm / (2.0 * np.sqrt(2.0 ** (1.0 / BETA) - 1.0))) ** 2
    errors = []
    for radius in np.linspace(1.0, 12.0, 56):
        inside = flux * (1.0 - (1.0 + radius**2 / alpha2) ** (1.0 - BETA))
        errors.append(np.sqrt(inside + np.pi * radius**2 * (SKY + READ_NOISE**2)) / inside)
    return np.min(errors, axis=0)


@pytest.mark.parametrize(("camera", "key"), list(enumerate(KEYS)))
def test_night__bright_star_is_photon_limited(night, camera, key):
    out, truth = night
    numbers = _catalogue_of_truth(out, truth, key)
    target, comparisons = 1, [true for true in (2, 4, 5) if true in numbers]
    curve = differential.relative_light_curve(out, key, numbers[target], [numbers[true] for true in comparisons])
    flux = truth["flux"].to_numpy()[camera]
    expected = flux[:, target - 1] / flux[:, [true - 1 for true in comparisons]].sum(axis=1)
    ratio = curve["relative_flux"].to_numpy() / expected
    fwhm = truth["fwhm"].to_numpy()
    shares = flux / flux[:, [true - 1 for true in comparisons]].sum(axis=1)[:, None]
    variance = _best_relative_error(flux[:, target - 1], fwhm) ** 2
    for true in comparisons:
        variance += (shares[:, true - 1] * _best_relative_error(flux[:, true - 1], fwhm)) ** 2
    pulls = (ratio / np.median(ratio) - 1.0) / np.sqrt(variance)
    # a cosmic ray on a star of this brightness cannot be told from it; such frames are a few in 300
    assert np.mean(np.abs(pulls) > 4.0) < 0.03
    assert np.std(pulls[np.abs(pulls) < 4.0]) < 1.1


def test_night__lag_between_the_cameras_is_recovered(night):
    out, truth = night
    fits = []
    for key in KEYS:
        numbers = _catalogue_of_truth(out, truth, key)
        comparisons = [numbers[true] for true in (1, 2, 4, 5) if true in numbers]
        curve = differential.relative_light_curve(out, key, numbers[VARIABLE], comparisons)
        times = (curve["mjd_utc"].to_numpy() - curve["mjd_utc"].to_numpy()[0]) * 86400.0
        fits.append(
            fit_sinusoid(times, curve["relative_flux"].to_numpy(), curve["relative_flux_err"].to_numpy(), FREQUENCY)
        )
    error = np.hypot(fits[0].phase_err, fits[1].phase_err)
    lag = np.angle(np.exp(1j * (fits[1].phase - fits[0].phase - (LAGS[1] - LAGS[0]))))
    assert error < 0.15
    assert abs(lag) < 3.0 * error
    for fit in fits:
        assert fit.phase_err < 0.15
        assert abs(fit.amplitude - 0.02) < 3.0 * fit.amplitude_err
