"""A frame that could not be aligned is measured where an observer says its stars are, until that is taken back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_nights import FIELD, KEY, SmallNight, add_star, read_out, reduce_frames, write_frame

import opticam_dask as opticam
from opticam_dask import AperturePhotometer, cli
from opticam_dask.flags import UNUSABLE, FrameFlag, SourceFlag
from opticam_dask.kernels.images.matching import align, match

SIZE, SKY, FWHM, N_FRAMES = 200, 400.0, 4.0, 8
#: The frame that is not aligned: the telescope was turned and most of the field is behind a cloud but for two stars.
LOST = 5
#: Stars that are seen in it.
SEEN = (0, 1)


def _to_frame(index: int) -> np.ndarray:
    angle = np.deg2rad(40.0 if index == LOST else 0.05 * index)
    centre, back = np.eye(3), np.eye(3)
    centre[:2, 2], back[:2, 2] = -(SIZE - 1) / 2, (SIZE - 1) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle), 0.7 * index], [np.sin(angle), np.cos(angle), -0.4], [0, 0, 1]])
    return back @ turn @ centre


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("by_hand")
    rng = np.random.default_rng(3)
    for index in range(N_FRAMES):
        electrons = np.full((SIZE, SIZE), SKY)
        places = align.apply_transform(_to_frame(index), FIELD[:, :2])
        for star, ((x, y), light) in enumerate(zip(places, FIELD[:, 2], strict=True)):
            if index != LOST or star in SEEN:
                add_star(electrons, x, y, light, FWHM)
        write_frame(directory / "frames" / f"f{index:02d}.fits", read_out(electrons, rng), 20.0 * index)
    reduce_frames(directory, AperturePhotometer())
    return directory


def _pairs(night: Path, error: float = 0.0) -> list[tuple[int, float, float]]:
    """Stars that are seen in the frame, with their places in it."""
    catalog = SmallNight(night / "out").catalog
    xy = np.column_stack([catalog["x"], catalog["y"]])
    places = align.apply_transform(_to_frame(LOST), FIELD[list(SEEN), :2])
    to_reference = _reference(night)
    found = []
    for star, (x, y) in zip(SEEN, places, strict=True):
        at = align.apply_transform(to_reference, FIELD[[star], :2])
        row = int(np.argmin(np.hypot(*(xy - at).T)))
        found.append((int(catalog["source_id"][row]), float(x) + error, float(y) - error))
    return found


def _reference(night: Path) -> np.ndarray:
    """Places of the field on the reference image."""
    name = opticam.open_reduction(night / "out")["1-V/reference"].attrs["reference_file"]
    return _to_frame(int(str(name)[-7:-5]))


def _reduce_again(night: Path) -> SmallNight:
    reduce_frames(night, AperturePhotometer())
    return SmallNight(night / "out")


def _repaired(night: Path) -> SmallNight:
    assert cli.main(["verify", str(night / "out"), "--repair", "--cluster", "none"]) == 0
    return SmallNight(night / "out")


def _lose_chunks(part: Path, *names: str) -> None:
    """Drop all chunks of arrays of a part, as a disk does."""
    for name in names:
        chunks = [file for file in (part / name).rglob("*") if file.is_file() and file.name != "zarr.json"]
        assert chunks, name
        for file in chunks:
            file.unlink()


def test_frame_is_measured_with_the_transform_of_an_observer_and_no_longer_when_it_is_taken_back(night: Path) -> None:
    before = SmallNight(night / "out")
    flags = before.frames["flags"].to_numpy()
    assert flags[LOST] & np.uint32(FrameFlag.NOT_ALIGNED)
    flux = opticam.light_curves(night / "out", KEY, "aperture")["flux"].to_numpy()
    assert np.isnan(flux[LOST]).all()
    words = [str(word) for pair in _pairs(night, error=0.4) for word in pair]
    told = ["mark", str(night / "out"), "transform", "--key", KEY, "--frames", f"f{LOST:02d}.fits", "--pairs", *words]
    assert cli.main([*told, "--who", "Ada"]) == 0
    # a mark of a transform leaves measurements as they are
    np.testing.assert_array_equal(opticam.light_curves(night / "out", KEY, "aperture")["flux"], flux)

    after = _reduce_again(night)
    flags = after.frames["flags"].to_numpy()
    assert flags[LOST] & np.uint32(FrameFlag.BY_HAND)
    assert not flags[LOST] & np.uint32(UNUSABLE)
    assert np.count_nonzero(flags & np.uint32(FrameFlag.BY_HAND)) == 1
    expected = _to_frame(LOST) @ align.invert_transform(_reference(night))
    middle = np.array([[SIZE / 2, SIZE / 2]])
    off = align.apply_transform(after.frames["transform"].to_numpy()[LOST], middle) - align.apply_transform(
        expected, middle
    )
    assert np.hypot(*off[0]) < 1.0
    curves = opticam.light_curves(night / "out", KEY, "aperture")
    now, source_flags = curves["flux"].to_numpy(), curves["flags"].to_numpy()
    others = np.delete(np.arange(N_FRAMES), LOST)
    np.testing.assert_array_equal(now[others], flux[others])
    seen = [int(np.flatnonzero(curves["source_id"] == pair[0])[0]) for pair in _pairs(night)]
    # as bright as in the other frames: the transform is right to a part of a pixel, and stars are centred
    np.testing.assert_allclose(now[LOST, seen] / np.median(flux[others][:, seen], axis=0), 1.0, atol=0.03)
    assert not np.any(source_flags[LOST, seen] & np.uint32(SourceFlag.NO_TRANSFORM))

    # the mark is in the store: what is lost is made again with it
    part = next(path for path in (night / "out").rglob(before.night) if path.is_dir())
    _lose_chunks(part, "frames/transform", "photometry/aperture/flux")
    repaired = _repaired(night)
    for name in ("transform", "flags"):
        np.testing.assert_array_equal(repaired.frames[name], after.frames[name])
    np.testing.assert_array_equal(opticam.light_curves(night / "out", KEY, "aperture")["flux"], now)

    (number,) = opticam.marks(night / "out").index.tolist()
    assert opticam.marks(night / "out").loc[number, "who"] == "Ada"
    opticam.unmark(night / "out", [number])
    back = _repaired(night)
    assert back.frames["flags"].to_numpy()[LOST] & np.uint32(FrameFlag.NOT_ALIGNED)
    assert not back.frames["flags"].to_numpy()[LOST] & np.uint32(FrameFlag.BY_HAND)
    assert "taken back" in str(back.frames["message"].to_numpy()[LOST])
    np.testing.assert_array_equal(opticam.light_curves(night / "out", KEY, "aperture")["flux"], flux)


def test_pairs_that_make_no_transform_are_refused(night: Path) -> None:
    out, (first, second) = night / "out", _pairs(night)
    frame = f"f{LOST:02d}.fits"
    for pairs, message in (
        ([first], "two or more different sources"),
        ([first, first], "two or more different sources"),
        ([first, (second[0], second[1] + 120.0, second[2])], "not the same stars"),
        ([first, (999, 1.0, 2.0)], "no source 999"),
    ):
        with pytest.raises(ValueError, match=message):
            opticam.mark(out, "transform", KEY, frames=[frame], pairs=pairs)
    with pytest.raises(ValueError, match="of one frame"):
        opticam.mark(out, "transform", KEY, pairs=[first, second])
    with pytest.raises(ValueError, match="kind transform"):
        opticam.mark(out, "junk", KEY, frames=[frame], pairs=[first, second])
    assert cli.main(["mark", str(out), "transform", "--key", KEY, "--frames", frame, "--pairs", "1", "2"]) == 2


def test_follow_guess__finds_the_stars_near_where_they_are_told_to_be() -> None:
    rng = np.random.default_rng(1)
    reference = rng.uniform(0, 500, (12, 2))
    angle = np.deg2rad(30.0)
    true = np.array([[np.cos(angle), -np.sin(angle), 40.0], [np.sin(angle), np.cos(angle), -9.0], [0, 0, 1]])
    frame = np.vstack(
        [align.apply_transform(true, reference[:6]) + rng.normal(0, 0.1, (6, 2)), rng.uniform(0, 500, (4, 2))]
    )
    guess = true + np.array([[0, 0, 1.5], [0, 0, -1.0], [0, 0, 0]])
    found = match.follow_guess(reference, frame, guess)
    assert found is not None
    assert found.n_matched == 6
    np.testing.assert_allclose(found.transform, true, atol=0.3)
    assert match.follow_guess(reference, frame[:2], guess) is None
