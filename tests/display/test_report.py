"""The report: everything it says is in the store, and a real browser shows it without network or errors."""

from __future__ import annotations

import json
import os
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from astropy.io import fits
from chromium import opened_chromium

from opticam_dask import Reducer, cli, export_light_curves, relative_light_curve, simulate_observations, write_report
from opticam_dask.display.report import measurements, pictures, thinning
from opticam_dask.display.report.gathering import gather
from opticam_dask.display.report.page import number
from opticam_dask.flags import FrameFlag
from opticam_dask.lightcurves.differential import keep_relative_light_curve
from opticam_dask.store.groups import Group
from opticam_dask.store.store import Store

FRAMES = 10
EVIL = "<img src=x onerror=alert(1)>"
N_COLOURS = """canvas => {
    const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    return new Set(new Uint32Array(data.buffer)).size;
}"""


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    """Two cameras, two nights, ten frames each, one file that is no frame, and a light curve in the store."""
    root = tmp_path_factory.mktemp("report")
    model = {"n_frames": FRAMES, "shape": (128, 128), "n_sources": 7, "filters": ("g", "r"), "lags": (0.0, 0.0)}
    for night in ("2024-01-01T03:05:00", "2024-01-04T03:05:00"):
        simulate_observations(root / "frames", flux_range=(1e4, 2e5), least_separation=8.0, start=night, **model)
    (root / "frames" / f"{EVIL}.fits").write_text("this is not a frame")
    cut, empty = (root / "frames" / f"240101g20000000{index}o.fits" for index in (3, 5))
    cut.write_bytes(cut.read_bytes()[:-6000])
    with fits.open(empty, mode="update") as opened:  # without stars it would borrow a transform
        opened[0].data[...] = 7
    reducer = Reducer(root / "out", root / "frames", client="none", show_plots=False, verbose=False, frames_per_block=8)
    reducer.create_catalogs(n_pixels=5, border_width=4)
    reducer.photometry()
    for key in ("1:g", "2:r"):
        curve = relative_light_curve(root / "out", key, 2, [1, 3, 4])
        keep_relative_light_curve(curve, root / "out", "variable")
    assert reducer.report(n_sources=2) == root / "out" / "report.html"
    return reducer.out_directory


@pytest.fixture(scope="module")
def page_file(reduced):
    return write_report(reduced)


@pytest.fixture(scope="module")
def browser():
    with opened_chromium() as opened:
        yield opened


@pytest.fixture
def visit(browser):
    """Open a page in a window; whatever goes wrong in it, and whatever it asks for, is kept."""
    contexts = []

    def visit(file, width=1280, height=900, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.wrong, page.asked = [], []
        page.on("console", lambda message: page.wrong.append(message.text))
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("dialog", lambda dialog: page.wrong.append(dialog.message) or dialog.dismiss())
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(file.resolve().as_uri())
        page.wait_for_selector("html[data-ready=yes]")
        return page

    yield visit
    for context in contexts:
        context.close()


def plots(page, box):
    return page.locator(f"#{box} figure:not([hidden]) canvas[role=img]")


def x_range(canvas):
    return tuple(float(canvas.get_attribute(f"data-x-{end}")) for end in ("min", "max"))


# ---------------------------------------------------------------- thinning and pictures


def test_thinning__a_point_has_median_and_envelope_of_its_frames():
    values = np.array([1.0, 9.0, 2.0, np.nan, np.nan, np.nan, 5.0])
    flags = np.array([1, 0, 4, 0, 0, 2, 0], dtype=np.uint32)
    column = thinning.column_of(values, 3, error=np.full(7, 0.5), flags=flags)
    np.testing.assert_array_equal(column.middle, [2, np.nan, 5])
    np.testing.assert_array_equal(column.low, [1, np.nan, 5])
    np.testing.assert_array_equal(column.high, [9, np.nan, 5])
    np.testing.assert_array_equal(column.flags, [5, 2, 0])
    assert thinning.column_of(values, 1).low is None
    assert thinning.frames_per_point(100_001, 1000) == 101


def test_thinning__times_are_kept_to_a_tenth_of_a_millisecond():
    times = 60310.3 + np.arange(1000) * 0.1 / 86400
    clock = thinning.clock_of("2024-01-01", times, 1)
    found = clock.zero + clock.ticks * thinning.TICK / 86400
    assert np.abs(found - times).max() * 86400 < 1e-4
    missing = thinning.clock_of("2024-01-01", np.full(3, np.nan), 1)
    assert missing.ticks.tolist() == [0, 0, 0]


def test_pictures__stars_are_dark_on_a_light_sky_and_y_is_up():
    from io import BytesIO

    from PIL import Image

    image = np.random.default_rng(0).normal(0.0, 1.0, (60, 80))
    image[50, 70] = 5000.0
    image[:2] = np.nan
    picture = np.asarray(Image.open(BytesIO(pictures.stamp(image, 70.0, 50.0, 9))))
    assert picture.shape == (19, 19)
    assert picture[9, 9] == 0
    assert np.median(picture) > 150
    whole = np.asarray(Image.open(BytesIO(pictures.chart(image))))
    assert whole.shape == image.shape
    assert np.unravel_index(whole.argmin(), whole.shape) == (60 - 1 - 50, 70)
    assert pictures.averaged(image, 7).shape == (9, 12)
    np.testing.assert_allclose(np.asarray(Image.open(BytesIO(pictures.chart(np.full((5, 5), np.nan))))), 255)


def test_curves__of_many_frames_are_thinned_and_nothing_is_lost(reduced, monkeypatch):
    whole = gather(reduced, 20)
    monkeypatch.setattr(measurements, "_MOST_POINTS", 6)
    monkeypatch.setattr(measurements, "_LEAST_POINTS", 2)
    monkeypatch.setattr(measurements, "_CELLS", 40)  # many slabs
    thin = gather(reduced, 20)
    for one, other in zip(whole.curves, thin.curves, strict=True):
        for (clock, columns), (coarse, thinned) in zip(one.nights, other.nights, strict=True):
            assert coarse.per_point > 1
            assert len(coarse.ticks) == -(-len(clock.ticks) // coarse.per_point)
            for column, few in zip(columns, thinned, strict=True):
                assert np.nanmax(few.high) == np.nanmax(column.middle)
                assert np.nanmin(few.low) == np.nanmin(column.middle)
                assert np.bitwise_or.reduce(few.flags) == np.bitwise_or.reduce(column.flags)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.23456, "1.235"),
        (58263.4, "58263"),
        (1.23456e7, "1.235e7"),
        (-3.21e-9, "-3.21e-9"),
        (np.nan, "\u2013"),
    ],
)
def test_numbers__are_short_and_sort_as_numbers(value, text):
    assert number(value) == text
    assert np.isnan(value) or float(text) == pytest.approx(value, rel=1e-3)


# ---------------------------------------------------------------- what the page says


class Reader(HTMLParser):
    """Names and attributes of the elements of a page, and its text."""

    def __init__(self):
        super().__init__()
        self.elements, self.words = [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def read(file):
    reader = Reader()
    reader.feed(file.read_text(encoding="utf-8"))
    return reader


def test_report__says_what_was_reduced_how_and_what_was_set_aside(reduced, page_file):
    reader = read(page_file)
    text = " ".join(" ".join(reader.words).split())
    assert {"summary", "conditions", "field", "curves", "noise", "profile", "set-aside", "provenance", "files"} <= {
        attributes.get("id") for _, attributes in reader.elements
    }
    attributes = Store.open(reduced).attributes
    for words in ("2023-12-31", "2024-01-03", "1:g", "2:r", attributes["parameters_hash"], "all pixels are 7", "numpy"):
        assert words.lower() in text.lower()
    assert "bytes" in text  # the truncated frame, and the reason
    hrefs = [attributes["href"] for tag, attributes in reader.elements if tag == "a" and "href" in attributes]
    assert "./cat/1-g_catalog.ecsv" in hrefs
    for href in hrefs:
        assert href.startswith("#") or (reduced / href).exists()
    for tag, attributes in reader.elements:
        for name in ("src", "href", "data", "action"):
            assert re.match(r"(#|\./|data:image/)", attributes.get(name) or "#"), (tag, attributes)


def test_report__the_same_store_gives_the_same_bytes(reduced, page_file):
    before = page_file.read_bytes()
    assert write_report(reduced) == page_file
    assert page_file.read_bytes() == before
    assert not list(reduced.glob(".report*"))


def test_report__names_from_outside_cannot_run(reduced, tmp_path, visit):
    out = tmp_path / "out"
    shutil.copytree(reduced, out)
    evil = "</script><script>alert(2)</script>{{ 7*7 }}\udcff\x1b[31m"
    path = Store.open(out).path
    Store(path).drop_consolidated()
    Store(path).update({"instrument": evil.replace("\udcff", "")})
    (out / "diag" / f"{EVIL} #?&.pdf").write_bytes(b"")
    file = write_report(out)
    text = file.read_text(encoding="utf-8")
    assert EVIL not in text
    assert "<script>alert" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "\\x1b[31m" in text
    page = visit(file)
    assert page.wrong == []
    assert page.asked == [file.resolve().as_uri()]
    assert "{{ 7*7 }}" in page.title()
    # were something to get through, the policy of the page would not let it run
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title=1\">')")
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'document.title=1'}))"
    )
    page.wait_for_timeout(200)
    assert page.title() != "1"
    assert page.wrong


def test_report__of_a_reduction_that_is_not_done(reduced, tmp_path, visit):
    out = tmp_path / "out"
    shutil.copytree(reduced, out)
    path = Store.open(out).path
    Store(path).drop_consolidated()
    night = Store(path).camera("1:g").parts[1]
    night.records().forget(range(night.n_blocks))
    Store(path).camera("2:r").parts[0].records("aperture").forget([0])
    for group in ("1-g/2023-12-31/photometry", "1-g/2023-12-31/quality", "2-r/reference", "2-r/differential"):
        Group(path, group).remove()
    page = visit(write_report(out))
    assert page.wrong == []
    assert "not finished" in page.inner_text("#summary")
    for group in ("1-g/catalog", "2-r/catalog", "1-g/differential"):
        Group(path, group).remove()
    for part in (part for camera in Store(path).cameras for part in camera.parts):
        Group(path, f"{part.group}/photometry").remove()
        Group(path, f"{part.group}/psf").remove()
    page = visit(write_report(out))
    assert page.wrong == []
    assert "no source catalogue yet" in page.inner_text("#summary")
    assert page.locator("#curves, #noise, #field").count() == 0


def test_report__without_a_store_and_with_wrong_options(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "holds no reduction" in capsys.readouterr().err
    with pytest.raises(ValueError, match="n_sources"):
        write_report(tmp_path, n_sources=-1)


def test_report__from_the_command_line_embeds_as_many_sources_as_asked_for(reduced, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(reduced, out)
    assert cli.main(["report", str(out), "--n-sources", "3"]) == 0
    assert str(out / "report.html") in capsys.readouterr().out
    reader = read(out / "report.html")
    assert "3 of 7 sources, the other 4 are in the store" in " ".join(" ".join(reader.words).split())
    data = json.loads(re.search(r'id="data">(.*?)</script>', (out / "report.html").read_text()).group(1))
    # target and first comparisons, whatever is brighter
    assert [one["sources"] for one in data["curves"]] == [[1, 2, 3]] * 2


def test_gather__marks_frames_that_were_set_aside(reduced, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(reduced, out)
    path = Store.open(out).path
    part = Store(path).camera("1:g").parts[0]
    flags = Group(path, f"{part.group}/frames").read("flags")
    flags[2] |= np.uint32(FrameFlag.NOT_ALIGNED)
    Group(path, f"{part.group}/frames").array("flags").write_whole(flags)
    report = gather(out, 5)
    night = next(one for one in report.nights if one.key == "1:g" and one.night == part.night)
    assert night.n_set_aside == np.count_nonzero(flags & ~np.uint32(1) & ~np.uint32(FrameFlag.NO_POSITION))
    assert "not aligned" in [count.name for count in night.flags]
    conditions = next(one for one in report.conditions if one.key == "1:g")
    assert conditions.flags[2] & 1
    assert report.n_set_aside == len(report.set_aside) >= 2


@pytest.fixture
def copied(reduced, tmp_path):
    return shutil.copytree(reduced, tmp_path / "out")


def test_curves__of_which_a_night_has_no_barycentric_times_are_in_utc(copied):
    path = Store.open(copied).path
    night = Store(path).camera("1:g").parts[1]
    unknown = np.full(FRAMES, np.nan)
    Group(path, f"{night.group}/photometry/aperture").array("bmjd_tdb").write_whole(unknown)
    kept = Group(path, "1-g/differential/variable").read("bmjd_tdb")
    Group(path, "1-g/differential/variable").array("bmjd_tdb").write_whole(np.concatenate([kept[:-FRAMES], unknown]))
    report = gather(copied, 5)
    for curve in (*report.curves, *report.relative):
        assert curve.has_bmjd == (curve.key == "2:r")
        assert all(clock.zero > 60000 for clock, _ in curve.nights)


def test_statistics__of_many_nights_come_from_no_more_frames_than_one_may_hold(reduced, monkeypatch):
    monkeypatch.setattr(measurements, "_SAMPLE", 8)  # a block; each of the nights has two
    for found in gather(reduced, 5).statistics:
        assert found.n_frames_read <= 8 < found.n_frames


def test_report__links_exports_and_files_whose_names_are_no_unicode(copied):
    export_light_curves(copied, "csv", key="1:g")
    strange = copied / "cat" / os.fsdecode(b"caf\xe9.csv")
    strange.write_bytes(b"")
    page = write_report(copied).read_text(encoding="utf-8")
    assert 'href="./export/aperture/"' in page
    assert 'href="./cat/caf%E9.csv">cat/caf\\xe9.csv<' in page


# ---------------------------------------------------------------- in the browser


def test_browser__renders_without_errors_or_requests(page_file, visit):
    page = visit(page_file)
    assert page.wrong == []
    assert page.asked == [page_file.resolve().as_uri()]
    for box, least in (("conditions-plots", 8), ("relative-plots", 2), ("curve-plots", 2), ("noise-plots", 2)):
        assert plots(page, box).count() >= least
        for canvas in plots(page, box).all():
            assert int(canvas.get_attribute("data-points")) > 0
            # something other than the ground is painted
            assert canvas.evaluate(N_COLOURS) > 10
    assert page.locator(".chart-svg circle").count() == 14
    assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth") == 1280


def test_browser__plots_answer_to_drag_wheel_keys_and_buttons(page_file, visit):
    page = visit(page_file)
    first, second = plots(page, "conditions-plots").nth(0), plots(page, "conditions-plots").nth(1)
    whole = x_range(first)
    first.scroll_into_view_if_needed()
    box = first.bounding_box()
    page.mouse.move(box["x"] + 150, box["y"] + 80)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 82, steps=4)
    page.mouse.up()
    dragged = x_range(first)
    assert dragged[1] - dragged[0] < 0.5 * (whole[1] - whole[0])
    assert x_range(second) == dragged  # time axes run together
    page.mouse.dblclick(box["x"] + 200, box["y"] + 80)
    assert x_range(first) == whole
    page.keyboard.down("Shift")
    page.mouse.move(box["x"] + 300, box["y"] + 80)
    page.mouse.wheel(0, -200)
    page.keyboard.up("Shift")
    page.wait_for_function("([c, w]) => Number(c.dataset.xMax) - Number(c.dataset.xMin) < 0.9 * w",
                           arg=[first.element_handle(), whole[1] - whole[0]])  # fmt: skip
    first.focus()
    page.keyboard.press("0")
    assert x_range(first) == whole
    page.keyboard.press("+")
    assert x_range(first)[1] - x_range(first)[0] == pytest.approx((whole[1] - whole[0]) / 2)
    page.keyboard.press("ArrowRight")
    assert x_range(first)[1] > whole[0] + 0.8 * (whole[1] - whole[0])
    page.locator("#conditions-plots figure").nth(0).get_by_role("button", name="Show all").click()
    assert x_range(first) == whole
    # a box changes both axes of one plot
    before = first.get_attribute("data-y-max")
    page.mouse.move(box["x"] + 150, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 320, box["y"] + 120, steps=4)
    page.mouse.up()
    assert first.get_attribute("data-y-max") != before
    assert page.wrong == []


def test_browser__night_selector_and_keys(page_file, visit):
    page = visit(page_file)
    canvas = plots(page, "conditions-plots").nth(0)
    both, points = x_range(canvas), int(canvas.get_attribute("data-points"))
    page.select_option("#night", "2024-01-03")
    one = x_range(canvas)
    # three days lie between the nights, but not on the axis
    assert one[1] - one[0] < both[1] - both[0] < 3 * (one[1] - one[0])
    assert int(canvas.get_attribute("data-points")) == 2 * FRAMES < points
    page.get_by_role("checkbox", name="2:r").uncheck()
    assert int(canvas.get_attribute("data-points")) == FRAMES
    assert plots(page, "curve-plots").count() == 1
    assert page.wrong == []


def test_browser__table_sorts_and_filters_and_leads_to_light_curves(page_file, visit):
    page = visit(page_file)
    table = page.locator("table.sortable").first
    head = table.locator("th", has_text="x [pixel]")
    for order, name in ((1, "descending"), (-1, "ascending")):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == name
        values = [float(text) for text in table.locator("tbody tr td:nth-child(2)").all_inner_texts()]
        assert values == sorted(values, reverse=order == 1)
    page.get_by_label("Find in the catalogue of 1:g").fill("target")
    assert table.locator("tbody tr:visible").count() == 1
    assert page.input_value("#curve-source") == "2"
    page.get_by_label("Find in the catalogue of 1:g").fill("")
    table.locator("tbody a", has_text="5").click()
    assert page.input_value("#curve-source") == "5"
    assert "source 5" in plots(page, "curve-plots").first.get_attribute("aria-label")
    canvas = plots(page, "curve-plots").first
    before = float(canvas.get_attribute("data-y-max"))
    page.get_by_label("divided by the median").check()
    assert float(canvas.get_attribute("data-y-max")) < 3 < before


def test_browser__fits_on_a_phone_in_the_dark(page_file, visit):
    page = visit(page_file, width=390, height=844, color_scheme="dark", has_touch=True, is_mobile=True)
    assert page.wrong == []
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for box in ("conditions-plots", "relative-plots", "curve-plots", "noise-plots", "profile-plots"):
        for canvas in plots(page, box).all():
            place = canvas.bounding_box()
            assert place["x"] >= 0
            assert place["x"] + place["width"] <= 390
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", ground))) < 60


def test_browser__prints_light_pages_without_controls(page_file, visit):
    page = visit(page_file, color_scheme="dark")
    printed = page.pdf()
    assert printed.startswith(b"%PDF")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator("#controls").is_hidden()
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert min(map(int, re.findall(r"\d+", ground))) == 255
    assert page.locator("details:not([open])").count() == 1  # the JSON
