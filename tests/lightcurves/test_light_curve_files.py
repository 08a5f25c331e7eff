"""Files of light curves: what the store says, whoever writes them."""

from __future__ import annotations

import filecmp
import pickle
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from opticam_dask import AperturePhotometer, Reducer, simulate_observations
from opticam_dask.cluster import connections
from opticam_dask.flags import SourceFlag
from opticam_dask.lightcurves import light_curve_files, results
from opticam_dask.methods.local_backgrounds import DefaultLocalBackground
from opticam_dask.store import chunk_files
from opticam_dask.store.camera import Camera, group_name
from opticam_dask.store.scratch import SCRATCH_NAME
from opticam_dask.store.store import Store

FIELD = {
    "n_frames": 20, "shape": (96, 112), "n_sources": 7, "flux_range": (4e3, 1e5), "fwhm": 3.0, "least_separation": 6.0,
    "seed": 5,
}  # fmt: skip
PHOTOMETERS = {
    "aperture": AperturePhotometer(),
    "local": AperturePhotometer(local_background_estimator=DefaultLocalBackground()),
    "radii": AperturePhotometer(radius=(2.0, 3.0, 4.5)),
}


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    """Two nights of two cameras; the second night came in two directories whose frames alternate in time."""
    top = tmp_path_factory.mktemp("light_curve_files")
    out = top / "out"
    simulate_observations(top / "a", **FIELD, filters=("g", "r"), start="2024-01-01T03:00:00")
    simulate_observations(top / "later", **FIELD, filters=("g", "r"), start="2024-01-02T03:00:00")
    later = sorted((top / "later").glob("*"))
    (top / "b").mkdir()
    for file in later[1::2]:
        file.rename(top / "b" / file.name)
    options = {"n_pixels": 5, "border_width": 4}
    for paths, append in (([top / "a", top / "later"], False), ([top / "a", top / "later", top / "b"], True)):
        reducer = Reducer(out, paths, client="none", frames_per_block=4, verbose=False, figures=False)
        reducer.create_catalogs(**options, append=append)
    for label, photometer in PHOTOMETERS.items():
        reducer.photometry(photometer, label=label)
    return out


@pytest.fixture
def in_small_pieces(monkeypatch):
    monkeypatch.setattr(light_curve_files, "_MEASUREMENTS", 1)
    monkeypatch.setattr(light_curve_files, "_SOURCES", 2)


def _expected(curves, source):
    """The file as pandas writes it from the light curve."""
    one = curves.isel(source=source)
    table = {"BMJD": one["bmjd_tdb"].to_numpy()}
    for name in ("flux", "flux_err", "background", "background_err", "flags"):
        if name not in one.variables:
            continue
        values = one[name].to_numpy()
        values = values & ~np.uint32(SourceFlag.REDUCED) if name == "flags" else values
        if values.ndim == 2:
            table |= {f"{name}_r{radius:g}": values[:, i] for i, radius in enumerate(curves["radius"].to_numpy())}
        else:
            table[name] = values
    return int(one["source_id"]), pd.DataFrame(table).to_csv(index=False)


@pytest.mark.parametrize("label", PHOTOMETERS)
def test_write_light_curves__files_are_the_light_curves_in_time_order(reduced, label, in_small_pieces):
    folder = light_curve_files.write_light_curves(reduced, label)
    assert folder == reduced / "lcs" / label
    n_files = 0
    for key in ("1:g", "2:r"):
        curves = results.light_curves(reduced, key, label).load()
        assert len(Store.at(reduced).camera(key).parts) == 3
        assert np.all(np.diff(curves["mjd_utc"].to_numpy()) > 0)
        for source in range(curves.sizes["source"]):
            number, expected = _expected(curves, source)
            assert (folder / f"{group_name(key)}_source_{number}.csv").read_text() == expected
            n_files += 1
    assert len(list(folder.iterdir())) == n_files
    assert not (reduced / SCRATCH_NAME).exists()


def test_write_light_curves__are_the_same_from_one_process_and_from_workers(reduced, tmp_path, in_small_pieces):
    folder = light_curve_files.write_light_curves(reduced, "radii")
    for file in folder.iterdir():
        file.rename(tmp_path / file.name)
    told = _Told()
    # the time limit of a frame is none for the files
    with connections.connect("local", n_workers=2, frame_timeout=0.001) as executor:
        light_curve_files.write_light_curves(reduced, "radii", executor, told)
        has_matplotlib = executor.client.run(lambda: "matplotlib" in sys.modules)
    assert list(has_matplotlib.values()) == [False, False]  # workers stay small
    names = sorted(file.name for file in tmp_path.iterdir())
    assert filecmp.cmpfiles(tmp_path, folder, names, shallow=False) == (names, [], [])
    assert told.totals == [("Writing light curves", 80)]
    assert told.n_frames == 80


class _Told:
    def __init__(self):
        self.totals, self.n_frames = [], 0

    def begin(self, stage, total, unit="frames"):
        self.totals.append((stage, total))

    def advance(self, n_frames):
        self.n_frames += n_frames

    def end(self):
        pass

    def tell(self, message):
        raise AssertionError(message)


def test_write_light_curves__every_chunk_of_a_night_is_read_once(reduced, monkeypatch):
    # one night, as parts that alternate in time share their chunks
    monkeypatch.setattr(light_curve_files, "_MEASUREMENTS", 56)
    camera = Store.open(reduced).camera("1:g")
    night = camera.parts[:1]
    monkeypatch.setattr(Camera, "measured_parts", lambda *_: night)
    read = []
    content = chunk_files.ChunkFiles._read_chunk
    monkeypatch.setattr(
        chunk_files.ChunkFiles,
        "_read_chunk",
        lambda array, chunk: read.append((Path(array.directory).name, chunk)) or content(array, chunk),
    )
    job = light_curve_files._job(camera, "aperture", reduced / "lcs" / "aperture")
    read.clear()
    for number in range(len(job.pieces)):
        job.write_piece(number)
    chunks = [entry for entry in read if entry[0] in ("flux", "flux_err", "background", "flags")]
    assert len(job.pieces) == 3
    assert len(chunks) == len(set(chunks)) == 4 * 5
    assert [chunk for name, chunk in read if name == "bmjd_tdb"] == [0] * 3  # of thousands of frames


def test_write_light_curves__a_file_that_cannot_be_written_leaves_the_old_one(reduced, monkeypatch):
    folder = light_curve_files.write_light_curves(reduced, "aperture")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    monkeypatch.setattr(light_curve_files._Job, "_lines", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        light_curve_files.write_light_curves(reduced, "aperture")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert not (reduced / SCRATCH_NAME).exists()


def test_write_light_curves__times_are_utc_where_no_barycentric_one_is_known(tmp_path):
    simulate_observations(tmp_path / "data", **FIELD, filters=("g",))
    reducer = Reducer(
        tmp_path / "out", tmp_path / "data", client="none", barycenter=False, verbose=False, figures=False
    )
    reducer.create_catalogs(n_pixels=5, border_width=4)
    reducer.photometry()
    # the usual parser of pandas 2 is off by a last digit
    table = np.genfromtxt(tmp_path / "out" / "lcs" / "aperture" / "1-g_source_1.csv", delimiter=",", names=True)
    curves = results.light_curves(tmp_path / "out", "1:g")
    assert list(table.dtype.names) == ["MJD", "flux", "flux_err", "background", "flags"]
    np.testing.assert_array_equal(table["MJD"], curves["mjd_utc"])
    np.testing.assert_array_equal(table["flux"], curves["flux"].sel(source=1))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("is_mixed", [True, False])
def test_pieces__are_all_frames_in_time_order(seed, is_mixed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 40, 4)
    times = [np.sort(rng.random(n)).round(1 + seed % 2) + (0 if is_mixed else 10 * i) for i, n in enumerate(lengths)]
    pieces = list(light_curve_files._in_pieces(times, 8))
    found = []
    for piece in pieces:
        values = np.concatenate([times[part][start:stop] for part, start, stop in piece.ranges])
        origin = np.concatenate(
            [np.stack([np.full(stop - start, part), np.arange(start, stop)], 1) for part, start, stop in piece.ranges]
        )
        chosen = slice(None) if piece.order is None else piece.order
        assert len(values[chosen]) == piece.n_frames <= 8
        found += [(time, *where) for time, where in zip(values[chosen], origin[chosen].tolist(), strict=True)]
    expected = sorted((time, part, index) for part, one in enumerate(times) for index, time in enumerate(one))
    assert found == expected


def test_pieces__of_a_million_frames_are_few_and_small():
    times = [np.arange(50_000.0) + 1e5 * night for night in range(20)]
    per_piece = 64 * (light_curve_files._MEASUREMENTS // (64 * 100))
    pieces = list(light_curve_files._in_pieces(times, per_piece))
    assert sum(piece.n_frames for piece in pieces) == 10**6
    assert len(pieces) == 20 * -(-50_000 // per_piece) < 1000
    assert len(pickle.dumps(pieces)) < 100_000
