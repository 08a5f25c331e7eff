"""The Zarr layout: contract, blocks, completion, damage."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import xarray as xr
import zarr

from opticam_dask import schema
from opticam_dask.store import groups, integrity, making
from opticam_dask.store.arrays import open_zarr_array
from opticam_dask.store.camera import Camera, Part
from opticam_dask.store.chunk_files import ChunkFiles
from opticam_dask.store.errors import NoSuchKey, StoreError
from opticam_dask.store.scratch import read_partial_stack, write_partial_stack
from opticam_dask.store.store import Store

N_FRAMES, PER_BLOCK, N_SLOTS, N_SOURCES = 10, 4, 6, 3


def _part(store, night="2024-01-01"):
    return Part(Camera(store.path, "1:g"), night, N_FRAMES, PER_BLOCK, (32, 40), 4, (4, 5), N_SLOTS, uid="1")


def _manifest(n_frames=N_FRAMES):
    manifest = {}
    for entry in schema.MANIFEST:
        if entry.dtype == "str":
            manifest[entry.name] = np.array([f"frame {i}.fits" for i in range(n_frames)], dtype=object)
        else:
            manifest[entry.name] = np.arange(n_frames).astype(entry.dtype)
    return manifest


def _first_pass_arrays(part, block, seed=0):
    start, stop = part.block_range(block)
    sizes = {**part.sizes(), "frame": stop - start}
    rng = np.random.default_rng(seed + block)
    arrays = {}
    for kind in ("frames", "background", "sources"):
        names = schema.FRAMES if kind == "frames" else schema.GROUPS[kind]
        arrays[kind] = {}
        for entry in names:
            shape = tuple(sizes[dim] for dim in entry.dims)
            if entry.dtype == "str":
                arrays[kind][entry.name] = np.array(["ünï\ncode"] * shape[0], dtype=object)
            elif entry.name == "flags":
                arrays[kind][entry.name] = np.ones(shape, dtype="uint32")
            else:
                arrays[kind][entry.name] = (100 * rng.random(shape)).astype(entry.dtype)
    return arrays


@pytest.fixture
def reduction(tmp_path):
    store = Store.create(tmp_path, {"parameters": "{}", "parameters_hash": "0"})
    store.add_camera("1:g", "1", "g")
    making.create_part(_part(store), _manifest(), "/data")
    return store


def test_add_part__layout_is_the_contract_and_plain_xarray_reads_it(reduction):
    part = _part(reduction)
    for block in range(part.n_blocks):
        part.write_block(block, _first_pass_arrays(part, block))
    making.add_photometry(part, "aperture", np.arange(1, 4), {"parameters": "{}", "parameters_hash": "1"})
    reduction.finish_changes()
    tree = xr.open_datatree(str(reduction.path), engine="zarr")
    assert tree["1-g"].attrs["key"] == "1:g"
    frames = tree["1-g/2024-01-01/frames"]
    for name in ("file", "mjd_utc", "bmjd_tdb", "exposure_time", "gain", "dark_current", "airmass", "flags"):
        assert frames[name].dims == ("frame",)
    assert frames["transform"].dims == ("frame", "row", "column")
    assert tree["1-g/2024-01-01/background/background_mesh"].dims == ("frame", "mesh_y", "mesh_x")
    assert tree["1-g/2024-01-01/sources/x"].dims == ("frame", "slot")
    photometry = tree["1-g/2024-01-01/photometry/aperture"]
    assert photometry["flux"].dims == ("frame", "source")
    assert {"bmjd_tdb", "mjd_utc", "source_id"} <= set(photometry.coords)
    assert photometry["flags"].attrs["flag_meanings"].startswith("reduced")
    for branch in tree.subtree:
        for variable in branch.variables.values():
            assert variable.attrs["units"]
            assert variable.attrs["long_name"]
    np.testing.assert_array_equal(
        frames["fwhm"], np.concatenate([_first_pass_arrays(part, b)["frames"]["fwhm"] for b in range(3)])
    )


def test_blocks__arrays_of_a_part_are_opened_once(reduction, monkeypatch):
    opened = []
    array = groups.open_array
    monkeypatch.setattr(groups, "open_array", lambda path, name: opened.append(name) or array(path, name))
    part = _part(reduction)
    for block in range(part.n_blocks):
        part.manifest(block)
        part.write_block(block, _first_pass_arrays(part, block))
        part.results(block)
        if block == 0:
            first = len(opened)
    assert first == len(opened) == len(set(opened))


def test_blocks__a_part_that_is_made_anew_is_opened_anew(reduction):
    part = _part(reduction)
    part.write_block(0, _first_pass_arrays(part, 0))
    part.remove()
    again = dataclasses.replace(part, n_slots=N_SLOTS + 2, uid="2")
    making.create_part(again, _manifest(), "/data")
    again.write_block(0, _first_pass_arrays(again, 0, seed=1))
    assert again.results(0)["x"].shape == (PER_BLOCK, N_SLOTS + 2)
    with pytest.raises(StoreError, match="made anew"):
        part.write_block(0, _first_pass_arrays(part, 0))


def test_write_block__one_block_is_one_chunk_of_every_array(reduction):
    part = _part(reduction)
    before = {file for file in reduction.path.rglob("c/*") if file.is_file()}
    part.write_block(1, _first_pass_arrays(part, 1))
    written = {file for file in reduction.path.rglob("c/**/*") if file.is_file()} - before
    blocks = {file.relative_to(reduction.path).as_posix().split("/c/")[1].split("/")[0] for file in written}
    assert blocks >= {"1"}
    for name in ("frames/flags", "sources/x", "background/background_mesh", "frames/transform"):
        chunks = [file for file in (reduction.path / part.group / name / "c").rglob("*") if file.is_file()]
        assert len(chunks) == 1


def test_write_block__wrong_number_of_frames_is_refused(reduction):
    part = _part(reduction)
    arrays = _first_pass_arrays(part, 0)
    with pytest.raises(ValueError, match="must cover 2 frames of block 2, got 4"):
        part.write_block(2, arrays)


def test_open_array__chunks_of_fill_values_are_written_whatever_other_threads_set_meanwhile(reduction, monkeypatch):
    opening = zarr.Array.open

    def amid_others(*where):
        with zarr.config.set({"array.write_empty_chunks": False}):
            return opening(*where)

    monkeypatch.setattr(zarr.Array, "open", amid_others)
    part = _part(reduction)
    part.write_block(0, {"frames": {"fwhm": np.full(PER_BLOCK, np.nan, np.float32)}})
    background = open_zarr_array(reduction.path, f"{part.group}/frames/background")
    background.write_whole(np.full(N_FRAMES, np.nan, np.float32))
    assert open_zarr_array(reduction.path, f"{part.group}/frames/fwhm").chunk_file((0,)).is_file()
    assert background.chunk_file((2,)).is_file()
    assert zarr.config.get("array.write_empty_chunks") is False  # it is not ours to set


def test_done_blocks__is_read_from_the_flags(reduction):
    part = _part(reduction)
    assert part.frames.done().tolist() == [False, False, False]
    part.write_block(2, _first_pass_arrays(part, 2))
    assert part.frames.done().tolist() == [False, False, True]


def test_write_block__flags_are_written_last(reduction, monkeypatch):
    part = _part(reduction)
    order = []
    write = ChunkFiles.write

    def recorded(array, *what):
        order.append("/".join(array.directory.split("/")[-2:]))
        write(array, *what)

    monkeypatch.setattr(ChunkFiles, "write", recorded)
    part.write_block(0, _first_pass_arrays(part, 0))
    assert order[-1] == "frames/flags"
    assert order.count("frames/flags") == 1


def test_add_photometry__other_parameters_under_one_label_are_refused(reduction):
    part = _part(reduction)
    making.add_photometry(part, "aperture", np.arange(1, 4), {"parameters": "r=3", "parameters_hash": "a"})
    making.add_photometry(part, "aperture", np.arange(1, 4), {"parameters": "r=3", "parameters_hash": "a"})
    with pytest.raises(StoreError, match="--label NAME"):
        making.add_photometry(part, "aperture", np.arange(1, 4), {"parameters": "r=4", "parameters_hash": "b"})


def test_find_damage__finds_one_flipped_bit(reduction):
    part = _part(reduction)
    for block in range(part.n_blocks):
        part.write_block(block, _first_pass_arrays(part, block))
    assert integrity.find_damage(reduction.path) == []
    chunk = next(file for file in (reduction.path / part.group / "sources/flux/c").rglob("*") if file.is_file())
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 4
    chunk.write_bytes(bytes(data))
    assert any("sources/flux" in damage.where for damage in integrity.find_damage(reduction.path))


def test_compare__sees_one_bit_and_ignores_creation_time(tmp_path):
    paths = []
    for name in ("a", "b"):
        store = Store.create(tmp_path / name, {"parameters_hash": "0", "created": name})
        store.add_camera("1:g", "1", "g")
        part = making.create_part(_part(store), _manifest(), "/data")
        part.write_block(0, _first_pass_arrays(part, 0))
        paths.append(store.path)
    assert integrity.compare(*paths) == []
    arrays = _first_pass_arrays(part, 0)
    arrays["sources"]["x"][1, 1] = np.nextafter(arrays["sources"]["x"][1, 1], 1)
    part.write_block(0, arrays)
    assert integrity.compare(*paths) == ["1-g/2024-01-01/sources/x: 1 of 60 values differ"]


@pytest.mark.parametrize(
    ("low", "high", "n_bytes"), [(-(2**31), 2**31 - 1, 4), (0, 2**31, 8), (-1, 2**40, 8), (0, 255, 1), (0, 0, 1)]
)
def test_partial_stack__is_kept_exactly_in_few_bytes(tmp_path, low, high, n_bytes):
    total = np.array([[low, high], [low // 2, 0]])
    write_partial_stack(tmp_path / "stack.npy", total, np.full((2, 2), 3, dtype=np.uint32), total // 2)
    found, coverage, brightest = read_partial_stack(tmp_path / "stack.npy")
    assert (found.dtype.itemsize, coverage.dtype.itemsize) == (n_bytes, 1)
    np.testing.assert_array_equal(brightest, total // 2)
    assert found.dtype.kind in "iu"
    np.testing.assert_array_equal(found, total)
    np.testing.assert_array_equal(coverage, 3)


@pytest.mark.parametrize("place", [200, -200, -1])
def test_partial_stack__a_flipped_bit_is_found(tmp_path, place):
    file = tmp_path / "stack.npy"
    total = np.arange(64).reshape(8, 8)
    write_partial_stack(file, total, np.full((8, 8), 3, dtype=np.uint32), total)
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"stack\.npy, .* is damaged .*run the same command again"):
        read_partial_stack(file)


@pytest.mark.parametrize("n_bytes", [0, 100, 300])
def test_partial_stack__a_cut_file_is_found(tmp_path, n_bytes):
    file = tmp_path / "stack.npy"
    total = np.arange(64).reshape(8, 8)
    write_partial_stack(file, total, np.full((8, 8), 3, dtype=np.uint32), total)
    file.write_bytes(file.read_bytes()[:n_bytes])
    with pytest.raises(StoreError, match="is damaged"):
        read_partial_stack(file)


def test_validate__unknown_variable_and_wrong_shape_are_refused():
    with pytest.raises(KeyError, match="not a variable"):
        schema.validate("frames", {"nonsense": np.zeros(3)}, {"frame": 3})
    with pytest.raises(ValueError, match="must have shape"):
        schema.validate("frames", {"fwhm": np.zeros(4)}, {"frame": 3})


def test_require_store__missing_and_newer_stores_are_refused(tmp_path):
    with pytest.raises(StoreError, match="holds no reduction"):
        Store.open(tmp_path)
    Store.create(tmp_path, {}).update({"schema_version": "9.0"})
    with pytest.raises(StoreError, match=r"schema version 9\.0"):
        Store.open(tmp_path)


def test_camera__is_found_by_key_filter_and_group_and_what_is_not_there_is_said_in_one_way(reduction):
    reduction.add_camera("2:r", "2", "r")
    reduction.add_camera("3:r", "3", "r")
    assert {reduction.camera(name).key for name in ("1:g", "1-g", "g")} == {"1:g"}
    assert reduction.keys == ["1:g", "2:r", "3:r"]
    for name in ("r", "9:z", "", "..", "calibration"):  # two cameras have the filter r
        with pytest.raises(NoSuchKey, match=f"there is no such key: '{name}' in .*; it has 1:g, 2:r, 3:r"):
            reduction.camera(name)


def test_part__is_small_when_it_is_sent_to_a_worker_and_finds_its_arrays_there(reduction):
    part = _part(reduction)
    sent = pickle.dumps(part.write_block)
    assert len(sent) < 1000
    pickle.loads(sent)(0, _first_pass_arrays(part, 0))
    assert part.frames.done().tolist() == [True, False, False]
    np.testing.assert_array_equal(part.sources["x"][:PER_BLOCK], _first_pass_arrays(part, 0)["sources"]["x"])
    assert part.camera.part(part.night) == part


def test_array__reads_and_writes_alike_as_files_and_through_zarr(reduction):
    part = _part(reduction)
    part.write_block(0, _first_pass_arrays(part, 0))
    files, array = part.sources.array("x"), open_zarr_array(reduction.path, f"{part.sources.name}/x")
    assert isinstance(files, ChunkFiles)
    for chosen in ((), (1,), (1, 3), (0, 99), (2, 9, slice(1, 4)), (0, None, np.array([0, 4]))):
        np.testing.assert_array_equal(files.read(*chosen), array.read(*chosen))
    values = np.arange(N_FRAMES * N_SLOTS, dtype=float).reshape(N_FRAMES, N_SLOTS)
    array.write_whole(values)
    np.testing.assert_array_equal(files.read(), values)
    files.write_whole(-values)
    np.testing.assert_array_equal(array.read(), -values)
