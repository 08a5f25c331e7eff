"""Light that is beside a star all night, whatever its form, is part of the model of the star: no contamination."""

from __future__ import annotations

import numpy as np
import pytest
from small_nights import add_star, add_stars, read_out, reduce_frames, write_frame

from opticam_dask import OptimalPhotometer
from opticam_dask.flags import SourceFlag

SIZE, N_FRAMES = 140, 10
STARS = ((35.3, 40.2, 9e4), (100.7, 38.9, 7e4), (70.1, 100.4, 5e4), (110.8, 105.6, 4e4), (25.2, 105.3, 3e4))


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    directory, rng = tmp_path_factory.mktemp("steady"), np.random.default_rng(8)
    for frame in range(N_FRAMES):
        electrons, (dx, dy) = np.full((SIZE, SIZE), 100.0), rng.normal(0.0, 0.6, 2)
        add_stars(electrons, STARS, (dx, dy))
        # a trail of charge beside the first star, as wide as a star and four times as long
        for step in np.linspace(6.0, 18.0, 13):
            add_star(electrons, STARS[0][0] + dx + 0.2 * step, STARS[0][1] + dy + step, 220.0, 3.0)
        if frame == 7:  # a real intruder beside another star
            electrons[round(STARS[1][1] + dy) + 2, round(STARS[1][0] + dx) - 2] += 3000.0
        write_frame(directory / "frames" / f"f{frame}.fits", read_out(electrons, rng), 10.0 * frame)
    return reduce_frames(directory, OptimalPhotometer())


def test_steady_light__contaminates_nothing_and_an_intruder_does(night):
    found = night.curves("optimal").isel(source=[night.source_at(x, y) for x, y, _ in STARS])
    is_contaminated = found["flags"].values & np.uint32(SourceFlag.CONTAMINATED) != 0
    assert np.argwhere(is_contaminated).tolist() == [[7, 1]]
    pull = ((found["total"] - [flux for _, _, flux in STARS]) / found["total_err"]).values
    assert np.abs(pull[:, 1:]).max() < 5.0
