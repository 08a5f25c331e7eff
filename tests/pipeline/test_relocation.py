"""Frames of a reduction that were moved or copied to another place."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from small_nights import FIELD, INSTRUMENT, add_stars, read_out, reduce_frames, write_frame

from opticam_dask import AperturePhotometer, Instrument, OptimalPhotometer, Reducer, cli
from opticam_dask.pipeline import relocation
from opticam_dask.pipeline.reduction import ReductionError
from opticam_dask.steps.frame_steps import FrameLost
from opticam_dask.store import integrity
from opticam_dask.store.store import Store

CAMERA = Instrument.from_json(INSTRUMENT)
NIGHTS = ("2024-01-01", "2024-01-02")


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    """Directory with ``frames`` (two nights, a folder each) and ``out``."""
    top = tmp_path_factory.mktemp("reduced")
    rng = np.random.default_rng(3)
    for night in NIGHTS:
        for frame in range(4):
            image = add_stars(np.full((200, 200), 100.0), FIELD)
            write_frame(
                top / "frames" / night / f"{frame}.fits", read_out(image, rng), 6.0 * frame, f"{night}T20:00:00"
            )
    reduce_frames(top, AperturePhotometer())
    return top


@pytest.fixture
def moved(reduced, tmp_path):
    """The store at another place, and copies of the frames, with times of their own, at a third one."""
    shutil.copytree(reduced / "out", tmp_path / "elsewhere" / "out")
    shutil.copytree(reduced / "frames", tmp_path / "archive" / "disk7", copy_function=shutil.copyfile)
    return tmp_path / "elsewhere" / "out", tmp_path / "archive"


def _measure(out: Path, data: Path) -> None:
    """A further photometry: it needs the frames."""
    how = {"instrument": CAMERA, "client": "none", "show_plots": False, "verbose": False}
    Reducer(out, data, **how).photometry(OptimalPhotometer())


def test_relocate__a_further_photometry_has_the_same_bits_as_at_the_old_place(reduced, moved, tmp_path, capsys):
    out, data = moved
    there = shutil.copytree(reduced / "out", tmp_path / "stayed")
    _measure(there, reduced / "frames")
    hidden = (reduced / "frames").rename(reduced / "hidden")
    try:
        with pytest.raises(FrameLost, match="opticam-dask relocate"):
            _measure(out, data)
        assert cli.main(["relocate", str(out), str(data)]) == 0
        told = capsys.readouterr().out
        assert all(f"1:V {night}: 4 frames, now below {data}/disk7" in told for night in NIGHTS)
        _measure(out, data)
    finally:
        hidden.rename(reduced / "frames")
    assert integrity.find_damage(Store.open(out).path) == []
    times = ("data_root", "file_mtime")
    differences = integrity.compare(Store.open(there).path, Store.open(out).path)
    assert [line for line in differences if not any(word in line for word in times)] == []


def test_relocate__one_night_of_two(moved):
    out, data = moved
    shutil.rmtree(data / "disk7" / NIGHTS[0])
    lines = relocation.relocate(out, data, CAMERA)
    assert ["not found" in line for line in lines] == [True, False]


def test_relocate__the_copy_that_resembles_the_old_place_is_taken(moved):
    out, data = moved
    shutil.copytree(data / "disk7", data / "frames")
    relocation.relocate(out, data, CAMERA)
    assert [part.attributes["data_root"] for part in Store.open(out).camera("1:V").parts] == [
        f"{data}/frames/{night}" for night in NIGHTS
    ]


def test_relocate__frames_in_other_directories_and_by_other_names_are_known_by_their_checksums(
    moved, reduced, tmp_path
):
    out, data = moved
    there = shutil.copytree(reduced / "out", tmp_path / "stayed")
    _measure(there, reduced / "frames")
    for night in NIGHTS:
        for index, file in enumerate(sorted((data / "disk7" / night).glob("*.fits"))):
            to = data / ("early" if index < 2 else "late") / f"{night}_{3 - index}.fit"
            to.parent.mkdir(exist_ok=True)
            file.rename(to)
    (data / "late" / f"{NIGHTS[1]}_0.fit").unlink()
    hidden = (reduced / "frames").rename(reduced / "hidden")
    try:
        lines = relocation.relocate(out, data, CAMERA)
        assert lines[0].endswith(f"4 frames, now below {data}.")
        assert lines[1].endswith("but for 1 that are nowhere and cannot be measured again, e.g. 3.fits.")
        _measure(out, data)
    finally:
        hidden.rename(reduced / "frames")
    for part, before in zip(Store.open(out).camera("1:V").parts, Store.open(there).camera("1:V").parts, strict=True):
        n_there = 4 if part.night == NIGHTS[0] else 3
        now, then = (group.photometry("optimal")["flux"][:n_there] for group in (part, before))
        np.testing.assert_array_equal(now, then)
    assert integrity.find_damage(Store.open(out).path) == []


def test_relocate__a_frame_that_is_nowhere_any_more_costs_that_frame(moved, reduced, tmp_path):
    """One that is still at the old place is to be brought along."""
    out, data = moved
    (data / "disk7" / NIGHTS[1] / "2.fits").unlink()
    for part in Store.open(out).camera("1:V").parts:
        part.update({"data_root": str(tmp_path / "gone" / part.night)})
    lines = relocation.relocate(out, data, CAMERA)
    assert lines[0].endswith(f"/{NIGHTS[0]}.")
    assert lines[1].endswith("but for 1 that are nowhere and cannot be measured again, e.g. 2.fits.")
    _measure(out, data)
    for part in Store.open(out).camera("1:V").parts:
        is_lost = np.isnan(part.photometry("optimal")["flux"]).all(axis=1)
        assert is_lost.tolist() == [False, False, part.night == NIGHTS[1], False]


def _other_time(path: Path) -> None:
    image = np.zeros((200, 200), dtype=np.uint16)
    write_frame(path, image, 6.5, f"{NIGHTS[1]}T20:00:00")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (
            lambda path: path.unlink(),
            r"3 of 4 frames are below .*2\.fits is not as it was reduced: there is no such file",
        ),
        (_other_time, r"2\.fits is not as it was reduced: it was exposed at MJD"),
        (lambda path: path.write_bytes(path.read_bytes()[:-2880]), r"2\.fits is not as it was reduced: .*cut"),
        (
            lambda path: path.write_bytes(path.read_bytes() + bytes(2880)),
            r"2\.fits is not as it was reduced: it has .* bytes",
        ),
    ],
    ids=["missing", "another time", "cut short", "longer"],
)
def test_relocate__what_is_not_the_reduced_frames_changes_nothing(moved, spoil, expected):
    out, data = moved
    spoil(data / "disk7" / NIGHTS[1] / "2.fits")
    before = [part.attributes["data_root"] for part in Store.open(out).camera("1:V").parts]
    with pytest.raises(ReductionError, match=expected):
        relocation.relocate(out, data, CAMERA)
    assert [part.attributes["data_root"] for part in Store.open(out).camera("1:V").parts] == before


def test_relocate__other_frames_are_refused(moved, tmp_path):
    out, _ = moved
    write_frame(tmp_path / "other" / "a.fits", np.zeros((200, 200), dtype=np.uint16), 0.0)
    with pytest.raises(ReductionError, match=r"none of the 2 part\(s\).*Expected the frames that were below"):
        relocation.relocate(out, tmp_path / "other", CAMERA)
