"""What the catalogue leaves out is told: stars at the border, those beyond its number, and what the sky mesh takes."""

import numpy as np
import pytest
from small_nights import add_stars, read_out, reduce_frames, write_frame

from opticam_dask.display.status import describe_reduction

STARS = [(101.4, 120.7, 3e4), (48.8, 110.1, 1.5e4), (72.6, 60.9, 1e4), (118.3, 66.6, 7e3), (90.7, 38.2, 5e3)]
BRIGHTEST = (5.0, 80.0, 2e5)


def write_night(directory, stars, fwhms=(4.0,) * 4):
    rng = np.random.default_rng(31)
    for frame, fwhm in enumerate(fwhms):
        image, shift = np.full((160, 160), 100.0), rng.normal(0, 0.4, 2)
        add_stars(image, stars, shift, fwhm=fwhm)
        write_frame(directory / "frames" / f"f{frame:03d}.fits", read_out(image, rng), 10.0 * frame)


def said_of(directory, capsys, **catalogs):
    """The catalogue, and what was said while it was made."""
    night = reduce_frames(directory, verbose=True, catalogs=catalogs)
    return night, " ".join(capsys.readouterr().out.split())


def test_left_out__the_brightest_star_at_the_border_and_the_faintest(tmp_path, capsys):
    write_night(tmp_path, [*STARS, BRIGHTEST])
    night, said = said_of(tmp_path, capsys, max_catalog_sources=3)
    assert night.catalog.sizes["source"] == 3
    line = said[said.index("1 source(s) of the stack lie in the border") :]
    flux = float(line[line.index("the brightest of ") + 17 :].split()[0])
    assert flux == pytest.approx(BRIGHTEST[2], rel=0.15)
    assert "brighter than all of the 3 in the catalogue; a smaller border_width (--border-width) keeps them" in line
    assert "2 source(s) of the stack are fainter than the 3 of the catalogue" in line
    assert "--max-catalog-sources" in line


def test_left_out__nothing_is_said_when_nothing_is(tmp_path, capsys):
    write_night(tmp_path, [*STARS, BRIGHTEST])
    night, said = said_of(tmp_path, capsys, border_width=0)
    assert night.source_at(*BRIGHTEST[:2], within=2.0) == 0
    assert "left out" not in said
    assert "box_size" not in said


def test_box__stars_as_wide_as_a_box_are_told(tmp_path, capsys):
    write_night(tmp_path, [(80.0, 80.0, 1e6), (40.0, 110.0, 6e5)], (20.0,) * 4)
    night, said = said_of(tmp_path, capsys)
    assert "the boxes of the sky mesh 16: the mesh takes part of their light for sky. A box_size (--box-size)" in said
    (warning,) = (line for line in describe_reduction(night.out) if "warning:" in line)
    assert "the boxes of the sky mesh 16: the mesh takes part of their light for sky." in warning


def test_box__frames_out_of_focus_are_told(tmp_path, capsys):
    write_night(tmp_path, STARS * np.array([1.0, 1.0, 4.0]), (4.0, 4.0, 4.0, 18.0))
    _, said = said_of(tmp_path, capsys)
    line = said[said.index("1:V 2024-01-01: in 1 of 4 frames the stars are wider than half a box") :]
    assert 16 < float(line[line.index("FWHM up to ") + 11 :].split(")")[0]) < 22
    assert "the mesh takes part of their light for sky, some per cent" in line
