"""Sources that the observer places: measured where nothing is ever detected, without a change to any other source."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from small_nights import FIELD, INSTRUMENT, SmallNight, add_star, read_out, reduce_frames, reducer_of, write_frame

import opticam_dask as opticam
from opticam_dask import AperturePhotometer, PSFPhotometer
from opticam_dask.cli.parser import main
from opticam_dask.flags import SourceFlag
from opticam_dask.frames import sky_coordinates
from opticam_dask.frames.placed_sources import PlacedSource, read_sources
from opticam_dask.lightcurves.targets import source_number
from opticam_dask.passes import placing
from opticam_dask.pipeline.driver import ReductionError
from opticam_dask.store.store import STORE_NAME, Store

#: Three cameras with filters; the second sees the field mirrored and turned by 30 degrees, the third shifted.
CAMERAS = {"cameras": {"1": ["g"], "2": ["r"], "3": ["i"]}, "default_filter": None}
KEYS = ("1:g", "2:r", "3:i")
STARTS = ("2024-01-01T20:00:00", "2024-01-02T20:00:00", "2024-01-03T20:00:00")
N_FRAMES, SIZE, SKY = 8, 200, 400.0
MIDDLE = (SIZE - 1) / 2
#: Stars of peak signal-to-noise ratio 1 in a frame, and something beside the second brightest star.
HIDDEN = np.array([(75.0, 140.0), (130.0, 110.0), (75.3, 95.6), (125.0, 60.0), (60.4, 75.7)])
FAINT, FWHM = 490.0, 4.0
#: The stack shows none of them either.
FEW = {"catalogs": {"stack_frames": 4}}


def on_camera(camera: int, night: int, index: int, xy: np.ndarray) -> np.ndarray:
    """Where places of the sky (pixels of the first camera) are on a frame; the telescope flips in the second night."""
    away = xy - MIDDLE
    if camera == 1:
        cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
        away = (away * [-1.0, 1.0]) @ np.array([[cos, sin], [-sin, cos]])
    elif camera == 2:
        away = 0.97 * away + [4.0, -3.0]
    if night == 1:
        away = -away
    return away + MIDDLE + [0.31 * index + night, -0.17 * index]


def sky_of_reference() -> sky_coordinates.WCS:
    """World coordinates of places of the sky."""
    wcs = sky_coordinates.tangent_wcs(52.5, 20.0)
    wcs.wcs.crpix, wcs.wcs.cd = [MIDDLE + 1, MIDDLE + 1], 0.8 / 3600 * np.array([[-0.8, 0.6], [0.6, 0.8]])
    wcs.wcs.set()
    return wcs


def write_nights(directory: Path, keys: tuple[int, ...] = (0, 1, 2), nights: tuple[int, ...] = (0, 1, 2)) -> None:
    rng = np.random.default_rng(20)
    for camera in keys:
        for night in nights:
            for index in range(N_FRAMES):
                electrons = np.full((SIZE, SIZE), SKY)
                for (x, y), flux in zip(on_camera(camera, night, index, FIELD[:, :2]), FIELD[:, 2], strict=True):
                    add_star(electrons, x, y, flux, FWHM)
                for x, y in on_camera(camera, night, index, HIDDEN):
                    add_star(electrons, x, y, FAINT, FWHM)
                cards = {}
                if camera == 0 and night == 0:
                    wcs = sky_of_reference()
                    wcs.wcs.crpix = wcs.wcs.crpix + np.array([0.31 * index, -0.17 * index])
                    cards = {name: v for name, v in sky_coordinates.wcs_header(wcs).items() if name != "WCSAXES"}
                file = directory / "frames" / f"c{camera}_n{night}_{index:02d}.fits"
                write_frame(file, read_out(electrons, rng), 10.0 * index, STARTS[night], FILTER="gri"[camera], **cards)


def coordinates(xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return sky_coordinates.icrs_of_pixels(sky_of_reference(), *xy.T)


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cameras and nights, with the hidden stars placed by their coordinates from the beginning."""
    directory = tmp_path_factory.mktemp("placed")
    write_nights(directory)
    write_sources(directory / "sources.csv", range(len(HIDDEN)))
    photometers = AperturePhotometer(), PSFPhotometer()
    reduce_frames(directory, *photometers, instrument=CAMERAS, sources=directory / "sources.csv", **FEW)
    return directory / "out"


def write_sources(file: Path, numbers: Iterable[int]) -> None:
    chosen = list(numbers)
    ra, dec = coordinates(HIDDEN[chosen])
    Table({"name": [f"hidden {i}" for i in chosen], "ra": ra, "dec": dec}).write(file)


@pytest.mark.parametrize("label", ["aperture", "psf"])
def test_hidden_stars_have_the_right_flux_and_errors(placed: Path, label: str) -> None:
    """In three cameras, over a flip of the telescope, in three nights: fluxes by their errors, limits above them."""
    pulls = []
    for key in KEYS:
        night = SmallNight(placed, key)
        rows = np.flatnonzero(night.catalog["is_placed"].to_numpy())
        assert night.catalog["name"].to_numpy()[rows].tolist() == [f"hidden {i}" for i in range(len(HIDDEN))]
        assert rows.min() == len(night.catalog["x"]) - len(HIDDEN)
        curves = night.curves(label).isel(source=rows)
        flags = curves["flags"].to_numpy()
        assert np.all(flags & np.uint32(SourceFlag.PLACED))
        assert np.mean(flags & np.uint32(SourceFlag.NOT_DETECTED) != 0) > 0.95
        flux, error = curves["total"].to_numpy(), curves["total_err"].to_numpy()
        assert flux.shape == (len(STARTS) * N_FRAMES, len(HIDDEN))
        mean, mean_error = np.average(flux, weights=error**-2), np.sum(error**-2) ** -0.5
        assert abs(mean - FAINT) < 3 * mean_error
        pulls.append((flux - FAINT) / error)
        is_dark = (curves["flux"] < 3 * curves["flux_err"]).to_numpy()
        np.testing.assert_array_equal(np.isfinite(curves["upper_limit"]), is_dark)
        assert (
            np.mean((curves["upper_limit"] > FAINT / curves.get("aperture_correction", 1.0)).to_numpy()[is_dark]) > 0.98
        )
    assert 0.9 < np.std(pulls) < 1.1


def bits(out: Path) -> dict[str, bytes]:
    """Files of the measurements and of what is known of the nights."""
    files = [file for file in (out / "reduction.zarr/1-g").rglob("c/**/*") if file.is_file()]
    return {str(file.relative_to(out)): file.read_bytes() for file in files if "catalog" not in file.parts}


def test_adding_a_source_measures_it_alone(tmp_path: Path, placed: Path) -> None:
    """To a reduction that is done, by pixels and by coordinates: the others keep their numbers and their bits."""
    write_nights(tmp_path, keys=(0,))
    found = reduce_frames(tmp_path, AperturePhotometer(), instrument=CAMERAS, **FEW)
    before, n_found = bits(found.out), SmallNight(found.out, "1:g").catalog.sizes["source"]
    x, y = on_reference(found.out, HIDDEN[0])
    reducer_of(tmp_path, instrument=CAMERAS, sources=[{"name": "mine", "x": x, "y": y}]).photometry()
    once = bits(found.out)
    assert {name for name in before if "/source_id/" not in name and once[name] != before[name]} == set()
    write_sources(tmp_path / "more.csv", [1, 2, 3, 4])
    instrument = tmp_path / "instrument.json"
    instrument.write_text(json.dumps(INSTRUMENT | CAMERAS))
    command = ["reduce", str(tmp_path / "frames"), "--out", str(found.out), "--cluster", "none", "--instrument"]
    assert main([*command, str(instrument), "--stack-frames", "4", "--sources", str(tmp_path / "more.csv")]) == 0
    twice = bits(found.out)
    assert {name for name in before if "/source_id/" not in name and twice[name] != before[name]} == set()
    late, early = SmallNight(found.out, "1:g"), SmallNight(placed, "1:g")
    assert late.catalog["name"].to_numpy()[n_found:].tolist() == ["mine", *(f"hidden {i}" for i in range(1, 5))]
    late, early = late.curves(), early.curves()
    np.testing.assert_array_equal(late["flux"][:, :n_found], early["flux"][:, :n_found])
    off = (late["flux"] - early["flux"])[:, n_found:] / early["flux_err"][:, n_found:]
    assert np.abs(off).max() < 0.1
    assert main(["verify", str(found.out)]) == 0


def on_reference(out: Path, xy: np.ndarray) -> tuple[float, float]:
    """Where a place of the sky is on the reference frame of the first camera."""
    index = int(SmallNight(out, "1:g").group("reference").attrs["reference_index"])
    return float(xy[0] + 0.31 * index), float(xy[1] - 0.17 * index)


def test_a_placed_source_that_is_there_already_is_told(placed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A source within reach of one that was found is that one, by its new name; a second place of one name is none."""
    x, y = on_reference(placed, FIELD[2, :2] + 1.0)
    options = {"instrument": CAMERAS, "verbose": True, "prefix": ""}
    n_before = SmallNight(placed, "1:g").catalog.sizes["source"]
    reducer_of(placed.parent, sources=[{"name": "mine", "x": x, "y": y}], **options).photometry()
    assert "is source 3, 1.4" in capsys.readouterr().out
    catalog = SmallNight(placed, "1:g").catalog
    assert catalog.sizes["source"] == n_before
    assert catalog["name"].to_numpy()[2] == "mine"
    elsewhere = reducer_of(placed.parent, sources=[{"name": "mine", "x": 9, "y": 9}], **options)
    with pytest.raises(ReductionError, match="has this name already"):
        elsewhere.photometry()


@pytest.mark.parametrize("key", ["1:g", "g"])
def test_a_source_beyond_the_frame_is_told(placed: Path, tmp_path: Path, key: str) -> None:
    store = Store(shutil.copytree(placed / STORE_NAME, tmp_path / STORE_NAME))
    placing.record_sources(store, read_sources([{"name": "far", "x": 1e6, "y": 4, "key": key}]))
    told: list[str] = []
    placing.place_sources(store, lambda _: (16, 16), told.append)
    assert "1:g: 'far' (x 1000000.00, y 4.00) is beyond the reference frame, at x 1000000, y 4: is that right?" in told


def test_a_source_on_the_frame_of_no_camera_gets_no_place_of_another_one(placed: Path, tmp_path: Path) -> None:
    store = Store(shutil.copytree(placed / STORE_NAME, tmp_path / STORE_NAME))
    store.camera("1:g").catalog.update({"wcs": sky_coordinates.wcs_header(sky_coordinates.tangent_wcs(52.5, 20.0))})
    placing.record_sources(store, [PlacedSource(name="odd", x=3.0, y=4.0, key="9:z")])
    with pytest.raises(ValueError, match="is on the frame of 9:z; there are 1:g"):
        placing.place_sources(store, lambda _: (16, 16), lambda _: None)
    told: list[str] = []
    placing.keep_places(store, told.append)
    assert "odd" not in [source.name for source in placing.recorded_sources(store)]
    assert any("'odd' (x 3.00, y 4.00) is not placed again" in line for line in told)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "there is nothing in it"), ("\ufeff", "there is nothing in it"), ("name,x,y\n", "found no row"),
     ('name,x,y\na,1,2\n"b,3,4\nc,5,6\n', "a quotation mark in line 3 is open"),
     ('name,x,y\na,1,2\nb,3,"4\nc,5,6\n', "a quotation mark in line 3 is open")],
)  # fmt: skip
def test_a_file_that_holds_fewer_sources_than_it_seems_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "sources.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        read_sources(tmp_path / "sources.csv")


def test_quotation_marks_within_a_value_are_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "sources.csv").write_text('name,x,y,note\n"a, b",1,2,5" away\n', encoding="utf-8")
    assert [source.name for source in read_sources(tmp_path / "sources.csv")] == ["a, b"]


def test_placed_sources_are_targets_by_name_and_keep_it_when_the_field_is_found_anew(placed: Path) -> None:
    """By stars of a catalogue, of which the placed ones are none; coordinates of both are right."""
    ra, dec = coordinates(FIELD[:, :2])
    stars = Table({"ra": ra, "dec": dec, "g_mag": -2.5 * np.log10(FIELD[:, 2]), "name": [f"G{i}" for i in range(10)]})
    stars.write(placed.parent / "stars.csv")
    for key in KEYS:
        assert source_number(placed, key, "Hidden 3") == SmallNight(placed, key).catalog["source_id"][-2]
    found = opticam.find_sky(placed, placed.parent / "stars.csv", pixel_scale=0.8, pointing=(52.5, 20.0), verbose=False)
    assert set(found) == set(KEYS)
    for key in KEYS:
        catalog = SmallNight(placed, key).catalog
        assert source_number(placed, key, "Hidden 3") == catalog["source_id"][-2]
        expected = coordinates(HIDDEN)
        found_places = [catalog[name].to_numpy()[-len(HIDDEN) :] for name in ("ra", "dec")]
        off = np.array(found_places) - expected
        assert np.abs(off).max() * 3600 < 0.2
        assert "G3" in catalog["name"].to_numpy().tolist()


def test_places_on_the_sky_are_kept_when_the_reference_frame_is_chosen_anew(tmp_path: Path) -> None:
    """By the stars of the catalogue before, without their file; sources on pixels go by their coordinates."""
    write_nights(tmp_path, keys=(2,), nights=(0,))
    ra, dec = coordinates(FIELD[:, :2])
    Table({"ra": ra, "dec": dec, "g_mag": -2.5 * np.log10(FIELD[:, 2])}).write(tmp_path / "stars.csv")
    out = tmp_path / "out"
    reducer_of(tmp_path, instrument=CAMERAS).create_catalogs(stack_frames=4)
    assert set(opticam.find_sky(out, tmp_path / "stars.csv", pixel_scale=0.82, verbose=False)) == {"3:i"}
    reducer_of(tmp_path, instrument=CAMERAS, sources=[{"name": "here", "x": 90, "y": 130}]).photometry()
    before = SmallNight(out, "3:i").catalog
    reducer_of(tmp_path, instrument=CAMERAS).create_catalogs(stack_frames=4, rebuild_reference=True)
    after = SmallNight(out, "3:i").catalog
    assert "stars.csv" in after.attrs["wcs_origin"]
    assert after["name"].to_numpy()[-1] == "here"
    for name in ("ra", "dec"):
        assert float(after[name][-1]) == pytest.approx(float(before[name][-1]), abs=0.2 / 3600)
        np.testing.assert_allclose(after[name][:5], before[name][:5], atol=0.2 / 3600)
