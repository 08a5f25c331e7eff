"""The browser: it shows what was measured, reads no more than that, and answers to clicks in a real browser."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from bokeh.document import Document
from chromium import opened_chromium

from opticam_dask import (
    AperturePhotometer,
    Reducer,
    cli,
    differential_light_curves,
    light_curves,
    marks,
    simulate_observations,
)
from opticam_dask.display.browser import camera_view, frame_picture
from opticam_dask.display.browser.camera_view import CameraView, Views
from opticam_dask.display.browser.frame_picture import read_frame
from opticam_dask.display.browser.page import Page
from opticam_dask.display.browser.screen import envelope, nearest, shade, shrink, spread_order
from opticam_dask.display.browser.server import Browser
from opticam_dask.kernels.images.matching import align
from opticam_dask.methods.local_backgrounds import DefaultLocalBackground
from opticam_dask.store.arrays import open_zarr_array
from opticam_dask.store.store import Store

FRAMES = 6
NIGHTS = ("2024-01-01", "2024-01-03")
#: Numbers, over both nights, of the frame that is blank and of the one whose file is removed.
BLANK, GONE = 2, 9


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Two nights of a small field; one frame is blank, and the file of another is gone."""
    root = tmp_path_factory.mktemp("browser")
    model = {"n_frames": FRAMES, "shape": (160, 200), "n_sources": 6, "filters": ("g",), "lags": (0.0,)}
    for night in NIGHTS:
        start = f"{night}T20:00:00"
        simulate_observations(root / night, flux_range=(2e4, 3e5), drift=(6.0, 3.0), start=start, **model)
    files = [sorted((root / night).iterdir()) for night in NIGHTS]
    _make_blank(files[0][BLANK])
    reducer = Reducer(
        root / "out", [root / night for night in NIGHTS], client="none", show_plots=False, verbose=False,
        frames_per_block=4,
    )  # fmt: skip
    reducer.create_catalogs()
    reducer.photometry(AperturePhotometer(local_background_estimator=DefaultLocalBackground()))
    reducer.photometry(AperturePhotometer(radius=(3.0, 5.0), radius_unit="frame_fwhm"), label="two")
    files[1][GONE - FRAMES].unlink()
    return root / "out"


def _make_blank(file):
    from astropy.io import fits

    with fits.open(file, mode="update") as hdus:
        hdus[-1].data[...] = 7


LABEL = "aperture_annulus"


def _read_all(view):
    while view.load(8):
        pass


# ---------------------------------------------------------------- what is gathered


def test_light_curve__is_that_of_the_dataset_over_all_nights(out):
    view = CameraView(out, "1-g", LABEL)
    view.choose(2)
    _read_all(view)
    flux, flags = view.light_curve(2)
    expected = light_curves(out, "1:g", LABEL)
    np.testing.assert_allclose(flux, expected["flux"].to_numpy()[:, 1], rtol=1e-6)
    np.testing.assert_array_equal(flags, expected["flags"].to_numpy()[:, 1])
    np.testing.assert_array_equal(view.mjd_utc, expected["mjd_utc"])
    np.testing.assert_array_equal(view.records["fwhm"], expected["fwhm"])
    assert [view.nights[code] for code in view.night_codes] == expected["night"].to_numpy().tolist()


def test_light_curve__of_a_run_too_large_for_memory_is_read_source_by_source(out, monkeypatch):
    monkeypatch.setattr(camera_view, "_MOST_CELLS", 5)
    view = CameraView(out, "1:g", LABEL)
    for source_id in (3, 1):
        view.choose(source_id)
        _read_all(view)
        flux, _ = view.light_curve(source_id)
        assert view._columns.arrays["flux"].shape == (2 * FRAMES, 1, 1)
        expected = light_curves(out, "1:g", LABEL)["flux"].to_numpy()[:, source_id - 1]
        np.testing.assert_allclose(flux, expected, rtol=1e-6)


def test_light_curve__of_one_of_several_radii(out):
    view = CameraView(out, "1:g", "two")
    assert view.radii == [3.0, 5.0]
    view.set_radius(1)
    view.choose(1)
    _read_all(view)
    expected = light_curves(out, "1:g", "two", radius=5.0)["flux"].to_numpy()[:, 0]
    np.testing.assert_allclose(view.light_curve(1)[0], expected, rtol=1e-6)


def test_load__reads_every_block_once_and_those_of_a_shown_source_at_once_for_all(out):
    view = CameraView(out, "1:g", LABEL)
    n_blocks = sum(part.n_blocks for part in view.parts)
    before = view.n_reads
    view.choose(1)
    assert view.n_reads == before
    _read_all(view)
    # four records and three variables of the photometry
    assert view.n_reads - before == 7 * n_blocks
    view.choose(4)
    assert not view.load()
    assert view.n_reads - before == 7 * n_blocks


def test_page__its_first_picture_reads_one_frame_and_no_light_curve(out, monkeypatch):
    files = []
    read = frame_picture.load_image
    monkeypatch.setattr(
        frame_picture, "load_image", lambda steps, entry: files.append(entry["file"]) or read(steps, entry)
    )
    page = Page(Views(out), "1:g", LABEL)
    assert len(files) == 1
    # every block is still to be read
    assert page.view.n_todo == 2 * sum(part.n_blocks for part in page.view.parts)


def test_frame__apertures_are_those_of_the_measurement(out):
    view = CameraView(out, "1:g", LABEL)
    for index in (0, 3, 8):
        picture = read_frame(view, index)
        part, number = view.locate(index)
        assert part.night == NIGHTS[index // FRAMES]
        assert picture.mjd_utc == view.mjd_utc[index]
        measured = light_curves(out, "1:g", LABEL).isel(frame=index)
        np.testing.assert_array_equal(picture.xy, np.column_stack([measured["x"], measured["y"]]))
        scale = align.scale_of(part.frames["transform"][number])
        (shape,) = picture.apertures
        assert picture.has_aperture
        assert shape.semimajor_axis == pytest.approx(view.fwhm * scale)
        inner, outer = picture.annulus
        assert outer.semimajor_axis / inner.semimajor_axis == pytest.approx(1.5)


def test_frame__the_sum_inside_the_drawn_aperture_is_the_flux_in_the_store(out):
    view = CameraView(out, "1:g", "two")
    picture = read_frame(view, 4)
    stored = light_curves(out, "1:g", "two")["flux"].to_numpy()[4]
    rows, columns = np.indices(picture.image.shape)
    for source, (x, y) in enumerate(picture.xy):
        for radius, shape in enumerate(picture.apertures):
            inside = np.hypot(columns - x, rows - y) <= shape.semimajor_axis
            # whole pixels in place of parts of them at the rim
            assert picture.image[inside].sum() == pytest.approx(stored[source, radius], rel=0.03)


@pytest.mark.parametrize("flux", [2e4, 2e6])
def test_cutout__shows_the_form_of_a_star_beside_one_of_another_brightness(out, flux):
    """A disk of one grey level, or a star that cannot be seen, is what the scale of the whole frame makes of it."""
    page = Page(Views(out), "1:g", LABEL)
    picture = page.picture
    rows, columns = np.indices(picture.image.shape)
    number = int(page.view.source_ids[0])
    (x, y), (other_x, other_y) = picture.xy[:2]
    round_star = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8) / (8 * np.pi)
    far_star = np.exp(-((columns - other_x) ** 2 + (rows - other_y) ** 2) / 8) / (8 * np.pi)
    noise = np.random.default_rng(1).normal(0.0, 5.0, picture.image.shape)
    shown = dataclasses.replace(picture, image=noise + flux * round_star + 2e5 * far_star)
    page.images.draw_frame(shown, page.view, number)
    (shaded,) = page.cutout.pixels.data["image"]
    assert 3 <= np.count_nonzero(shaded > 200) < 60
    assert np.mean(shaded == 255) < 0.002


def test_frame__that_was_set_aside_is_shown_as_read_with_the_reason(out):
    view = CameraView(out, "1:g", LABEL)
    picture = read_frame(view, BLANK)
    assert "constant" in picture.flags
    assert "all pixels are 7" in picture.message
    assert "as it was read" in picture.problem
    np.testing.assert_array_equal(picture.image, 7.0)
    assert not picture.apertures
    assert np.isnan(picture.xy).all()
    _read_all(view)
    assert np.flatnonzero(view.is_set_aside()).tolist() == [BLANK]


def test_frame__whose_file_is_gone_says_so_and_keeps_its_measurements(out):
    picture = read_frame(CameraView(out, "1:g", LABEL), GONE)
    assert picture.image is None
    assert "is gone" in picture.problem
    assert Path(picture.file).name in picture.problem
    assert np.isfinite(picture.xy).all()


def test_frame__beyond_the_last_is_refused(out):
    view = CameraView(out, "1:g", LABEL)
    for index in (-1, 2 * FRAMES):
        with pytest.raises(IndexError, match="frames 0 to 11"):
            read_frame(view, index)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": "2:r"}, "there is no such key: '2:r'.*has 1:g"),
        ({"key": "1:g", "label": "psf"}, "no photometry 'psf'.*aperture_annulus, two"),
    ],
)
def test_camera__that_is_not_there_is_refused(out, options, message):
    with pytest.raises(ValueError, match=message):
        CameraView(out, **options)


def test_source__that_is_not_there_is_refused(out):
    with pytest.raises(ValueError, match=r"no source 99.*1 to"):
        CameraView(out, "1:g", LABEL).choose(99)


def test_camera__without_photometry_shows_frames_and_predicted_positions(tmp_path):
    simulate_observations(tmp_path / "frames", n_frames=3, shape=(128, 128), n_sources=4, filters=("g",), lags=(0.0,))
    reducer = Reducer(tmp_path / "out", tmp_path / "frames", client="none", show_plots=False, verbose=False)
    reducer.create_catalogs()
    page = Page(Views(tmp_path / "out"))
    assert page.view.label is None
    assert np.isfinite(page.picture.xy).all()
    assert np.isnan(page.view.light_curve(1)[0]).all()
    assert "no photometry yet" in page.curve.title.text


def test_page__of_a_damaged_store_goes_on_and_says_what_to_do(out, tmp_path):
    shutil.copytree(out / "reduction.zarr", tmp_path / "reduction.zarr")
    part = Store(tmp_path / "reduction.zarr").camera("1:g").parts[0]
    for name in (f"photometry/{LABEL}/flux", "frames/transform"):
        array = open_zarr_array(tmp_path / "reduction.zarr", f"{part.group}/{name}")
        array.chunk_file((0,) * len(array.shape)).write_bytes(b"nothing of use" * 9)
    page = Page(Views(tmp_path), "1:g", LABEL)
    while page.view.n_todo:
        page._read_some()
    assert "opticam-dask verify" in page.state.text
    flux, _ = page.view.light_curve(1)
    assert np.isnan(flux[:4]).all()
    assert np.isfinite(flux[6:]).all()
    before = page.index
    page.show_frame(0)
    assert page.index == before
    assert "transform" in page.state.text


def test_page__of_a_store_of_an_older_version_shows_what_it_has(tmp_path):
    with tarfile.open(Path(__file__).parents[1] / "data" / "store-1.0.tar.xz") as archive:
        known = hasattr(tarfile, "data_filter")  # Python 3.11.3 and earlier know no filter
        archive.extractall(tmp_path, **({"filter": "data"} if known else {}))
    page = Page(Views(tmp_path / "out"))
    while page.view.n_todo:
        page._read_some()
    assert np.isfinite(page.picture.values["fwhm"])
    assert page.picture.annulus == []  # the form of the stars was not kept
    assert "gone" in page.picture.problem
    assert page.view.damage == ""


def test_page__of_a_store_that_has_lost_an_array_goes_on_and_says_what_to_do(out, tmp_path):
    shutil.copytree(out / "reduction.zarr", tmp_path / "reduction.zarr")
    parts = Store(tmp_path / "reduction.zarr").camera("1:g").parts
    shutil.rmtree(tmp_path / "reduction.zarr" / parts[0].group / "frames" / "n_sources")
    (tmp_path / "reduction.zarr" / parts[1].group / "photometry" / LABEL / "flux" / "zarr.json").write_text("{}")
    page = Page(Views(tmp_path), "1:g", LABEL)
    while page.view.n_todo:
        page._read_some()
    assert "opticam-dask verify" in page.state.text
    flux, _ = page.view.light_curve(1)
    assert np.isfinite(flux[[0, 1, 3, 4, 5]]).all()
    assert np.isnan(flux[FRAMES:]).all()
    shutil.rmtree(tmp_path / "reduction.zarr" / parts[0].group / "frames" / "flags")
    again = Page(Views(tmp_path), "1:g", LABEL)
    again.show_frame(0)
    assert "frames/flags" in again.state.text


# ---------------------------------------------------------------- numbers for pictures


def test_spread_order__every_number_once_and_the_first_ones_far_apart():
    for n in (0, 1, 2, 5, 64, 1000):
        assert sorted(spread_order(n).tolist()) == list(range(n))
    first = np.sort(spread_order(1000)[:16])
    assert np.diff(first).max() <= 130


def test_envelope__covers_what_all_points_cover():
    rng = np.random.default_rng(1)
    x = np.append(np.sort(rng.uniform(0, 100, 2000)), [np.nan, np.nan])
    y = rng.normal(size=len(x))
    y[::7] = np.nan
    centre, low, high = envelope(x, y, 20.0, 60.0, 50)
    edges = np.linspace(20.0, 60.0, 51)
    for middle, bottom, top in zip(centre, low, high, strict=True):
        column = int(np.searchsorted(edges, middle)) - 1
        inside = y[(x >= edges[column]) & (x < edges[column + 1]) & np.isfinite(y)]
        assert (bottom, top) == (inside.min(), inside.max())
    assert len(centre) == 50


def test_envelope__of_nothing_is_nothing():
    for x, y in (([], []), ([1.0, 2.0], [np.nan, np.nan]), ([np.nan], [1.0])):
        assert [len(part) for part in envelope(np.array(x), np.array(y), 0.0, 5.0, 10)] == [0, 0, 0]


def test_nearest__counts_distances_on_the_screen():
    x, y = np.array([0.0, 10.0, np.nan]), np.array([0.0, 1000.0, 5.0])
    assert nearest(x, y, (8.0, 100.0), (1.0, 1.0), (0, 3)) == 0
    assert nearest(x, y, (8.0, 100.0), (0.01, 100.0), (0, 3)) == 1
    assert nearest(x, y, (0.0, 0.0), (1.0, 1.0), (2, 3)) is None
    assert nearest(x, y, (0.0, 0.0), (1.0, 1.0), (1, 1)) is None


def test_shrink__keeps_the_mean_and_says_by_how_much():
    image = np.arange(48.0).reshape(6, 8)
    small, factor = shrink(image, 4)
    assert (small.shape, factor) == ((3, 4), 2)
    assert small[0, 0] == image[:2, :2].mean()
    assert shrink(image, 8)[1] == 1


def test_shade__sky_is_dark_stars_are_bright_and_missing_pixels_black():
    image = np.random.default_rng(0).normal(100.0, 5.0, (50, 50))
    image[20:23, 20:23], image[0, 0] = 5000.0, np.nan
    shaded = shade(image)
    assert shaded[21, 21] == 255
    assert shaded[0, 0] == 0
    assert np.median(shaded) < 80
    assert shade(np.full((4, 4), np.nan)).max() == 0


# ---------------------------------------------------------------- the server


def test_command__says_where_it_is_and_ends_at_once_when_asked(out):
    command = [sys.executable, "-m", "opticam_dask.cli", "browse", str(out), "--label", "two"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = re.search(r"http://127\.0\.0\.1:\d+/\S+", process.stdout.readline())[0]
            with urllib.request.urlopen(url, timeout=60) as answer:
                assert answer.status == 200
            # nobody comes in without the address
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(re.match(r"http://[^/]+/", url)[0], timeout=60)
            refused.value.close()
        finally:
            process.send_signal(signal.SIGINT)
        told, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Closed." in told
    assert "Traceback" not in errors


def test_command__on_a_port_that_is_taken_says_so(out, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["browse", str(out), "--port", str(port)]) == 1
    assert f"port {port} cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--key", "2:r"], ["--label", "psf"]])
def test_command__for_what_is_not_there_is_wrong_usage(out, capsys, options):
    assert cli.main(["browse", str(out), *options]) == 2
    assert "it has" in capsys.readouterr().err


def test_command__without_bokeh_says_what_to_install(out):
    program = "import sys; sys.modules['bokeh'] = None; from opticam_dask.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "browse", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "pip install 'opticam-dask[explore]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_browser__shows_itself_in_a_notebook_with_escaped_names(out, tmp_path):
    strange = tmp_path / "<b>&name"
    strange.symlink_to(out, target_is_directory=True)
    with Browser(strange) as browser:
        shown = browser._repr_html_()
        assert f'<iframe src="{browser.url}"' in shown
        assert "&lt;b&gt;&amp;name" in shown
        assert "<b>" not in shown
        assert browser.url in repr(browser)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(browser.url, timeout=5)


def test_browser__pages_of_one_browser_choose_for_themselves(out, monkeypatch):
    pages = []
    monkeypatch.setattr(Page, "add_to", lambda page, document: pages.append(page))
    monkeypatch.setattr(camera_view, "_MOST_CELLS", 5)
    with Browser(out, label="two") as browser:
        for _ in range(2):
            browser._add_page(Document())
    one, other = pages
    one.radius.value = 1
    one.show_source(3)
    assert (one.view.radius, other.view.radius, other.radius.value) == (1, 0, 0)
    for page in pages:
        _read_all(page.view)
        page.draw_series()  # each shows its own source, and the other reads nothing for it
    assert [page.view.n_todo for page in pages] == [0, 0]
    for page, source, radius in ((one, 2, 5.0), (other, 0, 3.0)):
        expected = light_curves(out, "1:g", "two", radius=radius)["flux"].to_numpy()[:, source]
        np.testing.assert_allclose(page.ordinates(page.curve), expected, rtol=1e-6)


# ---------------------------------------------------------------- in Chromium


@pytest.fixture(scope="module")
def chromium():
    with opened_chromium() as started:
        yield started


@pytest.fixture
def page(out, chromium):
    """The page of the browser; what it asks for and what goes wrong on it is kept."""
    yield from _opened_page(out, chromium)


@pytest.fixture
def page_of_a_copy(out, chromium, tmp_path):
    """The page of a reduction that may be changed."""
    yield from _opened_page(shutil.copytree(out, tmp_path / "out"), chromium)


def _is_trouble(line):
    """Whether a line of the console is about something wrong: an older Bokeh is told how its canvas would be faster."""
    return line.type in ("error", "warning") and not line.text.startswith("Canvas2D: Multiple readback operations")


def _opened_page(out, chromium):
    with Browser(out, "1:g", LABEL) as browser:
        opened = chromium.new_page(viewport={"width": 1300, "height": 1200})
        opened.asked, opened.errors = [], []
        opened.on("request", lambda request: opened.asked.append(request.url))
        opened.on("console", lambda line: opened.errors.append(line.text) if _is_trouble(line) else None)
        opened.on("pageerror", lambda error: opened.errors.append(str(error)))
        opened.goto(browser.url)
        opened.wait_for_function("() => window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle")
        opened.wait_for_function(f"() => !({_MODEL})('state').text.includes('reading')")
        opened.address = browser.url
        yield opened
        opened.close()


_MODEL = "name => Bokeh.documents[0].get_model_by_name(name)"

#: Where a point of a figure is on the screen.
_PLACE = """([name, x, y]) => {
    const model = Bokeh.documents[0].get_model_by_name(name);
    const view = Bokeh.index.find_one(model);
    const box = view.el.getBoundingClientRect();
    return [box.left + view.frame.x_scale.compute(x), box.top + view.frame.y_scale.compute(y)];
}"""


def _click(page, name, x, y):
    """Click on a point of a figure when its axes have come to rest."""
    wanted, last = [name, float(x), float(y)], None
    for _ in range(100):
        where = page.evaluate(_PLACE, wanted)
        if where == last:
            break
        last = where
        page.wait_for_timeout(300)
    page.mouse.click(*where)


def _wait_for_title(page, name, text):
    page.wait_for_function(f"([name, text]) => ({_MODEL})(name).title.text.includes(text)", arg=[name, text])


def _property(page, name, what):
    return page.evaluate(f"([name, what]) => ({_MODEL})(name)[what]", [name, what])


def test_page__renders_without_errors_and_asks_nobody_else(page):
    assert page.errors == []
    assert page.asked
    assert all(url.startswith(page.address) for url in page.asked)
    facts = _property(page, "facts", "text")
    assert ".fits" in facts
    assert "aperture (pixel)" in facts


def test_page__a_click_on_a_star_shows_its_light_curve(page, out):
    view = CameraView(out, "1:g", LABEL)
    _wait_for_title(page, "curve", "source 1,")
    _click(page, "catalogue", *view.positions[3])
    _wait_for_title(page, "curve", f"source {view.source_ids[3]},")
    flux = light_curves(out, "1:g", LABEL)["flux"].to_numpy()[:, 3]
    drawn = page.evaluate(
        "() => Bokeh.documents[0].get_model_by_name('curve').renderers"
        ".filter((one) => one.glyph.type === 'Scatter').flatMap((one) => Array.from(one.data_source.get_array('y')))"
    )
    known = flux[np.isfinite(flux)]
    assert all(np.isclose(known, value, rtol=1e-5).any() for value in drawn)
    assert len(drawn) >= len(known)
    assert page.errors == []


def test_page__a_click_on_a_point_shows_its_frame_and_keys_the_next(page, out):
    flux = light_curves(out, "1:g", LABEL)["flux"].to_numpy()[:, 0]
    for index in (8, 1):
        _click(page, "curve", index, flux[index])
        _wait_for_title(page, "frame", f"Frame {index}:")
    page.keyboard.press("ArrowLeft")
    _wait_for_title(page, "frame", "Frame 0:")
    page.keyboard.press("ArrowRight")
    _wait_for_title(page, "frame", "Frame 1:")
    assert page.errors == []


def test_page__says_that_a_file_is_gone_and_why_a_frame_was_set_aside(page, out):
    flux = light_curves(out, "1:g", LABEL)["flux"].to_numpy()[:, 0]
    _click(page, "curve", GONE, flux[GONE])
    _wait_for_title(page, "frame", "(gone)")
    page.wait_for_function(f"() => ({_MODEL})('facts').text.includes('is gone')")
    # the blank frame has no flux: it is a cross at the bottom of the strip
    limits = page.evaluate(f"() => (({_MODEL})('strip')).y_range.start + 0")
    top = page.evaluate(f"() => (({_MODEL})('strip')).y_range.end + 0")
    _click(page, "strip", BLANK, limits + 0.04 * (top - limits))
    _wait_for_title(page, "frame", f"Frame {BLANK}:")
    page.wait_for_function(f"() => ({_MODEL})('facts').text.includes('all pixels are 7')")
    assert page.errors == []


def _brush(page, left, right, n_points):
    """Draw a box over the whole height of the light curve, until so many points are brushed.

    On a machine that is busy the axes may move once more after they have come to rest.
    """
    from playwright.sync_api import TimeoutError as NotYet

    is_told = f"n => ({_MODEL})('told').text.includes(n + ' point(s) brushed')"
    for timeout in (5e3, 10e3, 60e3):
        _draw_box(page, left, right)
        with contextlib.suppress(NotYet):
            page.wait_for_function(is_told, arg=n_points, timeout=timeout)
            return
    pytest.fail(f"{n_points} points were not brushed, but: {_property(page, 'told', 'text')!r}")


def _draw_box(page, left, right):
    before = None
    while (now := _corners(page, left, right)) != before:
        before = now
        page.wait_for_timeout(300)
    page.mouse.move(*now[0])
    page.mouse.down()
    page.mouse.move(*now[1], steps=6)
    page.mouse.up()


def _corners(page, left, right):
    """Where a box over nearly the whole height of the light curve is on the screen."""
    low, high = page.evaluate(f"() => [({_MODEL})('curve').y_range.start, ({_MODEL})('curve').y_range.end]")
    pad = 0.02 * (high - low)
    return [page.evaluate(_PLACE, ["curve", x, y]) for x, y in ((left, high - pad), (right, low + pad))]


def test_page__brushed_frames_are_marked_and_the_saved_light_curve_has_it(page_of_a_copy, tmp_path):
    page, out = page_of_a_copy, tmp_path / "out"
    curves = light_curves(out, "1:g", "two", radius=5.0).load()
    page.evaluate(f"() => {{ ({_MODEL})('label').value = 'two'; }}")  # another photometry, with two apertures
    page.wait_for_function(f"() => ({_MODEL})('curve').title.text.includes('two')")
    page.wait_for_function(f"() => ({_MODEL})('radius').visible")
    page.get_by_role("slider").press("ArrowRight")
    page.wait_for_function(f"() => ({_MODEL})('radius').title.endsWith(': 5 FWHM of each frame')")
    page.wait_for_function(f"() => !({_MODEL})('state').text.includes('reading')")
    # one comparison of those that were offered goes, by a click on its star
    page.get_by_text("comparison", exact=True).click()
    _click(page, "catalogue", *CameraView(out, "1:g", "two").positions[1])
    page.wait_for_function(f"() => ({_MODEL})('comparisons').value.length == 4")
    page.wait_for_function(f"() => ({_MODEL})('flux').value == 'relative'")
    page.get_by_text("drag brushes").click()
    flux = curves["flux"].sel(source=1).to_numpy()
    page.wait_for_function(f"() => ({_MODEL})('curve').toolbar.active_drag.type === 'BoxSelectTool'")
    _brush(page, 5.5, 8.5, 3)
    page.get_by_label("because").fill("seen to be bad")
    page.get_by_role("button", name="mark", exact=True).click()
    page.wait_for_function(f"() => ({_MODEL})('told').text.includes('marked junk')")
    assert _property(page, "told", "text") == "3 frame(s) marked junk"
    page.get_by_label("name of the light curve").fill("brushed")
    page.get_by_role("button", name="save", exact=True).click()
    page.wait_for_function(f"() => ({_MODEL})('told').text.includes('saved')")
    assert marks(out)["why"].tolist() == ["seen to be bad"] * 3
    saved = differential_light_curves(out, "1:g")["brushed"].load()
    assert np.isnan(saved["relative_flux"].to_numpy()[6:9]).all()
    assert (saved.attrs["radius"], list(saved.attrs["comparisons"])) == (5.0, [3, 4, 5, 6])
    others = [0, 1, 3, 4, 5, 10, 11]
    expected = flux / curves["flux"].sel(source=[3, 4, 5, 6]).sum("source", skipna=False).to_numpy()
    np.testing.assert_allclose(saved["relative_flux"].to_numpy()[others], expected[others], rtol=1e-6)
    file = next((out / "relative_light_curves").rglob("brushed*.csv"))
    assert "nan" in file.read_text().lower() or ",," in file.read_text()
    page.reload()
    page.wait_for_function("() => window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle")
    page.get_by_label("saved light curves").select_option("brushed")
    page.wait_for_function(f"() => ({_MODEL})('radius').title.endsWith(': 5 FWHM of each frame')")
    page.wait_for_function(f"() => ({_MODEL})('comparisons').value.length == 4")
    page.wait_for_function(f"() => !({_MODEL})('state').text.includes('reading')")
    shown = page.evaluate(
        f"() => ({_MODEL})('curve').renderers.filter((one) => one.glyph.type === 'Scatter')"
        ".flatMap((one) => Array.from(one.data_source.get_array('y')))"
    )
    assert len(shown) >= len(others)
    assert all(np.isclose(value, expected, rtol=1e-5).any() for value in shown)
    page.get_by_role("button", name="take the last back").click()
    page.wait_for_function(f"() => ({_MODEL})('told').text.includes('3 mark(s) taken back')")
    assert len(marks(out)) == 0
    assert np.isfinite(differential_light_curves(out, "1:g")["brushed"]["relative_flux"].to_numpy()[6:9]).all()
    assert page.errors == []
