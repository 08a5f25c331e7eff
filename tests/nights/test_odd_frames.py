"""What only a few frames show (satellites, aeroplanes, asteroids, cosmic rays) is in neither stack nor catalogue."""

import numpy as np
import pytest
from small_nights import FIELD, NIGHT, add_star, add_stars, read_out, reduce_frames, write_frame

from opticam_dask.kernels.images.stack import (
    N_GROUPS,
    STACK_UNITS_PER_ELECTRON,
    StackSums,
    added,
    combine_groups,
    stack_groups,
    stack_image,
)

YY, XX = np.mgrid[:200, :200]


def trail(angle, peak, width):
    """Straight trail through the star in the middle of the field."""
    across = (XX - 102.2) * np.sin(angle) - (YY - 103.6) * np.cos(angle)
    return peak * np.exp(-0.5 * (across / width) ** 2)


def write_night(directory, n_frames, odd, seed=21):
    rng = np.random.default_rng(seed)
    for frame in range(n_frames):
        image, shift = np.full((200, 200), 100.0), rng.normal(0, 0.6, 2)
        add_stars(image, FIELD, shift)
        for light in odd(frame, shift):
            image += light
        write_frame(directory / "frames" / f"f{frame:03d}.fits", read_out(image, rng), 10.0 * frame)
    return directory


def one_star(x, y, flux, fwhm=4.0):
    image = np.zeros((200, 200))
    add_star(image, x, y, flux, fwhm=fwhm)
    return image


def busy_sky(frame, shift):
    """Satellites in three frames, an aeroplane with blinking lights, an asteroid, and a huge cosmic ray."""
    lights = [one_star(20 + 2.5 * frame + shift[0], 130 + 0.5 * frame + shift[1], 3e4)]
    if frame == 3:
        lights.append(trail(0.7, 3000.0, 1.7))
    if frame == 13:
        lights.append(trail(-0.5, 30000.0, 1.7))
    if frame == 14:
        lights.append(trail(2.0, 150.0, 8.0))
    if frame == 20:
        lights.append(trail(1.2, 2000.0, 2.0) * (1 + np.sign(np.sin(YY / 9.0))))
    if frame == 8:
        lights.append(one_star(120.0, 130.0, 1e6, fwhm=1.2))
    return lights


@pytest.fixture(scope="module")
def busy_night(tmp_path_factory):
    return reduce_frames(write_night(tmp_path_factory.mktemp("busy"), 24, busy_sky))


def test_catalog__holds_the_stars_and_nothing_else(busy_night):
    columns = [busy_night.source_at(x, y, within=2.0) for x, y, _ in FIELD]
    assert sorted(columns) == list(range(len(FIELD)))


def test_stack__shows_no_trail(busy_night):
    """What is left of the trails is below what the finder asks for, 5 sigma of the stack."""
    stack = busy_night.group(f"{NIGHT}/stack")
    image, sigma = stack["image"].to_numpy().copy(), 11.0 / np.sqrt(24.0)
    for x, y, flux in FIELD:
        image[np.hypot(XX - x, YY - y) < (30 if flux > 2e4 else 20)] = 0.0
    assert np.nanmax(np.abs(image[12:-12, 12:-12])) < 5 * sigma
    # only what is odd is left out
    assert np.mean(stack["coverage"].to_numpy()[12:-12, 12:-12]) > 0.9 * 24


def test_stack__same_bits_for_other_blocks(busy_night, tmp_path):
    (tmp_path / "frames").symlink_to(busy_night.out.parent / "frames")
    other = reduce_frames(tmp_path, frames_per_block=5)
    for name in ("image", "coverage"):
        one, two = (night.group(f"{NIGHT}/stack")[name].to_numpy() for night in (busy_night, other))
        assert np.array_equal(one, two, equal_nan=True)


def test_catalog__satellite_and_cosmic_ray_in_eight_frames(tmp_path):
    def odd(frame, _):
        return {2: [trail(0.7, 3000.0, 1.7)], 5: [one_star(120.0, 130.0, 1e6, fwhm=1.2)]}.get(frame, [])

    night = reduce_frames(write_night(tmp_path, 8, odd))
    columns = [night.source_at(x, y, within=2.0) for x, y, _ in FIELD]
    assert sorted(columns) == list(range(len(FIELD)))


# ---------------------------------------------------------------- the groups of a stack


@pytest.mark.parametrize(("n_frames", "stack_frames"), [(40, 256), (8, 256), (3, 0), (1000, 256), (999, 0), (300, 7)])
def test_stack_groups__do_not_depend_on_blocks(n_frames, stack_frames):
    whole = stack_groups(0, n_frames, n_frames, stack_frames)
    for length in (1, 7, 64):
        starts = range(0, n_frames, length)
        pieces = [stack_groups(start, min(start + length, n_frames), n_frames, stack_frames) for start in starts]
        assert np.array_equal(np.concatenate(pieces), whole)
    counts = np.bincount(whole[whole >= 0])
    assert counts.sum() == (min(n_frames, stack_frames) if stack_frames else n_frames)
    assert counts.max() - counts[counts > 0].min() <= 1


def groups_of(images, n_frames=16):
    """Groups whose mean images are given."""
    sums = [np.rint(image * n_frames * STACK_UNITS_PER_ELECTRON).astype(np.int64) for image in images]
    return [StackSums(total, np.full(total.shape, n_frames, dtype=np.uint32), total // n_frames) for total in sums]


def plain_mean(groups):
    return stack_image(*added(groups)[:2])


def scene(rng, brightness=1.0, fwhm=4.0, rms=10.0, n_frames=16):
    """Mean of some frames of 10 stars."""
    light = np.zeros((200, 200))
    for x, y, flux in FIELD:
        add_star(light, x, y, brightness * flux, fwhm=fwhm)
    return light + rng.normal(0, 1, light.shape) * np.sqrt((rms**2 + light) / n_frames)


def test_combine_groups__changing_seeing_changes_nothing_to_speak_of():
    rng = np.random.default_rng(3)
    groups = groups_of([scene(rng, fwhm=width) for width in rng.uniform(3.5, 5.0, N_GROUPS)])
    image, coverage = combine_groups(groups, np.full(N_GROUPS, 10.0))
    assert np.mean(coverage < 16 * N_GROUPS) < 1e-3
    for x, y, flux in FIELD:
        near = np.hypot(XX - x, YY - y) < 8
        assert image[near].sum() == pytest.approx(plain_mean(groups)[near].sum(), abs=0.003 * flux)


def test_combine_groups__a_cloudy_night_does_not_outvote_a_clear_hour():
    rng = np.random.default_rng(4)
    groups = groups_of([scene(rng, brightness) for brightness in (1.0, 0.05, 0.04, 0.1, 0.05, 0.06, 0.05, 0.04)])
    image, _ = combine_groups(groups, np.full(N_GROUPS, 10.0))
    for x, y, flux in FIELD:
        near = np.hypot(XX - x, YY - y) < 8
        assert image[near].sum() == pytest.approx(plain_mean(groups)[near].sum(), abs=0.01 * flux * 0.2 + 50)


@pytest.mark.parametrize("n_groups", [1, 2])
def test_combine_groups__two_cannot_tell_which_is_odd(n_groups):
    rng = np.random.default_rng(5)
    groups = groups_of([scene(rng) + trail(0.7, 3000.0, 1.7) * (number == 0) for number in range(n_groups)])
    image, coverage = combine_groups(groups, np.full(n_groups, 10.0))
    assert np.array_equal(image, plain_mean(groups))
    assert (coverage == 16 * n_groups).all()
