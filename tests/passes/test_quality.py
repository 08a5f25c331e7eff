"""Transparency, clouds and extinction of a night; the quality product from frames to light curves."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from astropy.coordinates import AltAz, EarthLocation, SkyCoord
from astropy.io import fits
from astropy.time import Time

from opticam_dask import OPTICAM_MX, AperturePhotometer, OptimalPhotometer, Reducer, schema, simulate_observations
from opticam_dask.flags import QualityFlag
from opticam_dask.kernels.series import quality
from opticam_dask.kernels.sources import noise
from opticam_dask.lightcurves import results
from opticam_dask.passes import quality as quality_of_nights
from opticam_dask.passes.quality import measure_quality
from opticam_dask.store import chunk_files, integrity
from opticam_dask.store.groups import Group
from opticam_dask.store.store import STORE_NAME, Store

N_FRAMES = 1500


def simulate(transmission, *, n_sources=12, seed=0, sky=400.0, variable=(), brightest=2e5, scatter=0.0):
    """Fluxes of constant and variable sources under a changing sky, with their errors."""
    rng = np.random.default_rng(seed)
    mean = np.geomspace(brightest, 4e3, n_sources)
    true = np.asarray(transmission)[:, None] * mean * (1.0 + scatter * rng.normal(size=(len(transmission), n_sources)))
    for source, curve in variable:
        true[:, source] *= curve
    error = np.sqrt(true + sky**1.5)
    flux = rng.poisson(true) + rng.normal(0.0, sky**0.75, true.shape)
    return flux, np.sqrt(np.maximum(flux, 0.0) + sky**1.5), error


def night(airmass_from=1.0, airmass_to=1.0, extinction=0.0, cloud=0.0):
    phase = np.linspace(0.0, 1.0, N_FRAMES)
    airmass = airmass_from + (airmass_to - airmass_from) * phase**2
    dip = 1.0 - cloud * np.exp(-0.5 * ((phase - 0.7) / 0.05) ** 2)
    return dip * 10.0 ** (-0.4 * extinction * (airmass - 1.0)), airmass


def measured(flux, error):
    ensemble = quality.fit_ensemble(flux, error)
    found, found_err = quality.measure_transparency(flux[:, ensemble.source], error[:, ensemble.source], ensemble)
    return found, found_err, ensemble


def pulls(found, found_err, truth):
    """Deviations in sigma after the free factor, common to the night, is taken out."""
    return (found / np.median(found / truth) - truth) / found_err


def assert_pulls_are_right(values, mean=0.1, width=0.08):
    assert abs(np.mean(values)) < mean
    assert abs(np.std(values) - 1.0) < width


def test_transparency__cloud_is_recovered_within_errors():
    truth, _ = night(cloud=0.8)
    flux, error, _ = simulate(truth)
    found, found_err, _ = measured(flux, error)
    values = pulls(found, found_err, truth)
    assert_pulls_are_right(values)
    assert abs(np.mean(values[truth < 0.5])) < 0.25  # inside the cloud as well
    assert np.median(found_err) < 0.002


@pytest.mark.parametrize("brightest", [2e5, 5e6])
def test_transparency__a_variable_source_does_not_bias_it(brightest):
    truth, _ = night(cloud=0.5)
    wave = 1.0 + 0.3 * np.sin(np.linspace(0.0, 40.0, N_FRAMES))
    flux, error, _ = simulate(truth, variable=[(0, wave)], brightest=brightest)
    found, found_err, ensemble = measured(flux, error)
    assert ensemble.scatter[ensemble.source == 0] == pytest.approx(0.3 / np.sqrt(2.0), rel=0.5)
    assert np.all(ensemble.scatter[ensemble.source != 0] < 0.01)
    assert_pulls_are_right(pulls(found, found_err, truth), width=0.12)
    assert abs(np.corrcoef(found / truth, wave)[0, 1]) < 0.3


def test_transparency__missing_measurements_make_no_steps():
    truth, _ = night(cloud=0.6)
    flux, error, _ = simulate(truth)
    flux[700:, 0], flux[:300, 1], flux[1000:1200, 2:6] = np.nan, np.nan, np.nan
    flux[np.random.default_rng(1).random(flux.shape) < 0.1] = np.nan
    found, found_err, _ = measured(flux, error)
    assert_pulls_are_right(pulls(found, found_err, truth), mean=0.2)
    for step in (300, 700, 1000, 1200):
        ratio = found / truth
        jump = np.mean(ratio[step : step + 100]) / np.mean(ratio[step - 100 : step]) - 1.0
        assert abs(jump) < 6e-4  # two means of 100 frames of 0.2 % each


def test_transparency__flares_and_cosmic_rays_are_left_out():
    truth = np.ones(N_FRAMES)
    flux, error, _ = simulate(truth)
    flux[::50, 3] *= 5.0
    flux[25::50, 0] *= 0.2
    found, found_err, _ = measured(flux, error)
    assert_pulls_are_right(pulls(found, found_err, truth))


def test_transparency__the_error_knows_of_scintillation():
    truth, _ = night()
    flux, error, _ = simulate(truth, scatter=0.02)
    found, found_err, ensemble = measured(flux, error)
    assert np.median(ensemble.scatter) == pytest.approx(0.02, rel=0.15)
    assert_pulls_are_right(pulls(found, found_err, truth))


def test_transparency__one_bright_source_and_two_faint_ones():
    truth, _ = night(cloud=0.6)
    flux, error, _ = simulate(truth, n_sources=3, brightest=1e6)
    found, found_err, _ = measured(flux, error)
    assert np.isfinite(found).all()
    assert np.median(found_err) < 0.002  # that of the bright one
    assert_pulls_are_right(pulls(found, found_err, truth))


def test_transparency__needs_two_sources():
    truth, _ = night()
    flux, error, _ = simulate(truth, n_sources=2)
    found, _, _ = measured(flux, error)
    assert np.isfinite(found).all()
    flux[10, 1] = np.nan
    found, _, _ = measured(flux, error)
    assert np.flatnonzero(~np.isfinite(found)).tolist() == [10]
    assert quality.fit_ensemble(flux[:, :1], error[:, :1]) is None
    assert quality.fit_ensemble(np.full((5, 4), np.nan), np.ones((5, 4))) is None
    assert quality.fit_ensemble(np.empty((0, 3)), np.empty((0, 3))) is None


@pytest.mark.parametrize("n_sources", [2, 3, 12])
def test_ensemble__scatter_is_measured_against_the_sum_of_all_other_sources(n_sources):
    rng = np.random.default_rng(n_sources)
    flux, error, _ = simulate(night()[0], n_sources=n_sources)
    relative = np.where(rng.random(flux.shape) < 0.2, np.nan, flux / np.median(flux, axis=0))
    relative[:5] = np.nan
    error = error / np.median(flux, axis=0)
    weight, scatter = rng.uniform(1.0, 1e6, n_sources), rng.uniform(0.0, 0.02, n_sources)
    found = quality._scatter_against_others(relative, error, weight, scatter)
    for source in range(n_sources):
        residuals, variances, levels = [], [], []
        for frame in range(len(relative)):
            others = [i for i in range(n_sources) if i != source and np.isfinite(relative[frame, i])]
            if not others:
                continue
            total = sum(weight[i] for i in others)
            common = sum(weight[i] * relative[frame, i] for i in others) / total
            levels.append(common)
            if np.isfinite(relative[frame, source]):
                own = [error[frame, i] ** 2 + (scatter[i] * common) ** 2 for i in others]
                noise_of_others = sum(weight[i] ** 2 * v for i, v in zip(others, own, strict=True)) / total**2
                residuals.append(relative[frame, source] - common)
                variances.append(error[frame, source] ** 2 + noise_of_others)
        width = 1.4826 * np.median(np.abs(residuals - np.median(residuals)))
        expected = np.sqrt(max(width**2 - np.median(variances), 0.0)) / np.median(levels)
        assert found[source] == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_transparency__frames_do_not_know_of_each_other():
    flux, error, _ = simulate(night(cloud=0.5)[0])
    ensemble = quality.fit_ensemble(flux, error)
    chosen = flux[:, ensemble.source], error[:, ensemble.source]
    together = quality.measure_transparency(*chosen, ensemble)
    parts = [quality.measure_transparency(chosen[0][:1], chosen[1][:1], ensemble)]
    parts += [
        quality.measure_transparency(chosen[0][i : i + 7], chosen[1][i : i + 7], ensemble) for i in range(1, 141, 7)
    ]
    for whole, pieces in zip(together, zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(whole[:141], np.concatenate(pieces))


@pytest.mark.parametrize("extinction", [0.1, 0.5])
def test_clouds__extinction_is_none(extinction):
    truth, airmass = night(1.0, 2.4, extinction)
    assert truth.min() < 0.9
    found, found_err, _ = measured(*simulate(truth)[:2])
    clear = quality.fit_clear_sky(found, found_err, airmass)
    assert clear.extinction == pytest.approx(extinction, abs=0.01)
    assert not quality.find_clouds(found, found_err, clear.at(airmass)).any()


def test_clouds__are_found_above_extinction():
    truth, airmass = night(1.0, 2.0, 0.3, cloud=0.6)
    clear_truth, _ = night(1.0, 2.0, 0.3)
    found, found_err, _ = measured(*simulate(truth)[:2])
    clear = quality.fit_clear_sky(found, found_err, airmass)
    clouded = quality.find_clouds(found, found_err, clear.at(airmass))
    depth = 1.0 - truth / clear_truth
    assert clear.extinction == pytest.approx(0.3, abs=0.02)
    assert clouded[depth > 0.12].all()
    assert not clouded[depth < 0.08].any()


def test_clouds__in_most_of_the_night_while_the_star_sets():
    rng = np.random.default_rng(2)
    truth, airmass = night(1.0, 2.0, 0.2)
    veil = np.ones(N_FRAMES)
    veil[600:] = 0.6 + 0.25 * np.sin(np.linspace(0, 60, 900)) * rng.random(900)
    found, found_err, _ = measured(*simulate(truth * veil)[:2])
    clouded = quality.find_clouds(found, found_err, quality.fit_clear_sky(found, found_err, airmass).at(airmass))
    assert not clouded[:600].any()
    assert clouded[600:].mean() > 0.95


def test_clouds__noise_is_none():
    truth = np.ones(N_FRAMES)
    flux, error, _ = simulate(truth, n_sources=2, brightest=5e3, sky=2000.0)
    found, found_err, _ = measured(flux, error)
    assert found_err.mean() > 0.04
    clear = quality.fit_clear_sky(found, found_err, np.full(N_FRAMES, np.nan))
    assert clear.extinction == 0.0
    assert not quality.find_clouds(found, found_err, clear.at(np.full(N_FRAMES, np.nan))).any()
    unknown = quality.fit_clear_sky(np.full(3, np.nan), np.full(3, np.nan), np.ones(3))
    assert not quality.find_clouds(np.ones(3), np.ones(3), unknown.at(np.ones(3))).any()


def test_median__leaves_out_nan():
    values = np.random.default_rng(4).normal(size=(50, 7))
    values[values > 1.0] = np.nan
    np.testing.assert_array_equal(quality.median(values, 1), np.nanmedian(values, axis=1))
    np.testing.assert_array_equal(quality.median(values, 0), np.nanmedian(values, axis=0))
    assert np.isnan(quality.median(np.full((2, 3), np.nan), 1)).all()
    assert quality.median(np.empty((2, 0)), 1).shape == (2,)


def test_ellipticity__of_round_and_unknown_stars():
    found = quality.ellipticity(np.array([2.0, 2.0, np.nan, 0.0]), np.array([2.0, 1.5, 1.0, 0.0]))
    np.testing.assert_array_equal(found, [0.0, 0.25, np.nan, np.nan])


def test_scintillation__by_hand_for_opticam():
    # 2.1 m at 2790 m, 1 s, airmass 1.2, C_Y = 1.67 (Osborn et al. 2015, equation 7):
    # 1e-5 * 2.7889 * 2.1^(-4/3) (= 0.371856) * 1.728 * exp(-0.6975) (= 0.497828) = 8.92135e-6
    found = noise.scintillation_noise(
        diameter=2.1, exposure_time=np.array([1.0, 4.0, 0.0, np.nan]), airmass=1.2, height=2790.0, coefficient=1.67
    )
    np.testing.assert_allclose(found, [2.98686e-3, 2.98686e-3 / 2.0, np.nan, np.nan], rtol=1e-5)


# ---------------------------------------------------------------- the product: from frames to light curves


DEPTH, CENTRE, WIDTH = 0.6, 0.6, 0.1
FIELD = {
    "n_frames": 24, "shape": (128, 144), "n_sources": 8, "filters": ("g",), "lags": (0.0,), "flux_range": (6e4, 8e5),
    "fwhm": 4.0, "cloud": (DEPTH, CENTRE, WIDTH), "variable_source": 3, "amplitude": 0.3,
}  # fmt: skip


def reduce_night(frames, out, *photometers, **options):
    reducer = Reducer(out, frames, client="none", figures=False, verbose=False, **options)
    reducer.create_catalogs()
    for photometer in photometers or (AperturePhotometer(),):
        reducer.photometry(photometer)
    return out / STORE_NAME


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    """A night with a cloud and a variable star: frames, store, truth."""
    root = tmp_path_factory.mktemp("quality")
    truth = simulate_observations(root / "frames", **FIELD)
    return root / "frames", reduce_night(root / "frames", root / "out"), truth


def test_product__transparency_and_clouds_are_those_of_the_simulation(reduced):
    _, path, truth = reduced
    curves = results.light_curves(path.parent, "1:g")
    transmission = truth["transmission"].to_numpy()
    found, error = curves["transparency"].to_numpy(), curves["transparency_err"].to_numpy()
    scale = np.median(found / transmission)
    assert np.abs((found / scale - transmission) / error).max() < 5
    assert np.median(error) < 0.005
    is_cloud = (curves["quality_flags"].to_numpy() & QualityFlag.CLOUD) != 0
    assert is_cloud[transmission < 0.85].all()
    assert not is_cloud[transmission > 0.95].any()


def test_product__airmass_scintillation_and_form(reduced):
    _, path, _ = reduced
    curves = results.light_curves(path.parent, "1:g")
    site = EarthLocation.from_geodetic(-115.463611, 31.044167, 2790.0)
    time = Time(curves["mjd_utc"].to_numpy(), format="mjd", scale="utc", location=site)
    zenith = SkyCoord("03:30:00 +20:00:00", unit=("hourangle", "deg")).transform_to(AltAz(obstime=time, location=site))
    assert np.all(np.abs(curves["airmass"].to_numpy() / zenith.secz.value - 1.0) < 0.01)
    alone = noise.scintillation_noise(
        diameter=2.1, exposure_time=5.0, airmass=curves["airmass"].to_numpy(), height=2790.0, coefficient=1.67
    )
    np.testing.assert_allclose(curves["scintillation"], alone, rtol=1e-12)
    assert np.all(curves["ellipticity"].to_numpy() < 0.1)
    assert not (curves["quality_flags"].to_numpy() & (QualityFlag.NO_AIRMASS | QualityFlag.NO_TRANSPARENCY)).any()


def test_scintillation__is_added_to_errors_on_request(reduced):
    _, path, _ = reduced
    usual = results.light_curves(path.parent, "1:g")
    more = results.light_curves(path.parent, "1:g", scintillation=True)
    expected = np.hypot(usual["flux_err"], usual["scintillation"] * usual["flux"])
    np.testing.assert_allclose(more["flux_err"], expected, rtol=1e-12)
    np.testing.assert_array_equal(more["flux"], usual["flux"])


def test_product__does_not_depend_on_blocks_or_on_what_was_measured_before(reduced, tmp_path):
    frames, path, _ = reduced
    other = reduce_night(frames, tmp_path / "blocks", frames_per_block=5)
    compact = reduce_night(frames, tmp_path / "labels", OptimalPhotometer(), AperturePhotometer())
    names = [entry.name for entry in schema.QUALITY]
    for store_path in (other, compact):
        for name in names:
            found = Group(store_path, "1-g/2023-12-31/quality").read(name)
            np.testing.assert_array_equal(found, Group(path, "1-g/2023-12-31/quality").read(name), err_msg=name)
    assert Group(compact, "1-g/2023-12-31/quality").attributes["label"] == "aperture"


def test_product__each_chunk_is_read_once(reduced, monkeypatch):
    _, path, _ = reduced
    read, content = [], chunk_files.ChunkFiles._read_chunk
    monkeypatch.setattr(
        chunk_files.ChunkFiles,
        "_read_chunk",
        lambda array, chunk: read.append((array.directory, chunk)) or content(array, chunk),
    )
    (part,) = Store(path).camera("1:g").parts
    found = measure_quality(part, OPTICAM_MX(), "aperture")
    assert len(read) == len(set(read))
    assert sum(directory.endswith("/aperture/flux") for directory, _ in read) == part.n_blocks
    for name, values in found.arrays.items():
        np.testing.assert_array_equal(values, Group(path, "1-g/2023-12-31/quality").read(name), err_msg=name)


def test_product__of_a_long_night_rests_on_some_of_its_frames(reduced, monkeypatch):
    _, path, _ = reduced
    (part,) = Store(path).camera("1:g").parts
    whole = measure_quality(part, OPTICAM_MX(), "aperture").arrays
    for name in ("_CELLS", "_SAMPLE_CELLS"):
        monkeypatch.setattr(quality_of_nights, name, part.n_frames * _n_sources(path, part) // 2)
    some = measure_quality(part, OPTICAM_MX(), "aperture").arrays
    assert not np.array_equal(some["transparency"], whole["transparency"])
    assert np.all(np.abs(some["transparency"] - whole["transparency"]) < 0.5 * whole["transparency_err"])
    np.testing.assert_array_equal(some["flags"], whole["flags"])
    np.testing.assert_array_equal(some["airmass"], whole["airmass"])


def _n_sources(path, part):
    return len(Group(path, f"{part.group}/photometry/aperture").read("source_id"))


def test_product__is_made_again_where_it_was_lost(reduced, tmp_path):
    frames, path, _ = reduced
    shutil.copytree(path.parent, tmp_path / "out")
    Group(tmp_path / "out" / STORE_NAME, "1-g/2023-12-31/quality").remove()
    again = reduce_night(frames, tmp_path / "out")
    assert integrity.compare(path, again) == []


def test_product__without_position_there_is_no_airmass(tmp_path):
    simulate_observations(tmp_path / "frames", **FIELD | {"n_frames": 4})
    for file in (tmp_path / "frames").glob("*.fits"):
        with fits.open(file, mode="update") as hdus:
            del hdus[0].header["RA"], hdus[0].header["DEC"]
    path = reduce_night(tmp_path / "frames", tmp_path / "out")
    curves = results.light_curves(path.parent, "1:g")
    assert np.isnan(curves["airmass"]).all()
    assert ((curves["quality_flags"].to_numpy() & QualityFlag.NO_AIRMASS) != 0).all()
    assert np.isfinite(curves["transparency"]).all()
    with pytest.raises(ValueError, match=r"scintillation of 1:g .* is not known"):
        results.light_curves(path.parent, "1:g", scintillation=True)
