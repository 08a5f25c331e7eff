"""Very bright stars while the seeing changes: their total fluxes are right to their errors, which are some 0.1 %."""

from __future__ import annotations

import numpy as np
import pytest
from small_nights import FIELD, add_star, read_out, reduce_frames, write_frame

from opticam_dask import AperturePhotometer, OptimalPhotometer

GAIN, SKY = 8.0, 100.0
SEEING = np.linspace(3.4, 5.4, 9)
#: 5.6e4 to 1.4e6 electrons.
FLUX = 7.0 * FIELD[:, 2]


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    directory, rng = tmp_path_factory.mktemp("bright"), np.random.default_rng(5)
    for index, fwhm in enumerate(SEEING):
        electrons, shift = np.full((200, 200), SKY), rng.uniform(-1.0, 1.0, 2)
        for (x, y, _), flux in zip(FIELD, FLUX, strict=True):
            add_star(electrons, x + shift[0], y + shift[1], flux, fwhm)
        pixels = read_out(electrons, rng, gain=GAIN)
        write_frame(directory / "frames" / f"bright-{index:04d}.fits", pixels, 10.0 * index)
    return reduce_frames(directory, AperturePhotometer(), OptimalPhotometer(), instrument={"default_gain": GAIN})


@pytest.mark.parametrize("label", ["aperture", "optimal"])
def test_totals__of_very_bright_stars_do_not_follow_the_seeing(night, label):
    curves = night.curves(label)
    columns = [night.source_at(x, y) for x, y, _ in FIELD]
    total, error = (curves[name].to_numpy()[:, columns] for name in ("total", "total_err"))
    assert (curves["flags"].to_numpy()[:, columns] == 1).all()
    pull, away = (total - FLUX) / error, total / FLUX - 1.0
    assert np.abs(pull).max() < 6.0
    weight = (FLUX / error) ** 2
    common = np.sum(weight * away, axis=1) / np.sum(weight, axis=1)
    noise = 1.0 / np.sqrt(weight.sum(axis=1))
    # noise, and that of the form of each frame
    assert np.std(common) < 2.0 * np.median(noise)
    # one profile for all seeing would add 3e-3
    assert abs(np.polyfit(SEEING, common, 1)[0]) * np.ptp(SEEING) < 2.5e-3
    # ratios of the stars of a frame, in which the form is the same
    assert np.std((away - common[:, None]) * FLUX / error) < 1.2
