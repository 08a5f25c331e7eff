"""What a frame says about the error of its profile is found once, and again for another shape, profile or view."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from known_frames import noisy, shape_and_table, view_of
from small_nights import add_star

from opticam_dask.kernels.sources.profiles.profile import FormChange
from opticam_dask.methods import frame_stars


def test_errors_of_the_profile__are_those_of_its_shape_and_profile():
    rng, image = np.random.default_rng(0), np.zeros((120, 120))
    xy = np.array([[30.2, 30.7], [90.4, 31.1], [31.3, 88.8], [88.6, 90.2]])
    for x, y in xy:
        add_star(image, x, y, 1e5, 4.0, 3.0)
    shape, table = shape_and_table(4.0, 3.0)
    view = view_of(noisy(image, rng), xy, xy, np.full(4, 1e5), (shape, table))
    found = frame_stars.profile_misfit(view, shape, 25)
    assert frame_stars.profile_misfit(view, shape, 25) is found
    others = (
        (view, replace(shape, orientation=shape.orientation + 0.5)),
        (view, replace(shape, change=FormChange(np.zeros((3, 6)), (120, 120)))),
        (replace(view, profile=shape_and_table(4.0, None)[1]), shape),
    )
    for other, of in others:
        assert frame_stars.profile_misfit(other, of, 25) is not found
    assert frame_stars.profile_misfit(others[-1][0], shape, 25).core > found.core
