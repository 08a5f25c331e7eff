"""Transforms between frames: matching of source lists, limits, resampling."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from opticam_dask.kernels.images.matching import align, triangles
from opticam_dask.kernels.images.matching.match import AlignmentError, find_transform

SIZE = 512


def similarity(angle=0.0, shift=(0.0, 0.0), scale=1.0, size=SIZE):
    """Turn by ``angle`` degrees about the field centre and scale, then shift: reference to frame."""
    turn = np.deg2rad(angle)
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    centre = np.full(2, (size - 1) / 2)
    transform = np.eye(3)
    transform[:2, :2] = linear
    transform[:2, 2] = scale * centre + (scale - 1) / 2 - linear @ centre + shift
    return transform


def observe(seed, transform, *, n_stars=30, missing=0.4, spurious=0.4, noise=0.2, scale=1.0):
    """Lists of a reference and a frame: stars missing, spurious entries, noise in both, in any order."""
    rng = np.random.default_rng(seed)
    reference = rng.uniform(0, SIZE, (n_stars, 2))
    seen = rng.random(n_stars) >= missing
    frame = align.apply_transform(transform, reference)[seen]
    frame = np.vstack([frame, rng.uniform(0, SIZE * scale, (round(spurious * n_stars), 2))])
    frame = frame[rng.permutation(len(frame))]
    frame = frame[((frame >= 0) & (frame < SIZE * scale)).all(axis=1)]
    return reference + rng.normal(0, noise, reference.shape), frame + rng.normal(0, noise, frame.shape)


def furthest_error(found, truth, size=SIZE):
    """Largest error of a transform over the field, in pixels of the frame."""
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]], dtype=float)
    return np.hypot(*(align.apply_transform(found, corners) - align.apply_transform(truth, corners)).T).max()


# ---------------------------------------------------------------- find_transform: what it must find


@pytest.mark.parametrize("noise", [0.1, 0.3])
@pytest.mark.parametrize(
    ("angle", "shift", "scale"),
    [(0.2, (3, -5), 1.0), (180, (4, 2), 1.0), (77, (30, -20), 1.0), (-141.3, (0, 0), 1.0), (12, (9, 30), 2.0)],
    ids=["jitter", "flip", "turned", "turned far", "other binning"],
)
def test_find_transform__missing_and_spurious_entries(angle, shift, scale, noise):
    truth = similarity(angle, shift, scale)
    for seed in range(25):
        reference, frame = observe(seed, truth, noise=noise, scale=scale)
        found = find_transform(reference, frame, expected_scale=scale)
        # About 15 pairs, extrapolated to the corners of the field.
        assert furthest_error(found.transform, truth) < 5 * noise * scale
        # Two noisy positions, two axes each; the reference's noise is scaled up.
        assert found.rms < 1.5 * noise * np.sqrt(2 * (1 + scale**2))


def test_find_transform__pairs_are_the_true_ones():
    truth = similarity(20, (11, -30))
    reference, frame = observe(3, truth, noise=0.1)
    found = find_transform(reference, frame)
    expected = align.apply_transform(truth, reference)
    apart = np.hypot(*(expected[:, None] - frame).transpose(2, 0, 1))
    is_true = apart < 1
    assert is_true[found.reference_index, found.frame_index].all()
    assert found.n_matched == len(found.reference_index) >= is_true.any(axis=1).sum() - 1
    assert len(set(found.frame_index)) == found.n_matched
    assert (np.diff(found.reference_index) > 0).all()


def test_find_transform__drift_of_half_the_field():
    truth = similarity(0.3, (SIZE / 2, 0))
    n_found = 0
    for seed in range(40):
        reference, frame = observe(seed, truth)
        apart = np.abs(align.apply_transform(truth, reference)[:, None] - frame).max(axis=2)
        n_common = (apart < 1.5).any(axis=1).sum()
        try:
            found = find_transform(reference, frame)
        except AlignmentError:
            assert n_common <= 6  # of 30 and 17: too few to tell from chance
            continue
        n_found += 1
        # Five stars in one half of the field do not fix its far corners better.
        assert furthest_error(found.transform, truth) < 3
    assert n_found >= 34


@pytest.mark.parametrize("angle", [0.5, 40, 180])
def test_find_transform__exactly_three_stars(angle):
    truth = similarity(angle, (20, -35))
    reference = np.array([[100.0, 120], [400, 180], [230, 390]])
    noise = np.random.default_rng(1).normal(0, 0.1, (3, 2))
    found = find_transform(reference, (align.apply_transform(truth, reference) + noise)[[2, 0, 1]])
    assert found.n_matched == 3
    assert found.frame_index.tolist() == [1, 2, 0]
    assert furthest_error(found.transform, truth) < 0.5


def test_find_transform__three_common_stars_among_spurious_and_missing():
    truth = similarity(1.0, (6, 3))
    stars = np.array([[100.0, 120], [400, 180], [230, 390]])
    reference = np.vstack([stars, [[60.0, 470]]])
    frame = np.vstack([[[480.0, 40]], align.apply_transform(truth, stars), [[333.0, 300]]])
    found = find_transform(reference, frame)
    assert found.reference_index.tolist() == [0, 1, 2]
    assert found.frame_index.tolist() == [1, 2, 3]


def test_find_transform__collinear_stars():
    at = np.array([0.0, 35, 110, 220, 310, 420])
    for direction in ([1.0, 0.0], [0.0, 1.0], [0.6, 0.8]):
        reference = np.array([40.0, 60]) + at[:, None] * direction
        for angle in (0.4, 70, 180):
            truth = similarity(angle, (5, 5))
            found = find_transform(reference, align.apply_transform(truth, reference))
            assert furthest_error(found.transform, truth) < 1e-6


def equilateral(side):
    return np.array([256.0, 250]) + side / np.sqrt(3) * np.array(
        [[np.cos(t), np.sin(t)] for t in np.deg2rad([90, 210, 330])]
    )


def test_find_transform__equilateral_triangle_hardly_moved_is_taken_as_that():
    noise = np.random.default_rng(5).normal(0, 0.1, (2, 3, 2))
    truth = similarity(0.3, (4, -7))
    reference = equilateral(200)
    frame = align.apply_transform(truth, reference) + noise[0]
    assert furthest_error(find_transform(reference + noise[1], frame).transform, truth) < 1


def test_find_transform__equilateral_triangle_turned_is_ambiguous():
    reference = equilateral(200)
    frame = align.apply_transform(similarity(50, (4, -7)), reference)
    with pytest.raises(AlignmentError, match="ambiguous"):
        find_transform(reference, frame)


def test_find_transform__isosceles_triangle_is_not_ambiguous():
    reference = np.array([[256.0, 400], [180, 150], [332, 150]])
    truth = similarity(-95, (12, 3))
    found = find_transform(reference, align.apply_transform(truth, reference))
    assert furthest_error(found.transform, truth) < 1e-6


def test_find_transform__duplicates_count_once():
    rng = np.random.default_rng(2)
    pair = np.array([[100.0, 100], [400, 300]])
    split = np.repeat(pair, 4, axis=0) + rng.normal(0, 0.3, (8, 2))
    with pytest.raises(AlignmentError, match="2 sources of the reference"):
        find_transform(split, split + 3)
    reference, frame = observe(4, similarity(9))
    doubled = np.repeat(frame, 2, axis=0) + np.tile([[0.0, 0.0], [0.4, 0.3]], (len(frame), 1))
    found = find_transform(reference, doubled)
    assert furthest_error(found.transform, similarity(9)) < 1
    assert (found.frame_index % 2 == 0).all()


def test_find_transform__nan_positions_are_left_out():
    truth = similarity(33, (1, 2))
    reference, frame = observe(6, truth)
    plain = find_transform(reference, frame)
    with_gaps = find_transform(
        np.insert(reference, [0, 5], np.nan, axis=0),
        np.insert(frame, [2, 2], [[np.nan, 4.0], [np.inf, np.nan]], axis=0),
    )
    assert np.array_equal(plain.transform, with_gaps.transform)
    shifted = plain.reference_index + 1 + (plain.reference_index >= 5)
    assert with_gaps.reference_index.tolist() == shifted.tolist()


def test_find_transform__inputs_may_be_read_only_and_stay_as_they_are():
    reference, frame = observe(7, similarity(3))
    weights = np.ones(len(frame))
    for array in (reference, frame, weights):
        array.flags.writeable = False
    before = reference.copy(), frame.copy()
    find_transform(reference, frame, frame_weights=weights)
    assert np.array_equal(before[0], reference)
    assert np.array_equal(before[1], frame)


def test_find_transform__bright_sources_count_more():
    """Photon noise falls with flux: weights must beat equal counting, over many frames."""
    truth, errors = similarity(0.2, (3, 4)), {"weighted": [], "equal": []}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        reference = rng.uniform(0, SIZE, (20, 2))
        flux = np.sort(10 ** rng.uniform(3, 5, 20))[::-1]
        noise = 0.2 * np.sqrt(1e4 / flux)[:, None] * rng.normal(size=(20, 2))
        frame = align.apply_transform(truth, reference) + noise
        for name, weights in (("weighted", flux), ("equal", None)):
            found = find_transform(reference, frame, reference_weights=weights, frame_weights=weights)
            errors[name].append(furthest_error(found.transform, truth))
    assert np.mean(errors["weighted"]) < 0.8 * np.mean(errors["equal"])


def test_find_transform__a_few_bright_trailed_stars_do_not_pull_the_fit():
    """When the telescope jerks, the centroids of the brightest stars alone move along the trail."""
    rng = np.random.default_rng(8)
    reference = rng.uniform(0, SIZE, (20, 2))
    flux = np.geomspace(2e5, 1e4, 20)
    frame = reference + np.array([40.0, -25]) + rng.normal(0, 0.05, (20, 2))
    frame[:4] += [[0, 2.2], [0, 1.9], [0, 1.4], [0, 1.0]]
    found = find_transform(reference, frame, reference_weights=flux, frame_weights=flux)
    assert furthest_error(found.transform, similarity(0, (40, -25))) < 0.3
    assert found.rms < 0.15
    assert found.reference_index.min() == 4


def test_find_transform__weights_that_say_nothing_do_no_harm():
    truth = similarity(0.2, (3, 4))
    reference, frame = observe(9, truth)
    weights = np.full(len(frame), np.nan)
    weights[:3] = [-5.0, 0.0, np.inf]
    found = find_transform(reference, frame, frame_weights=weights, reference_weights=np.zeros(len(reference)))
    assert furthest_error(found.transform, truth) < 1


@pytest.mark.parametrize("angle", [0.6, 180])
@pytest.mark.parametrize("shift", [(25.0, 4.0), (150.0, -60.0)])
def test_find_transform__moving_stars_against_more_fixed_hot_pixels(angle, shift):
    truth = similarity(angle, shift)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        hot = rng.uniform(0, SIZE, (18, 2))
        stars = rng.uniform(0, SIZE, (60, 2))
        moved = align.apply_transform(truth, stars)
        is_common = ((moved > 0) & (moved < SIZE)).all(axis=1)
        stars, moved = stars[is_common][:10], moved[is_common][:10]
        order = rng.permutation(28)
        reference = np.vstack([hot, stars + rng.normal(0, 0.1, stars.shape)])[order]
        frame = np.vstack([moved + rng.normal(0, 0.1, moved.shape), hot + rng.normal(0, 0.02, hot.shape)])
        found = find_transform(reference, frame)
        assert furthest_error(found.transform, truth) < 1
        assert found.n_matched >= 9


def test_find_transform__small_drift_against_more_fixed_hot_pixels():
    """The stars moved by less than the tolerance: they would match the unmoved detector too."""
    truth = similarity(0, (1.6, -0.9))
    rng = np.random.default_rng(10)
    hot, stars = rng.uniform(0, SIZE, (18, 2)), rng.uniform(0, SIZE, (11, 2))
    reference = np.vstack([hot, stars + rng.normal(0, 0.1, stars.shape)])
    frame = np.vstack([hot, align.apply_transform(truth, stars) + rng.normal(0, 0.1, stars.shape)])
    assert furthest_error(find_transform(reference, frame).transform, truth) < 0.5


def test_find_transform__hot_pixels_in_another_binning():
    truth = similarity(0.3, (70, 22), 2.0)
    rng = np.random.default_rng(11)
    hot, stars = rng.uniform(20, SIZE - 80, (18, 2)), rng.uniform(60, SIZE - 100, (12, 2))
    reference = np.vstack([hot, stars])
    frame = np.vstack([2 * hot + 0.5, align.apply_transform(truth, stars)])
    assert furthest_error(find_transform(reference, frame, expected_scale=2).transform, truth) < 1


def test_find_transform__field_at_rest_stays_at_rest():
    """Blends and poor centroids left over from a true match at rest must not outvote it."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        reference = rng.uniform(0, SIZE, (30, 2))
        frame = reference + rng.normal(0, 0.08, reference.shape)
        frame[20:] += rng.normal(0, 1.2, (10, 2))
        assert furthest_error(find_transform(reference, frame).transform, np.eye(3)) < 0.5


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.9, -0.6)])
def test_find_transform__pieces_of_a_defocused_star_are_no_field_that_moved(shift):
    """Three or four pieces of a ring are easily alike, turned by any angle: they are close together."""
    for seed in range(200):
        rng = np.random.default_rng(seed)
        stars, middle = rng.uniform(0, SIZE, (11, 2)), rng.uniform(50, SIZE - 50, 2)
        reference, frame = (
            np.vstack([stars + moved + rng.normal(0, 0.05, stars.shape), middle + rng.uniform(-9, 9, (4, 2))])
            for moved in (0.0, shift)
        )
        truth = similarity(0, shift)
        assert furthest_error(find_transform(reference, frame).transform, truth) < 0.5


def test_find_transform__mirrored_only_when_allowed():
    mirror = np.array([[-1.0, 0, SIZE - 1], [0, 1, 0], [0, 0, 1]])
    truth = align.compose(mirror, similarity(25, (8, 3)))
    reference, frame = observe(12, truth)
    with pytest.raises(AlignmentError):
        find_transform(reference, frame)
    found = find_transform(reference, frame, allow_reflection=True)
    assert furthest_error(found.transform, truth) < 1
    assert np.linalg.det(found.transform) < 0
    plain, upright = observe(12, similarity(25, (8, 3)))
    assert np.linalg.det(find_transform(plain, upright, allow_reflection=True).transform) > 0


def test_find_transform__scale_out_of_range_is_refused():
    truth = similarity(4, (0, 0), 1.3)
    reference, frame = observe(13, truth, scale=1.3, missing=0.2, spurious=0.1)
    with pytest.raises(AlignmentError):
        find_transform(reference, frame)
    assert furthest_error(find_transform(reference, frame, scale_range=None).transform, truth) < 1.5
    assert furthest_error(find_transform(reference, frame, scale_range=1.5).transform, truth) < 1.5


@pytest.mark.parametrize("transform_type", ["affine", "translation"])
def test_find_transform__same_bits_every_time(transform_type):
    reference, frame = observe(15, similarity(0, (20, -9)))
    first = find_transform(reference, frame, transform_type=transform_type)
    find_transform(*observe(16, similarity(0, (2, 3))), transform_type=transform_type)
    again = find_transform(reference.copy(), np.asfortranarray(frame), transform_type=transform_type)
    assert first.transform.tobytes() == again.transform.tobytes()
    assert first.rms == again.rms
    assert first.frame_index.tolist() == again.frame_index.tolist()


def test_find_transform__agrees_with_astroalign():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        astroalign = pytest.importorskip("astroalign")
        for seed, angle in enumerate((0.3, 45, 180, -100)):
            truth = similarity(angle, (9, -4))
            reference, frame = observe(seed, truth, n_stars=20, missing=0, spurious=0.1, noise=0.05)
            theirs, _ = astroalign.find_transform(reference, frame)
            ours = find_transform(reference, frame)
            assert furthest_error(ours.transform, np.asarray(theirs.params)) < 0.3


# ---------------------------------------------------------------- find_transform: shift only


def test_find_transform__translation_is_not_biased_by_spurious_entries():
    truth = similarity(0, (37.3, -21.8))
    for seed in range(30):
        reference, frame = observe(seed, truth, noise=0.1)
        found = find_transform(reference, frame, transform_type="translation")
        assert np.array_equal(found.transform[:2, :2], np.eye(2))
        assert furthest_error(found.transform, truth) < 0.3


def test_find_transform__translation_in_another_binning():
    truth = similarity(0, (15, 40), 2.0)
    reference, frame = observe(17, truth, scale=2.0)
    found = find_transform(reference, frame, transform_type="translation", expected_scale=2)
    assert furthest_error(found.transform, truth) < 0.5


def test_find_transform__translation_from_two_stars():
    reference = np.array([[120.0, 200], [380, 310]])
    found = find_transform(reference, reference + np.array([6.0, -3.5]), transform_type="translation")
    assert np.allclose(found.transform[:2, 2], [6.0, -3.5], atol=1e-9)
    with pytest.raises(AlignmentError):  # their distance changed by 30 pixels
        find_transform(reference, reference + np.array([[0.0, 0.0], [30.0, 0.0]]), transform_type="translation")


def test_find_transform__translation_from_one_star():
    found = find_transform([[250.0, 260]], [[251.5, 255], [30, 400]], transform_type="translation")
    assert found.n_matched == 1
    assert found.transform[:2, 2].tolist() == [1.5, -5.0]
    with pytest.raises(AlignmentError, match="chance"):  # the brightest is not the nearest: which is it?
        find_transform([[250.0, 260]], [[30, 400], [251.5, 255]], transform_type="translation")
    with pytest.raises(AlignmentError, match="chance"):
        find_transform([[250.0, 260]], np.arange(8.0).reshape(4, 2) * 50, transform_type="translation")


def test_find_transform__translation_against_fixed_hot_pixels():
    rng = np.random.default_rng(18)
    hot, stars = rng.uniform(0, SIZE, (20, 2)), rng.uniform(50, 400, (7, 2))
    found = find_transform(
        np.vstack([hot, stars]), np.vstack([hot, stars + np.array([42.0, 17])]), transform_type="translation"
    )
    assert furthest_error(found.transform, similarity(0, (42, 17))) < 0.1


# ---------------------------------------------------------------- find_transform: what it must refuse


@pytest.mark.slow
@pytest.mark.parametrize("transform_type", ["affine", "translation"])
@pytest.mark.parametrize(("n", "m", "n_trials"), [(30, 30, 100), (30, 6, 100), (10, 10, 300), (5, 4, 300), (3, 3, 500)])
def test_find_transform__unrelated_lists_are_refused(n, m, n_trials, transform_type):
    """At the default, fewer than 1 in 10 000 unrelated pairs may be accepted: none of some hundreds."""
    for seed in range(n_trials):
        rng = np.random.default_rng([seed, n, m])
        with pytest.raises(AlignmentError):
            find_transform(rng.uniform(0, SIZE, (n, 2)), rng.uniform(0, SIZE, (m, 2)), transform_type=transform_type)


@pytest.mark.slow
@pytest.mark.parametrize(("transform_type", "n"), [("affine", 5), ("translation", 5), ("translation", 10)])
def test_find_transform__rate_of_false_matches_is_below_max_chance(transform_type, n):
    """Asked to accept 1 in 10, it accepts some, but no more: the bound holds and is a real threshold."""
    n_trials, accepted = 300, {0.1: 0, 30.0: 0}
    for max_chance in accepted:
        for seed in range(n_trials):
            rng = np.random.default_rng([seed, n])
            lists = rng.uniform(0, SIZE, (2, n, 2))
            try:
                find_transform(*lists, transform_type=transform_type, max_chance=max_chance)
            except AlignmentError:
                continue
            accepted[max_chance] += 1
    assert accepted[0.1] <= 0.1 * n_trials
    assert accepted[30.0] > accepted[0.1]


def test_find_transform__three_stars_need_tiny_residuals_when_far():
    reference = np.array([[100.0, 120], [400, 180], [230, 390]])
    frame = align.apply_transform(similarity(110, (40, 0)), reference)
    assert find_transform(reference, frame).n_matched == 3
    with pytest.raises(AlignmentError, match="chance"):
        find_transform(reference, frame + np.array([[0.7, 0], [0, -0.6], [-0.5, 0.7]]))


def test_find_transform__too_few_sources_say_so():
    with pytest.raises(AlignmentError, match=r"2 sources of the reference and 3 of the frame .* at least 3") as caught:
        find_transform(np.array([[1.0, 2], [30, 4]]), np.arange(6.0).reshape(3, 2) * 40)
    assert caught.value.reason == str(caught.value)
    for transform_type in ("affine", "translation"):
        with pytest.raises(AlignmentError, match="0 of the frame"):
            find_transform(np.array([[1.0, 2], [30, 4]]), np.empty((0, 2)), transform_type=transform_type)
        with pytest.raises(AlignmentError):
            find_transform(np.full((4, 2), np.nan), np.full((4, 2), np.nan), transform_type=transform_type)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"transform_type": "rigid"}, "transform_type"),
        ({"scale_range": 0.9}, "scale_range must be a factor above 1"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"expected_scale": float("nan")}, "expected_scale"),
        ({"frame_weights": np.ones(3)}, "as many weights"),
    ],
)
def test_find_transform__arguments_that_mean_nothing(arguments, text):
    reference, frame = observe(0, np.eye(3))
    with pytest.raises(ValueError, match=text):
        find_transform(reference, frame, **arguments)


def test_find_transform__shape_of_triangles_does_not_depend_on_corner_order():
    """The machinery of the general search: every order of three corners names the same triangle."""
    points = np.array([10 + 20j, 300 + 40j, 150 + 260j])
    shapes = [triangles._triangles(points[list(order)], 0.0)[1] for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0))]
    either = [sorted([complex(np.round(s[0], 9)), complex(np.round(1 - s[0], 9))], key=repr) for s in shapes]
    assert either[0] == either[1] == either[2]


# ---------------------------------------------------------------- transforms

angles = st.floats(-180, 180)
shifts = st.tuples(st.floats(-2000, 2000), st.floats(-2000, 2000))
scales = st.floats(0.2, 5)
positions = st.lists(st.tuples(st.floats(-3000, 3000), st.floats(-3000, 3000)), min_size=1, max_size=20).map(np.array)


@given(angles, shifts, scales, positions)
@settings(max_examples=100, deadline=None)
def test_invert_transform__undoes_apply(angle, shift, scale, xy):
    transform = similarity(angle, shift, scale)
    back = align.apply_transform(align.invert_transform(transform), align.apply_transform(transform, xy))
    assert np.abs(back - xy).max() < 1e-8


@given(angles, shifts, scales, positions)
@settings(max_examples=50, deadline=None)
def test_compose__first_then_second(angle, shift, scale, xy):
    first, second = similarity(angle, shift, scale), similarity(31.0, (7, -3), 0.8)
    in_steps = align.apply_transform(second, align.apply_transform(first, xy))
    assert np.abs(align.apply_transform(align.compose(first, second), xy) - in_steps).max() < 1e-7


@given(st.floats(-179.9, 179.9), shifts, scales)
@settings(max_examples=50, deadline=None)
def test_rotation_of_scale_of__what_went_in(angle, shift, scale):
    transform = similarity(angle, shift, scale)
    assert align.rotation_of(transform) == pytest.approx(angle, abs=1e-9)
    assert align.scale_of(transform) == pytest.approx(scale, rel=1e-12)


def test_apply_transform__x_turns_to_y_and_many_frames_at_once():
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    assert align.apply_transform(quarter, np.array([[2.0, 1.0]])).tolist() == [[-1.0, 2.0]]
    assert align.rotation_of(quarter) == 90
    xy = np.random.default_rng(0).uniform(0, SIZE, (7, 2))
    stack = np.array([np.eye(3), quarter, np.full((3, 3), np.nan), similarity(12, (3, 4))])
    together = align.apply_transform(stack, xy)
    assert together.shape == (4, 7, 2)
    for one, transform in zip(together, stack, strict=True):
        assert np.array_equal(one, align.apply_transform(transform, xy), equal_nan=True)
    assert np.isnan(together[2]).all()
    assert np.array_equal(align.apply_transform(stack[3], xy[4:5]), together[3, 4:5])
    assert align.apply_transform(quarter, np.empty((0, 2))).shape == (0, 2)


def test_invert_transform__not_possible():
    with pytest.raises(ValueError, match="scale 0"):
        align.invert_transform(np.zeros((3, 3)))
    assert np.isnan(align.invert_transform(np.full((3, 3), np.nan))).all()


def test_unmoved_transform__corners_of_the_first_pixels_coincide():
    corner = align.apply_transform(align.unmoved_transform(2.0), np.array([[-0.5, -0.5], [0.0, 0.0]]))
    assert corner.tolist() == [[-0.5, -0.5], [0.5, 0.5]]


# ---------------------------------------------------------------- limit_reason


def test_limit_reason__none_and_zero_are_no_limit():
    far = similarity(170, (900, -900), 3.0)
    assert align.limit_reason(far) is None
    assert align.limit_reason(far, rotation_limit=0, translation_limit=0, scale_limit=0) is None
    assert align.limit_reason(far, translation_limit=(0, 0)) is None


@pytest.mark.parametrize("sign", [-1, 1])
def test_limit_reason__rotation_is_in_degrees_both_ways(sign):
    assert align.limit_reason(similarity(sign * 0.9), rotation_limit=1) is None
    assert "rotated" in align.limit_reason(similarity(sign * 1.1), rotation_limit=1)


@pytest.mark.parametrize("sign", [-1, 1])
def test_limit_reason__shift_along_each_axis(sign):
    transform = similarity(0, (sign * 12, sign * 4))
    assert align.limit_reason(transform, translation_limit=13) is None
    assert "in x" in align.limit_reason(transform, translation_limit=11)
    assert "in y" in align.limit_reason(transform, translation_limit=(13, 3))
    assert align.limit_reason(transform, translation_limit=(13, None)) is None


def test_limit_reason__shift_is_that_of_the_centre_when_the_shape_is_known():
    turned = similarity(180)  # the centre stays, pixel (0, 0) goes to the opposite corner
    assert align.limit_reason(turned, translation_limit=2, shape=(SIZE, SIZE)) is None
    assert "in x" in align.limit_reason(turned, translation_limit=2)
    # shape is (ny, nx)
    turned = similarity(180)
    turned[:2, 2] = [799, 299]
    assert align.limit_reason(turned, translation_limit=1, shape=(300, 800)) is None


def test_limit_reason__scale_both_ways_and_about_the_expected():
    assert align.limit_reason(similarity(scale=1.04), scale_limit=1.05) is None
    assert align.limit_reason(similarity(scale=0.96), scale_limit=1.05) is None
    assert "scale" in align.limit_reason(similarity(scale=1.06), scale_limit=1.05)
    assert "scale" in align.limit_reason(similarity(scale=0.94), scale_limit=1.05)
    binned = similarity(0.1, (2, 2), 2.0)
    limits = {"scale_limit": 1.05, "translation_limit": 3, "shape": (SIZE, SIZE)}
    assert align.limit_reason(binned, expected_scale=2.0, **limits) is None
    assert align.limit_reason(binned, **limits) is not None


def test_limit_reason__limits_that_mean_nothing():
    with pytest.raises(ValueError, match=r"give 1\.05"):
        align.limit_reason(np.eye(3), scale_limit=0.05)
    with pytest.raises(ValueError, match="rotation_limit"):
        align.limit_reason(np.eye(3), rotation_limit=-1)
    with pytest.raises(ValueError, match="translation_limit"):
        align.limit_reason(np.eye(3), translation_limit=(3, -1))


def test_limit_reason__transform_that_is_not_finite():
    assert "finite" in align.limit_reason(np.full((3, 3), np.nan))


# ---------------------------------------------------------------- resample


def gaussian_star(shape, xy, sigma, flux=1000.0):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return flux / (2 * np.pi * sigma**2) * np.exp(-((x - xy[0]) ** 2 + (y - xy[1]) ** 2) / (2 * sigma**2))


@pytest.mark.parametrize("angle", [0.0, 0.7, 30.0, 180.0])
def test_resample__star_keeps_flux_and_lands_on_its_reference_position(angle):
    shape, truth = (80, 90), np.array([[41.3, 37.8]])
    transform = similarity(angle, (3.37, -2.61), size=80)
    image = gaussian_star(shape, align.apply_transform(transform, truth)[0], sigma=1.5)
    out = align.resample(image, transform, shape)
    # interpolated linearly, a star is wider by what is said of it
    expected = gaussian_star(shape, truth[0], sigma=float(np.sqrt(1.5**2 + align.widening(transform, truth)[0])))
    box = (slice(25, 51), slice(28, 55))
    y, x = np.mgrid[box]
    total = out[box].sum()
    assert total == pytest.approx(1000, rel=2e-3)
    assert (x * out[box]).sum() / total == pytest.approx(truth[0, 0], abs=0.02)
    assert (y * out[box]).sum() / total == pytest.approx(truth[0, 1], abs=0.02)
    assert np.abs(out[box] - expected[box]).max() < 0.04 * expected.max()


@pytest.mark.parametrize("shift", [(0.5, 0.5), (0.25, 0.25), (3.0, -2.0)])
def test_widening__is_what_a_star_gains(shift):
    truth, size = np.array([[40.0, 37.0]]), 80
    transform = similarity(0.0, shift, size=size)
    image = gaussian_star((size, size), align.apply_transform(transform, truth)[0], sigma=2.0)
    y, x = np.mgrid[:size, :size]

    def variance(star, place):
        return np.sum(star * ((x - place[0]) ** 2 + (y - place[1]) ** 2)) / np.sum(star) / 2.0

    out = np.nan_to_num(align.resample(image, transform, (size, size)))
    gained = variance(out, truth[0]) - variance(image, align.apply_transform(transform, truth)[0])
    assert gained == pytest.approx(align.widening(transform, truth)[0], abs=2e-3)


def test_resample__other_binning_gives_brightness_per_frame_pixel():
    truth = np.array([[20.2, 17.9]])
    transform = align.unmoved_transform(2.0)
    image = gaussian_star((80, 80), align.apply_transform(transform, truth)[0], sigma=4.0)
    out = align.resample(image, transform, (40, 40))
    # between four pixels of the frame
    expected = gaussian_star((40, 40), truth[0], sigma=float(np.sqrt(2.0**2 + 0.25 / 4))) / 4
    assert np.abs(out - expected)[1:-1, 1:-1].max() < 2e-3 * image.max()


def test_resample__whole_pixels_are_copied_bit_for_bit():
    rng = np.random.default_rng(0)
    image = rng.normal(100, 10, (20, 30)).astype(np.float32)
    image[3, 4] = np.nan
    same = align.resample(image, np.eye(3), image.shape)
    assert same.dtype == np.float32
    assert np.array_equal(same, image, equal_nan=True)
    out = align.resample(image, np.array([[1.0, 0, 5], [0, 1, -2], [0, 0, 1]]), (22, 28))
    assert np.array_equal(out[2:, :25], image[:20, 5:30], equal_nan=True)
    assert np.isnan(out[:2]).all()
    assert np.isnan(out[:, 25:]).all()
    beyond = np.array([[1.0, 0, 500], [0, 1, 0], [0, 0, 1]])
    assert np.isnan(align.resample(image, beyond, (22, 28))).all()


def test_resample__nan_outside_the_frame():
    transform = similarity(0, (3.4, -2.3), size=40)
    out = align.resample(np.ones((40, 40)), transform, (40, 40))
    y, x = np.mgrid[:40, :40]
    is_inside = (x + 3.4 <= 39) & (y - 2.3 >= 0)
    assert np.array_equal(np.isfinite(out), is_inside)
    assert np.abs(out[is_inside] - 1).max() < 1e-6


def test_resample__nan_where_a_nan_pixel_is_touched():
    image = np.random.default_rng(1).normal(0, 1, (30, 34))
    holes = [(9, 12), (20, 25), (0, 3), (29, 33)]
    for hole in holes:
        image[hole] = np.nan
    transform = similarity(17, (1.3, 0.6), size=30)
    out = align.resample(image, transform, (30, 34))
    for y in range(30):
        for x in range(34):
            at_x, at_y = align.apply_transform(transform, np.array([[x, y]], dtype=float))[0]
            is_inside = 0 <= at_x <= 33 and 0 <= at_y <= 29
            touches = any(abs(at_x - hx) < 1 and abs(at_y - hy) < 1 for hy, hx in holes)
            assert np.isfinite(out[y, x]) == (is_inside and not touches), (x, y)


def test_resample__nothing_known():
    transform = similarity(3)
    with np.errstate(all="raise"):
        assert np.isnan(align.resample(np.full((20, 20), np.nan), transform, (20, 20))).all()
        assert np.isnan(align.resample(np.ones((20, 20)), np.full((3, 3), np.nan), (20, 20))).all()


def test_resample__does_not_touch_its_input_and_gives_the_same_bits():
    image = ndimage.gaussian_filter(np.random.default_rng(1).normal(0, 1, (50, 50)), 1)
    image[7, 7] = np.nan
    image.flags.writeable = False
    first = align.resample(image, similarity(5, size=50), (50, 50))
    assert first.tobytes() == align.resample(image, similarity(5, size=50), (50, 50)).tobytes()
