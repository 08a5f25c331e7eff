"""The Zarr layout: contract, blocks, completion, damage."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import xarray as xr
import zarr

from opticam_dask import schema
from opticam_dask.store import integrity, layout

N_FRAMES, PER_BLOCK, N_SLOTS, N_SOURCES = 10, 4, 6, 3


def _part(night="2024-01-01"):
    return layout.Part("1:g", night, N_FRAMES, PER_BLOCK, (32, 40), 4, (4, 5), N_SLOTS, uid="1")


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
    sizes = part.sizes(stop - start)
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
    path = layout.create_store(tmp_path, {"parameters": "{}", "parameters_hash": "0"})
    layout.add_key(path, "1:g", "1", "g")
    layout.add_part(path, _part(), _manifest(), "/data")
    return path


def test_add_part__layout_is_the_contract_and_plain_xarray_reads_it(reduction):
    part = _part()
    for block in range(part.n_blocks):
        layout.write_block(reduction, part, block, _first_pass_arrays(part, block))
    layout.add_photometry(reduction, part, "aperture", np.arange(1, 4), {"parameters": "{}", "parameters_hash": "1"})
    layout.finish_changes(reduction)
    tree = xr.open_datatree(str(reduction), engine="zarr")
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
    array = layout._chunks
    monkeypatch.setattr(layout, "_chunks", lambda path, name: opened.append(name) or array(path, name))
    part = _part()
    for block in range(part.n_blocks):
        layout.read_manifest(reduction, part, block)
        layout.write_block(reduction, part, block, _first_pass_arrays(part, block))
        layout.read_results(reduction, part, block)
        if block == 0:
            first = len(opened)
    assert first == len(opened) == len(set(opened))


def test_blocks__a_part_that_is_made_anew_is_opened_anew(reduction):
    part = _part()
    layout.write_block(reduction, part, 0, _first_pass_arrays(part, 0))
    layout.remove_group(reduction, part.group)
    again = dataclasses.replace(part, n_slots=N_SLOTS + 2, uid="2")
    layout.add_part(reduction, again, _manifest(), "/data")
    layout.write_block(reduction, again, 0, _first_pass_arrays(again, 0, seed=1))
    assert layout.read_results(reduction, again, 0)["x"].shape == (PER_BLOCK, N_SLOTS + 2)
    with pytest.raises(layout.StoreError, match="made anew"):
        layout.write_block(reduction, part, 0, _first_pass_arrays(part, 0))


def test_write_block__one_block_is_one_chunk_of_every_array(reduction):
    part = _part()
    before = {file for file in reduction.rglob("c/*") if file.is_file()}
    layout.write_block(reduction, part, 1, _first_pass_arrays(part, 1))
    written = {file for file in reduction.rglob("c/**/*") if file.is_file()} - before
    blocks = {file.relative_to(reduction).as_posix().split("/c/")[1].split("/")[0] for file in written}
    assert blocks >= {"1"}
    for name in ("frames/flags", "sources/x", "background/background_mesh", "frames/transform"):
        chunks = [file for file in (reduction / part.group / name / "c").rglob("*") if file.is_file()]
        assert len(chunks) == 1


def test_write_block__wrong_number_of_frames_is_refused(reduction):
    part = _part()
    arrays = _first_pass_arrays(part, 0)
    with pytest.raises(ValueError, match="must cover 2 frames of block 2, got 4"):
        layout.write_block(reduction, part, 2, arrays)


def test_open_array__chunks_of_fill_values_are_written_whatever_other_threads_set_meanwhile(reduction, monkeypatch):
    opening = zarr.Array.open

    def amid_others(*where):
        with zarr.config.set({"array.write_empty_chunks": False}):
            return opening(*where)

    monkeypatch.setattr(zarr.Array, "open", amid_others)
    part = _part()
    layout.write_block(reduction, part, 0, {"frames": {"fwhm": np.full(PER_BLOCK, np.nan, np.float32)}})
    layout.write_again(reduction, f"{part.group}/frames", "background", np.full(N_FRAMES, np.nan, np.float32))
    assert layout.chunk_file(reduction, f"{part.group}/frames/fwhm", (0,)).is_file()
    assert layout.chunk_file(reduction, f"{part.group}/frames/background", (2,)).is_file()
    assert zarr.config.get("array.write_empty_chunks") is False  # it is not ours to set


def test_done_blocks__is_read_from_the_flags(reduction):
    part = _part()
    assert layout.done_blocks(reduction, part).tolist() == [False, False, False]
    layout.write_block(reduction, part, 2, _first_pass_arrays(part, 2))
    assert layout.done_blocks(reduction, part).tolist() == [False, False, True]


def test_write_block__flags_are_written_last(reduction, monkeypatch):
    part = _part()
    order = []
    find, write = layout._array_of_part, layout._write_values
    names = {}

    def named(*where):
        array = find(*where)
        names[id(array)] = "/".join(where[2:])
        return array

    def recorded(array, *what):
        order.append(names[id(array)])
        write(array, *what)

    monkeypatch.setattr(layout, "_array_of_part", named)
    monkeypatch.setattr(layout, "_write_values", recorded)
    layout.write_block(reduction, part, 0, _first_pass_arrays(part, 0))
    assert order[-1] == "frames/flags"
    assert order.count("frames/flags") == 1


def test_add_photometry__other_parameters_under_one_label_are_refused(reduction):
    part = _part()
    layout.add_photometry(reduction, part, "aperture", np.arange(1, 4), {"parameters": "r=3", "parameters_hash": "a"})
    layout.add_photometry(reduction, part, "aperture", np.arange(1, 4), {"parameters": "r=3", "parameters_hash": "a"})
    with pytest.raises(layout.StoreError, match="--label NAME"):
        layout.add_photometry(
            reduction, part, "aperture", np.arange(1, 4), {"parameters": "r=4", "parameters_hash": "b"}
        )


def test_find_damage__finds_one_flipped_bit(reduction):
    part = _part()
    for block in range(part.n_blocks):
        layout.write_block(reduction, part, block, _first_pass_arrays(part, block))
    assert integrity.find_damage(reduction) == []
    chunk = next(file for file in (reduction / part.group / "sources/flux/c").rglob("*") if file.is_file())
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 4
    chunk.write_bytes(bytes(data))
    assert any("sources/flux" in damage.where for damage in integrity.find_damage(reduction))


def test_compare__sees_one_bit_and_ignores_creation_time(tmp_path):
    paths = []
    for name in ("a", "b"):
        path = layout.create_store(tmp_path / name, {"parameters_hash": "0", "created": name})
        layout.add_key(path, "1:g", "1", "g")
        layout.add_part(path, _part(), _manifest(), "/data")
        layout.write_block(path, _part(), 0, _first_pass_arrays(_part(), 0))
        paths.append(path)
    assert layout.compare(*paths) == []
    arrays = _first_pass_arrays(_part(), 0)
    arrays["sources"]["x"][1, 1] = np.nextafter(arrays["sources"]["x"][1, 1], 1)
    layout.write_block(paths[1], _part(), 0, arrays)
    assert layout.compare(*paths) == ["1-g/2024-01-01/sources/x: 1 of 60 values differ"]


@pytest.mark.parametrize(
    ("low", "high", "n_bytes"), [(-(2**31), 2**31 - 1, 4), (0, 2**31, 8), (-1, 2**40, 8), (0, 255, 1), (0, 0, 1)]
)
def test_partial_stack__is_kept_exactly_in_few_bytes(tmp_path, low, high, n_bytes):
    total = np.array([[low, high], [low // 2, 0]])
    layout.write_partial_stack(tmp_path / "stack.npy", total, np.full((2, 2), 3, dtype=np.uint32))
    found, coverage = layout.read_partial_stack(tmp_path / "stack.npy")
    assert (found.dtype.itemsize, coverage.dtype.itemsize) == (n_bytes, 1)
    assert found.dtype.kind in "iu"
    np.testing.assert_array_equal(found, total)
    np.testing.assert_array_equal(coverage, 3)


@pytest.mark.parametrize("place", [200, -200, -1])
def test_partial_stack__a_flipped_bit_is_found(tmp_path, place):
    file = tmp_path / "stack.npy"
    layout.write_partial_stack(file, np.arange(64).reshape(8, 8), np.full((8, 8), 3, dtype=np.uint32))
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(layout.StoreError, match=r"stack\.npy, .* is damaged .*run the same command again"):
        layout.read_partial_stack(file)


@pytest.mark.parametrize("n_bytes", [0, 100, 300])
def test_partial_stack__a_cut_file_is_found(tmp_path, n_bytes):
    file = tmp_path / "stack.npy"
    layout.write_partial_stack(file, np.arange(64).reshape(8, 8), np.full((8, 8), 3, dtype=np.uint32))
    file.write_bytes(file.read_bytes()[:n_bytes])
    with pytest.raises(layout.StoreError, match="is damaged"):
        layout.read_partial_stack(file)


def test_validate__unknown_variable_and_wrong_shape_are_refused():
    with pytest.raises(KeyError, match="not a variable"):
        schema.validate("frames", {"nonsense": np.zeros(3)}, {"frame": 3})
    with pytest.raises(ValueError, match="must have shape"):
        schema.validate("frames", {"fwhm": np.zeros(4)}, {"frame": 3})


def test_require_store__missing_and_newer_stores_are_refused(tmp_path):
    with pytest.raises(layout.StoreError, match="holds no reduction"):
        layout.require_store(tmp_path)
    path = layout.create_store(tmp_path, {})
    layout.update_attributes(path, "", {"schema_version": "9.0"})
    with pytest.raises(layout.StoreError, match=r"schema version 9\.0"):
        layout.require_store(tmp_path)
