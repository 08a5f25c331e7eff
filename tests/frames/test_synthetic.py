"""Simulated observations: the field and noise of the opticam package, and star fields with known truth."""

from __future__ import annotations

import gzip
from datetime import datetime

import numpy as np
import pytest
from astropy.io import fits
from photutils.aperture import CircularAperture, aperture_photometry
from scipy.ndimage import label

from opticam_dask.frames import scanning
from opticam_dask.frames.instruments import OPTICAM_MX
from opticam_dask.frames.simulation import simulated_fields, synthetic
from opticam_dask.frames.simulation.field_model import FieldModel
from opticam_dask.frames.simulation.simulated_fields import draw_frame, field_truth, simulate_observations
from opticam_dask.kernels.images.matching.align import apply_transform, rotation_of
from opticam_dask.methods.backgrounds import DefaultBackground
from opticam_dask.methods.finders import DefaultFinder

FILTERS = ("g", "r", "i")
N_FRAMES = 5


@pytest.fixture(scope="module")
def observations(tmp_path_factory):
    """Five frames of each filter at 4x4, without the shadow of the aperture."""
    directory = tmp_path_factory.mktemp("observations")
    synthetic.generate_observations(directory, n_images=N_FRAMES, circular_aperture=False)
    return directory


@pytest.fixture(scope="module")
def opticam_noise(tmp_path_factory):
    directory = tmp_path_factory.mktemp("opticam")
    synthetic.generate_observations(directory, n_images=2, circular_aperture=False, noise="opticam")
    return directory


def _name(filter_name, index):
    return f"240101{filter_name}{200_000_000 + index}o.fits"


def _frame(directory, filter_name, index):
    return fits.getdata(directory / _name(filter_name, index)).astype(float)


def _stars_alone(filter_name, index, sigma=1.5, side=512):
    """Noise-free stars of a frame, from the truth alone and by the textbook formula."""
    truth = synthetic.observation_truth(N_FRAMES).sel(filter=filter_name).isel(frame=index)
    y, x = np.mgrid[:side, :side]
    image = np.zeros((side, side))
    for source in range(truth.sizes["source"]):
        here = truth.isel(source=source)
        distance2 = (x - float(here["x"])) ** 2 + (y - float(here["y"])) ** 2
        image += float(here["flux"]) / (2 * np.pi * sigma**2) * np.exp(-distance2 / (2 * sigma**2))
    return image


def _correlation(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


# The field of the opticam package


def test_observation_truth__has_the_fluxes_and_positions_of_opticam():
    truth = synthetic.observation_truth(1)
    constant = [0, 2, 3, 4, 5]
    np.testing.assert_array_equal(truth["flux"].sel(filter="g")[0, constant], [8461, 5514, 4265, 1706, 1636])
    assert float(truth["flux"].sel(filter="g")[0, 1]) == 6672  # the sine is 0 in the first g frame
    expected = [
        (337.694, 56.112), (130.721, 114.599), (110.806, 395.818),
        (445.659, 155.905), (399.25, 430.672), (261.811, 141.744),
    ]  # fmt: skip
    shift = np.random.default_rng(0).normal(size=2)  # 4 unbinned pixels are 1 pixel at 4x4
    np.testing.assert_allclose(np.stack([truth["x"][0], truth["y"][0]], axis=1), expected + shift, atol=6e-4)


def test_observation_truth__scales_with_binning():
    four, eight = (synthetic.observation_truth(3, binning) for binning in (4, 8))
    np.testing.assert_allclose(four["x"], 2 * eight["x"], rtol=1e-12)
    np.testing.assert_allclose(four["y"], 2 * eight["y"], rtol=1e-12)
    np.testing.assert_array_equal(four["flux"], eight["flux"])


def test_observation_truth__only_source_2_varies_with_lags_of_a_quarter_and_half_a_turn():
    truth = synthetic.observation_truth(200)
    assert truth.attrs["variable_source"] == int(truth["source_id"][1]) == 2
    assert truth.attrs["frequency"] == 0.135
    steady = truth["flux"].isel(source=[0, 2, 3, 4, 5])
    assert float(steady.std("frame").max()) == 0
    phase = 2 * np.pi * 0.135 * truth["time"].to_numpy()
    for filter_name, lag in zip(FILTERS, (0, np.pi / 2, np.pi), strict=True):
        factor = truth["flux"].sel(filter=filter_name).isel(source=1) / 6672
        np.testing.assert_allclose(factor, 1 + 0.02 * np.sqrt(2) * np.sin(phase + lag), rtol=1e-12)
    assert float(factor.std()) == pytest.approx(0.02, rel=0.01)  # 200 s are 27 whole turns


def test_observation_truth__jitter_is_one_pixel_at_4x4():
    truth = synthetic.observation_truth(400)
    for name in ("x", "y"):
        assert float(truth[name].isel(source=0).std()) == pytest.approx(1.0, rel=0.11)  # 3 sigma of 400 draws
    moved = truth["x"] - truth["x"].isel(frame=0)
    np.testing.assert_allclose(moved, moved.isel(source=[0] * 6), atol=1e-9)  # the field moves as one


def test_observation_truth__has_the_gaps_of_opticam():
    assert synthetic.observation_truth(500, gaps=True).sizes["frame"] == 341
    assert synthetic.observation_truth(1000, gaps=True).sizes["frame"] == 716


@pytest.mark.parametrize("n_images", [0, -3, 1.5, True])
def test_observation_truth__refuses_a_bad_number(n_images):
    with pytest.raises(ValueError, match="n_images must be a whole number of at least 1"):
        synthetic.observation_truth(n_images)


# Frames and headers


def test_generate_observations__writes_names_shape_and_header(observations):
    assert sorted(path.name for path in observations.iterdir()) == sorted(
        _name(name, index) for name in FILTERS for index in range(N_FRAMES)
    )
    header = fits.getheader(observations / _name("r", 3))
    assert (header["NAXIS1"], header["NAXIS2"], header["BITPIX"]) == (512, 512, -64)
    given = {key: header[key] for key in ("FILTER", "BINNING", "GAIN", "EXPOSURE", "DARKCURR", "INSTRUME", "RA", "DEC")}
    assert given == {
        "FILTER": "r", "BINNING": "4x4", "GAIN": 1.0, "EXPOSURE": 1.0, "DARKCURR": 0.0, "INSTRUME": "OPTICAM",
        "RA": 0.0, "DEC": 0.0,
    }  # fmt: skip
    assert header["UT"] == "2024-01-01 00:00:03"


def test_generate_observations__are_understood_by_the_scan(observations):
    found = scanning.scan(scanning.find_files([observations]), OPTICAM_MX())
    assert found.set_aside == []
    assert found.table["key"].value_counts().to_dict() == {"1:g": N_FRAMES, "2:r": N_FRAMES, "3:i": N_FRAMES}
    assert set(found.table["night"]) == {"2023-12-31"}
    seconds = (found.table.query("key == '1:g'")["mjd_utc"].to_numpy() - 60310.0) * 86400
    np.testing.assert_allclose(seconds, np.arange(N_FRAMES) + 0.5, atol=1e-5)  # the middle of 1 s exposures


def test_header__time_after_a_day_is_a_valid_date():
    stamp = synthetic._header("g", 4, 86_400 + 61)["UT"]
    assert datetime.fromisoformat(stamp) == datetime(2024, 1, 2, 0, 1, 1)


def test_generate_observations__prints_the_lines_of_opticam_with_the_right_rms(tmp_path, capsys):
    synthetic.generate_observations(tmp_path, n_images=1, binning_scale=4)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "[OPTICAM] variable source is at (131, 115)",
        "[OPTICAM] variability RMS: 2 %",
        "[OPTICAM] variability frequency: 0.135 Hz",
    ]
    assert [line.split()[1] for line in lines[3:6]] == ["g-band", "r-band", "i-band"]
    assert lines[6:] == ["[OPTICAM] Simulating: 3 frames"]


def test_generate_observations__keeps_frames_unless_told(tmp_path):
    for compress, name in ((False, _name("g", 0)), (True, _name("g", 0) + ".gz")):
        options = {"n_images": 1, "binning_scale": 16, "compress": compress}
        synthetic.generate_observations(tmp_path, **options)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(b"mine")
        synthetic.generate_observations(tmp_path, **options)
        assert (tmp_path / name).read_bytes() == b"mine"
        synthetic.generate_observations(tmp_path, **options, overwrite=True)
        assert (tmp_path / name).read_bytes() == whole


def test_generate_observations__compressed_frames_hold_the_same_bytes(tmp_path):
    for compress in (False, True):
        synthetic.generate_observations(tmp_path, n_images=1, binning_scale=16, compress=compress)
    plain, packed = tmp_path / _name("i", 0), tmp_path / (_name("i", 0) + ".gz")
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()


def test_generate_gappy_observations__writes_the_kept_frames_of_the_full_run(tmp_path):
    synthetic.generate_observations(tmp_path / "full", n_images=60, binning_scale=32)
    synthetic.generate_gappy_observations(tmp_path / "gappy", n_images=60, binning_scale=32)
    kept = synthetic.observation_truth(60, 32, gaps=True)["time"].to_numpy().astype(int)
    assert 0 < len(kept) < 60
    assert {path.name for path in (tmp_path / "gappy").iterdir()} == {_name(f, i) for f in FILTERS for i in kept}
    for path in (tmp_path / "gappy").iterdir():
        assert path.read_bytes() == (tmp_path / "full" / path.name).read_bytes()


def test_generate_observations__aperture_darkens_the_corners_only(observations, tmp_path):
    synthetic.generate_observations(tmp_path, n_images=1)
    ratio = _frame(tmp_path, "g", 0) / _frame(observations, "g", 0)
    y, x = np.mgrid[:512, :512] - 256
    distance = np.hypot(x, y)
    np.testing.assert_array_equal(ratio[distance < 256], 1.0)
    np.testing.assert_allclose(ratio[distance >= 256], (256 / distance[distance >= 256]) ** 2, rtol=1e-12)


def test_write_frame__failure_leaves_no_frame_behind(tmp_path):
    path = tmp_path / "frame.fits"
    path.write_bytes(b"before")
    with pytest.raises(ValueError, match="Illegal value"):
        synthetic.write_frame(path, np.zeros((4, 4)), {"FILTER": object()})
    assert path.read_bytes() == b"before"
    assert scanning.find_files([tmp_path]) == [str(path)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_images": 0}, "n_images"),
        ({"binning_scale": 0}, "binning_scale"),
        ({"binning_scale": 64}, "at least 64 pixels"),
        ({"noise": "none"}, "'independent' or 'opticam'"),
    ],
)
def test_generate_observations__refuses_before_it_writes(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        synthetic.generate_observations(tmp_path / "new", **{"n_images": 1, **options})
    assert not (tmp_path / "new").exists()


# Noise


def test_generate_observations__independent_noise_has_the_right_size(observations):
    stars = _stars_alone("g", 0)
    residual = _frame(observations, "g", 0) - stars - 100
    empty = stars < 1e-3
    n_empty = empty.sum()
    assert residual[empty].mean() == pytest.approx(0.0, abs=4 * 10 / np.sqrt(n_empty))
    assert residual[empty].std() == pytest.approx(10.0, abs=4 * 10 / np.sqrt(2 * n_empty))
    bright = np.concatenate(
        [
            ((_frame(observations, f, i) - s - 100) / np.sqrt(s + 100))[s > 20]
            for f in FILTERS for i in range(N_FRAMES) for s in [_stars_alone(f, i)]
        ]
    )  # fmt: skip
    assert len(bright) > 1000
    assert bright.std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * len(bright)))  # sqrt(S) + 10 would give 1.3 or more


def test_generate_observations__independent_noise_is_not_shared(observations):
    residuals = {
        (name, index): _frame(observations, name, index) - _stars_alone(name, index)
        for name in FILTERS for index in range(N_FRAMES)
    }  # fmt: skip
    keys = list(residuals)
    limit = 5 / 512  # 5 sigma of the correlation of 512 x 512 independent pixels
    for row, first in enumerate(keys):
        for second in keys[row + 1 :]:
            assert abs(_correlation(residuals[first], residuals[second])) < limit, (first, second)


def test_generate_observations__shot_and_sky_noise_are_independent(tmp_path):
    image = np.full((256, 256), 50.0)
    noisy = synthetic._add_noise(image, "g", 3, "independent", 0)
    assert noisy.std() == pytest.approx(np.sqrt(50 + 100), rel=4 / np.sqrt(2 * image.size))
    shared = synthetic._add_noise(image, "g", 3, "opticam", 0)
    assert shared.std() == pytest.approx(np.sqrt(50) + 10, rel=4 / np.sqrt(2 * image.size))  # 17.07


def test_generate_observations__seed_changes_noise_but_not_the_field(tmp_path):
    for seed in (0, 1):
        synthetic.generate_observations(tmp_path / str(seed), 1, False, binning_scale=8, seed=seed)
    first, second = (_frame(tmp_path / str(seed), "g", 0) for seed in (0, 1))
    y, x = np.mgrid[:256, :256]
    truth = synthetic.observation_truth(1, 8).isel(frame=0)
    centres_x, centres_y = truth["x"].to_numpy()[:, None, None], truth["y"].to_numpy()[:, None, None]
    nearest = np.hypot(x - centres_x, y - centres_y).min(axis=0)
    far, near = nearest > 5, nearest < 2
    difference = first - second
    assert difference[far].std() == pytest.approx(10 * np.sqrt(2), rel=4 / np.sqrt(2 * far.sum()))
    assert abs(difference[near].sum()) < 4 * np.sqrt(2 * first[near].sum())  # the stars are the same
    assert first[near].sum() - 100 * near.sum() > 20_000


def test_generate_observations__opticam_noise_restarts_one_stream(opticam_noise):
    for index in range(2):
        for filter_name in FILTERS:
            stars = _stars_alone(filter_name, index)
            deviates = np.random.default_rng(index).standard_normal(stars.shape)
            expected = stars + np.sqrt(stars) * deviates + (100 + 10 * deviates)
            np.testing.assert_allclose(_frame(opticam_noise, filter_name, index), expected, rtol=0, atol=1e-8)


def test_generate_observations__opticam_noise_is_shared_between_filters(opticam_noise):
    residuals = [_frame(opticam_noise, name, 1) - _stars_alone(name, 1) for name in FILTERS]
    assert _correlation(residuals[0], residuals[1]) > 0.999
    assert _correlation(residuals[0], residuals[2]) > 0.999


def test_generate_observations__aperture_fluxes_agree_with_the_truth(observations):
    truth = synthetic.observation_truth(N_FRAMES)
    radius, sigma = 6.0, 1.5  # all but 0.03 % of the light
    pulls = []
    for filter_name in FILTERS:
        for index in range(N_FRAMES):
            here = truth.sel(filter=filter_name).isel(frame=index)
            aperture = CircularAperture(np.stack([here["x"], here["y"]], axis=1), radius)
            image = _frame(observations, filter_name, index) - 100
            measured = aperture_photometry(image, aperture)["aperture_sum"].value
            inside = here["flux"].to_numpy() * (1 - np.exp(-(radius**2) / (2 * sigma**2)))
            pulls.append((measured - inside) / np.sqrt(inside + 100 * aperture.area))
    pulls = np.concatenate(pulls)  # 90, independent
    assert abs(pulls.mean()) < 4 / np.sqrt(pulls.size)
    assert pulls.std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * pulls.size))


def test_generate_observations__background_and_sources_are_those_the_original_tests_expect(observations):
    for index in range(N_FRAMES):
        for filter_name in FILTERS:
            image = _frame(observations, filter_name, index)
            background = DefaultBackground(2048 // 4 // 16)(image)
            np.testing.assert_allclose(background.background, 100, rtol=0.05)
            np.testing.assert_allclose(background.background_rms, 10, rtol=0.10)
            found = DefaultFinder(128 // 4**2)(image - background.background, 5 * background.background_rms)
            assert len(found) == 6, (filter_name, index)


# Flats


def test_generate_flats__level_shadow_names_and_header(tmp_path):
    synthetic.generate_flats(tmp_path, n_flats=2, binning_scale=8)
    names = {f"{name}-band_flat_{index}.fits" for name in FILTERS for index in range(2)}
    assert {path.name for path in tmp_path.iterdir()} == names
    flat, header = fits.getdata(tmp_path / "g-band_flat_1.fits", header=True)
    assert (header["FILTER"], header["BINNING"], header["EXPOSURE"]) == ("g", "8x8", 0.05)
    y, x = np.mgrid[:256, :256] - 128
    distance = np.hypot(x, y)
    level = flat / np.where(distance >= 128, (128 / np.maximum(distance, 1)) ** 2, 1)
    assert level.mean() == pytest.approx(10_000, abs=4 * 100 / 256)
    assert level.std() == pytest.approx(100, rel=0.02)
    other = fits.getdata(tmp_path / "r-band_flat_1.fits")
    inside = distance < 128
    assert abs(_correlation(flat[inside], other[inside])) < 5 / np.sqrt(inside.sum())


def test_generate_flats__second_call_keeps_the_flats(tmp_path):
    synthetic.generate_flats(tmp_path, n_flats=1, binning_scale=32)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    synthetic.generate_flats(tmp_path, n_flats=1, binning_scale=32, seed=1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_generate_flats__opticam_noise_is_that_of_opticam_in_all_filters(tmp_path):
    synthetic.generate_flats(tmp_path, n_flats=2, binning_scale=32, noise="opticam")
    expected = np.random.default_rng(123 * (1 + 123)).normal(10_000, 100, (64, 64))
    for name in FILTERS:
        flat = fits.getdata(tmp_path / f"{name}-band_flat_1.fits")
        np.testing.assert_array_equal(flat[32, 1:63], expected[32, 1:63])


def test_generate_flats__refuses_unknown_noise(tmp_path):
    with pytest.raises(ValueError, match="'independent' or 'opticam'"):
        synthetic.generate_flats(tmp_path, noise="none")


# Star fields


def _noise_free(**model):
    """Expected electrons: the sum of many frames would tend to this; without sky only stars are left."""
    chosen = FieldModel(n_frames=1, filters=("g",), jitter=0.0, sky=0.0, read_noise=0.0, **model)
    return chosen, field_truth(chosen)


@pytest.mark.parametrize("beta", [None, 2.5, 3.0, 4.5])
@pytest.mark.parametrize("fwhm", [1.2, 4.0])
def test_add_star__holds_the_flux_to_a_thousandth(beta, fwhm):
    image = np.zeros((160, 160))  # before rounding to ADU, which cuts faint wings
    simulated_fields._add_star(image, 80.3, 79.6, 1.0, fwhm, beta)
    assert image.sum() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("beta", [None, 3.0])
def test_add_star__pixels_hold_the_integral_of_the_profile(beta):
    fwhm, x, y = 1.5, 20.37, 20.81
    image, fine = np.zeros((41, 41)), 101
    simulated_fields._add_star(image, x, y, 1.0, fwhm, beta)
    steps = (np.arange(41 * fine) + 0.5) / fine - 0.5
    distance2 = (steps[:, None] - y) ** 2 + (steps[None, :] - x) ** 2
    if beta is None:
        profile = 2.0 ** (-4 * distance2 / fwhm**2)
    else:
        profile = (1 + 4 * (2 ** (1 / beta) - 1) * distance2 / fwhm**2) ** -beta
    expected = profile.reshape(41, fine, 41, fine).sum(axis=(1, 3))
    np.testing.assert_allclose(image[18:24, 18:24] / image[18:24, 18:24].sum(),
                               expected[18:24, 18:24] / expected[18:24, 18:24].sum(), rtol=1e-3)  # fmt: skip


def test_add_star__beyond_the_frame_leaves_what_falls_on_it():
    whole, part = np.zeros((200, 200)), np.zeros((100, 100))
    simulated_fields._add_star(whole, 98.2, 50.4, 1.0, 4.0, 3.0)
    simulated_fields._add_star(part, 98.2, 50.4, 1.0, 4.0, 3.0)
    np.testing.assert_allclose(part, whole[:100, :100], atol=1e-15)
    simulated_fields._add_star(part, -500.0, 50.0, 1.0, 4.0, 3.0)
    np.testing.assert_allclose(part, whole[:100, :100], atol=1e-15)


def test_draw_frame__stars_are_where_the_truth_says_and_as_wide():
    model, truth = _noise_free(shape=(96, 96), n_sources=1, flux_range=(1e9, 1e9), moffat_beta=None, fwhm=5.0,
                               gain=1e3)  # fmt: skip
    star = draw_frame(model, truth, 0, 0).astype(float) - 100
    y, x = np.mgrid[:96, :96]
    centre_x, centre_y = (star * x).sum() / star.sum(), (star * y).sum() / star.sum()
    assert centre_x == pytest.approx(float(truth["x"][0, 0]), abs=0.01)
    assert centre_y == pytest.approx(float(truth["y"][0, 0]), abs=0.01)
    variance = (star * ((x - centre_x) ** 2 + (y - centre_y) ** 2)).sum() / star.sum() / 2
    sigma = 5.0 / (2 * np.sqrt(2 * np.log(2)))
    assert variance == pytest.approx(sigma**2 + 1 / 12, rel=0.01)  # the pixel adds its own


def test_draw_frame__noise_is_that_of_photons_and_readout():
    model = FieldModel(n_frames=2, shape=(200, 200), n_sources=1, flux_range=(10, 10), sky=150.0, dark_current=4.0,
                       exposure_time=5.0, read_noise=6.0, gain=0.5)  # fmt: skip
    truth = field_truth(model)
    first, second = (draw_frame(model, truth, camera, 0).astype(float) * 0.5 for camera in (0, 1))
    level, variance = 150 + 20 + 50, 150 + 20 + 36 + 0.5**2 / 12
    assert first.mean() == pytest.approx(level, abs=4 * np.sqrt(variance) / 200)
    assert first.var() == pytest.approx(variance, rel=4 * np.sqrt(2) / 200)
    assert abs(_correlation(first, second)) < 5 / 200
    later = draw_frame(model, truth, 0, 1).astype(float)
    assert abs(_correlation(first, later)) < 5 / 200


def test_draw_frame__saturates():
    model, truth = _noise_free(shape=(64, 64), n_sources=1, flux_range=(1e6, 1e6), saturation=4095.0)
    image = draw_frame(model, truth, 0, 0)
    assert image.dtype == np.uint16
    assert image.max() == 4095
    assert (image == 4095).sum() > 4


def test_draw_frame__sky_gradient_runs_from_corner_to_corner():
    model = FieldModel(n_frames=1, shape=(128, 128), n_sources=1, flux_range=(10, 10), sky=1000.0, sky_gradient=0.4)
    image = draw_frame(model, field_truth(model), 0, 0).astype(float) - 100
    low, high = image[:16, :16].mean(), image[-16:, -16:].mean()
    # corner boxes are 7.5 pixels inside the corners of 127
    assert high - low == pytest.approx(1000 * 0.4 * (1 - 15 / 127), abs=4 * np.sqrt(2 * 1000) / 16)


def test_draw_frame__cosmic_rays_come_at_the_rate_asked_for():
    quiet = {"n_frames": 20, "shape": (128, 128), "n_sources": 1, "flux_range": (10, 10), "sky": 50.0}
    struck = FieldModel(**quiet, cosmic_rays=3.0)
    clear = FieldModel(**quiet)
    truth = field_truth(clear)
    hits = 0
    for index in range(20):
        with_rays, without = draw_frame(struck, truth, 0, index), draw_frame(clear, truth, 0, index)
        excess = with_rays.astype(int) - without
        assert excess.min() >= 0
        hits += label(excess > 0, structure=np.ones((3, 3)))[1]
    assert hits == pytest.approx(60, abs=4 * np.sqrt(60))


def test_field_truth__transforms_take_first_positions_to_each_frame():
    model = FieldModel(n_frames=9, shape=(300, 240), n_sources=8, jitter=0.0, drift=(12.0, -7.0), rotation=2.0)
    truth = field_truth(model)
    first = np.stack([truth["x"][0], truth["y"][0]], axis=1)
    for index in range(9):
        moved = apply_transform(truth["transform"].to_numpy()[index], first)
        np.testing.assert_allclose(moved, np.stack([truth["x"][index], truth["y"][index]], axis=1), atol=1e-9)
    last = truth["transform"].to_numpy()[-1]
    assert rotation_of(last) == pytest.approx(2.0)
    centre = np.array([[119.5, 149.5]])
    np.testing.assert_allclose(apply_transform(last, centre), centre + np.array([12.0, -7.0]))


def test_field_truth__flip_turns_the_field_about_the_centre():
    model = FieldModel(n_frames=11, shape=(200, 200), n_sources=5, jitter=0.0, flip_after=0.5)
    truth = field_truth(model)
    np.testing.assert_allclose(truth["x"][5], truth["x"][0])
    np.testing.assert_allclose(truth["x"][6], 199 - truth["x"][0])
    np.testing.assert_allclose(truth["y"][6], 199 - truth["y"][0])


def test_field_truth__cloud_seeing_and_variability():
    model = FieldModel(n_frames=101, n_sources=4, filters=("g", "r"), cloud=(0.6, 0.5, 0.05), seeing_amplitude=0.3,
                       variable_source=2, amplitude=0.1, frequency=0.01, lags=(0.0, 1.0))  # fmt: skip
    truth = field_truth(model)
    assert float(truth["transmission"][50]) == pytest.approx(0.4)
    assert float(truth["transmission"][0]) == pytest.approx(1.0)
    np.testing.assert_allclose(truth["flux"].isel(source=0), 2e5 * truth["transmission"].expand_dims(filter=2))
    assert truth.attrs["variable_source"] == 2
    clear = truth["flux"] / truth["transmission"]
    for camera, lag in enumerate((0.0, 1.0)):
        wave = 1 + 0.1 * np.sin(2 * np.pi * 0.01 * truth["time"] + lag)
        curve = clear.isel(filter=camera, source=1)
        np.testing.assert_allclose(curve / wave, curve[0] / wave[0], rtol=1e-12)
    assert float(truth["fwhm"].max()) == pytest.approx(1.3 * 4.0, rel=0.01)
    assert float(truth["fwhm"].min()) == pytest.approx(0.7 * 4.0, rel=0.01)


def test_field_truth__stars_keep_their_distance():
    truth = field_truth(FieldModel(n_frames=1, shape=(256, 256), n_sources=30, jitter=0.0), seed=3)
    xy = np.stack([truth["x"][0], truth["y"][0]], axis=1)
    distance = np.hypot(*(xy[:, None] - xy[None]).transpose(2, 0, 1))[~np.eye(30, dtype=bool)]
    assert distance.min() > 6 * 4.0
    assert np.all(np.diff(truth["flux"][0, 0]) < 0)


def test_field_truth__says_when_the_stars_do_not_fit():
    with pytest.raises(ValueError, match="do not fit into 64 x 64 pixels"):
        field_truth(FieldModel(shape=(64, 64), n_sources=100))


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_frames": 0}, {"n_sources": 0}, {"filters": ()}, {"filters": ("g", "g")}, {"flux_range": (0.0, 10.0)},
        {"flux_range": (10.0, 5.0)}, {"moffat_beta": 1.0}, {"fwhm": 0.0}, {"seeing_amplitude": 1.0}, {"sky": -1.0},
        {"sky_gradient": 3.0}, {"gain": 0.0}, {"read_noise": -1.0}, {"dark_current": np.nan},
        {"cloud": (1.5, 0.5, 0.1)}, {"cloud": (0.5, 0.5, 0.0)}, {"variable_source": 0}, {"variable_source": 21},
        {"variable_source": 1, "lags": (0.0,)}, {"variable_source": 1, "amplitude": 2.0},
    ],
)  # fmt: skip
def test_field_model__names_the_parameter_that_makes_no_sense(wrong):
    with pytest.raises(ValueError, match=f"^{list(wrong)[-1]} must be"):
        FieldModel(**wrong)


def test_simulate_observations__writes_what_the_truth_says(tmp_path):
    truth = simulate_observations(
        tmp_path, n_frames=12, shape=(128, 160), n_sources=6, filters=("g", "r"), flux_range=(5e3, 1e5), fwhm=3.0,
        moffat_beta=None, drift=(4.0, -3.0), rotation=1.0, cloud=(0.5, 0.5, 0.2), gain=0.8, sky_gradient=0.0, seed=7,
    )  # fmt: skip
    found = scanning.scan(scanning.find_files([tmp_path]), OPTICAM_MX())
    assert found.set_aside == []
    assert found.table["key"].value_counts().to_dict() == {"1:g": 12, "2:r": 12}
    assert set(found.table["saturation"]) == {65535.0}
    radius = 6.0
    pulls = []
    for camera, key in enumerate(("1:g", "2:r")):
        table = found.table[found.table["key"] == key]
        seconds = (table["mjd_utc"].to_numpy() - 60310.125) * 86400  # from 2024-01-01 03:00, the first start
        np.testing.assert_allclose(seconds, truth["time"], atol=1e-4)  # the middle of each exposure
        for index, path in enumerate(table["file"]):
            here = truth.isel(filter=camera, frame=index)
            image = fits.getdata(path).astype(float) * 0.8 - 80 - 200
            aperture = CircularAperture(np.stack([here["x"], here["y"]], axis=1), radius)
            measured = aperture_photometry(image, aperture)["aperture_sum"].value
            sigma2 = (3.0 / (2 * np.sqrt(2 * np.log(2)))) ** 2 + 1 / 12
            inside = here["flux"].to_numpy() * (1 - np.exp(-(radius**2) / (2 * sigma2)))
            pixel_variance = 200 + 1.3**2 + 0.8**2 / 12
            pulls.append((measured - inside) / np.sqrt(inside + pixel_variance * aperture.area))
    pulls = np.concatenate(pulls)
    assert abs(pulls.mean()) < 4 / np.sqrt(pulls.size)
    assert pulls.std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * pulls.size))


def test_simulate_observations__same_seed_same_bytes_another_seed_others(tmp_path):
    options = {"n_frames": 2, "shape": (64, 64), "n_sources": 1, "filters": ("g",), "cosmic_rays": 2.0}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        simulate_observations(tmp_path / name, seed=seed, **options)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        assert path.read_bytes() != (tmp_path / "c" / path.name).read_bytes()


def test_simulate_observations__start_with_an_offset_is_turned_into_utc(tmp_path):
    simulate_observations(tmp_path, n_frames=1, shape=(64, 64), n_sources=1, filters=("g",),
                          start="2024-01-01T20:00:00-08:00")  # fmt: skip
    (path,) = tmp_path.iterdir()
    assert fits.getheader(path)["UT"] == "2024-01-02 04:00:00.000"
    assert path.name == "240102g200000000o.fits"


def test_simulate_observations__refuses_names_it_does_not_know(tmp_path):
    with pytest.raises(TypeError, match="n_stars"):
        simulate_observations(tmp_path, n_stars=3)
