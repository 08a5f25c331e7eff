"""The browser as an instrument for three cameras, and the report that opens with the target they looked at."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from chromium import opened_chromium

import opticam_dask as opticam
from opticam_dask.display.browser.camera_view import Views
from opticam_dask.display.browser.folding import days_of, period_text
from opticam_dask.display.browser.page import Page
from opticam_dask.display.browser.server import Browser
from opticam_dask.display.report import gathering, target
from opticam_dask.frames import sky_coordinates
from opticam_dask.kernels.images.matching import align
from opticam_dask.kernels.sources.profiles import growth

KEYS, LABEL, RADII = ("1:g", "2:r", "3:i"), "two", (3.0, 5.0)
FRAMES, PERIOD, VARIABLE = 24, 50.0, 3


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    """Three cameras, one of whose stars is a sinusoid of 50 s."""
    top = tmp_path_factory.mktemp("instrument")
    opticam.simulate_observations(
        top / "data", n_frames=FRAMES, shape=(128, 128), n_sources=8, lags=(0.0, 0.0, 0.0), flux_range=(5e4, 3e5),
        variable_source=VARIABLE - 1, amplitude=0.1, frequency=1.0 / PERIOD, drift=(3.0, 2.0), seed=4,
    )  # fmt: skip
    reducer = opticam.Reducer(top / "out", top / "data", client="none", show_plots=False, verbose=False)
    reducer.create_catalogs()
    reducer.photometry(opticam.AperturePhotometer(radius=RADII, radius_unit="pixel"), label=LABEL)
    return top / "out"


@pytest.fixture
def out(reduced, tmp_path):
    return shutil.copytree(reduced, tmp_path / "out")


@pytest.fixture
def page(reduced):
    return _read(Page(Views(reduced), KEYS[0], LABEL))


def _read(page):
    page._read_some()
    while page._n_todo():
        page._read_some()
    return page


def _number_of(out, key):
    """Number of the variable star in a camera."""
    curves = opticam.light_curves(out, key, LABEL, radius=RADII[1]).load()
    flux = curves["flux"].to_numpy()
    return int(curves["source_id"].to_numpy()[np.argmax(np.std(flux, axis=0) / np.mean(flux, axis=0))])


def _points(layers):
    return {name: np.asarray(layers["good points"].data[name]) for name in ("x", "y", "low", "high")}


# ---------------------------------------------------------------- light curves of three cameras


def test_cameras__are_above_each_other_on_one_time_axis_with_error_bars(page, reduced):
    number = _number_of(reduced, KEYS[0])
    page.show_source(number)
    page.show_relative()
    assert [figure.name for figure in page.stack.children] == ["curve", "curve 2:r", "curve 3:i"]
    assert {id(figure.x_range) for figure in page.stack.children} == {id(page.strip.x_range)}
    comparisons = page.panel.chosen_comparisons()
    for key in KEYS:
        expected = _expected(page, reduced, key, number, comparisons, RADII[0])
        layers = page.drawn["curve"] if key == KEYS[0] else page.others._layers[key]
        drawn = _points(layers)
        np.testing.assert_allclose(drawn["x"], expected["mjd_utc"] - page._day(), atol=1e-9)
        np.testing.assert_allclose(drawn["y"], expected["relative_flux"], rtol=1e-6)
        np.testing.assert_allclose(drawn["high"] - drawn["low"], 2 * expected["relative_flux_err"], rtol=1e-4)
    page.abscissa.value = "frame"  # frames of other cameras have other numbers
    assert not any(figure.visible for figure in page.others.figures.values())


def _expected(page, out, key, number, comparisons, radius):
    if key != KEYS[0]:
        pairs = page.views.counterparts(KEYS[0], key)
        number, comparisons = pairs[number], [pairs[one] for one in comparisons]
    return opticam.relative_light_curve(out, key, number, comparisons, LABEL, radius=radius).load()


def test_clicks_and_slider__change_comparisons_and_aperture_in_all_cameras_at_once(page, reduced):
    number = _number_of(reduced, KEYS[0])
    page._on_star(SimpleNamespace(x=page.view.positions[number - 1, 0], y=page.view.positions[number - 1, 1]))
    assert page.source_id == number
    gone = page.panel.chosen_comparisons()[0]
    page.choosing.active = 1
    x, y = page.view.positions[gone - 1]
    page._on_star(SimpleNamespace(x=x + 1.0, y=y - 1.0))
    assert gone not in page.panel.chosen_comparisons()
    assert page.flux.value == "relative"
    page.radius.value = 1
    assert page.view.n_todo == 0  # all radii came with the first
    for key in KEYS:
        expected = _expected(page, reduced, key, number, page.panel.chosen_comparisons(), RADII[1])
        shown = page.ordinates(page.curve) if key == KEYS[0] else page.others.series(key, "relative").y
        np.testing.assert_allclose(shown, expected["relative_flux"], rtol=1e-6)
    page._on_star(SimpleNamespace(x=x, y=y))
    assert page.panel.toggle_comparison(number) is None  # the target is none of its comparisons
    assert number not in page.panel.chosen_comparisons()


def test_save__keeps_the_light_curves_of_all_cameras_and_they_are_opened_again(out):
    page = _read(Page(Views(out), KEYS[0], LABEL))
    number = _number_of(out, KEYS[0])
    page.show_source(number)
    page.panel.comparisons.value = page.panel.comparisons.value[:2]
    page.radius.value = 1
    page.panel.prefix.value = "star"
    page.panel._on_save()
    assert "saved" in page.panel.told.text
    for key in KEYS:
        kept = opticam.differential_light_curves(out, key)["star"].load()
        assert (kept.attrs["radius"], len(kept.attrs["comparisons"])) == (RADII[1], 2)
    again = Page(Views(out), KEYS[1], LABEL)
    again.panel.kept.value = "star"
    kept = opticam.differential_light_curves(out, KEYS[1])["star"].load()
    assert (again.source_id, again.view.radius) == (kept.attrs["target"], 1)
    assert again.panel.chosen_comparisons() == list(kept.attrs["comparisons"])
    _read(again)
    np.testing.assert_allclose(again.ordinates(again.curve), kept["relative_flux"], rtol=1e-6)


def test_fold__finds_the_period_and_all_cameras_lie_on_one_curve(page, reduced):
    page.show_source(_number_of(reduced, KEYS[0]))
    page.show_relative()
    page.fold._on_find()
    assert days_of(page.fold.period.value) * 86400.0 == pytest.approx(PERIOD, rel=0.01)
    assert page.fold.figure.visible
    for key in KEYS:
        drawn = _points(page.fold._layers[key])
        assert len(drawn["x"]) == 2 * FRAMES  # two turns
        wave = np.column_stack(
            [np.sin(2 * np.pi * drawn["x"]), np.cos(2 * np.pi * drawn["x"]), np.ones(len(drawn["x"]))]
        )
        coefficients, *_ = np.linalg.lstsq(wave, drawn["y"], rcond=None)
        assert np.hypot(*coefficients[:2]) == pytest.approx(0.1, abs=0.01)
        assert np.std(drawn["y"] - wave @ coefficients) < 0.015
    page.fold.period.value = "-3 s"
    assert "such as" in page.fold.told.text
    assert not page.fold.figure.visible


def test_periods__have_units():
    assert [days_of(text) for text in ("", "0.5", "12 h", "90 min", "43.2 s")] == pytest.approx(
        [0, 0.5, 0.5, 0.0625, 5e-4]
    )
    assert [period_text(days) for days in (2.0, 0.5, 5e-4)] == ["2 d", "12 h", "43.2 s"]
    for text in ("three", "1 2", "2 fortnights", "0", "nan"):
        with pytest.raises(ValueError, match="a period is a number above 0"):
            days_of(text)


# ---------------------------------------------------------------- what is under the pointer


def test_pointer__tells_the_place_on_the_sky_and_the_growth_curve_of_the_star(page):
    wcs = sky_coordinates.tangent_wcs(83.6, 22.0)
    wcs.wcs.crpix, wcs.wcs.cd = [64, 64], np.array([[-1.0, 0.1], [0.1, 1.0]]) / 3600.0
    wcs.wcs.set()
    page.view._wcs_cards = sky_coordinates.wcs_header(wcs)
    page.show_frame(FRAMES - 1)  # the telescope has moved by then
    number, xy = int(page.view.source_ids[1]), page.picture.xy[1]
    page.pointer.tell("frame", xy[0] + 1.0, xy[1])
    there = align.apply_transform(align.invert_transform(page.picture.transform), np.array([[xy[0] + 1.0, xy[1]]]))
    ra, dec = sky_coordinates.icrs_of_pixels(wcs, *there.T)
    assert f"{ra[0]:.6f} {dec[0]:+.6f}" in page.pointer.told.text
    assert f"source {number}" in page.pointer.told.text
    drawn = page.pointer.curve.data
    flux, _ = growth.growth_curve(page.picture.image, xy[None], drawn["x"])
    np.testing.assert_array_equal(drawn["y"], flux[0])
    assert [line.location for line in page.pointer.apertures if line.visible] == pytest.approx(list(RADII), rel=1e-3)
    page.pointer.tell("catalogue", 1.0, 1.0)
    assert "reference x 1.0, y 1.0" in page.pointer.told.text
    assert "source" not in page.pointer.told.text


# ---------------------------------------------------------------- frames that were not aligned


def test_two_clicks__give_a_frame_a_transform_and_one_leaves_it_out(out):
    page = Page(Views(out), KEYS[0], LABEL)
    page.show_frame(5)
    true = page.picture.transform
    page.aligning.matching.active = True
    for row in (0, 4):
        x, y = page.picture.xy[row]
        page._on_star_of_frame(SimpleNamespace(x=x + 1.2, y=y - 0.9))  # nobody clicks better than that
        assert page.aligning.give.disabled
        page._on_star(SimpleNamespace(x=page.view.positions[row, 0], y=page.view.positions[row, 1]))
    assert page.source_id == 1  # a click chooses no target meanwhile
    page.aligning._on_give()
    (mark,) = opticam.marks(out).itertuples()
    assert (mark.kind, mark.mjd_start) == ("transform", page.picture.mjd_utc)
    import json

    np.testing.assert_allclose(np.array(json.loads(mark.transform)["transform"]), true, atol=0.05)
    page.aligning._on_leave_out()
    assert np.isnan(opticam.light_curves(out, KEYS[0], LABEL, radius=3.0)["flux"].to_numpy()[5]).all()
    for left in (["transform"], [], []):  # each is taken back in turn, whatever its kind
        page.panel._on_back()
        assert opticam.marks(out)["kind"].tolist() == left
    assert page.panel.told.text == "no mark to take back"
    assert np.isfinite(opticam.light_curves(out, KEYS[0], LABEL, radius=3.0)["flux"].to_numpy()[5]).all()


# ---------------------------------------------------------------- the report


def _keep(out, name, target, comparisons):
    from opticam_dask.lightcurves import differential

    views = Views(out)
    for key in KEYS:
        pairs = views.counterparts(KEYS[0], key)
        curve = opticam.relative_light_curve(
            out, key, pairs[target], [pairs[one] for one in comparisons], LABEL, radius=5.0
        )
        differential.keep_relative_light_curve(curve, out, name)


def test_report__opens_with_the_target_its_period_and_its_fit(out):
    number = _number_of(out, KEYS[0])
    views = Views(out)
    in_all = set.intersection(*(set(views.counterparts(KEYS[0], key)) for key in KEYS[1:]))
    others = sorted(in_all - {number})
    _keep(out, "pulsator", number, others[:4])
    _keep(out, "constant", others[0], others[1:5])
    curves = {key: opticam.differential_light_curves(out, key)["pulsator"].load() for key in KEYS[:2]}
    fit = opticam.fit_sinusoid(curves, baseline=(), n_steps=0)
    from opticam_dask.lightcurves.fitting.outcome import keep_fit, value_of

    keep_fit(fit, out, "pulsator")
    report = gathering.gather(out, 3)
    (period,) = report.periods
    assert period.name == "pulsator"
    assert period.period * 86400.0 == pytest.approx(PERIOD, rel=0.01)
    assert period.frequency[int(np.argmax(period.power))] * PERIOD == pytest.approx(1.0, rel=0.05)
    assert set(period.folded) == set(KEYS)
    for folded in period.folded.values():
        assert np.ptp(folded.flux) == pytest.approx(0.2, abs=0.04)
    (shown,) = report.fits
    assert {series.key for series in shown.series} == {"1:g", "2:r"}
    value, _ = value_of(fit, "period")
    (told,) = [row[1] for row in shown.rows if row[0] == "period"]
    assert float(told.split()[0]) == pytest.approx(value, rel=1e-3)
    html = opticam.write_report(out).read_text()
    places = [html.index(f'id="{name}"') for name in ("target", "summary", "conditions", "curves")]
    assert places == sorted(places)
    assert "Fit of a sinusoid" in html
    assert html.count("No significant period") == 1
    with opened_chromium() as browser:
        _fits_on_a_phone(browser, f"file://{out}/report.html", "document.documentElement.dataset.ready == 'yes'")
        with Browser(out, KEYS[0], LABEL) as served:
            _fits_on_a_phone(
                browser, served.url, "window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle"
            )


def _fits_on_a_phone(browser, url, ready):
    page, errors = browser.new_page(viewport={"width": 390, "height": 800}), []
    page.on("console", lambda line: errors.append(line.text) if line.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    page.wait_for_function(f"() => {ready}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert errors == []
    page.close()


def test_period__of_red_noise_is_none():
    """A random walk has its highest peak at the lowest frequency, which white noise would never have so high."""
    found = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        flux = 1.0 + rng.normal(0, 0.002, 300) + 0.001 * np.cumsum(rng.normal(0, 1, 300)) / 4
        found += target.period_of("walk", {"1:g": _curve(flux)}) is not None
    assert found <= 2
    time = np.arange(300)
    wave = 1.0 + 0.004 * np.sin(2 * np.pi * time / 37.0) + np.random.default_rng(1).normal(0, 0.002, 300)
    period = target.period_of("wave", {"1:g": _curve(wave)})
    assert period is not None
    assert period.period * 8640.0 == pytest.approx(37.0, rel=0.02)


def _curve(flux):
    import xarray as xr

    time = 60000.0 + np.arange(len(flux)) / 8640.0
    columns = {
        "relative_flux": flux,
        "relative_flux_err": np.full(len(flux), 0.002),
        "flags": np.ones(len(flux), np.uint32),
    }
    return xr.Dataset(
        {name: ("frame", values) for name, values in columns.items()},
        coords={"mjd_utc": ("frame", time), "bmjd_tdb": ("frame", time)},
    )
