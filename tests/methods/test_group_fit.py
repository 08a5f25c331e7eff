"""Stars that overlap, fitted together by the kernel in C and by its form in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from compiled_kernels import needs_compiled
from known_frames import noisy, shape_and_table, view_of
from small_nights import add_star

from opticam_dask.kernels import compiled
from opticam_dask.methods import places


def _three_stars(has_track, corner=(60.0, 60.0)):
    """Makes views of a frame with three stars that overlap, and their places, fluxes, expected places and form."""
    form = shape_and_table(4.0, 3.0)
    truth = np.array(corner) + np.array([[0.0, 0.0], [5.3, 1.2], [2.1, 6.4]])
    flux, rng, image = np.array([40_000.0, 25_000.0, 9_000.0]), np.random.default_rng(5), np.zeros((130, 130))
    for place, light in zip(truth, flux, strict=True):
        add_star(image, *place, light, 4.0, 3.0)
    standards = np.array([[30.0, 100.0], [95.0, 30.0], [100.0, 100.0]])
    for place in standards:
        add_star(image, *place, 60_000.0, 4.0, 3.0)
    pixels = noisy(image, rng)
    if has_track:
        pixels[int(truth[0, 1]) + 3, int(truth[0, 0]) : int(truth[0, 0]) + 3] += 2500.0
    expected = truth + rng.normal(0.0, 0.05, truth.shape)
    return lambda: view_of(pixels, expected, np.vstack([truth, standards]), flux, form), truth, flux, expected, form[0]


@needs_compiled
@pytest.mark.parametrize("has_track", [False, True])
@pytest.mark.parametrize("corner", [(60.0, 60.0), (2.0, 3.0)])
def test_fit_group__is_the_same_in_both_forms_and_finds_the_stars(monkeypatch, has_track, corner):
    view_again, truth, flux, expected, shape = _three_stars(has_track, corner)
    place, found = places.fit_group(view_again(), expected, shape)
    monkeypatch.setattr(compiled, "native", None)
    in_numpy, flux_in_numpy = places.fit_group(view_again(), expected, shape)
    np.testing.assert_allclose(place, in_numpy, atol=1e-8)
    np.testing.assert_allclose(found, flux_in_numpy, rtol=1e-8)
    np.testing.assert_allclose(place, truth, atol=0.1)
    np.testing.assert_allclose(found, flux, rtol=0.05)


@needs_compiled
def test_error_of_the_profile__is_known_to_all_groups_of_a_frame_after_the_first(monkeypatch):
    view_again, _, _, expected, shape = _three_stars(has_track=True)
    native, view, asked = compiled.native, view_again(), []

    class Counted:
        def __getattr__(self, name):
            asked.append(name)
            return getattr(native, name)

    monkeypatch.setattr(compiled, "native", Counted())
    first, second = (places.fit_group(view, expected, shape) for _ in range(2))
    assert asked.count("fit_group") == 3  # without that error, with it, and with it at once
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
