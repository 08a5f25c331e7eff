"""Arrays of frames that are kept one after the other: read again as they were, some or all, never when damaged."""

import numpy as np
import pytest

from opticam_dask.store.scratch import appending, read_appended


def _arrays(index):
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4)[:, ::2] + index
    return {"boxes": np.zeros((0, 4), dtype=np.int64), "raw": pixels, "hit": pixels > 4, "level": np.float32(index)}


@pytest.fixture
def file(tmp_path):
    with appending(tmp_path / "frames") as append:
        for index in (3, 5, 8):
            append(index, _arrays(index))
    return tmp_path / "frames"


@pytest.mark.parametrize(("among", "expected"), [(None, [3, 5, 8]), ([5], [5]), ([8, 4, 3], [3, 8]), ([], [])])
def test_frames__are_read_as_they_were(file, among, expected):
    found = dict(read_appended(file, among))
    assert list(found) == expected
    for index, arrays in found.items():
        assert list(arrays) == list(_arrays(index))
        for name, values in _arrays(index).items():
            assert (arrays[name].dtype, arrays[name].shape) == (values.dtype, values.shape)
            np.testing.assert_array_equal(arrays[name], values)


def test_frames__up_to_the_first_that_is_damaged(file):
    content, ends = file.read_bytes(), []
    for n_frames in (1, 2):
        with appending(file) as append:
            for index in (3, 5)[:n_frames]:
                append(index, _arrays(index))
        ends.append(len(file.read_bytes()))
    for place in range(*ends):  # whatever byte of the second it is
        for damaged in (content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :], content[:place]):
            file.write_bytes(damaged)
            assert [index for index, _ in read_appended(file)] == [3]
    file.write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<U5'}\n")  # of an older version
    assert list(read_appended(file)) == []
