"""Columns that stand out in biases and flats, though no pixel of them does, are not used and are flagged."""

from __future__ import annotations

import numpy as np
import pytest
import small_nights

from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.images.bad_columns import bridged, find_bad_columns, mark
from opticam_dask.store.store import Store

SIDE, N_FRAMES = 200, 4
#: A trail that holds other charge in each read-out, and a column that loses light; each runs through a star.
TRAIL, DULL, TRAIL_FROM = 101, 49, 80


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Frames with biases and flats of the same detector."""
    directory, rng = tmp_path_factory.mktemp("columns"), np.random.default_rng(2)

    def expose(name, light, seconds, **cards):
        response = np.ones((SIDE, SIDE))
        response[:, DULL] = 0.6
        pixels = small_nights.read_out(light * response, rng).astype(int)
        pixels[TRAIL_FROM:, TRAIL] += rng.integers(20, 60)
        small_nights.write_frame(directory / name, pixels.astype(np.uint16), seconds, **cards)

    for number in range(6):
        expose(f"calibration/b{number}.fits", np.zeros((SIDE, SIDE)), number, IMAGETYP="bias", EXPTIME=0.0)
        expose(f"calibration/f{number}.fits", np.full((SIDE, SIDE), 2e4), 100 + number, IMAGETYP="flat")
    for frame in range(N_FRAMES):
        image = small_nights.add_stars(np.full((SIDE, SIDE), 200.0), small_nights.FIELD)
        expose(f"frames/f{frame}.fits", image, 1000.0 + 10 * frame)
    return small_nights.reduce_frames(directory, calibration=directory / "calibration")


def test_masters__mark_the_columns_by_kind(night):
    store = Store.at(night.out)
    levels = store.master("bias_1_200x200_1x1").read_all()["bad_levels"]
    responses = store.master("flat_1-V_200x200_1x1").read_all()["bad_responses"]
    assert levels[TRAIL_FROM:, TRAIL].all()
    assert not levels[: TRAIL_FROM - 40].any()
    assert not np.delete(levels, TRAIL, axis=1).any()
    assert responses[:, DULL].all()
    assert not np.delete(responses, [DULL, TRAIL], axis=1).any()


def test_stars__on_them_are_flagged_and_have_their_light_and_others_are_left_alone(night):
    curves = night.curves()
    bad = np.uint32(SourceFlag.BAD_PIXEL)
    for x, y, flux in small_nights.FIELD:
        source = night.source_at(x, y)
        column = curves.isel(source=source)
        is_on_one = min(abs(x - TRAIL), abs(x - DULL)) < 3 and y > 150
        if is_on_one or min(abs(x - TRAIL), abs(x - DULL)) > 12:
            assert ((column["flags"].to_numpy() & bad) != 0).all() == is_on_one
        measured, error = float(column["total"].mean()), float(column["total_err"].mean())
        assert measured == pytest.approx(flux, rel=0.02, abs=5 * error)


def test_gaps__are_bridged_where_they_are_narrow():
    y, x = np.mgrid[:12, :20]
    values = 3.0 * x + 2.0 * y
    holed = values.copy()
    holed[:, 7] = holed[:, 13:16] = holed[5, :] = np.nan
    holed[:, 0] = holed[8:, 2:6] = np.nan
    found = bridged(holed)
    unknown = np.zeros(values.shape, dtype=bool)
    unknown[:, 0] = unknown[8:, 2:6] = True
    np.testing.assert_allclose(found[~unknown], values[~unknown])
    assert np.isnan(found[unknown]).all()
    assert bridged(values) is values


def test_columns__are_told_from_edges_gradients_hot_pixels_and_noise():
    rng = np.random.default_rng(0)
    x = np.arange(SIDE)
    level = 100.0 + rng.normal(0, 0.5, SIDE) + 0.02 * x + np.where(x < 100, 0.0, 25.0)  # two amplifiers
    values = level + rng.normal(0, 1.0, (160, SIDE))
    values[10:12, 20] += 500.0
    values[50:60, 70] += 100.0  # dust, or a streak
    variance = np.ones_like(values)
    assert find_bad_columns(values, variance, 3.0) == []
    values[60:, 40:43] += 12.0
    values[:, 150] -= 30.0
    values[:100, 100] += 15.0
    values[:, SIDE - 1] += 20.0
    values[::3, 150] = np.nan
    found = find_bad_columns(values, variance, 3.0)
    assert [column.column for column in found] == [40, 41, 42, 100, 150, SIDE - 1]
    assert [column.excess > 0 for column in found] == [True] * 4 + [False, True]
    assert str(found[4]) == "150 (rows 0 to 159, below the others)"
    marked = mark(found, values.shape)
    assert marked[60:, 40].all()
    assert not marked[:40, 40].any()
    assert find_bad_columns(values, variance, 100.0) == []
    assert find_bad_columns(np.full((160, SIDE), np.nan), variance * np.nan, 0.0) == []
