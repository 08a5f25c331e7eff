"""Plots: what is drawn where, on odd input as well; files are the same bytes for the same data."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from opticam_dask.cli.exit_codes import one_line
from opticam_dask.display import plotting
from opticam_dask.display.plotting.style import colour_of, new_figure, robust_limits
from opticam_dask.display.plotting.times import best_axis, stretches, utc_axis
from opticam_dask.flags import FrameFlag, SourceFlag

SECOND = 1 / 86400.0


def mjd_of(n_frames=50, step=5.0, start=60310.2):
    return start + np.arange(n_frames) * step * SECOND


def three_nights(n_frames=40):
    return np.concatenate([mjd_of(n_frames, start=60310.2 + night) for night in range(3)])


def frames_of(mjd, *, angle=0.0):
    n_frames, rng = len(mjd), np.random.default_rng(1)
    turn = np.radians(np.broadcast_to(angle, n_frames) + 0.01 * rng.normal(size=n_frames))
    transform = np.zeros((n_frames, 3, 3))
    transform[:, 0, 0] = transform[:, 1, 1] = np.cos(turn)
    transform[:, 1, 0], transform[:, 0, 1], transform[:, 2, 2] = np.sin(turn), -np.sin(turn), 1.0
    transform[:, 0, 2], transform[:, 1, 2] = 3.0, -4.0
    values = {name: ("frame", 10 + rng.normal(size=n_frames)) for name in ("background", "background_rms", "fwhm")}
    return xr.Dataset(
        {
            **values,
            "transform": (("frame", "row", "column"), transform),
            "transform_rms": ("frame", rng.random(n_frames)),
            "flags": ("frame", np.full(n_frames, FrameFlag.REDUCED, dtype=np.uint32)),
        },
        coords={"mjd_utc": ("frame", mjd), "bmjd_tdb": ("frame", mjd + 0.004)},
    )


def curve_of(mjd, key="1:g", level=0.3):
    n_frames, rng = len(mjd), np.random.default_rng(2)
    return xr.Dataset(
        {
            "relative_flux": ("frame", level * (1 + 0.01 * rng.normal(size=n_frames))),
            "relative_flux_err": ("frame", np.full(n_frames, 0.01 * abs(level))),
            "flags": ("frame", np.full(n_frames, SourceFlag.REDUCED, dtype=np.uint32)),
        },
        coords={"mjd_utc": ("frame", mjd), "bmjd_tdb": ("frame", mjd + 0.004)},
        attrs={"key": key, "target": 2, "comparisons": [1, 3], "label": "aperture"},
    )


def catalogue_of(x, y, fwhm=5.0):
    return xr.Dataset(
        {"x": ("source", np.array(x, float)), "y": ("source", np.array(y, float)), "fwhm": ("source", [fwhm] * len(x))},
        coords={"source_id": ("source", np.arange(1, len(x) + 1))},
    )


def drawn(axes):
    """x and y of all points of the axes."""
    points = [line.get_xydata() for line in axes.lines]
    return np.concatenate(points) if points else np.empty((0, 2))


def rendered(figure, tmp_path):
    """Draw for real, so that what only fails while drawing fails here."""
    return plotting.save_figure(figure, tmp_path / "figure.png")


# ---------------------------------------------------------------- colours, limits, time axes


def test_colour_of__filters_keep_their_colours_and_differ_in_grey_too():
    assert colour_of("1:g", 4) == colour_of("2:g'", 0)
    lightness = sorted(np.dot(to_rgb(colour_of(f"1:{name}")), [0.299, 0.587, 0.114]) for name in "ugriz")
    assert np.diff(lightness).min() > 0.02


def test_colour_of__other_filters_differ_from_each_other_and_from_the_known():
    others = {colour_of("1:Halpha", position) for position in range(5)}
    assert len(others) == 5
    assert not others & {colour_of(f"1:{name}") for name in "ugriz"}


def test_robust_limits__outliers_stay_outside_and_plain_data_keep_all():
    values = np.random.default_rng(3).normal(1, 0.01, 500)
    assert robust_limits(values) is None
    low, high = robust_limits(np.append(values, [50.0, -3.0, np.nan]))
    assert 0.9 < low < values.min()
    assert values.max() < high < 1.1


@pytest.mark.parametrize("values", [np.empty(0), np.full(5, np.nan), np.ones(9)])
def test_robust_limits__nothing_to_judge(values):
    assert robust_limits(values) is None


@pytest.mark.parametrize(("span", "unit"), [(0, "s"), (200, "s"), (3600, "min"), (20000, "h"), (300000, "d")])
def test_utc_axis__unit_suits_the_span(span, unit):
    axis = utc_axis({"1:g": np.array([60310.0, 60310.0 + span * SECOND])})
    in_seconds = {"s": 1, "min": 60, "h": 3600, "d": 86400}[unit]
    assert axis.unit == unit
    # a float64 MJD resolves a microsecond
    np.testing.assert_allclose(axis.since["1:g"] * in_seconds, [0, span], atol=2e-6)
    assert "MJD (UTC) 60310.00000" in axis.label


def test_best_axis__one_scale_for_all_cameras():
    first, second = frames_of(mjd_of()), frames_of(mjd_of())
    assert best_axis({"1:g": first, "2:r": second}).scale == "BMJD (TDB)"
    second["bmjd_tdb"] = second["bmjd_tdb"] * np.nan
    axis = best_axis({"1:g": first, "2:r": second})
    assert axis.scale == "MJD (UTC)"
    # simultaneous frames stay simultaneous
    np.testing.assert_array_equal(axis.since["1:g"], axis.since["2:r"])


def test_stretches__a_column_a_night():
    axis = utc_axis({"1:g": three_nights(), "2:r": three_nights()[::2]})
    limits = stretches(axis)
    assert len(limits) == 3
    inside = [np.sum((axis.since["1:g"] >= low) & (axis.since["1:g"] <= high)) for low, high in limits]
    assert inside == [40, 40, 40]


def test_stretches__short_gaps_and_very_many_nights_are_one_column():
    hole = np.concatenate([mjd_of(), mjd_of(start=60310.3)])
    assert len(stretches(utc_axis({"1:g": hole}))) == 1
    many = np.concatenate([mjd_of(5, start=60310.0 + night) for night in range(20)])
    assert len(stretches(utc_axis({"1:g": many}))) == 1


# ---------------------------------------------------------------- header times


def test_plot_header_times__counts_every_frame(tmp_path):
    times = {"1:g": mjd_of(50)[::-1], "2:r": mjd_of(30)}
    figure = plotting.plot_header_times(times)
    cumulative, steps, histogram = figure.axes
    assert [text.get_text() for text in cumulative.get_legend().get_texts()] == ["1:g (50)", "2:r (30)"]
    assert drawn(cumulative)[:, 1].max() == 50
    np.testing.assert_allclose(drawn(steps)[:, 1], 5.0, atol=1e-5)
    assert len(drawn(steps)) == 49 + 29
    assert histogram.get_xlabel().endswith("[s]")
    assert rendered(figure, tmp_path).stat().st_size > 0


def test_plot_header_times__day_long_gaps_do_not_explode(tmp_path):
    figure = plotting.plot_header_times({"1:g": three_nights(), "2:r": np.array([60310.2, 60600.2])})
    histogram = figure.axes[-1]
    assert histogram.get_xscale() == "log"
    # outlines of two histograms with a fixed number of bins
    assert sum(len(patch.get_xy()) for patch in histogram.patches) < 500
    rendered(figure, tmp_path)


@pytest.mark.parametrize(
    "values", [mjd_of(1), np.empty(0), np.array([np.nan, 60310.0]), np.full(5, 60310.0), np.array([60310.0, 60311.0])]
)
def test_plot_header_times__few_or_equal_or_unknown_times(values, tmp_path):
    rendered(plotting.plot_header_times({"1:g": values}), tmp_path)


def test_plot_header_times__equal_time_stamps_are_told():
    figure = plotting.plot_header_times({"1:g": np.repeat(mjd_of(10), 2)})
    assert any("10 steps of zero" in text.get_text() for text in figure.axes[-1].texts)


# ---------------------------------------------------------------- frames against time


def test_plot_background__values_units_and_colours(tmp_path):
    frames = {"1:g": frames_of(mjd_of()), "2:r": frames_of(mjd_of())}
    figure = plotting.plot_background(frames)
    background, rms = figure.axes
    np.testing.assert_array_equal(background.lines[0].get_ydata(), frames["1:g"]["background"])
    np.testing.assert_array_equal(rms.lines[1].get_ydata(), frames["2:r"]["background_rms"])
    assert [line.get_color() for line in background.lines] == [colour_of("1:g"), colour_of("2:r")]
    assert all("e$^-$ / pixel" in axes.get_ylabel() for axes in figure.axes)
    rendered(figure, tmp_path)


def test_plot_background__every_point_of_every_night_is_drawn_once(tmp_path):
    figure = plotting.plot_background({"1:g": frames_of(three_nights())})
    assert len(figure.axes) == 2 * 3
    assert sum(len(drawn(axes)) for axes in figure.axes) == 2 * 120
    rendered(figure, tmp_path)


def test_plot_background__outliers_are_counted_not_hidden():
    frames = frames_of(mjd_of(200))
    frames["background"][3:5] = 5000.0
    axes = plotting.plot_background({"1:g": frames}).axes[0]
    assert axes.get_ylim()[1] < 30
    assert [text.get_text() for text in axes.texts] == ["2 points outside"]


def test_plot_background__no_value_at_all(tmp_path):
    frames = frames_of(mjd_of())
    frames["background"] = frames["background"] * np.nan
    rendered(plotting.plot_background({"1:g": frames}), tmp_path)


@pytest.mark.parametrize("angle", [0.0, 180.0, 90.5])
def test_plot_alignment__shift_and_angle_of_the_transform(angle, tmp_path):
    figure = plotting.plot_alignment({"1:g": frames_of(mjd_of(), angle=angle)})
    shift_x, shift_y, rotation = (axes.lines[0].get_ydata() for axes in figure.axes[:3])
    np.testing.assert_array_equal(shift_x, 3.0)
    np.testing.assert_array_equal(shift_y, -4.0)
    # 0.01 degree of noise does not jump between -180 and 180
    np.testing.assert_allclose(rotation, angle, atol=0.05)
    assert figure.axes[-1].get_ylabel() == "FWHM\n[pixel]"
    rendered(figure, tmp_path)


def test_plot_alignment__frames_set_aside_have_no_shift():
    frames = frames_of(mjd_of())
    frames["flags"][5] |= np.uint32(FrameFlag.NOT_ALIGNED)
    shift = plotting.plot_alignment({"1:g": frames}).axes[0].lines[0].get_ydata()
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(shift)), [5])


# ---------------------------------------------------------------- light curves


def test_plot_relative_light_curve__one_panel_a_camera_on_one_time_axis(tmp_path):
    early, late = curve_of(mjd_of()), curve_of(mjd_of(start=60310.2 + 60 * SECOND), "2:r")
    figure = plotting.plot_relative_light_curve({"1:g": early, "2:r": late})
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "1:g: source 2 against 1, 3",
        "2:r: source 2 against 1, 3",
    ]
    np.testing.assert_allclose(drawn(figure.axes[0])[0, 0], 0.0, atol=2e-6)
    np.testing.assert_allclose(drawn(figure.axes[1])[0, 0], 1.0, atol=1e-6)
    assert figure.get_supxlabel() == "Time since BMJD (TDB) 60310.20400 [min]"
    rendered(figure, tmp_path)


def test_plot_relative_light_curve__divided_by_its_median_with_error_bars():
    axes = plotting.plot_relative_light_curve(curve_of(mjd_of(), level=0.02)).axes[0]
    assert np.median(drawn(axes)[:, 1]) == pytest.approx(1.0, abs=1e-12)
    bars = np.array([segment[1, 1] - segment[0, 1] for segment in axes.collections[0].get_segments()])
    np.testing.assert_allclose(bars, 0.02, rtol=0.01)


def test_plot_relative_light_curve__flagged_points_are_open():
    curve = curve_of(mjd_of())
    curve["flags"][4:7] |= np.uint32(SourceFlag.SATURATED)
    axes = plotting.plot_relative_light_curve(curve).axes[0]
    counts = {line.get_markerfacecolor(): len(line.get_xdata()) for line in axes.lines}
    assert counts == {colour_of("1:g"): 47, "white": 3}
    assert "open: 3 points" in axes.get_title(loc="left")


def test_plot_relative_light_curve__flare_is_shown_and_nonsense_is_counted():
    curve = curve_of(mjd_of(300))
    curve["relative_flux"][10:12] = 0.3 * 1.3
    curve["relative_flux"][20] = 90.0
    axes = plotting.plot_relative_light_curve(curve).axes[0]
    assert 1.3 < axes.get_ylim()[1] < 1.5
    assert [text.get_text() for text in axes.texts] == ["1 point outside"]


@pytest.mark.parametrize("level", [-0.3, 0.0, np.nan])
def test_plot_relative_light_curve__hopeless_fluxes(level, tmp_path):
    rendered(plotting.plot_relative_light_curve(curve_of(mjd_of(), level=level)), tmp_path)


@pytest.mark.parametrize("n_frames", [0, 1, 2])
def test_plot_relative_light_curve__hardly_any_frames(n_frames, tmp_path):
    rendered(plotting.plot_relative_light_curve(curve_of(mjd_of(n_frames))), tmp_path)


def test_plot_relative_light_curve__long_series_stays_small_as_pdf(tmp_path):
    figure = plotting.plot_relative_light_curve(curve_of(mjd_of(20000, step=0.5)))
    # half a megabyte as lines and markers
    assert plotting.save_figure(figure, tmp_path / "long.pdf").stat().st_size < 200_000


# ---------------------------------------------------------------- catalogues


@pytest.mark.parametrize(("n_keys", "n_axes"), [(1, 1), (3, 3), (4, 6)])
def test_plot_catalogs__any_number_of_cameras(n_keys, n_axes, tmp_path):
    image = np.random.default_rng(0).normal(0, 1, (40, 60)).astype("f4")
    panels = {f"{number}:g": (image, catalogue_of([10, 50], [20, 30])) for number in range(n_keys)}
    figure = plotting.plot_catalogs(panels)
    assert len(figure.axes) == n_axes
    assert sum(axes.get_visible() for axes in figure.axes) == n_keys
    rendered(figure, tmp_path)


def test_plot_catalogs__circles_and_numbers_sit_on_the_sources():
    image = np.random.default_rng(0).normal(0, 1, (100, 100))
    axes = plotting.plot_catalogs({"1:g": (image, catalogue_of([10, 97], [20, 98]))}).axes[0]
    (circles,) = (item for item in axes.collections if isinstance(item, EllipseCollection))
    np.testing.assert_array_equal(circles.get_offsets(), [[10, 20], [97, 98]])
    assert [text.get_text() for text in axes.texts] == ["1", "2"]
    # a number beside the upper right corner is turned inwards
    assert all(0 < text.xy[0] < 100 and 0 < text.xy[1] < 100 for text in axes.texts)


@pytest.mark.parametrize("filled", [np.nan, 0.0])
def test_plot_catalogs__empty_stack_and_catalogue(filled, tmp_path):
    figure = plotting.plot_catalogs({"1:g": (np.full((20, 20), filled), catalogue_of([], []))})
    assert figure.axes[0].get_title() == "1:g: 0 sources"
    rendered(figure, tmp_path)


def test_plot_catalogs__star_stands_out_where_half_of_the_stack_is_empty():
    image = np.zeros((100, 100))
    image[:40] = np.random.default_rng(0).normal(0, 1, (40, 100))
    image[20, 50] = 200.0
    shown = plotting.plot_catalogs({"1:g": (image, catalogue_of([50], [20]))}).axes[0].images[0]
    # noise is light, the star is black
    darkness = np.asarray(shown.norm(shown.get_array()))
    assert darkness[20, 50] > 0.9
    assert np.median(darkness[:20]) < 0.6


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", ["header_times", "catalogs", "background", "alignment", "relative_light_curve"])
def test_plots__nothing_to_plot(name):
    with pytest.raises(ValueError, match="at least one camera key"):
        getattr(plotting, f"plot_{name}")({})


@pytest.mark.parametrize("suffix", [".pdf", ".png", ".PNG"])
def test_save_figure__same_data_same_bytes(suffix, tmp_path):
    files = [
        plotting.save_figure(plotting.plot_background({"1:g": frames_of(mjd_of())}), tmp_path / f"{name}{suffix}")
        for name in "ab"
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    # two files of one second would be equal with a date as well
    assert b"CreationDate" not in files[0].read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [f"a{suffix}", f"b{suffix}"]


def test_save_figure__embeds_fonts_of_the_type_that_a_user_asks_for(tmp_path):
    with matplotlib.rc_context({"pdf.fonttype": 42, "pdf.compression": 0}):
        figure = plotting.plot_background({"1:g": frames_of(mjd_of())})
        assert b"/CIDFontType2" in plotting.save_figure(figure, tmp_path / "a.pdf").read_bytes()


@pytest.fixture
def measured(monkeypatch):
    """Axes whose labels were measured for a layout, one entry a time."""
    found, measure = [], Axes.get_tightbbox
    monkeypatch.setattr(Axes, "get_tightbbox", lambda axes, *a, **k: found.append(axes) or measure(axes, *a, **k))
    return found


@pytest.mark.parametrize("save", [plotting.save_figure, lambda figure, path: plotting.save_pages([figure], path)])
def test_save__on_a_full_disk_the_error_names_the_file(save, tmp_path, monkeypatch):
    """matplotlib, which wrote the file piece by piece, ended in an error of zlib."""
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="No space left") as raised:
        save(Figure(), tmp_path / "figure.pdf")
    assert raised.value.filename == str(tmp_path / "figure.pdf")
    assert "Make room and run the same command again" in one_line(raised.value)


def test_save_figure__labels_are_measured_once_and_have_the_room_of_a_full_layout(measured, tmp_path):
    def draw():
        figure = new_figure(2, 2)
        for row, axes in enumerate(figure.subplots(2, 2).ravel()):
            axes.plot([0.0, 1.0], [0.0, 10.0**row])
            axes.set(xlabel="x", ylabel="y", title=str(row))
        return figure

    ours, full = draw(), draw()
    plotting.save_figure(ours, tmp_path / "ours.png")
    assert measured == ours.axes
    assert not any("get_tightbbox" in vars(axes) for axes in ours.axes)
    full.get_layout_engine().execute(full)
    for one, other in zip(ours.axes, full.axes, strict=True):
        np.testing.assert_allclose(one.bbox.extents, other.bbox.extents, atol=3.0)


def test_save_figure__labels_that_change_with_the_layout_are_measured_again(measured, tmp_path):
    def draw():
        figure = new_figure()
        axes = figure.subplots()
        axes.set_yticks([0.5])
        at_first = axes.bbox.width  # wider labels where the layout has moved the axes
        axes.yaxis.set_major_formatter(lambda *_: "long" * (1 if axes.bbox.width == at_first else 5))
        return figure

    ours, full = draw(), draw()
    plotting.save_figure(ours, tmp_path / "figure.png")
    assert measured == 2 * ours.axes
    full.get_layout_engine().execute(full)
    np.testing.assert_allclose(ours.axes[0].bbox.extents, full.axes[0].bbox.extents, atol=3.0)


def test_save_figure__other_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.pdf or \.png, got figure\.jpg"):
        plotting.save_figure(Figure(), tmp_path / "figure.jpg")


def test_show_in_notebook__does_nothing_outside():
    plotting.show_in_notebook(Figure())


def test_plotting__never_imports_pyplot():
    code = "import sys, opticam_dask.display.plotting; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
