"""Nights on which the mount tracks badly: elongated stars are stars, and traces of single pixels are not."""

import numpy as np
import pytest
from small_nights import FIELD, add_stars, read_out, reduce_frames, write_frame

N_FRAMES = 10


def every_frame(_: int) -> dict:
    return {"fwhm": 7.0, "ratio": 2.5 / 7.0, "angle": 0.4}


def half_of_the_night(frame: int) -> dict:
    return every_frame(frame) if frame >= N_FRAMES // 2 else {"fwhm": 4.0}


def turning(frame: int) -> dict:
    """Elongation 1.7, in another direction in every frame."""
    return {"fwhm": 5.1, "ratio": 1.0 / 1.7, "angle": 0.9 * frame}


@pytest.mark.parametrize("form", [every_frame, half_of_the_night, turning])
def test_catalog__elongated_stars_are_kept_and_traces_of_hot_pixels_are_not(form, tmp_path):
    rng = np.random.default_rng(15)
    hot = rng.integers(20, 180, (12, 2))
    for frame in range(N_FRAMES):
        # the field drifts, so that a hot pixel leaves a trace of 10 pixels on the stack
        image, shift = np.full((200, 200), 100.0), np.array([0.9, 0.4]) * (frame - N_FRAMES / 2)
        add_stars(image, FIELD, shift, **form(frame))
        pixels = read_out(image, rng)
        pixels[hot[:, 0], hot[:, 1]] += 3000
        write_frame(tmp_path / "frames" / f"f{frame:03d}.fits", pixels, 10.0 * frame)
    night = reduce_frames(tmp_path)
    columns = [night.source_at(x + dx, y + dy) for x, y, _ in FIELD for dx, dy in [_shift_of_reference(night)]]
    assert sorted(columns) == list(range(len(FIELD)))  # each star once, and nothing else
    assert np.isfinite(night.curves()["flux"].to_numpy()).all()


def _shift_of_reference(night):
    """Where the field was in the reference frame: the one whose transform is no shift."""
    shifts = np.abs(night.frames["transform"].to_numpy()[:, :2, 2]).sum(axis=1)
    return np.array([0.9, 0.4]) * (int(np.argmin(shifts)) - N_FRAMES / 2)
