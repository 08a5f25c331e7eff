"""Ways into a big run: slices by time, night, source and flag; frames as xarray opens them; summaries in notebooks."""

from __future__ import annotations

import html.parser
import os
import subprocess
import sys
from importlib import metadata

import dask
import numpy as np
import pytest
import xarray as xr
from zarr.storage import LocalStore

from opticam_dask import (
    AperturePhotometer,
    DifferentialPhotometer,
    Reducer,
    light_curves,
    open_observations,
    open_reduction,
    select,
    simulate_observations,
)
from opticam_dask.flags import FrameFlag, QualityFlag, SourceFlag, flag_attributes
from opticam_dask.frames import scanning
from opticam_dask.lightcurves import results
from opticam_dask.lightcurves.reading import opening
from opticam_dask.lightcurves.selection import decode_flags, meanings
from opticam_dask.lightcurves.xarray_backend import OpticamBackend
from opticam_dask.text import escape, sparkline, table

FRAMES = 4
NIGHTS = ("2024-01-01", "2024-01-02", "2024-01-04")


@pytest.fixture(scope="module")
def reducer(tmp_path_factory):
    """Three nights of two cameras, in a directory whose name HTML would obey."""
    root = tmp_path_factory.mktemp("exploration") / "<i>run"
    model = {"n_frames": FRAMES, "shape": (128, 144), "n_sources": 5, "filters": ("g", "r"), "lags": (0.0, 0.0)}
    for night in NIGHTS:
        simulate_observations(root / "frames" / night, flux_range=(2e4, 3e5), start=f"{night}T20:00:00", **model)
    (root / "frames" / "broken.fits").write_text("nothing")
    reducer = Reducer(root / "out", root / "frames", client="none", figures=False, verbose=False)
    reducer.create_catalogs()
    reducer.photometry(AperturePhotometer())
    return reducer


@pytest.fixture
def curves(reducer):
    return light_curves(reducer.out_directory, "1:g")


@pytest.fixture
def made():
    """Light curves with flags in known places: frame 1 has clouds, frame 2 a bad position and no time."""
    flags = np.ones((5, 3), dtype=np.uint32)
    flags[0, 0] |= SourceFlag.SATURATED
    flags[3, 2] |= SourceFlag.EDGE
    quality = np.array([1, 1 | QualityFlag.CLOUD, 1, 1, 1], dtype=np.uint32)
    frame = np.array([1, 1, 1 | FrameFlag.NO_POSITION, 1, 1 | FrameFlag.SATURATED], dtype=np.uint32)
    return xr.Dataset(
        {
            "flux": (("frame", "source"), np.arange(15.0).reshape(5, 3), {"units": "electron"}),
            "flags": (("frame", "source"), flags, flag_attributes(SourceFlag)),
        },
        coords={
            "mjd_utc": ("frame", [60310.0, 60310.5, np.nan, 60311.5, 60312.0]),
            "bmjd_tdb": ("frame", [60310.1, 60310.6, np.nan, 60311.6, np.nan]),
            "night": ("frame", np.array(["a", "a", "b", "b", "c"], dtype=object)),
            "source_id": ("source", [1, 2, 7]),
            "frame_flags": ("frame", frame, flag_attributes(FrameFlag)),
            "quality_flags": ("frame", quality, flag_attributes(QualityFlag)),
        },
    ).chunk({"frame": 2})


# ---------------------------------------------------------------- slices


def _groups(out_directory, key, **chosen):
    return [curves.to_xarray() for curves in opening.curves_of_source_groups(out_directory, key, "aperture", **chosen)]


@pytest.mark.parametrize("n_bytes", [1, 2**29])
def test_groups_of_sources__together_are_the_light_curves(reducer, curves, monkeypatch, n_bytes):
    monkeypatch.setattr(opening, "_BYTES_AT_ONCE", n_bytes)
    groups = _groups(reducer.out_directory, "1-g", names=("flux", "flags", "nothing"))
    assert len(groups) == (1 if n_bytes > 1 else curves.sizes["source"])
    together = xr.concat(groups, dim="source", data_vars="all")
    assert set(together) == {"flux", "flags"}
    for name in ("flux", "flags", "mjd_utc", "bmjd_tdb", "source_id"):
        xr.testing.assert_identical(together[name].drop_vars(list(together[name].coords)),
                                    curves[name].drop_vars(list(curves[name].coords)).load())  # fmt: skip


@pytest.mark.parametrize("n_bytes", [1, 2**29])
def test_groups_of_sources__of_chosen_sources(reducer, curves, monkeypatch, n_bytes):
    monkeypatch.setattr(opening, "_BYTES_AT_ONCE", n_bytes)
    columns = np.array([2, 0])
    together = xr.concat(_groups(reducer.out_directory, "1-g", columns=columns), dim="source")
    for name in ("flux", "source_id"):
        np.testing.assert_array_equal(together[name], curves[name].isel(source=columns))


def test_groups_of_sources__need_no_scheduler(reducer):
    def refuse(*_, **__):
        pytest.fail("a task was made")

    with dask.config.set(scheduler=refuse):
        assert sum(group.sizes["source"] for group in _groups(reducer.out_directory, "1:g")) > 0


def test_select__nothing_asked_changes_nothing(made):
    xr.testing.assert_identical(select(made), made)


def test_select__by_night(made, curves):
    assert select(made, night="b")["flux"].to_numpy()[:, 0].tolist() == [6.0, 9.0]
    assert select(made, night=["a", "c"]).sizes["frame"] == 3
    chosen = curves.opticam.select(night=NIGHTS[1])
    assert chosen.opticam.nights == [NIGHTS[1]]
    assert chosen.sizes["frame"] == FRAMES
    with pytest.raises(ValueError, match="no frame of the night 2023-01-01; there are 2024-01-01, 2024-01-02"):
        select(curves, night="2023-01-01")


@pytest.mark.parametrize(
    ("limits", "name", "expected"),
    [
        ((60310.5, 60312.0), "mjd_utc", [1, 3]),
        ((None, 60310.5), "mjd_utc", [0]),
        ((None, None), "mjd_utc", [0, 1, 3, 4]),
        (("2024-01-01T12:00", "2024-01-03"), "mjd_utc", [1, 3]),
        ((np.datetime64("2024-01-02T12:00"), None), "mjd_utc", [3, 4]),
        ((60310.3, None), "bmjd_tdb", [1, 3]),
    ],
)
def test_select__by_time_and_a_frame_without_a_time_is_in_no_range(made, limits, name, expected):
    chosen = select(made, time=limits, time_name=name)
    assert (chosen["flux"].to_numpy()[:, 0] / 3).tolist() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": (np.nan, None)}, "not known"),
        ({"time": (np.datetime64("NaT", "ns"), None)}, "not known"),
        ({"time": ("yesterday", None)}, "2024-01-01T22:30"),
        ({"time": ("2024-01-01", None), "time_name": "bmjd_tdb"}, "in days"),
        ({"time": (1.0, 2.0), "time_name": "jd"}, "no time 'jd'"),
        ({"time": (1.0,)}, "start, end"),
        ({"source": 3}, "no source 3 in the catalogue of .*; it has 1"),
        ({"source": [1, 9]}, "no source 9"),
        ({"without": "clouds"}, "no flag clouds; there are .*cloud"),
    ],
)
def test_select__what_is_not_there_is_refused(made, options, message):
    with pytest.raises(ValueError, match=message):
        select(made, **options)


def test_select__by_source_in_the_order_asked_for(made):
    assert select(made, source=[7, 1])["flux"].to_numpy()[0].tolist() == [2.0, 0.0]
    one = select(made, source=2)
    assert one["flux"].dims == ("frame",)
    assert int(one["source_id"]) == 2


def test_select__without_flags_drops_frames_and_blanks_measurements(made):
    clear = select(made, without=["cloud", "edge"])
    assert clear["flux"].to_numpy()[:, 0].tolist() == [0.0, 6.0, 9.0, 12.0]
    assert np.argwhere(np.isnan(clear["flux"].to_numpy())).tolist() == [[2, 2]]
    assert clear["flux"].attrs == made["flux"].attrs
    assert clear["flags"].dtype == np.uint32
    # of frames and of measurements alike
    unsaturated = select(made, without="saturated")
    assert unsaturated.sizes["frame"] == 4
    assert np.argwhere(np.isnan(unsaturated["flux"].to_numpy())).tolist() == [[0, 0]]


def test_select__only_flags_keeps_what_carries_them(made):
    assert select(made, only="cloud")["flux"].to_numpy()[:, 0].tolist() == [3.0]
    edges = select(made, only="edge")["flux"].to_numpy()
    assert np.argwhere(np.isfinite(edges)).tolist() == [[3, 2]]


def test_select__of_a_single_source_the_frames_in_which_it_is_flagged_are_left_out(made):
    # frame 4 is saturated as a whole
    assert select(made, source=1, without="saturated")["flux"].to_numpy().tolist() == [3.0, 6.0, 9.0]
    assert select(made, source=7, without="saturated")["flux"].to_numpy().tolist() == [2.0, 5.0, 8.0, 11.0]


def test_select__reads_no_measurement(curves):
    computed = []

    class Count(dask.callbacks.Callback):
        def _pretask(self, key, graph, state):
            computed.append(str(key))

    with Count():
        chosen = results.select(curves, night=NIGHTS[0], source=[2], time=(60000.0, None), without=["cloud", "edge"])
    assert chosen["flux"].chunks is not None
    assert not [key for key in computed if "flux" in key]
    expected = curves["flux"].to_numpy()[:FRAMES, 1]
    np.testing.assert_array_equal(chosen["flux"].to_numpy()[:, 0], expected)


def test_select__frames_of_one_night_of_the_tree(reducer):
    night = open_reduction(reducer.out_directory)["1-g"][NIGHTS[0]]["frames"].to_dataset()
    assert select(night, without="not_aligned").sizes["frame"] == FRAMES
    with pytest.raises(ValueError, match="which night"):
        select(night, night=NIGHTS[0])


def test_flags__are_decoded_by_name_lazily(made, curves):
    decoded = made.opticam.flags()
    assert decoded["saturated"].chunks is not None
    assert np.argwhere(decoded["saturated"].to_numpy()).tolist() == [[0, 0]]
    assert set(decoded.data_vars) == {name.lower() for name in SourceFlag.__members__}
    assert made.opticam.flags("quality_flags")["cloud"].to_numpy().tolist() == [False, True, False, False, False]
    assert curves.opticam.flags("frame_flags")["reduced"].to_numpy().all()
    with pytest.raises(ValueError, match="no array of flags 'flux'; there are flags, frame_flags, quality_flags"):
        made.opticam.flags("flux")
    with pytest.raises(ValueError, match="no array of flags"):
        decode_flags(made["flux"])
    assert meanings(made["quality_flags"])["cloud"] == QualityFlag.CLOUD


# ---------------------------------------------------------------- frames as xarray opens them


def test_engine__is_announced_to_xarray_and_imports_nothing_heavy():
    program = (
        "import sys, opticam_dask.lightcurves.xarray_backend; heavy = {'dask.array', 'distributed', 'zarr', "
        "'matplotlib', 'photutils', 'astropy', 'cv2', 'opticam_dask.lightcurves.results'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_engine__opens_a_directory_by_name(reducer):
    is_known = "opticam" in metadata.entry_points(group="xarray.backends").names
    if not is_known and not os.environ.get("OPTICAM_DASK_CI"):
        pytest.skip("this tree is not the one that is installed: pip install -e .")
    directory = reducer.out_directory.parent / "frames"
    opened = xr.open_dataset(directory, engine="opticam", key="1:g", chunks={})
    assert opened["image"].chunks[0] == (1,) * (3 * FRAMES)
    opened = xr.open_datatree(directory, engine="opticam")
    assert list(opened.children) == ["1-g", "2-r"]


def test_engine__frames_are_those_of_open_observations_and_read_one_by_one(reducer, monkeypatch):
    directory = reducer.out_directory.parent / "frames"
    expected = open_observations(directory)["2:r"]
    read, files = scanning.FitsReader.read, []
    monkeypatch.setattr(scanning.FitsReader, "read", lambda self, path: files.append(path) or read(self, path))
    opened = xr.open_dataset(directory, engine=OpticamBackend, key="2-r", chunks={})
    assert opened["image"].chunks == expected.chunks
    lazy = xr.open_dataset(directory, engine=OpticamBackend, key="2:r", cache=False)
    assert not files
    one = lazy["image"].isel(frame=5, y=slice(3, 60, 2))
    np.testing.assert_array_equal(one.to_numpy(), expected[5, 3:60:2])
    assert files == [str(expected["file"].to_numpy()[5])] * 2
    np.testing.assert_array_equal(opened["image"].isel(frame=[7, 2], x=4).to_numpy(), expected[[7, 2], :, 4])
    assert lazy["image"].isel(frame=slice(0, 0)).to_numpy().shape == (0, 128, 144)
    assert opened.attrs["key"] == "2:r"
    assert opened["image"].attrs["units"] == "adu"
    for name in ("file", "mjd_utc", "night"):
        xr.testing.assert_equal(
            opened[name].drop_vars(opened[name].coords), expected[name].drop_vars(expected[name].coords)
        )


def test_engine__several_cameras_without_a_key_get_names_of_their_own(reducer):
    directory = reducer.out_directory.parent / "frames"
    opened = xr.open_dataset(directory, engine=OpticamBackend)
    assert set(opened.data_vars) == {"image_1_g", "image_2_r"}
    assert opened["image_1_g"].dims == ("frame_1_g", "y_1_g", "x_1_g")
    assert opened["image_2_r"].attrs["key"] == "2:r"
    assert "mjd_utc_1_g" in opened["image_1_g"].coords
    tree = OpticamBackend().open_datatree(directory)
    assert list(tree.children) == ["1-g", "2-r"]
    assert tree["1-g/image"].shape == (3 * FRAMES, 128, 144)


def test_engine__opens_single_files_and_refuses_what_is_not_there(reducer, tmp_path):
    directory = reducer.out_directory.parent / "frames"
    file = sorted((directory / NIGHTS[0]).iterdir())[0]
    opened = xr.open_dataset(file, engine=OpticamBackend, drop_variables="airmass")
    assert opened["image"].shape == (1, 128, 144)
    assert "airmass" not in opened.variables
    with pytest.raises(ValueError, match=r"there is no such key: '3:i' in .*; it has 1:g, 2:r"):
        xr.open_dataset(directory, engine=OpticamBackend, key="3:i")
    with pytest.raises(FileNotFoundError):
        xr.open_dataset(tmp_path / "nowhere", engine=OpticamBackend)
    with pytest.raises(ValueError, match="no usable frame"):
        xr.open_dataset(tmp_path, engine=OpticamBackend)


def test_engine__a_frame_that_changed_since_is_refused(tmp_path):
    simulate_observations(tmp_path, n_frames=1, shape=(128, 128), n_sources=3, filters=("g",), lags=(0.0,))
    opened = xr.open_dataset(tmp_path, engine=OpticamBackend)
    simulate_observations(
        tmp_path, n_frames=1, shape=(96, 128), n_sources=3, filters=("g",), lags=(0.0,), overwrite=True
    )
    with pytest.raises(ValueError, match=r"has shape \(96, 128\), \(128, 128\) was expected"):
        opened["image"].load()


def test_engine__is_guessed_for_directories_of_frames_alone(reducer, tmp_path):
    can = OpticamBackend().guess_can_open
    directory = reducer.out_directory.parent / "frames"
    assert can(directory)
    assert can(str(directory / NIGHTS[0]))
    file = sorted((directory / NIGHTS[0]).iterdir())[0]
    store = reducer.out_directory / "reduction.zarr"
    for other in (file, store, tmp_path, tmp_path / "nowhere", "https://example.org/data.fits", b"SIMPLE", None):
        assert not can(other)
    (tmp_path / "zarr.json").touch()
    (tmp_path / "one.fits").touch()
    assert not can(tmp_path)


# ---------------------------------------------------------------- summaries in notebooks


class _Strict(html.parser.HTMLParser):
    """Refuses HTML whose tags do not match, or that could fetch or run anything."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts = [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "img", "iframe", "i")
        assert not [name for name, _ in attrs if name.startswith("on") or name in ("src", "href")]
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(self.texts)


@pytest.fixture
def chunks_read(monkeypatch):
    """Names of the chunks that are read from stores."""
    read, names = LocalStore.get, []

    async def get(self, key, *args, **kwargs):
        if "/c/" in f"/{key}" or key.endswith("/c"):
            names.append(key)
        return await read(self, key, *args, **kwargs)

    monkeypatch.setattr(LocalStore, "get", get)
    return names


def test_summary__of_a_reducer(reducer, chunks_read):
    shown = _Strict(reducer._repr_html_()).text
    assert chunks_read == []
    for expected in ("OPTICAM", "<i>run", "1:g", "12", "aperture", "threshold", "1 file set aside", "broken.fits"):
        assert expected in shown
    assert "12 1:g" in repr(reducer)


def test_summary__of_a_reducer_before_anything_is_reduced(reducer, tmp_path):
    fresh = Reducer(tmp_path / "out", reducer.out_directory.parent / "frames", figures=False, verbose=False)
    assert "none" in _Strict(fresh._repr_html_()).text


def test_summary__of_a_reduction(reducer, chunks_read):
    tree = open_reduction(reducer.out_directory)
    chunks_read.clear()
    shown = _Strict(tree.opticam._repr_html_()).text
    assert chunks_read == []
    for expected in ("6 nights of 2 cameras", NIGHTS[2], "aperture", "5 sources", "threshold", "24"):
        assert expected in shown
    assert repr(tree.opticam) == "<opticam reduction: 12 frames of 1:g, 12 frames of 2:r>"
    assert list(tree.opticam.cameras) == ["1:g", "2:r"]


def test_summary__of_light_curves_reads_nothing(curves, chunks_read):
    shown = _Strict(curves.opticam._repr_html_()).text
    assert chunks_read == []
    for expected in ("1:g", "3 nights", NIGHTS[1], "flux", "electron", "not_detected"):
        assert expected in shown
    assert "frames 12" in repr(curves.opticam)


def test_summary__of_differential_light_curves(reducer):
    photometer = DifferentialPhotometer(reducer.out_directory, show_plots=False, verbose=False)
    assert "aperture" in repr(photometer)
    assert "1:g, 2:r" in _Strict(photometer._repr_html_()).text
    found = photometer.get_relative_light_curve("g", 1, [2, 3], show_diagnostics=False)
    assert "1:g: source 1 against 2, 3, aperture, 12 frames" in repr(found)
    text = found._repr_html_()
    shown = _Strict(text).text
    assert "frames with a flux" in shown
    assert "scatter" in shown
    assert "<svg" in text


def test_summary__what_html_would_obey_is_escaped_and_long_tables_are_cut():
    assert escape("<b>'\"&\x1b") == "&lt;b&gt;&#x27;&quot;&amp;\\x1b"
    text = table(("a",), [(number,) for number in range(120)])
    assert text.count("<tr>") == 51
    assert "70 more" in text


def test_sparkline__of_gaps_and_of_nothing():
    assert sparkline(np.full(5, np.nan)) == ""
    assert sparkline(np.empty(0)) == ""
    picture = sparkline(np.where(np.arange(1000) < 500, np.nan, np.arange(1000.0)))
    assert 70 <= picture.count("M") <= 72
    _Strict(picture)
