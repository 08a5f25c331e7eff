"""Stars as narrow as pixels: their widths, their fluxes and the errors of these, from FITS files to the store."""

from __future__ import annotations

import numpy as np
import pulls
import pytest

from opticam_dask import (
    AperturePhotometer,
    DefaultLocalBackground,
    OptimalPhotometer,
    PSFPhotometer,
    light_curves,
    simulate_observations,
)
from opticam_dask.flags import SourceFlag
from opticam_dask.frames.simulation.synthetic import generate_observations, observation_truth
from opticam_dask.kernels.sources import centroids, moments, noise, photometry

SIGMA, SIZE = 0.75, 41
PHOTOMETERS = [
    kind(local_background_estimator=sky)
    for kind in (AperturePhotometer, OptimalPhotometer, PSFPhotometer)
    for sky in (None, DefaultLocalBackground())
]
LABELS = [photometer.label for photometer in PHOTOMETERS]


def _star(xy, sigma=SIGMA, flux=1e4):
    """A Gaussian at the centres of pixels, as the pixels of an effective profile are."""
    along_x, along_y = (np.exp(-0.5 * ((np.arange(SIZE) - place) / sigma) ** 2) for place in xy)
    return flux / (2.0 * np.pi * sigma**2) * along_y[:, None] * along_x


@pytest.mark.parametrize("sigma", [0.65, SIGMA, 1.0, 1.5])
@pytest.mark.parametrize("start", [0.8, 1.4])
def test_source_shapes__do_not_depend_on_where_in_its_pixel_a_star_is(sigma, start):
    places = np.random.default_rng(3).uniform(19.5, 20.5, (40, 2))
    shapes = np.concatenate(
        [moments.source_shapes(_star(xy, sigma), xy[None] + 0.2, np.array([start])) for xy in places], axis=1
    )
    np.testing.assert_allclose(shapes[:2], sigma, rtol=1e-3)


def test_source_shapes__of_a_single_bright_pixel_are_not_known():
    image = np.random.default_rng(4).normal(0.0, 1.0, (SIZE, SIZE))
    image[20, 20] += 1000.0
    assert np.isnan(moments.source_shapes(image, np.array([[20.3, 19.8]]), np.array([0.8]))).all()


def test_windowed_centroids__do_not_depend_on_where_in_its_pixel_a_star_is():
    places = np.random.default_rng(5).uniform(19.5, 20.5, (40, 2))
    cutouts, corner = np.stack([_star(xy) for xy in places]), np.zeros(40, dtype=int)
    found, converged = centroids.windowed_centroids(cutouts, corner, corner, places + 0.2, SIGMA)
    assert converged.all()
    np.testing.assert_allclose(found, places, atol=2e-3)


def test_sampling_error__ends_where_stars_are_sampled():
    assert noise.sampling_error(1.2) == pytest.approx(0.06, abs=2e-3)
    assert noise.sampling_error(2.499) < 1e-5
    assert noise.sampling_error(2.5) == noise.sampling_error(float("nan")) == 0.0


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Six stars in three filters at a FWHM of 1.77 pixels, and what is true of them."""
    directory = tmp_path_factory.mktemp("undersampled")
    n_frames = 12
    generate_observations(directory / "frames", n_images=n_frames, binning_scale=8, circular_aperture=False)
    reducer = pulls.StoreOnly(directory / "out", directory / "frames", client="none", figures=False, verbose=False)
    reducer.create_catalogs()
    reducer.photometry(PHOTOMETERS)
    return directory / "out", observation_truth(n_frames, 8)


def test_fwhm__of_every_undersampled_frame_is_right(night):
    for key in ("1:g", "2:r", "3:i"):
        fwhm = light_curves(night[0], key)["fwhm"].to_numpy()
        assert np.isfinite(fwhm).all()
        np.testing.assert_allclose(fwhm, SIGMA * photometry.SIGMA_TO_FWHM, rtol=0.05)


def _measured(night, label):
    """Total flux, its error, that inside the aperture, the truth, and which are unflagged; (measurement,) each."""
    out, truth = night
    parts = []
    for key in ("1:g", "2:r", "3:i"):
        curves = light_curves(out, key, label).load()
        correction = curves["aperture_correction"].to_numpy() if "aperture_correction" in curves else 1.0
        flux, error, x, y = (curves[name].to_numpy() for name in ("flux", "flux_err", "x", "y"))
        away = np.hypot(*(a[:, :, None] - truth[name].to_numpy()[:, None] for name, a in (("x", x), ("y", y))))
        star = np.argmin(np.median(away, axis=0), axis=1)
        assert sorted(star) == list(range(6))
        expected = truth["flux"].sel(filter=key[-1]).to_numpy()[:, star]
        good = curves["flags"].to_numpy() == SourceFlag.REDUCED
        parts.append([flux * correction, error * correction, flux / expected, expected, good])
    return np.concatenate([np.reshape(part, (5, -1)) for part in parts], axis=1)


@pytest.mark.parametrize("label", LABELS)
def test_fluxes__of_undersampled_stars_are_right_within_their_errors(night, label):
    flux, error, _, expected, good = _measured(night, label)
    assert good.all()
    assert np.isfinite(flux).all()
    pull = (flux - expected) / error
    assert np.abs(pull).max() < 5.0
    assert 0.75 < pull.std() < 1.15
    assert abs(pull.mean()) < 0.2
    assert abs(np.average(flux / expected, weights=expected) - 1.0) < 0.005
    # errors did not get right by getting large
    assert np.median(error / expected) < 0.025


@pytest.mark.parametrize("label", [label for label in LABELS if "aperture" in label])
def test_aperture_fluxes__of_undersampled_stars_are_those_of_one_place_in_a_pixel(night, label):
    flux, error, inside, expected, _ = _measured(night, label)
    bright = expected > 5000
    deviation = (inside / np.mean(inside) - 1.0) / (error / flux)
    assert deviation[bright].std() < 1.15


@pytest.fixture(scope="module")
def moffat_night(tmp_path_factory):
    """Moffat stars, integrated over pixels, of a FWHM of 1.7 to 2 pixels with them."""
    directory = tmp_path_factory.mktemp("moffat")
    truth = simulate_observations(
        directory / "frames", n_frames=10, shape=(320, 320), n_sources=40, filters=("g",), flux_range=(250.0, 5e4),
        fwhm=1.45, moffat_beta=3.0, seeing_amplitude=0.1, drift=(6.0, -4.0), rotation=0.3, read_noise=3.0,
        least_separation=10.0, seed=7,
    )  # fmt: skip
    reducer = pulls.StoreOnly(directory / "out", directory / "frames", client="none", figures=False, verbose=False)
    reducer.create_catalogs()
    reducer.photometry(PHOTOMETERS[::2])
    return pulls.Night(directory / "out", truth)


@pytest.mark.parametrize("label", LABELS[::2])
def test_fluxes__of_undersampled_moffat_stars_are_right_within_their_errors(moffat_night, label):
    pull, ratio, deviation = pulls.against_truth(moffat_night, label)
    bright = ratio > 20
    assert np.count_nonzero(bright) > 200
    assert np.abs(pull[bright]).max() < 5.0
    assert pull[bright].std() < 1.2
    assert abs(np.average(deviation[bright], weights=ratio[bright] ** 2)) < 0.005
