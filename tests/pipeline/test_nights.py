"""Many nights in one store: one by one or at once, redone, removed, begun again; nights that do not fit."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from opticam_dask import cli, simulate_observations
from opticam_dask.cluster import executors
from opticam_dask.display import status
from opticam_dask.flags import UNUSABLE, FrameFlag
from opticam_dask.frames import scanning
from opticam_dask.frames.instruments import OPTICAM_MX
from opticam_dask.kernels.images.matching import align
from opticam_dask.lightcurves import results
from opticam_dask.methods.photometers import AperturePhotometer
from opticam_dask.parameters import ReductionParameters
from opticam_dask.pipeline import driver, nights
from opticam_dask.pipeline.driver import Changes
from opticam_dask.store import integrity
from opticam_dask.store.errors import StoreError
from opticam_dask.store.groups import Group
from opticam_dask.store.store import STORE_NAME, Store

N_FRAMES, SHAPE = 8, (96, 112)
NIGHTS = ("2023-12-31", "2024-01-01", "2024-01-03")
FIELD = {
    "n_frames": N_FRAMES, "shape": SHAPE, "n_sources": 6, "filters": ("g", "r"), "flux_range": (4e3, 1e5), "fwhm": 3.0,
    "least_separation": 6.0, "seed": 5,
}  # fmt: skip


def _start(night):
    """Seven in the evening at the observatory, in UTC of the following day."""
    return str(np.datetime64(night) + np.timedelta64(1, "D")) + "T03:00:00"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three nights of one field, each in a directory of its own; one drifts, one is turned after its first frame."""
    top = tmp_path_factory.mktemp("data")
    for night, options in zip(NIGHTS, ({}, {"drift": (6.0, -5.0)}, {"flip_after": 0.0}), strict=True):
        simulate_observations(top / night, **FIELD, **options, start=_start(night))
    return top


class Notes(driver.Silent):
    """Progress that keeps what the user is told."""

    def __init__(self):
        self.lines = []

    def tell(self, message):
        self.lines.append(message)


def _setup(out, **parameters):
    chosen = ReductionParameters(**{"n_pixels": 5, "border_width": 4, **parameters})
    return driver.Setup(Path(out), OPTICAM_MX(), chosen, frames_per_block=4)


def _reduce(out, *paths, executor=None, photometry=True, parameters=None, **changes):
    """Reduce as the command does; return the store and what the user was told."""
    setup, executor, notes = _setup(out, **(parameters or {})), executor or executors.InProcess(), Notes()
    found = scanning.scan(scanning.find_files(list(paths)), setup.instrument)
    driver.prepare(setup, found, notes, Changes(**changes))
    driver.drive(driver.Run(setup, executor, notes), driver.TO_CATALOGS)
    if photometry:
        driver.drive(
            driver.Run(setup, executor, notes, photometers={"aperture": AperturePhotometer()}), driver.TO_LIGHT_CURVES
        )
    driver.finish(setup)
    return setup.path, "\n".join(notes.lines)


@pytest.fixture(scope="module")
def together(data, tmp_path_factory):
    """All three nights at once."""
    return _reduce(tmp_path_factory.mktemp("together"), data)[0]


class _Crash(executors.InProcess):
    """Ends the run after so many blocks, as a crash does."""

    def __init__(self, n_blocks):
        self.n_left = n_blocks

    def run(self, work):
        for summary in super().run(work):
            if self.n_left == 0:
                raise KeyboardInterrupt
            self.n_left -= 1
            yield summary


@pytest.fixture
def copy(together, tmp_path):
    shutil.copytree(together.parent, tmp_path / "out")
    return tmp_path / "out"


def test_nights_one_by_one_equal_all_at_once(data, together, tmp_path):
    _reduce(tmp_path, data / NIGHTS[0])
    _reduce(tmp_path, data / NIGHTS[1], append=True)
    path, _ = _reduce(tmp_path, data)
    assert integrity.compare(together, path) == []
    curves = results.light_curves(tmp_path, "2:r").load()
    assert curves.sizes["frame"] == 3 * N_FRAMES
    assert sorted(set(curves["night"].to_numpy())) == list(NIGHTS)
    assert np.isfinite(curves["flux"]).all()
    of_night = [curves["flux"].to_numpy()[curves["night"].to_numpy() == night] for night in NIGHTS]
    errors = curves["flux_err"].to_numpy().max(axis=0)
    for other in of_night[1:]:
        # source ids keep their meaning: the steady sources have the same flux, shifted or turned by 180 degrees
        assert np.all(np.abs(other.mean(axis=0) - of_night[0].mean(axis=0)) < 4 * errors / np.sqrt(N_FRAMES / 2))


def test_a_turned_night_is_aligned(together):
    part = next(part for part in Store(together).camera("1:g").parts if part.night == NIGHTS[2])
    transforms = Group(together, f"{part.group}/frames").read("transform")
    rotations = np.array([align.rotation_of(matrix) for matrix in transforms])
    np.testing.assert_allclose(np.abs(rotations), [0.0] + [180.0] * (N_FRAMES - 1), atol=0.5)


def test_other_frames_are_refused_unless_appended(data, tmp_path):
    _reduce(tmp_path, data / NIGHTS[0])
    with pytest.raises(driver.ReductionError, match=r"holds a reduction of 16 other frames .*--append.*--new"):
        _reduce(tmp_path, data / NIGHTS[1])


def test_redo__a_night_is_reduced_again_from_the_files_of_now(data, together, tmp_path):
    copied = tmp_path / "data"
    shutil.copytree(data, copied)
    out = tmp_path / "out"
    _reduce(out, copied)
    changed = sorted((copied / NIGHTS[1]).iterdir())[0]
    with fits.open(changed, mode="update") as opened:
        opened[0].data[...] = 7
    os.utime(changed, (1e9, 1e9))
    with pytest.raises(driver.ReductionError, match=rf"1 file\(s\) changed .*--redo {NIGHTS[1]}"):
        _reduce(out, copied)
    path, _ = _reduce(out, copied, redo=(NIGHTS[1],))
    part = next(part for part in Store(path).camera("1:g").parts if part.night == NIGHTS[1])
    flags = Group(path, f"{part.group}/frames").read("flags")
    assert (flags & np.uint32(FrameFlag.CONSTANT) != 0).tolist() == [True] + [False] * (N_FRAMES - 1)
    for group in ("1-g/catalog", f"1-g/{NIGHTS[0]}/photometry/aperture", f"2-r/{NIGHTS[1]}/photometry/aperture"):
        for name, before in Group(together, group).read_all().items():
            np.testing.assert_array_equal(before, Group(path, group).read_all()[name])
    assert Store(path).attributes.get("pending", {}) == {}


@pytest.mark.parametrize(("night", "n_blocks"), [(NIGHTS[0], 3), (NIGHTS[1], 0), (NIGHTS[1], 20)])
def test_redo__the_same_command_goes_on_after_a_crash(data, together, copy, night, n_blocks):
    counted = _Crash(n_blocks)
    with pytest.raises(KeyboardInterrupt):
        _reduce(copy, data, redo=(night,), executor=counted)
    assert Store.open(copy).attributes["pending"]["redo"] == [night]
    counted = _Crash(1000)
    path, _ = _reduce(copy, data, redo=(night,), executor=counted)
    # of 4 blocks of the survey, 2 stacks, 4 blocks and 2 fits in each of two rounds for the star profiles,
    # 4 blocks that are measured and 2 parts whose quality is measured, the crash came after n + 1
    assert 1000 - counted.n_left == 24 - (n_blocks + 1)
    assert integrity.compare(together, path) == []
    assert Store(path).attributes.get("pending", {}) == {}


def test_redo__a_late_part_is_taken_up_into_its_night(data, together, tmp_path):
    early = tmp_path / "early"
    shutil.copytree(data, early)
    hidden = sorted((early / NIGHTS[1]).iterdir())[2]
    late = hidden.rename(tmp_path / hidden.name)
    out = tmp_path / "out"
    _reduce(out, early)
    late.rename(hidden)
    path, _ = _reduce(out, early)
    assert f"{NIGHTS[1]}.2" in [part.night for part in Store(path).camera("1:g").parts]
    path, _ = _reduce(out, early, redo=(NIGHTS[1],))
    assert integrity.compare(together, path) == []


def test_redo__a_night_without_frames_is_refused_before_anything_is_removed(data, together, copy):
    with pytest.raises(driver.WrongParameters, match=r"2024-02-02 .*no frame.*2023-12-31"):
        _reduce(copy, data, redo=("2024-02-02",))
    assert integrity.compare(together, copy / STORE_NAME) == []


def test_remove__a_night_stays_away_until_it_is_redone(data, together, copy):
    lines = nights.remove_night(copy, NIGHTS[1])
    assert [line.split(":")[0] + line.split(":")[1][:1] for line in lines] == ["1g", "2r"]
    path, told = _reduce(copy, data)
    assert f"16 frame(s) of removed nights are left out ({NIGHTS[1]})" in told
    assert sorted(set(results.light_curves(copy, "1:g")["night"].to_numpy())) == [NIGHTS[0], NIGHTS[2]]
    path, _ = _reduce(copy, data, redo=(NIGHTS[1],))
    assert integrity.compare(together, path) == []


def test_remove__the_reference_night_and_unknown_nights_are_refused(together, copy):
    with pytest.raises(driver.ReductionError, match=r"reference night of 1:g.*--reference-night"):
        nights.remove_night(copy, NIGHTS[0])
    with pytest.raises(driver.ReductionError, match="no night 2030-01-01: 2023-12-31, 2024-01-01, 2024-01-03"):
        nights.remove_night(copy, "2030-01-01")
    assert integrity.compare(together, copy / STORE_NAME) == []


def test_new__begins_again_and_keeps_the_old_store(data, together, copy):
    with pytest.raises(driver.ReductionError, match=r"threshold: 5\.0 before, 6\.0 now.*--new"):
        _reduce(copy, data, parameters={"threshold": 6.0})
    with pytest.raises(KeyboardInterrupt):
        _reduce(copy, data, parameters={"threshold": 6.0}, new=True, executor=_Crash(20))
    path, _ = _reduce(copy, data, parameters={"threshold": 6.0}, new=True)
    assert integrity.compare(together, copy / "reduction.old-1.zarr") == []
    assert not (copy / "reduction.old-2.zarr").exists()
    assert Store(path).attributes.get("pending", {}) == {}
    assert driver.stored_parameters(copy).threshold == 6.0
    _reduce(copy, data, parameters={"threshold": 6.0}, new=True)
    assert (copy / "reduction.old-2.zarr").exists()


@pytest.mark.parametrize("n_blocks", [10, 30])
def test_rebuild_reference__an_earlier_night_becomes_the_reference(data, together, tmp_path, n_blocks):
    _reduce(tmp_path, data / NIGHTS[1])
    path, _ = _reduce(tmp_path, data)
    assert Group(path, "1-g").attributes["reference_night"] == NIGHTS[1]
    with pytest.raises(driver.ReductionError, match=r"--rebuild-reference .* 16 frame\(s\).*Give all"):
        _reduce(tmp_path, data / NIGHTS[0], data / NIGHTS[1], rebuild_reference=True)
    with pytest.raises(KeyboardInterrupt):
        _reduce(tmp_path, data, rebuild_reference=True, executor=_Crash(n_blocks))
    path, _ = _reduce(tmp_path, data, rebuild_reference=True)
    assert Group(path, "1-g").attributes["reference_night"] == NIGHTS[0]
    assert integrity.compare(together, path) == []


def _rebinned(source, target):
    """The same frames as a camera with twice the binning and half the exposure time gives them."""
    target.mkdir()
    for file in source.iterdir():
        with fits.open(file) as opened:
            image, header = opened[0].data, opened[0].header
        binned = image.reshape(SHAPE[0] // 2, 2, SHAPE[1] // 2, 2).sum(axis=(1, 3)) / 2
        header["BINNING"] = "8x8"
        header["EXPOSURE"] = header["EXPOSURE"] / 2
        fits.writeto(target / file.name, np.rint(binned).clip(0, 65535).astype(np.uint16), header)


def test_other_binning_and_exposure_time__are_handled(data, tmp_path):
    _rebinned(data / NIGHTS[1], tmp_path / "binned")
    _reduce(tmp_path / "out", data / NIGHTS[0])
    path, _ = _reduce(tmp_path / "out", tmp_path / "binned", append=True)
    part = next(part for part in Store(path).camera("1:g").parts if part.night == NIGHTS[1])
    flags = Group(path, f"{part.group}/frames").read("flags")
    assert np.all(flags & np.uint32(UNUSABLE) == 0)
    transforms = Group(path, f"{part.group}/frames").read("transform")
    np.testing.assert_allclose([align.scale_of(matrix) for matrix in transforms], 0.5, atol=0.02)
    curves = results.light_curves(tmp_path / "out", "1:g").load()
    flux, err = curves["flux"].to_numpy(), curves["flux_err"].to_numpy()
    is_binned = curves["night"].to_numpy() == NIGHTS[1]
    ratio = np.median(flux[is_binned], axis=0) / np.median(flux[~is_binned], axis=0)
    error = ratio * np.hypot(*(np.median(err[chosen] / flux[chosen], axis=0) for chosen in (is_binned, ~is_binned)))
    # half the electrons; an aperture of the same angle loses a little more light of the coarser image
    assert np.all(np.abs(ratio - 0.5) < 4 * error + 0.02)


def test_another_field__is_told_as_such_and_spoils_nothing(data, together, tmp_path):
    simulate_observations(
        tmp_path / "elsewhere", **{**FIELD, "seed": 77, "filters": ("g",)}, start=_start("2024-01-05")
    )
    _reduce(tmp_path / "out", data)
    path, told = _reduce(tmp_path / "out", tmp_path / "elsewhere", append=True)
    assert "1:g 2024-01-05: none of 8 frames can be used (8 not_aligned)" in told
    assert "another field than 2023-12-31" in told
    for group in ("1-g/catalog", f"1-g/{NIGHTS[1]}/photometry/aperture"):
        for name, before in Group(together, group).read_all().items():
            np.testing.assert_array_equal(before, Group(path, group).read_all()[name])


def test_a_night_that_does_not_fit_the_parameters__is_refused_alone(data, tmp_path):
    odd = tmp_path / "odd"
    odd.mkdir()
    for file in sorted((data / NIGHTS[1]).iterdir())[:3]:
        with fits.open(file) as opened:
            fits.writeto(odd / file.name, opened[0].data[:95], opened[0].header)
    path, told = _reduce(tmp_path / "out", data / NIGHTS[0], odd, parameters={"rebin_factor": 2})
    assert f"Set aside: 3 frame(s) of 1:g {NIGHTS[1]}, the first is {odd}" in told
    assert "rebin_factor must divide the frame" in told
    assert [part.night for part in Store(path).camera("1:g").parts] == [NIGHTS[0]]
    lines = "\n".join(status.describe_reduction(tmp_path / "out"))
    assert lines.count("rebin_factor must divide") == 3


def test_command_line__remove_and_redo(data, together, copy, capsys):
    options = ["--n-pixels", "5", "--border-width", "4", "--frames-per-block", "4", "--cluster", "none"]
    assert cli.main(["remove", str(copy), NIGHTS[1]]) == 0
    assert "1:g 2024-01-01: 8 frames removed." in capsys.readouterr().out
    assert cli.main(["remove", str(copy), NIGHTS[1]]) == 1
    assert "has no night 2024-01-01" in capsys.readouterr().err
    assert cli.main(["reduce", str(data), "--out", str(copy), *options, "--redo", NIGHTS[1]]) == 0
    assert integrity.compare(together, copy / STORE_NAME) == []
    capsys.readouterr()
    assert cli.main(["reduce", str(data), "--out", str(copy), *options, "--redo", "2030-01-01"]) == 2
    assert "no frame of it is among those given" in capsys.readouterr().err


def test_redo__a_camera_that_is_not_given_keeps_its_night(data, together, copy):
    path, _ = _reduce(copy, *sorted((data / NIGHTS[0]).glob("*g2*")), redo=(NIGHTS[0],))
    assert integrity.compare(together, path) == []


def test_redo__copies_are_refused_before_anything_is_removed(data, together, tmp_path, copy):
    shutil.copytree(data, tmp_path / "copies", copy_function=shutil.copy2)
    with pytest.raises(driver.ReductionError, match="were reduced before from another place"):
        _reduce(copy, tmp_path / "copies", redo=(NIGHTS[1],))
    assert integrity.compare(together, copy / STORE_NAME) == []


def test_redo__again_and_again(data, tmp_path):
    """Each time a file of the night has changed, also while an earlier run was interrupted."""
    copied = tmp_path / "data"
    shutil.copytree(data / NIGHTS[0], copied)
    _reduce(tmp_path / "out", copied)
    file = sorted(copied.iterdir())[0]
    for number in (1, 2):
        os.utime(file, (number, number))
        _reduce(tmp_path / "out", copied, redo=(NIGHTS[0],))
    os.utime(file, (3, 3))
    with pytest.raises(KeyboardInterrupt):
        _reduce(tmp_path / "out", copied, redo=(NIGHTS[0],), executor=_Crash(1))
    os.utime(file, (4, 4))
    path, _ = _reduce(tmp_path / "out", copied, redo=(NIGHTS[0],))
    assert 4.0 in Group(path, f"1-g/{NIGHTS[0]}/frames").read("file_mtime")


def test_new__with_other_parameters_than_an_interrupted_one(data, copy):
    with pytest.raises(KeyboardInterrupt):
        _reduce(copy, data, parameters={"threshold": 6.0}, new=True, executor=_Crash(20))
    _reduce(copy, data, parameters={"threshold": 7.0}, new=True)
    assert driver.stored_parameters(copy).threshold == 7.0
    assert (copy / "reduction.old-2.zarr").exists()


def test_a_link_to_the_frames_is_no_copy(data, together, tmp_path, copy):
    (tmp_path / "link").symlink_to(data)
    path, _ = _reduce(copy, tmp_path / "link")
    assert integrity.compare(together, path) == []


def test_a_task_of_a_run_that_was_taken_over_writes_nothing(data, together, copy):
    part = Store(copy / STORE_NAME).camera("1:g").parts[1]
    _reduce(copy, data, redo=(NIGHTS[1],))
    arrays = {"frames": {"fwhm": np.zeros(4)}}
    with pytest.raises(StoreError, match="made anew by another run"):
        part.write_block(0, arrays)
    assert integrity.compare(together, copy / STORE_NAME) == []


@pytest.mark.parametrize("label", ["a/b", "../x", ".hidden"])
def test_command_line__a_label_that_is_no_name(data, tmp_path, capsys, label):
    command = ["reduce", str(data), "--out", str(tmp_path / "out"), "--cluster", "none", f"--label={label}"]
    assert cli.main(command) == 2
    assert "a label must be letters" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
