"""What one frame of many shows is no source, also where few frames of a drifting field reach."""

import numpy as np
import pytest
from small_nights import FIELD, add_stars, read_out, reduce_frames, write_frame

from opticam_dask.frames.scanning import FitsReader
from opticam_dask.kernels.images.matching.align import apply_transform
from opticam_dask.kernels.images.stack import STACK_UNITS_PER_ELECTRON, PartialStack, added, combine_groups
from opticam_dask.methods.finders import DefaultFinder
from opticam_dask.passes.catalog import StackedNight, make_catalog
from opticam_dask.steps.frame_steps import FrameSteps

SHAPE, RMS, PER_GROUP = (120, 120), 15.0, 5
STARS = [(30.3, 40.2, 2e4), (80.6, 30.7, 9e3), (100.2, 100.4, 5e3), (55.5, 88.8, 1.2e4)]
#: Tracks of five pixels near the corner that only the first frames of a night reach, and one on a star there.
TRACKS = {3: (110, 60), 4: (104, 20), 7: (100, 98), 20: (20, 100)}


def sums_of_night(n_frames, first, rng):
    """Sums of the groups of a night that sees columns from 90 on in its first frames alone; and with no track."""
    light = add_stars(np.zeros(SHAPE), STARS)
    groups = []
    for start in range(0, n_frames, PER_GROUP):
        stack = PartialStack(SHAPE)
        for frame in range(start, min(start + PER_GROUP, n_frames)):
            image = light + rng.normal(0.0, 1.0, SHAPE) * np.sqrt(RMS**2 + light)
            if frame in TRACKS:
                x, y = TRACKS[frame]
                image[y : y + 3, x : x + 5] += 2500.0
            if frame >= first:
                image[:, 90:] = np.nan
            stack.add(image.astype(np.float32))
        groups.append(stack.sums)
    return groups


def catalog_of(image, coverage):
    steps = FrameSteps(
        reader=FitsReader(0), shape=SHAPE, rebin_factor=1, remove_cosmic_rays=False, background=None, box_size=(30, 30),
        finder=DefaultFinder(9, border_width=5), threshold=5.0, n_slots=300,
    )  # fmt: skip
    frames = np.full(int(coverage.max()), RMS)
    night = StackedNight(image, coverage, frames, 4.4, np.tile(np.eye(3), (len(frames), 1, 1)))
    return make_catalog(night, steps, 100).arrays


@pytest.mark.parametrize(("n_frames", "first"), [(40, 10), (40, 13), (8, 8), (8, 5), (5, 2)])
def test_stack__tracks_of_single_frames_are_no_sources(n_frames, first):
    groups = sums_of_night(n_frames, first, np.random.default_rng(n_frames + first))
    found = catalog_of(*combine_groups(groups, np.full(len(groups), RMS)))
    xy = np.column_stack([found["x"], found["y"]])
    apart = np.array([np.hypot(*(xy - star[:2]).T) for star in STARS])
    assert sorted(np.argmin(apart, axis=0)) == [0, 1, 2, 3]
    assert apart.min(axis=0).max() < 0.5
    assert found["is_star"].all()


def test_stack__light_of_stars_stays_in_changing_seeing():
    rng, light = np.random.default_rng(2), []
    for width in rng.uniform(3.0, 5.5, 12):
        image = add_stars(np.zeros(SHAPE), STARS, fwhm=width)
        light.append(image)
    stacks = [PartialStack(SHAPE) for _ in range(2)]
    for number, image in enumerate(light):
        stacks[number // 6].add(image + rng.normal(0.0, 1.0, SHAPE) * np.sqrt(RMS**2 + image))
    groups = [stack.sums for stack in stacks]
    image, coverage = combine_groups(groups, np.full(2, RMS))
    assert np.mean(coverage < 12) < 1e-3
    total, seen, _ = added(groups)
    plain = total / seen / STACK_UNITS_PER_ELECTRON
    for x, y, flux in STARS:
        rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
        near = np.hypot(columns - x, rows - y) < 8
        assert image[near].sum() == pytest.approx(plain[near].sum(), abs=0.002 * flux)
    assert np.array_equal(added(groups).brightest, added(groups[::-1]).brightest)


def test_catalog__a_drifting_night_with_cosmic_rays_holds_its_stars_alone(tmp_path):
    """The field drifts by a quarter of itself; tracks of ten pixels everywhere, also where frames are few."""
    rng, shifts = np.random.default_rng(17), []
    for frame in range(16):
        image, shift = np.full((200, 200), 100.0), np.array([-3.2, 2.1]) * frame + rng.normal(0.0, 0.3, 2)
        shifts.append(shift)
        add_stars(image, FIELD, shift)
        for _ in range(6):
            x, y = rng.integers(8, 190, 2)
            image[y : y + 2, x : x + 5] += rng.uniform(2000.0, 9000.0)
        write_frame(tmp_path / "frames" / f"f{frame:03d}.fits", read_out(image, rng), 10.0 * frame)
    night = reduce_frames(tmp_path)
    xy = apply_transform(
        night.frames["transform"].to_numpy()[0], np.column_stack([night.catalog["x"], night.catalog["y"]])
    )
    apart = np.array([np.hypot(*(FIELD[:, :2] + shifts[0] - place).T).min() for place in xy])
    assert apart.max() < 0.5
    assert len(xy) >= 8
