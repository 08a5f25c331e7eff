"""Stars that become wider than the boxes of the sky mesh within a night: their light is neither sky nor lost."""

from __future__ import annotations

import numpy as np
import pytest
from small_nights import add_stars, read_out, reduce_frames, write_frame

from opticam_dask import AperturePhotometer, OptimalPhotometer
from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.images.sky import smooth_zoom
from opticam_dask.steps.background import are_too_narrow, boxes_together

SIDE = 208
STARS = np.array(
    [(55.3, 58.2, 4e5), (150.7, 60.4, 2.5e5), (104.6, 104.1, 1.8e5), (57.4, 151.8, 3e5), (152.2, 149.3, 2e5)]
)
WIDTHS = np.linspace(3.5, 12.0, 7)


def _reduced(directory, widths, *photometers):
    """Frames of these widths under a sky that rises by a third over the frame; boxes of 16 pixels."""
    rng, sky = np.random.default_rng(8), 300.0 * (1.0 + np.arange(SIDE) / (3.0 * SIDE))
    for frame, fwhm in enumerate(widths):
        image = add_stars(np.tile(sky, (SIDE, 1)), STARS, rng.normal(0.0, 0.3, 2), fwhm=fwhm)
        write_frame(directory / "frames" / f"f{frame}.fits", read_out(image, rng), 10.0 * frame)
    return reduce_frames(directory, *photometers)


def _off(curves):
    """How far each total is off, as a part of it, (frame, source)."""
    x, y = (curves[name].to_numpy()[0] for name in ("x", "y"))
    true = STARS[np.argmin(np.hypot(x[:, None] - STARS[:, 0], y[:, None] - STARS[:, 1]), axis=1), 2]
    return curves["total"].to_numpy() / true - 1.0, true


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Seeing that gets three times as wide."""
    return _reduced(tmp_path_factory.mktemp("night"), WIDTHS, AperturePhotometer(), OptimalPhotometer())


def test_width__is_in_proportion_to_the_seeing(night):
    ratio = night.frames["fwhm"].to_numpy() / WIDTHS
    np.testing.assert_allclose(ratio[-3:], ratio[1], rtol=0.012)


@pytest.mark.parametrize("label", ["aperture", "optimal"])
def test_totals__do_not_depend_on_the_seeing(night, label):
    curves = night.curves(label)
    assert curves.sizes["source"] == len(STARS)
    off, true = _off(curves)
    assert np.abs(np.median(off, axis=1)).max() < 0.01
    pulls = off * true / curves["total_err"].to_numpy()
    is_told = (curves["flags"].to_numpy() & np.uint32(~SourceFlag.REDUCED & 0xFFFFFFFF)) != 0
    assert np.abs(pulls[~is_told]).max() < 6.0
    assert is_told.mean() < 0.1


def test_focus__that_is_lost_for_most_of_the_night_leaves_a_catalogue(tmp_path):
    """The stars of the stack are those of the sharp frames, four times narrower than those of most frames."""
    curves = _reduced(tmp_path, (3.0, 3.0, 12.0, 12.0, 12.0), AperturePhotometer()).curves("aperture")
    assert curves.sizes["source"] == len(STARS)
    assert np.abs(np.median(_off(curves)[0], axis=1)).max() < 0.01


def test_boxes__as_many_together_as_stars_need_and_the_sky_allows():
    assert boxes_together((512, 512), (16, 16), float("nan")) == 1
    assert boxes_together((512, 512), (16, 16), 8.0) == 1
    assert boxes_together((512, 512), (16, 16), 12.0) == 3
    assert boxes_together((160, 512), (16, 16), 30.0) == 2
    assert boxes_together((64, 64), (16, 16), 30.0) == 1
    assert are_too_narrow((64, 64), (16, 16), 30.0)
    assert not are_too_narrow((512, 512), (16, 16), 30.0)


def test_boxes__a_plane_stays_a_plane():
    y, x = np.mgrid[:13, :17]
    single = 3.0 + 0.2 * x - 0.7 * y
    middles = [3.0 * np.arange(n) + 1.0 for n in (5, 6)]
    wide = 3.0 + 0.2 * middles[1] - 0.7 * middles[0][:, None]
    np.testing.assert_allclose(smooth_zoom.at_boxes(wide, (13, 17), 3), single, atol=1e-9)
