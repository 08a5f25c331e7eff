"""Chunks as files: what Zarr reads and writes, byte for byte."""

from __future__ import annotations

import errno
import json

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec

from opticam_dask import locations, schema
from opticam_dask.store import chunk_files
from opticam_dask.store.chunk_files import open_chunks

COMPRESSORS = [BloscCodec(cname="zstd", clevel=3), Crc32cCodec()]
TYPES = sorted({entry.dtype for group in schema.GROUPS.values() for entry in group if entry.dtype != "str"})


def _array(directory, shape=(10, 3), chunks=(4, 3), dtype="float64", fill_value=np.nan, **options):
    options = {"compressors": COMPRESSORS, **options}
    created = zarr.create_array(
        zarr.storage.LocalStore(directory), shape=shape, chunks=chunks, dtype=dtype, fill_value=fill_value, **options
    )
    return created.with_config({"write_empty_chunks": True})


def _values(shape, dtype, seed=0):
    values = 100 * np.random.default_rng(seed).standard_normal(shape)
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("shape", "chunks"), [((10,), (4,)), ((10, 3), (4, 3)), ((9, 3, 2), (4, 3, 2)), ((3, 7), (4, 7))]
)
def test_chunks__are_those_of_zarr_byte_for_byte(tmp_path, dtype, shape, chunks):
    values = _values(shape, dtype)
    fill = np.nan if np.dtype(dtype).kind == "f" else 0
    by_zarr = _array(tmp_path / "zarr", shape, chunks, dtype, fill)
    by_zarr[...] = values
    _array(tmp_path / "own", shape, chunks, dtype, fill)
    own = open_chunks(str(tmp_path / "own"))
    for start in range(0, shape[0], chunks[0]):
        stop = min(start + chunks[0], shape[0])
        own.write(start, stop, values[start:stop])
    expected, found = (
        {file.relative_to(top): file.read_bytes() for file in (tmp_path / top).rglob("c/**/*") if file.is_file()}
        for top in (tmp_path / "zarr", tmp_path / "own")
    )
    assert found == expected
    assert len(found) == -(-shape[0] // chunks[0])
    for array in (own, open_chunks(str(tmp_path / "zarr"))):
        read = array.read()
        assert read.dtype == by_zarr.dtype
        assert read.tobytes() == values.tobytes()


def test_chunks_of_texts__are_those_of_zarr_byte_for_byte(tmp_path):
    values = np.array(["a.fits", "", "\N{GREEK SMALL LETTER ALPHA}/b.fits", "NaN", "x" * 300, "c", "d"], dtype=object)
    by_zarr = _array(tmp_path / "zarr", (7,), (4,), str, "NaN")
    by_zarr[...] = values
    _array(tmp_path / "own", (7,), (4,), str, "NaN")
    own = open_chunks(str(tmp_path / "own"))
    assert own.read().tolist() == ["NaN"] * 7  # nothing is written yet
    own.write_whole(values)
    for chunk in "01":
        assert (tmp_path / "own" / "c" / chunk).read_bytes() == (tmp_path / "zarr" / "c" / chunk).read_bytes()
    for array in (own, open_chunks(str(tmp_path / "zarr"))):
        assert array.read(1, 6).tolist() == np.asarray(by_zarr[1:6]).tolist() == values[1:6].tolist()
        assert {type(value) for value in array.read()} == {str}
    own.write(4, 7, np.array(["e", "f", "g"]))  # texts of a fixed length as well
    assert np.asarray(zarr.open_array(tmp_path / "own")[4:]).tolist() == ["e", "f", "g"]


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (0, 4), (3, 9), (5, 6), (8, 20), (4, 4), (6, 2)])
@pytest.mark.parametrize("columns", [slice(None), slice(1, 3), slice(0, 0), np.array([2, 0])])
def test_read__ranges_and_columns_are_those_of_numpy(tmp_path, start, stop, columns):
    values = _values((10, 3), "float64")
    _array(tmp_path)[...] = values
    found = open_chunks(str(tmp_path)).read(start, stop, columns)
    np.testing.assert_array_equal(found, values[start:stop, columns], strict=True)


def test_read__chunks_that_are_not_there_hold_the_fill_value(tmp_path):
    array = _array(tmp_path, (10,), (4,), "int32", 7)
    array[4:8] = np.arange(4)
    expected = np.array([7, 7, 7, 7, 0, 1, 2, 3, 7, 7], dtype="int32")
    np.testing.assert_array_equal(open_chunks(str(tmp_path)).read(), expected, strict=True)


@pytest.mark.parametrize("fill", [np.nan, np.inf, -np.inf, 0.0, 1.5])
def test_read__fill_values_are_those_of_zarr(tmp_path, fill):
    array = _array(tmp_path, fill_value=fill)
    assert open_chunks(str(tmp_path)).read().tobytes() == array[...].tobytes()


@pytest.mark.parametrize("byte", [0, 20, -1])
def test_read__one_flipped_bit_is_found(tmp_path, byte):
    _array(tmp_path)[...] = _values((10, 3), "float64")
    file = tmp_path / "c" / "1" / "0"
    content = bytearray(file.read_bytes())
    content[byte] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        open_chunks(str(tmp_path)).read()


@pytest.mark.parametrize("n_bytes", [0, 3, 30])
def test_read__a_cut_chunk_is_found(tmp_path, n_bytes):
    _array(tmp_path)[...] = _values((10, 3), "float64")
    file = tmp_path / "c" / "1" / "0"
    file.write_bytes(file.read_bytes()[:n_bytes])
    with pytest.raises(ValueError, match="checksum"):
        open_chunks(str(tmp_path)).read()


def test_read__a_chunk_of_another_array_is_found(tmp_path):
    _array(tmp_path / "a", chunks=(2, 3))[...] = 1.0
    _array(tmp_path / "b")[...] = 1.0
    (tmp_path / "b" / "c" / "1" / "0").write_bytes((tmp_path / "a" / "c" / "1" / "0").read_bytes())
    with pytest.raises(ValueError, match="reshape"):
        open_chunks(str(tmp_path / "b")).read()


@pytest.mark.parametrize(
    ("start", "stop", "shape", "message"),
    [(1, 5, (4, 3), "one chunk"), (0, 8, (8, 3), "one chunk"), (8, 12, (4, 3), "one chunk"), (0, 4, (4,), "shape")],
)
def test_write__anything_but_one_chunk_is_refused(tmp_path, start, stop, shape, message):
    _array(tmp_path)
    with pytest.raises(ValueError, match=message):
        open_chunks(str(tmp_path)).write(start, stop, np.zeros(shape))
    assert not (tmp_path / "c").exists()


def test_write__one_that_fails_leaves_the_old_chunk_and_nothing_else(tmp_path, monkeypatch):
    array = open_chunks(str(_array(tmp_path).store.root))
    array.write(0, 4, np.ones((4, 3)))
    monkeypatch.setattr(chunk_files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        array.write(0, 4, np.zeros((4, 3)))
    assert [file.name for file in (tmp_path / "c" / "0").iterdir()] == ["0"]
    np.testing.assert_array_equal(array.read(0, 4), np.ones((4, 3)))


class _TakesLittle:
    """A file without buffer on a disk that is nearly full: it takes some of the bytes, and then none."""

    def __init__(self, stream, room):
        self.stream, self.room = stream, room

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()

    def write(self, content):
        n_bytes = min(7, len(content), self.room)
        if n_bytes == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= n_bytes
        return self.stream.write(content[:n_bytes])


@pytest.mark.parametrize("room", [10**6, 20])
def test_write__a_file_that_takes_some_of_the_bytes_gets_the_rest_or_the_error_names_it(tmp_path, monkeypatch, room):
    array, opened = open_chunks(str(_array(tmp_path).store.root)), locations.unbuffered
    monkeypatch.setattr(locations, "unbuffered", lambda *of: _TakesLittle(opened(*of), room))
    if room > 20:
        array.write(0, 4, np.ones((4, 3)))
        np.testing.assert_array_equal(array.read(0, 4), np.ones((4, 3)))
        return
    with pytest.raises(OSError, match="No space left on device") as raised:
        array.write(0, 4, np.ones((4, 3)))
    assert raised.value.filename == str(tmp_path / "c/0/0")
    assert list((tmp_path / "c" / "0").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"compressors": [GzipCodec(), Crc32cCodec()]}, (10, 3)),
        ({"compressors": [BloscCodec(cname="zstd")]}, (10, 3)),
        ({"compressors": None}, (10, 3)),
        ({"serializer": BytesCodec(endian="big")}, (10, 3)),
        ({"chunks": (4, 2)}, (10, 3)),
        ({"chunks": (4, 3), "shards": (8, 3)}, (10, 3)),
        ({"chunk_key_encoding": {"name": "v2", "separator": "."}}, (10, 3)),
        ({"chunk_key_encoding": {"name": "default", "separator": "."}}, (10, 3)),
        ({"chunks": ()}, ()),
    ],
)
def test_open_chunks__other_kinds_of_arrays_are_left_to_zarr(tmp_path, options, shape):
    _array(tmp_path, shape, **options)
    assert open_chunks(str(tmp_path)) is None


@pytest.mark.parametrize("change", [{"shape": 3}, {"fill_value": "0x7f"}, {"codecs": []}, {"chunk_grid": None}])
def test_open_chunks__damaged_metadata_are_left_to_zarr(tmp_path, change):
    _array(tmp_path)
    file = tmp_path / "zarr.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert open_chunks(str(tmp_path)) is None
    file.write_text("{ half")
    assert open_chunks(str(tmp_path)) is None
    file.unlink()
    assert open_chunks(str(tmp_path)) is None
