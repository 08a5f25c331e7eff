"""Diagnostic plots: the numbers that are drawn are those of theory, of the simulation, and of the right source."""

from __future__ import annotations

import re

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from scipy.special import erf

from opticam_dask import Reducer, cli, simulate_observations
from opticam_dask.display import diagnostics, plotting
from opticam_dask.display.diagnostics import frames, inputs, sources
from opticam_dask.flags import FrameFlag
from opticam_dask.kernels.sources import noise
from opticam_dask.kernels.sources.profiles import growth
from opticam_dask.lightcurves import results
from opticam_dask.methods.photometers import AperturePhotometer
from opticam_dask.store.store import Store

FRAMES = 8


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    """Two cameras, eight frames each, of a small field."""
    root = tmp_path_factory.mktemp("diagnostics")
    model = {"n_frames": FRAMES, "shape": (160, 160), "n_sources": 6, "filters": ("g", "r"), "lags": (0.0, 0.0)}
    simulate_observations(root / "frames", flux_range=(2e4, 3e5), drift=(5.0, 3.0), **model)
    reducer = Reducer(root / "out", root / "frames", client="none", show_plots=False, verbose=False)
    reducer.create_catalogs()
    reducer.photometry()
    return reducer


@pytest.fixture
def kept(monkeypatch):
    """Figures by file name, in place of files."""
    figures = {}

    def keep(figure, path):
        path.touch()
        figures[re.sub(r"^\.(.+)\.[0-9a-f]{32}\.pdf$", r"\1", path.name)] = figure  # it gets its name when it is whole
        return path

    monkeypatch.setattr(plotting, "save_figure", keep)
    return figures


def pixel_gaussian(shape, x, y, sigma, flux):
    """Gaussian star integrated over the pixels."""

    def along(length, centre):
        edges = (np.arange(length + 1) - 0.5 - centre) / (np.sqrt(2) * sigma)
        return np.diff(erf(edges)) / 2

    return flux * np.outer(along(shape[0], y), along(shape[1], x))


# ---------------------------------------------------------------- kernels


def test_growth_curve__gaussian_grows_as_theory_says():
    # wide against a pixel: inside a pixel, light counts as evenly spread
    sigma, flux = 10.0, 5e4
    image = pixel_gaussian((201, 201), 100.3, 99.6, sigma, flux) + 7.0
    radii = sigma * np.array([0.5, 1.0, 2.0, 3.0, 4.0])
    found, _ = growth.growth_curve(image, np.array([[100.3, 99.6]]), radii, background=7.0)
    np.testing.assert_allclose(found[0] / flux, 1 - np.exp(-0.5 * (radii / sigma) ** 2), atol=1e-3)


def test_growth_curve__error_of_flat_noise_is_the_root_of_the_area():
    _, error = growth.growth_curve(np.zeros((81, 81)), np.array([[40.0, 40.0]]), np.array([5.0, 20.0]), variance=9.0)
    # squares of the shares at the rim: a little less than the area
    np.testing.assert_allclose(error[0], 3 * np.sqrt(np.pi) * np.array([5.0, 20.0]), rtol=0.06)
    assert np.all(error[0] < 3 * np.sqrt(np.pi) * np.array([5.0, 20.0]))


def test_growth_curve__off_the_image_is_nan_and_bad_radii_are_refused():
    xy = np.array([[-50.0, 5.0], [np.nan, 5.0], [10.0, 10.0]])
    found, _ = growth.growth_curve(np.ones((20, 20)), xy, np.array([2.0]))
    assert np.isnan(found[:2]).all()
    np.testing.assert_allclose(found[2], np.pi * 4)
    for radii in ([], [0.0], [-1.0], [np.inf]):
        with pytest.raises(ValueError, match="radii"):
            growth.growth_curve(np.ones((20, 20)), xy, np.array(radii))


def test_fit_amplitude__finds_peak_and_level_beside_missing_pixels():
    shape = growth.gaussian_profile((31, 31), (15.2, 14.7), 3.0, 2.0, np.radians(30))
    image = 120.0 * shape + 4.0
    image[3, 4] = np.nan
    np.testing.assert_allclose(growth.fit_amplitude(image, shape), (120.0, 4.0))
    assert np.isnan(growth.fit_amplitude(np.full((31, 31), np.nan), shape)).all()


def test_gaussian_profile__angle_is_from_x_counter_clockwise():
    profile = growth.gaussian_profile((41, 41), (20, 20), 6.0, 2.0, np.radians(90))
    assert profile[26, 20] == pytest.approx(np.exp(-0.5))
    assert profile[20, 22] == pytest.approx(np.exp(-0.5))


def test_noise_components__are_those_of_the_ccd_equation():
    flux, area, rebin = np.array([100.0, 1e4, 1e6]), 50.0, 2
    found = noise.noise_components(
        flux, n_pixels=area, sky=80.0, dark=3.0, read_noise=5.0, n_read_pixels=area * rebin**2, scintillation=0.01
    )
    np.testing.assert_allclose(found["source"], [10, 100, 1000])
    np.testing.assert_allclose(found["sky"], np.sqrt(4000))
    np.testing.assert_allclose(found["dark"], np.sqrt(600))
    np.testing.assert_allclose(found["read"], np.sqrt(200 * 25))
    np.testing.assert_allclose(found["scintillation"], [1, 100, 10000])
    np.testing.assert_allclose(found["total"] ** 2, flux + 4000 + 600 + 5000 + (0.01 * flux) ** 2)


def test_scintillation_noise__scales_with_telescope_time_and_airmass():
    usual = {"diameter": 1.0, "exposure_time": 1.0, "airmass": 1.0}
    base = noise.scintillation_noise(**usual)
    assert base == pytest.approx(np.sqrt(1e-5) * 1.5)
    assert noise.scintillation_noise(**{**usual, "diameter": 8.0}) == pytest.approx(base / 4)
    assert noise.scintillation_noise(**{**usual, "exposure_time": 100.0}) == pytest.approx(base / 10)
    assert noise.scintillation_noise(**{**usual, "airmass": 4.0}) == pytest.approx(base * 8)
    assert noise.scintillation_noise(**usual, height=8000.0) == pytest.approx(base / np.e)


def test_common_scatter__a_variable_source_does_not_move_it():
    flux = np.geomspace(1e3, 1e5, 11)
    error = np.sqrt(flux)
    scatter = np.hypot(error, 0.03 * flux)
    scatter[-2] *= 5
    assert noise.common_scatter(flux, scatter, error) == pytest.approx(0.03)
    assert noise.common_scatter(flux[:3], scatter[:3], error[:3]) == 0.0


# ---------------------------------------------------------------- gathering


def test_source_statistics__robust_scatter_and_medians():
    rng = np.random.default_rng(0)
    flux = rng.normal(1000.0, 20.0, (4000, 2))
    flux[::50, 0] = 1e6
    flux[1::50, 0] = np.nan
    flux[2:, 1] = np.nan
    curves = xr.Dataset(
        {"flux": (("frame", "source"), flux), "flux_err": (("frame", "source"), np.full_like(flux, 20.0))},
        coords={"source_id": ("source", [7, 9])},
    )
    found = diagnostics.source_statistics(curves)
    assert found["source_id"].to_numpy().tolist() == [7, 9]
    assert float(found["median_flux"][0]) == pytest.approx(1000.0, rel=0.005)
    assert float(found["scatter"][0]) == pytest.approx(20.0, rel=0.1)
    assert np.isnan(found["scatter"][1])


@pytest.mark.parametrize(("n_keys", "n_sources"), [(1, 0), (1, 3), (6, 100)])
def test_noise_plots__any_number_of_keys_and_sources(tmp_path, n_keys, n_sources):
    flux = np.geomspace(1e3, 1e5, n_sources)
    flux[n_sources // 2 : n_sources // 2 + 1] = np.nan
    columns = {"median_flux": flux, "scatter": 0.05 * flux, "median_error": 0.02 * flux}
    statistics = xr.Dataset(
        {name: ("source", values) for name, values in columns.items()},
        coords={"source_id": ("source", np.arange(1, n_sources + 1))},
    )
    grid = np.geomspace(500, 2e5, 50)
    model = xr.Dataset(
        {name: ("flux", values) for name, values in noise.noise_components(grid, n_pixels=50, sky=100.0).items()},
        coords={"flux": grid},
    )
    of_key = {f"{number}:g": statistics for number in range(n_keys)}
    figures = [
        plotting.plot_rms_vs_flux(of_key),
        plotting.plot_snrs(of_key),
        plotting.plot_noise(of_key, dict.fromkeys(of_key, model)),
    ]
    for number, figure in enumerate(figures):
        plotting.save_figure(figure, tmp_path / f"{number}.png")
        assert len([axes for axes in figure.axes if axes.get_visible()]) == n_keys * (1 + (number == 2))


@pytest.mark.parametrize(("n_frames", "n_chosen", "keep"), [(100, 10, 37), (5, 10, 2), (7, 0, 3), (1000, 1, 999)])
def test_evenly_spaced__holds_the_reference(n_frames, n_chosen, keep):
    chosen = frames.evenly_spaced(n_frames, n_chosen, keep)
    assert keep in chosen
    assert len(chosen) == min(n_frames, n_chosen or n_frames)
    assert np.all(np.diff(chosen) > 0)


def test_plot_growth_curves__shows_the_sources_asked_for_and_the_aperture(reduced, kept):
    diagnostics.plot_growth_curves(reduced.out_directory, {"1:g": [5, 2], "2:r": 3})
    axes = kept["1-g_growth_curves.pdf"].axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert set(lines) == {"5", "2", "aperture"}
    camera = Store.open(reduced.out_directory).camera("1:g")
    assert lines["aperture"].get_xdata()[0] == pytest.approx(inputs.typical_fwhm(camera))
    assert lines["2"].get_ydata().max() == pytest.approx(100.0)
    # Moffat star of beta 3: 1 - (1 + (r / alpha)^2)^-2 of all light, against the light within 4 FWHM
    radius, percent = lines["2"].get_data()
    fwhm = 4.0 / (2 * np.sqrt(2 ** (1 / 3) - 1))
    theory = 1 - (1 + (radius / fwhm) ** 2) ** -2
    np.testing.assert_allclose(percent[radius > 3], 100 * (theory / theory[-1])[radius > 3], atol=4.0)
    assert {line.get_label() for line in kept["2-r_growth_curves.pdf"].axes[0].lines} == {"3", "aperture"}
    with pytest.raises(ValueError, match="no source 99"):
        diagnostics.plot_growth_curves(reduced.out_directory, 99)


def test_plot_noise__sky_and_total_are_those_of_the_simulation(reduced):
    curves = diagnostics.statistics_of_sources(reduced.out_directory, "aperture")["1:g"]
    model = diagnostics.noise_model(reduced.out_directory, "1:g", "aperture", curves)
    area = np.pi * inputs.typical_fwhm(Store.open(reduced.out_directory).camera("1:g")) ** 2
    # 200 electrons of sky, whatever the bias; read-out of the header is that of the instrument
    np.testing.assert_allclose(model["sky"], np.sqrt(200.0 * area), rtol=0.03)
    np.testing.assert_allclose(model["source"], np.sqrt(model["flux"]))
    # errors of fluxes know of scintillation on request only
    np.testing.assert_array_less(0.0, model["scintillation"])
    expected = np.sqrt(model["total"] ** 2 - model["scintillation"] ** 2)
    total = np.interp(curves["median_flux"], model["flux"], expected)
    np.testing.assert_allclose(curves["median_error"], total, rtol=0.03)


def test_plot_rms_vs_flux__points_are_the_statistics(reduced, kept):
    diagnostics.plot_rms_vs_flux(reduced.out_directory)
    drawn = np.concatenate([line.get_xydata() for line in kept["aperture_rms_vs_flux.pdf"].axes[0].lines])
    flux = results.light_curves(reduced.out_directory, "1:g")["flux"].to_numpy()
    for values in flux.T:
        middle = np.median(values)
        expected = [middle, 1.4826 * np.median(np.abs(values - middle))]
        assert np.isclose(drawn, expected, rtol=1e-9).all(axis=1).any()


def test_plot_rms_vs_flux__numbers_the_variable_source_alone(tmp_path):
    flux = np.geomspace(1e3, 1e5, 12)
    error = np.sqrt(flux + 2000)
    scatter = error.copy()
    scatter[4] *= 8
    columns = {"median_flux": flux, "scatter": scatter, "median_error": error}
    statistics = xr.Dataset(
        {name: ("source", values) for name, values in columns.items()},
        coords={"source_id": ("source", np.arange(12, 0, -1))},
    )
    figure = plotting.plot_rms_vs_flux({"1:g": statistics})
    assert [text.get_text() for text in figure.axes[0].texts] == ["8"]
    plotting.save_figure(figure, tmp_path / "rms.png")


def test_plot_snrs__bars_are_flux_over_error(reduced, kept):
    diagnostics.plot_snrs(reduced.out_directory)
    axes = kept["aperture_snrs.pdf"].axes
    assert len(axes) == 2
    curves = results.light_curves(reduced.out_directory, "1:g")
    expected = np.median(curves["flux"], axis=0) / np.median(curves["flux_err"], axis=0)
    np.testing.assert_allclose([bar.get_height() for bar in axes[0].patches], expected)


def test_plot_apertures__lie_on_the_stars(reduced, kept):
    diagnostics.plot_apertures(reduced.out_directory, AperturePhotometer(radius=6.0), [3, 1])
    panels = kept["1-g_aperture_apertures.pdf"].axes
    assert [panel.get_title() for panel in panels] == ["1:g: source 3", "1:g: source 1"]
    for panel in panels:
        image, outline = panel.images[0].get_array(), panel.patches[0]
        assert outline.width == outline.height == 12.0
        row, column = np.unravel_index(np.argmax(image), image.shape)
        assert np.hypot(outline.center[0] - column, outline.center[1] - row) < 1.5


def test_annulus_radii__from_the_record_of_a_photometer():
    record = {"radius": None, "local_background_estimator": {"r_in_scale": 5.0, "r_out_scale": 7.5}}
    np.testing.assert_allclose(sources.annulus_radii(record, 2.3548), (5.0, 7.5), rtol=1e-4)
    assert sources.annulus_radii({"radius": 3.0}, 4.0) is None
    assert sources.aperture_axes({"radius": None}, 4.0) == (4.0, 4.0, 0.0)
    assert sources.aperture_axes({"forced": True}, 4.0) is None


def test_plot_background_meshes__images_are_the_stored_meshes(reduced, kept):
    diagnostics.plot_background_meshes(reduced.out_directory)
    part, index = inputs.reference_frame(Store.open(reduced.out_directory).camera("1:g"))
    mesh = part.background.read("background_mesh", index, index + 1)[0]
    np.testing.assert_array_equal(kept["background_meshes.pdf"].axes[1].images[0].get_array(), mesh)


def test_plot_psfs__pages_of_a_camera_are_one_file(reduced):
    files = diagnostics.plot_psfs(reduced.out_directory)
    assert [file.name for file in files] == ["1-g_psfs.pdf", "2-r_psfs.pdf"]
    # four sources on the first page, two on the second
    assert files[0].read_bytes().count(b"/Type /Page ") == 2


def quality_of(n_frames, **values):
    mjd = 60310.0 + np.arange(n_frames) * 5 / 86400
    flags = np.full(n_frames, FrameFlag.REDUCED, dtype=np.uint32)
    return xr.Dataset(
        {"flags": ("frame", flags), **{name: ("frame", array) for name, array in values.items()}},
        coords={"mjd_utc": ("frame", mjd), "bmjd_tdb": ("frame", mjd)},
    )


def test_plot_quality__rows_of_what_is_known_and_marks_of_unusable_frames():
    frames = quality_of(50, fwhm=np.linspace(3, 4, 50), airmass=np.full(50, np.nan), transparency=np.ones(50))
    frames["flags"][[4, 9]] |= np.uint32(FrameFlag.NOT_ALIGNED)
    figure = plotting.plot_quality({"1:g": frames, "2:r": frames[["flags", "fwhm"]]})
    assert [axes.get_ylabel().split("\n")[0] for axes in figure.axes] == ["FWHM", "Transparency"]
    marks = figure.axes[0].lines[-1]
    np.testing.assert_allclose(np.sort(marks.get_xdata()), [20, 20, 45, 45], atol=1e-3)
    with pytest.raises(ValueError, match="at least one"):
        plotting.plot_quality({"1:g": quality_of(3)})


def test_plot_quality__a_hundred_thousand_frames_make_a_small_file(tmp_path):
    frames = quality_of(100_000, fwhm=np.random.default_rng(0).normal(4, 0.1, 100_000))
    assert plotting.save_figure(plotting.plot_quality({"1:g": frames}), tmp_path / "many.pdf").stat().st_size < 500_000


# ---------------------------------------------------------------- animations, Reducer, command line


def test_create_gifs__number_and_duration_of_frames(reduced):
    files = diagnostics.create_gifs(reduced.out_directory, milliseconds=150)
    assert [file.name for file in files] == ["1-g_images.gif", "2-r_images.gif"]
    with Image.open(files[0]) as animation:
        assert animation.n_frames == FRAMES
        assert animation.info["loop"] == 0
        for index in range(FRAMES):
            animation.seek(index)
            assert animation.info["duration"] == 150
    before = files[0].stat().st_mtime_ns
    assert diagnostics.create_gifs(reduced.out_directory, overwrite=False) == []
    assert files[0].stat().st_mtime_ns == before


@pytest.mark.parametrize(("state", "colour"), [("reference", 2), ("unaligned", 0), ("aligned", None)])
def test_write_animation__title_has_the_colour_of_the_state(tmp_path, state, colour):
    image = np.random.default_rng(0).normal(100, 10, (64, 64))
    picture = plotting.Picture(image, np.full((1, 2), np.nan), 5.0, "a frame", state)
    with Image.open(plotting.write_animation([picture], tmp_path / "one.gif")) as animation:
        title = np.asarray(animation.convert("RGB")).astype(int)[:30]
    strong = [np.any(title[..., band] - np.delete(title, band, axis=-1).max(axis=-1) > 150) for band in range(3)]
    assert strong == [colour == band for band in range(3)]


def test_write_animation__a_frame_without_pixels_is_drawn_and_none_is_refused(tmp_path):
    empty = plotting.Picture(np.full((700, 400), np.nan), np.full((1, 2), np.nan), 5.0, "unreadable", "unaligned")
    with Image.open(plotting.write_animation([empty], tmp_path / "one.gif")) as animation:
        assert max(animation.size) <= 700
    with pytest.raises(ValueError, match="at least one frame"):
        plotting.write_animation([], tmp_path / "none.gif")


def test_create_gifs__circles_follow_the_stars_and_one_frame_is_the_reference(reduced):
    camera = Store.open(reduced.out_directory).camera("1:g")
    pictures = list(frames._pictures(camera, inputs.catalogues(reduced.out_directory)[camera], 4))
    assert len(pictures) == 4
    assert sorted(picture.state for picture in pictures) == ["aligned"] * 3 + ["reference"]
    assert np.ptp([picture.xy[0, 0] for picture in pictures]) > 3
    for picture in pictures:
        x, y = np.rint(picture.xy[0]).astype(int)
        assert picture.image[y - 1 : y + 2, x - 1 : x + 2].max() == np.nanmax(picture.image)


def test_reducer__saves_rms_plot_after_photometry_and_every_plot_on_request(reduced):
    out = reduced.out_directory
    assert (out / "diag" / "aperture_rms_vs_flux.pdf").is_file()
    reduced.plot_growth_curves(targets=1)
    reduced.plot_apertures(targets=[1])
    reduced.plot_quality()
    for name in ("growth_curves/1-g_growth_curves.pdf", "apertures/2-r_aperture_apertures.pdf", "1-g_quality.pdf"):
        assert (out / "diag" / name).is_file()


def test_command_plot__draws_and_says_where(reduced, capsys):
    assert cli.main(["plot", str(reduced.out_directory), "snrs", "noise"]) == 0
    shown = capsys.readouterr().out
    assert "aperture_snrs.pdf" in shown
    assert "aperture_noise_characterisation.pdf" in shown


@pytest.mark.parametrize("rest", [["pie"], ["snrs", "--label", "none"], ["growth-curves", "--targets", "99"]])
def test_command_plot__wrong_usage_is_one_line(reduced, capsys, rest):
    assert cli.main(["plot", str(reduced.out_directory), *rest]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
