"""Trails of satellites and aircraft: no flux that they change by six errors is without a flag."""

from __future__ import annotations

import numpy as np
import pytest
from small_nights import add_stars, read_out, reduce_frames, write_frame

from opticam_dask import AperturePhotometer, OptimalPhotometer
from opticam_dask.flags import SourceFlag

SIZE, N_FRAMES, WILD = 200, 16, 6.0
STARS = (
    *((40.3, 50.2, 9e4), (150.7, 40.9, 7e4), (70.1, 160.4, 5e4), (165.8, 150.6, 4e4)),
    *((110.2, 20.3, 3e4), (20.4, 120.7, 2.5e4), (120.5, 180.2, 2e4)),
)
#: Frame: star that is crossed, distance from it (pixels), direction, electrons a pixel on the trail, and its sigma.
TRAILS = {
    2: (0, 2.6, 0.66, 500.0, 0.9),
    4: (1, -7.6, 0.1, 142.0, 5.9),
    6: (1, -1.4, 0.57, 93.0, 4.1),
    8: (3, -1.5, 1.2, 197.0, 5.4),
    10: (4, 5.0, 0.56, 94.0, 5.0),
}


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    directory, rng = tmp_path_factory.mktemp("trails"), np.random.default_rng(3)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for frame in range(N_FRAMES):
        electrons, shift = np.full((SIZE, SIZE), 100.0), rng.normal(0.0, 0.6, 2)
        add_stars(electrons, STARS, shift)
        if frame in TRAILS:
            star, distance, angle, light, width = TRAILS[frame]
            x, y = STARS[star][:2] + shift
            across = (columns - x) * np.sin(angle) - (rows - y) * np.cos(angle) - distance
            electrons += light * np.exp(-0.5 * (across / width) ** 2)
        write_frame(directory / "frames" / f"f{frame:02d}.fits", read_out(electrons, rng), 10.0 * frame)
    return reduce_frames(directory, AperturePhotometer(), OptimalPhotometer())


def test_trails__that_change_a_flux_are_flagged(night):
    found = night.curves("optimal").isel(source=[night.source_at(x, y) for x, y, _ in STARS])
    truth = [flux for _, _, flux in STARS]
    pull = ((found["total"] - truth) / found["total_err"]).values
    is_flagged = found["flags"].values & np.uint32(SourceFlag.CONTAMINATED) != 0
    crossed = [(frame, star) for frame, (star, *_) in TRAILS.items()]
    # the sky beside wide trails is fitted: most of these fluxes are right within their errors, flagged or not
    assert any(abs(pull[place]) > WILD and is_flagged[place] for place in crossed)
    assert not np.any(~is_flagged & (np.abs(pull) > WILD))
    assert all(is_flagged[place] or abs(pull[place]) < 4.0 for place in crossed)


@pytest.mark.parametrize("label", ["aperture", "optimal"])
def test_trails__leave_the_other_frames_alone(night, label):
    flags = night.curves(label)["flags"].values & np.uint32(SourceFlag.CONTAMINATED)
    calm = [frame for frame in range(N_FRAMES) if frame not in TRAILS]
    assert not flags[calm].any()
