"""Windows with one or two stars, the rule in fast photometry: a shift is found, and no wrong one without a word."""

from types import SimpleNamespace

import numpy as np
import pytest
from small_nights import KEY, NIGHT, add_star, add_stars, read_out, reduce_frames, write_frame

from opticam_dask import PSFPhotometer
from opticam_dask.flags import UNUSABLE, FrameFlag
from opticam_dask.kernels.images.matching.match import AlignmentError, find_transform
from opticam_dask.pipeline import frozen

TWO = np.array([[45.0, 50.3], [80.2, 70.6]])


def few(reference, frame):
    return find_transform(reference, frame, shift_of_few=True)


# ---------------------------------------------------------------- the match


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.8, -0.6), (6.0, -9.0)])
def test_match__two_stars_give_their_shift(shift):
    found = few(TWO, TWO + shift + np.array([[0.05, -0.1], [-0.1, 0.05]]))
    assert np.allclose(found.transform[:2, 2], shift, atol=0.1)
    assert np.array_equal(found.transform[:2, :2], np.eye(2))
    assert found.n_matched == 2


@pytest.mark.parametrize(
    "frame",
    [
        [TWO[0], TWO[1] + [2.0, 0.0]],  # a cosmic ray has dragged one centroid
        [TWO[0] + 0.3, [70.0, 20.0]],  # one is lost, a cosmic ray is elsewhere
        [TWO[0] + 4.0, [99.0, 30.0]],
        [TWO.mean(axis=0)],  # one detection, as near to either star
        [[20.0, 100.0], TWO[0]],
    ],
)
def test_match__what_may_be_wrong_is_refused(frame):
    with pytest.raises(AlignmentError):
        few(TWO, np.array(frame))


@pytest.mark.parametrize("star", [0, 1])
def test_match__one_of_two_stars_is_lost(star):
    """The other one is where it was: which one it is does not depend on which is the brighter."""
    found = few(TWO, TWO[[star]] + [0.7, -0.5])
    assert np.allclose(found.transform[:2, 2], [0.7, -0.5])
    assert (found.n_matched, found.reference_index.tolist()) == (1, [star])


def test_match__one_star():
    assert np.allclose(few(TWO[:1], [TWO[0] + [9.0, 4.0]]).transform[:2, 2], [9.0, 4.0])
    assert few(TWO[:1], [TWO[0] + 2.0, [90.0, 20.0]]).frame_index.tolist() == [0]
    with pytest.raises(AlignmentError):  # the brightest is another one
        few(TWO[:1], [[90.0, 20.0], TWO[0] + 2.0])


def test_match__two_random_detections_are_no_match():
    rng = np.random.default_rng(5)
    n_accepted = 0
    for _ in range(2000):
        try:
            found = few(rng.uniform(0, 120, (2, 2)), rng.uniform(0, 120, (2, 2)))
        except AlignmentError:
            continue
        n_accepted += found.n_matched == 2  # of two so close that they are one, one is matched
    assert n_accepted <= 2


THREE = np.array([[14.3, 16.1], [37.2, 20.3], [22.8, 38.3]])
LIGHT = np.array([97e3, 31e3, 11e3])


@pytest.mark.parametrize("star", [0, 1, 2])
def test_match__one_of_three_stars_is_dragged_by_a_cosmic_ray(star):
    frame, light = THREE + np.array([0.6, -0.4]), LIGHT.copy()
    frame[star] += [-1.1, 1.2]
    light[star] *= 1.5
    found = find_transform(THREE, frame, reference_weights=LIGHT, frame_weights=light, shift_of_few=True)
    assert np.allclose(found.transform[:2, 2], [0.6, -0.4])
    assert star not in found.reference_index
    apart = np.array([[0.0, 0.0], [1.5, 0.0], [-1.0, 2.0]])
    for other in (frame[[1, 0, 2]], frame + apart):  # the light of other stars; none agree
        with pytest.raises(AlignmentError):
            find_transform(THREE, other, reference_weights=LIGHT, frame_weights=light, shift_of_few=True)


def test_match__without_being_asked_three_are_needed():
    with pytest.raises(AlignmentError, match="at least 3"):
        find_transform(TWO, TWO)


# ---------------------------------------------------------------- nights


def paint(directory, scenes, seed=18):
    """Frames of a window of 120 pixels; a scene is a list of ``(x, y, flux)``, and pixels that are hit."""
    rng = np.random.default_rng(seed)
    shifts = rng.normal(0, 0.7, (len(scenes), 2))
    for number, ((stars, hits), shift) in enumerate(zip(scenes, shifts, strict=True)):
        image = add_stars(np.full((120, 120), 100.0), stars, shift)
        pixels = read_out(image, rng)
        for x, y in hits:
            pixels[y : y + 3, x : x + 4] += 9000
        write_frame(directory / "frames" / f"f{number:03d}.fits", pixels, 10.0 * number)
    return shifts


def _furthest_error(night, shifts):
    """Of the transforms of the usable frames, in pixels."""
    found = night.frames["transform"].to_numpy()[:, :2, 2]
    usable = (night.frames["flags"].to_numpy() & UNUSABLE) == 0
    truth = shifts - shifts[usable][0]
    return np.abs((found - found[usable][0] - truth)[usable]).max()


@pytest.fixture(scope="module")
def two_stars(tmp_path_factory):
    directory = tmp_path_factory.mktemp("two")
    clear = ([(45.0, 50.3, 1e5), (80.2, 70.6, 5e4)], [])
    scenes = [clear] * 10
    scenes[3] = ([(45.0, 50.3, 5e3), (80.2, 70.6, 5e4)], [])  # the brighter one is in eclipse
    scenes[4] = ([(80.2, 70.6, 5e4)], [])  # totally
    scenes[6] = ([(45.0, 50.3, 1e5)], [(100, 30)])  # behind cloud, with a cosmic ray
    scenes[7] = (clear[0], [(83, 70)])  # a cosmic ray beside a star
    shifts = paint(directory, scenes)
    return reduce_frames(directory), shifts


def test_two_stars__light_curves_with_default_options(two_stars):
    night, shifts = two_stars
    assert night.catalog.sizes["source"] == 2
    curves = night.curves()
    clear = [0, 1, 2, 5, 8, 9]
    assert np.isfinite(curves["flux"].to_numpy()[clear]).all()
    ratio = (curves["total"] / curves["total"].isel(frame=clear).median("frame")).to_numpy()
    assert np.allclose(ratio[clear], 1.0, atol=0.03)
    assert _furthest_error(night, shifts) < 0.75


def test_two_stars__an_eclipsed_star_is_measured_where_it_is(two_stars):
    night, _ = two_stars
    star = night.source_at(45.0, 50.3, within=4.0)
    assert night.curves()["total"].to_numpy()[3, star] == pytest.approx(5e3, abs=600)


def test_two_stars__frames_that_may_be_wrong_are_flagged(two_stars):
    flags = two_stars[0].frames["flags"].to_numpy()
    is_lost = (flags & UNUSABLE) != 0
    assert is_lost[6]
    assert not is_lost[[0, 1, 2, 3, 4, 5, 8, 9]].any()
    is_swapped = (flags & FrameFlag.SWAPPED) != 0  # against the reference frame, which may be frame 3
    assert is_swapped[3] != is_swapped[0]
    assert (is_swapped[[1, 2, 5, 8, 9]] == is_swapped[0]).all()


def test_one_star__is_tracked_and_a_cosmic_ray_is_not(tmp_path, capsys):
    scenes = [([(45.0, 50.3, 1e5)], [])] * 8
    scenes[2] = ([], [(70, 50)])  # the star is lost
    shifts = paint(tmp_path, scenes)
    night = reduce_frames(tmp_path, verbose=True)
    assert night.catalog.sizes["source"] == 1
    lost = np.flatnonzero(night.frames["flags"].to_numpy() & UNUSABLE)
    assert lost.tolist() == [2]
    assert _furthest_error(night, shifts) < 0.1
    assert f"{KEY} {NIGHT}: 7 of 8 frames are aligned by one or two stars" in " ".join(capsys.readouterr().out.split())


def test_three_stars__of_which_two_are_one_in_some_frames(tmp_path):
    """Two stars that only good seeing tells apart: the other frames are aligned as well."""
    rng = np.random.default_rng(34)
    shifts = rng.normal(0.0, 0.4, (8, 2))
    for number, (dx, dy) in enumerate(shifts):
        image = np.full((64, 64), 150.0)
        for x, y, flux in ((20.0, 22.0, 6e4), (25.5, 26.0, 3e4), (46.0, 40.0, 1.2e5)):
            add_star(image, x + dx, y + dy, flux, 3.6 + 1.6 * (number % 2))
        write_frame(tmp_path / "frames" / f"f{number}.fits", read_out(image, rng), 10.0 * number)
    night = reduce_frames(tmp_path, PSFPhotometer())
    assert np.ptp(night.frames["n_sources"].to_numpy()) == 1
    assert not np.any(night.frames["flags"].to_numpy() & UNUSABLE)
    assert _furthest_error(night, shifts) < 0.4
    curves = night.curves("psf")
    for x, y, flux in ((20.0, 22.0, 6e4), (25.5, 26.0, 3e4)):
        pull = (curves["total"] - flux).to_numpy()[:, night.source_at(x, y)] / curves["total_err"].to_numpy().mean()
        assert np.all(np.abs(pull) < 5.0)


def test_no_catalog__the_last_line_speaks_of_detections_only_when_there_are_none(monkeypatch):
    setup = SimpleNamespace(path="a.zarr", parameters=SimpleNamespace(transform_type="affine"))
    flags = np.full(5, FrameFlag.REDUCED | FrameFlag.NOT_ALIGNED, dtype=np.uint32)
    parts = [SimpleNamespace(frames={"flags": flags})]
    monkeypatch.setattr(frozen, "parts_with_reference", lambda _: parts)
    said = frozen.no_catalog(setup)
    assert "none of 5 frames can be used (5 not_aligned)" in said
    assert "--transform-type translation" in said
    assert "detected" not in said
    parts.clear()
    assert "no camera has a detected source" in frozen.no_catalog(setup)
