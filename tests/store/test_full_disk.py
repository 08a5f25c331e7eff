"""A disk that is full while scratch files are written is told as such, with the file, as everywhere else."""

import errno
import io
import os

import numpy as np
import pytest

from opticam_dask import locations
from opticam_dask.store import scratch


@pytest.mark.parametrize("number", [None, errno.EDQUOT])
def test_scratch_file__on_a_full_disk_names_reason_and_file(tmp_path, monkeypatch, number):
    def save(stream, array):
        error = OSError("14400 requested and 9150 written") if number is None else OSError(number, "quota")
        raise error

    monkeypatch.setattr(np, "save", save)
    with pytest.raises(OSError, match=r"stack") as told:
        scratch.write_partial_stack(tmp_path / "stack", *np.zeros((3, 4, 5), dtype=int))
    assert told.value.errno == (number or errno.ENOSPC)
    assert list(tmp_path.iterdir()) == []


class _Full(io.FileIO):
    """A file on a disk with room for some bytes."""

    def write(self, data):
        if self.tell() == 100:
            raise OSError(errno.ENOSPC, "")
        return super().write(bytes(data)[: 100 - self.tell()])


def test_scratch_file_of_frames__on_a_full_disk_names_reason_and_file(tmp_path, monkeypatch):
    monkeypatch.setattr(locations, "unbuffered", _Full)
    with (
        pytest.raises(OSError, match=rf"{os.strerror(errno.ENOSPC)}.*frames") as told,
        scratch.appending(tmp_path / "frames") as append,
    ):
        append(0, {"pixels": np.zeros(40)})
    assert told.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
