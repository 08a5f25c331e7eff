"""Arrays are made as Zarr makes them, without Zarr."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from opticam_dask import schema
from opticam_dask.store import arrays, metadata
from opticam_dask.store.errors import NoSuchArray

#: A variable of each type, value of what is not written, and number of dimensions that the schema has.
ENTRIES = {
    (one.dtype, str(one.fill), len(one.dims)): (kind, one) for kind, group in schema.GROUPS.items() for one in group
}


def by_zarr(folder, entry, shape, chunks):
    """Metadata that Zarr writes of an array."""
    zarr.create_array(
        zarr.storage.LocalStore(folder),
        zarr_format=3,
        shape=shape,
        chunks=chunks,
        dtype=str if entry.dtype == "str" else entry.dtype,
        fill_value=entry.fill,
        dimension_names=entry.dims,
        compressors=[BloscCodec(cname="zstd", clevel=3), Crc32cCodec()],
        attributes=entry.all_attributes(),
    )
    return json.loads((folder / metadata.FILE_NAME).read_text())


@pytest.mark.parametrize(("kind", "entry"), ENTRIES.values(), ids=[" ".join(map(str, one)) for one in ENTRIES])
def test_array__is_described_as_by_zarr(tmp_path, kind, entry):
    sizes = dict.fromkeys(entry.dims, 5)
    arrays.create_root(tmp_path / "own", {})
    arrays.create_arrays(tmp_path / "own", f"1-g/{kind}", kind, sizes, 2, [entry.name])
    own = json.loads((tmp_path / "own" / "1-g" / kind / entry.name / metadata.FILE_NAME).read_text())
    chunks = own["chunk_grid"]["configuration"]["chunk_shape"]
    expected = by_zarr(tmp_path / "zarr", entry, (5,) * len(entry.dims), chunks)
    assert own == expected
    assert list(own) == list(expected)


def test_array__without_entries_is_read_as_files(tmp_path):
    arrays.create_root(tmp_path, {})
    arrays.create_arrays(tmp_path, "set_aside", "set_aside", {"entry": 0}, None)
    array = arrays.open_array(tmp_path, "set_aside/file")
    assert not isinstance(array, arrays.ZarrArray)
    assert array.read().shape == (0,)
    assert np.array_equal(array.read(), arrays.open_zarr_array(tmp_path, "set_aside/file").read())


def test_array__that_is_not_there_is_named(tmp_path):
    with pytest.raises(NoSuchArray, match=r"frames/flux/zarr\.json"):
        arrays.open_array(tmp_path, "frames/flux")


def test_group__that_is_there_is_not_made_again_unless_asked(tmp_path):
    arrays.create_root(tmp_path, {})
    arrays.create_group(tmp_path, "1-g", {"key": "1:g"})
    with pytest.raises(FileExistsError):
        arrays.create_group(tmp_path, "1-g", {})
    assert metadata.read_metadata(tmp_path / "1-g" / metadata.FILE_NAME)["attributes"] == {"key": "1:g"}
    arrays.create_group(tmp_path, "1-g", {"key": "2:g"}, overwrite=True)
    assert zarr.open_group(tmp_path)["1-g"].attrs["key"] == "2:g"
