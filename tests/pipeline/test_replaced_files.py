"""A file that another one replaced under its name, size and time is told; what only moves or locks a file is not."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from astropy.io import fits
from small_nights import INSTRUMENT, write_frame, write_frames

from opticam_dask import Instrument
from opticam_dask.cluster.executors import InProcess
from opticam_dask.flags import FrameFlag
from opticam_dask.frames import scanning
from opticam_dask.passes.calibration import Calibration, find_calibration_frames
from opticam_dask.pipeline import driver, relocation
from opticam_dask.pipeline.reduction import ReductionError, WrongParameters
from opticam_dask.pipeline.stages.master_frames import make_masters
from opticam_dask.steps.frame_steps import FrameProblem
from opticam_dask.steps.read import is_back, read_raw
from opticam_dask.store.store import Store

CAMERA = Instrument.from_json(INSTRUMENT)


def forge(path, make):
    """Replace a file by another one of its size that bears its times."""
    status = path.stat()
    make(path)
    assert path.stat().st_size == status.st_size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def other_header(path):
    fits.setval(path, "EXPTIME", value=6.0)


def other_pixels(path):
    with fits.open(path, mode="update") as hdus:
        hdus[0].data = hdus[0].data[::-1].copy()


def other_file(path):
    shutil.copy(path.with_name("f2.fits"), path)


def one_pixel(path):  # its noise is not the same
    content = bytearray(path.read_bytes())
    content[29000] ^= 1
    path.write_bytes(bytes(content))


REPLACED = [other_header, other_pixels, other_file, one_pixel]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp("written")
    write_frames(directory, 3, seed=5)
    return directory


@pytest.fixture
def data(written, tmp_path):
    return shutil.copytree(written, tmp_path / "data")


def entry_of(file):
    return scanning.scan([file], CAMERA).table.iloc[0].to_dict()


@pytest.mark.parametrize("make", REPLACED)
def test_file_replaced_while_a_run_goes_on__costs_its_frame_and_is_told(data, tmp_path, make):
    steps = driver.Setup(tmp_path, CAMERA).steps((200, 200), 1)
    file = data / "f1.fits"
    entry = entry_of(file)
    forge(file, make)
    with pytest.raises(FrameProblem, match="written again") as told:
        read_raw(steps, entry)
    assert told.value.flag == FrameFlag.FILE_CHANGED
    assert not is_back(entry)


def test_file__of_which_only_name_or_permissions_changed__is_read(data, tmp_path):
    steps = driver.Setup(tmp_path, CAMERA).steps((200, 200), 1)
    file = data / "f1.fits"
    entry = entry_of(file)
    file.chmod(0o444)
    os.link(file, data / "linked")
    (data / "linked").replace(data / "f1.fits")
    shutil.copy2(file, data / "copy")
    os.replace(data / "copy", file)
    assert file.stat().st_ctime != entry["file_ctime"]
    np.testing.assert_array_equal(read_raw(steps, entry), fits.getdata(file))
    assert is_back(entry)


@pytest.fixture
def prepared(data, tmp_path):
    """A reduction that was begun: its setup, and a way to take it up with what the files are now."""
    setup = driver.Setup(tmp_path / "out", CAMERA)

    def take_up(**changes):
        driver.prepare(setup, scanning.scan(scanning.find_files(data), CAMERA), changes=driver.Changes(**changes))

    take_up()
    return setup, take_up


@pytest.mark.parametrize("make", REPLACED)
def test_file_replaced_between_two_runs__is_named(data, prepared, make):
    _, take_up = prepared
    forge(data / "f1.fits", make)
    with pytest.raises(ReductionError, match=r"changed since they were reduced, the first is .*f1\.fits") as told:
        take_up()
    assert "\n" not in str(told.value)
    take_up(redo=("2024-01-01",))


def test_store__whose_files_were_locked_or_have_no_checksum__goes_on(data, prepared):
    setup, take_up = prepared
    for file in data.iterdir():
        file.chmod(0o400)
    take_up()
    [part] = setup.store.parts
    for name, fill in (("file_ctime", np.nan), ("file_checksum", 0)):  # as those of older versions
        part.frames.array(name).write_whole(np.full(3, fill, dtype=part.frames[name].dtype))
    take_up()


@pytest.mark.parametrize("make", [other_pixels, None])
def test_relocate__takes_copies_of_any_time__but_no_other_frames(data, prepared, tmp_path, make):
    setup, take_up = prepared
    shutil.copytree(data, tmp_path / "disk7", copy_function=shutil.copy)
    data.rename(tmp_path / "gone")
    if make is not None:
        make(tmp_path / "disk7" / "f1.fits")
        with pytest.raises(ReductionError, match=r"f1\.fits is not as it was reduced: its header or its pixels"):
            relocation.relocate(setup.out_directory, tmp_path / "disk7", CAMERA)
        return
    relocation.relocate(setup.out_directory, tmp_path / "disk7", CAMERA)
    (tmp_path / "disk7").rename(data)
    relocation.relocate(setup.out_directory, data, CAMERA)
    take_up()
    manifest = Store.open(setup.out_directory).parts[0].manifest()
    assert manifest["file_ctime"].tolist() == [os.stat(file).st_ctime for file in manifest["file"]]


def test_bias_replaced_between_two_runs__is_named(data, tmp_path):
    rng = np.random.default_rng(2)
    for number in range(3):
        for folder, side in ((tmp_path / "biases", 200), (tmp_path / "biases/small", 100)):  # the same names
            pixels = rng.integers(95, 105, (side, side)).astype("u2")
            write_frame(folder / f"f{number}.fits", pixels, number, EXPTIME=0.0)

    def take_up():
        biases = Calibration.of(find_calibration_frames("bias", tmp_path / "biases", CAMERA))
        setup = driver.Setup(tmp_path / "out", CAMERA, calibration=biases)
        driver.prepare(setup, scanning.scan(scanning.find_files(data), CAMERA))
        make_masters(setup, InProcess(), driver.Silent())

    take_up()
    take_up()
    forge(tmp_path / "biases" / "f1.fits", other_file)
    with pytest.raises(WrongParameters, match=r"f1\.fits changed since the master bias was made"):
        take_up()
