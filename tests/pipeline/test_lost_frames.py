"""A file that is gone, cut short or written again after the first pass costs its frame, and no other."""

from __future__ import annotations

import contextlib
import os
import shutil

import numpy as np
import pytest
import small_nights
from astropy.io import fits
from privileges import ordinary_user

from opticam_dask import Instrument, OptimalPhotometer, cli
from opticam_dask.api.repair import stored_setup
from opticam_dask.cluster import executors
from opticam_dask.flags import SourceFlag
from opticam_dask.frames.scanning import FitsReader
from opticam_dask.methods.photometers import AperturePhotometer
from opticam_dask.pipeline import driver
from opticam_dask.pipeline.stages import master_frames, master_strips
from opticam_dask.store.groups import Group
from opticam_dask.store.store import Store

N_FRAMES, LOST = 10, 4


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Ten frames, measured with the aperture and the optimal photometer in blocks of four."""
    directory = tmp_path_factory.mktemp("lost")
    rng = np.random.default_rng(20)
    for frame in range(N_FRAMES):
        image, shift = np.full((200, 200), 100.0), rng.normal(0, 0.6, 2)
        small_nights.add_stars(image, small_nights.FIELD, shift)
        file = directory / f"frames/f{frame:03d}.fits"
        small_nights.write_frame(file, small_nights.read_out(image, rng), 10.0 * frame)
    small_nights.reduce_frames(directory, AperturePhotometer(), OptimalPhotometer(), frames_per_block=4)
    return directory


@pytest.fixture
def copy(night, tmp_path):
    """A copy of frames and store without the optimal photometry, for a test to spoil."""
    shutil.copytree(night / "frames", tmp_path / "frames")
    shutil.copytree(night / "out", tmp_path / "out")
    path = Store.at(tmp_path / "out").path
    [part] = Store(path).camera(small_nights.KEY).parts
    Group(path, part.group).update({"data_root": str(tmp_path / "frames")})
    Group(path, f"{part.group}/photometry/optimal").remove()
    return tmp_path


def _vanish(file):
    file.unlink()


def _cut(file):
    os.truncate(file, file.stat().st_size // 2)


def _write_again(file):
    """Another image in the same header and of the same size: nothing but its time tells."""
    content = bytearray(file.read_bytes())
    content[-2880 * 8 :] = bytes(2880 * 8)
    file.write_bytes(content)
    os.utime(file, (file.stat().st_atime, file.stat().st_mtime + 60))


def _forbid(file):
    file.chmod(0)


HARM = {
    "gone": (_vanish, "No such file"),
    "cut short": (_cut, "written again"),
    "written again": (_write_again, "written again"),
    "forbidden": (_forbid, "Permission denied"),
}


def _measure(directory, label="optimal", photometer=None):
    setup = stored_setup(directory / "out")
    Store(setup.path).begin_changes()
    outcome = driver.drive(
        driver.Run(setup, executors.InProcess(), photometers={label: photometer or OptimalPhotometer()}),
        driver.TO_LIGHT_CURVES,
    )
    driver.finish(setup)
    return outcome


@pytest.mark.parametrize("harm", HARM)
def test_lost_frame__is_nan_with_a_flag_and_told_and_all_others_have_the_numbers_of_a_whole_night(night, copy, harm):
    spoil, words = HARM[harm]
    spoil(copy / f"frames/f{LOST:03d}.fits")
    with ordinary_user() if harm == "forbidden" else contextlib.nullcontext():
        outcome = _measure(copy)
    [(file, message)] = outcome.problems
    assert os.path.basename(file) == f"f{LOST:03d}.fits"
    assert words in message
    assert "run the same command again" in message
    found = small_nights.SmallNight(copy / "out").curves("optimal")
    is_lost = np.arange(N_FRAMES) == LOST
    assert np.array_equal(np.isnan(found["flux"].to_numpy()).any(axis=1), is_lost)
    assert np.array_equal((found["flags"].to_numpy() & np.uint32(SourceFlag.FRAME_LOST) != 0).all(axis=1), is_lost)
    # the profile of the night is there already, so that the others are what they would have been, to the last bit
    whole = small_nights.SmallNight(night / "out").curves("optimal")["flux"].to_numpy()
    np.testing.assert_array_equal(found["flux"].to_numpy()[~is_lost], whole[~is_lost])


def test_lost_frame__is_in_the_status_and_is_measured_when_its_file_is_back(night, copy, capsys):
    gone = copy / f"frames/f{LOST:03d}.fits"
    gone.rename(copy / "away")
    _measure(copy)
    assert cli.main(["status", str(copy / "out")]) == 0
    told = capsys.readouterr().out
    assert "photometry optimal: 3 of 3 blocks done" in told
    assert f"{gone}: not measured (optimal): " in told
    assert _measure(copy).n_frames == {}  # the file is still away: nothing to do
    (copy / "away").rename(gone)
    assert _measure(copy).n_frames == {small_nights.KEY: 4}  # its block alone
    whole, found = (small_nights.SmallNight(place / "out").curves("optimal")["flux"] for place in (night, copy))
    np.testing.assert_array_equal(found, whole)
    assert cli.main(["status", str(copy / "out")]) == 0
    assert "not measured" not in capsys.readouterr().out


def test_lost_frame__of_the_usual_label_gets_its_transparency_when_it_is_back(night, copy):
    path = Store.at(copy / "out").path
    [part] = Store(path).camera(small_nights.KEY).parts
    gone = copy / f"frames/f{LOST:03d}.fits"
    gone.rename(copy / "away")
    part.records("aperture").forget(range(part.n_blocks))
    Group(path, f"{part.group}/quality").remove()
    _measure(copy, "aperture", AperturePhotometer())
    whole = small_nights.SmallNight(night / "out").group("2024-01-01/quality")["transparency"].to_numpy()
    holed = small_nights.SmallNight(copy / "out").group("2024-01-01/quality")["transparency"].to_numpy()
    assert np.array_equal(np.isnan(holed), np.arange(N_FRAMES) == LOST)
    (copy / "away").rename(gone)
    _measure(copy, "aperture", AperturePhotometer())
    np.testing.assert_array_equal(
        small_nights.SmallNight(copy / "out").group("2024-01-01/quality")["transparency"].to_numpy(), whole
    )


def test_frame_lost_before_the_star_profile__costs_its_frame(copy):
    path = Store.at(copy / "out").path
    [part] = Store(path).camera(small_nights.KEY).parts
    Group(path, f"{part.group}/psf").remove()
    _vanish(copy / f"frames/f{LOST:03d}.fits")
    assert len(_measure(copy).problems) == 1
    assert Group(path, f"{part.group}/psf").attributes["n_frames"] == N_FRAMES - 1
    flux = small_nights.SmallNight(copy / "out").curves("optimal")["flux"].to_numpy()
    assert np.isfinite(flux).all(axis=1).sum() == N_FRAMES - 1


def test_lost_directory__still_stops_the_run_which_goes_on_when_it_is_back(copy):
    (copy / "frames").rename(copy / "unmounted")
    with pytest.raises(OSError, match="cannot be read any more"):
        _measure(copy)
    (copy / "unmounted").rename(copy / "frames")
    assert not _measure(copy).problems
    assert np.isfinite(small_nights.SmallNight(copy / "out").curves("optimal")["flux"].to_numpy()).all()


class _OnceReader(FitsReader):
    """Reads one file once: it is gone when it is read again."""

    def read(self, path):
        image = super().read(path)
        if os.path.basename(path) == "d2.fits":
            os.unlink(path)
        return image


def test_dark_that_vanishes_while_darks_are_combined__costs_that_dark(tmp_path):
    rng = np.random.default_rng(3)
    entries, told = [], []
    for number in range(5):
        file = tmp_path / f"d{number}.fits"
        small_nights.write_frame(file, small_nights.read_out(np.full((20, 30), 50.0), rng), number)
        status = file.stat()
        entries.append(
            {"file": str(file), "file_size": status.st_size, "file_mtime": status.st_mtime, "exposure_time": 5.0}
            | {"file_ctime": status.st_ctime, "file_checksum": 0}
            | {"gain": 1.0, "dark_current": 0.0, "saturation": np.nan, "linearity_limit": np.nan}
        )
    instrument = Instrument.from_json(small_nights.INSTRUMENT)
    steps = driver.Setup(tmp_path, instrument, reader=_OnceReader()).steps((20, 30), 1)
    job = master_strips.MasterJob("bias", steps, tuple(entries))
    found = master_frames.combine_frames(
        job, executors.InProcess(), driver.Silent(), lambda file, reason: told.append((os.path.basename(file), reason))
    )
    assert [name for name, _ in told] == ["d2.fits"]
    expected = np.mean([fits.getdata(tmp_path / f"d{n}.fits") for n in (0, 1, 3, 4)], axis=0)
    np.testing.assert_allclose(found.mean, expected, atol=15.0)
    assert np.isfinite(found.mean).all()
