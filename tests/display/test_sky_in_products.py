"""Where the sources are on the sky, in what is made for people: the FITS file of the stack, the report, the browser."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning, Sip
from small_nights import FIELD, KEY, SmallNight, add_stars, read_out, reduce_frames, reducer_of, write_frame

import opticam_dask as opticam
from opticam_dask.cli.parser import main
from opticam_dask.display.browser.camera_view import CameraView
from opticam_dask.display.browser.facts import facts_of
from opticam_dask.display.browser.frame_picture import read_frame
from opticam_dask.frames import sky_coordinates

CENTRE, SCALE = (52.5, 20.0), 0.8
#: North is 30 degrees from the y axis towards the left: with parity +1 east is to the right of it.
ANGLE = np.radians(30.0)


def truth() -> WCS:
    """A field that is turned and mirrored, with a distortion of about a pixel in the corners."""
    wcs = sky_coordinates.tangent_wcs(*CENTRE)
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    wcs.wcs.crpix = [100.5, 100.5]
    turn = np.array([[np.cos(ANGLE), -np.sin(ANGLE)], [np.sin(ANGLE), np.cos(ANGLE)]])
    wcs.wcs.cdelt = [1.0, 1.0]
    wcs.wcs.cd = SCALE / 3600 * turn
    terms = np.zeros((2, 3, 3))
    terms[0, 2, 0], terms[1, 0, 2] = 1e-4, -1e-4
    wcs.sip = Sip(terms[0], terms[1], None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


def write_night(directory: Path, cards: dict[str, object]) -> None:
    rng = np.random.default_rng(5)
    for index in range(3):
        electrons = add_stars(np.full((200, 200), 400.0), FIELD, fwhm=3.5)
        file = directory / "frames" / f"frame_{index}.fits"
        write_frame(file, read_out(electrons, rng), 10.0 * index, **cards)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> SmallNight:
    """Three frames with world coordinates in their headers, and a source that the observer named."""
    directory = tmp_path_factory.mktemp("sky")
    cards = {name: value for name, value in sky_coordinates.wcs_header(truth()).items() if name != "WCSAXES"}
    write_night(directory, cards)
    return reduce_frames(directory, sources=[{"name": "My star", "x": 60.0, "y": 120.0}])


def world_of(header: fits.Header) -> WCS:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        return WCS(header)


def test_the_stack_as_fits_has_the_pixels_and_the_world_coordinates(night: SmallNight) -> None:
    """By the command; astropy puts the sources where the catalogue has them, from both images of the file."""
    assert main(["export", str(night.out), "--format", "fits", "--stack"]) == 0
    catalog, reference = night.group("catalog"), night.group("reference")
    with fits.open(night.out / "export" / "stack" / "1-V_stack.fits") as hdus:
        hdus.verify("exception")
        np.testing.assert_array_equal(hdus[0].data, reference["image"])
        np.testing.assert_array_equal(hdus["COVERAGE"].data, reference["coverage"])
        assert hdus[0].header["NCOMBINE"] == 3
        assert hdus[0].header["BUNIT"] == "electron"
        for hdu in hdus:
            wcs = world_of(hdu.header)
            assert wcs.sip is not None
            x, y = wcs.all_world2pix(catalog["ra"], catalog["dec"], 0)
            assert np.hypot(x - catalog["x"], y - catalog["y"]).max() < 0.01, "pixels"
    ra, dec = truth().all_pix2world(FIELD[:, 0], FIELD[:, 1], 0)
    x, y = wcs.all_world2pix(ra, dec, 0)
    assert np.hypot(x - FIELD[:, 0], y - FIELD[:, 1]).max() < 0.1, "pixels"


def test_without_a_place_on_the_sky_nothing_says_one(tmp_path: Path) -> None:
    """A camera that is not on the sky: no world coordinates in the file, no compass in the report."""
    write_night(tmp_path, {})
    reducer_of(tmp_path).create_catalogs()
    (file,) = opticam.export_stacks(tmp_path / "out", key=KEY)
    with fits.open(file) as hdus:
        assert not any(world_of(hdu.header).has_celestial for hdu in hdus)
        assert "WCSORIG" not in hdus[0].header
    page = opticam.write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert 'class="bar compass"' not in page
    assert "RA [deg]" not in page


def test_the_chart_of_the_report_has_compass_scale_and_names(night: SmallNight) -> None:
    """Arrows to where the sky says that north and east are, y downwards; the observer's source by its name."""
    page = opticam.write_report(night.out).read_text(encoding="utf-8")
    north, east = (
        np.array([float(x), float(y)])
        for x, y in re.findall(r'<path d="M0 0L([-0-9.]+) ([-0-9.]+)"></path><polygon', page)
    )
    ra, dec = truth().all_pix2world([100.0], [100.0], 0)
    step = 5.0 / 3600
    for arrow, place in (
        (north, (ra, dec + step)),
        (east, (ra + step / np.cos(np.radians(dec)), dec)),
    ):
        toward = np.ravel(truth().all_world2pix(*place, 0)) - 100.0
        np.testing.assert_allclose(arrow / np.hypot(*arrow), [1, -1] * toward / np.hypot(*toward), atol=0.02)
    assert ">11 My star</text>" in page, "the number after those that were found"
    assert ">30 arcsec</text>" in page, "about a fifth of 160 arcseconds"
    assert "RA [deg]" in page


def test_the_browser_says_where_the_chosen_source_is(night: SmallNight) -> None:
    view = CameraView(night.out, KEY)
    while view.load(8):
        pass
    told = facts_of(read_frame(view, 0), view, int(view.source_ids[-1]))
    ra, dec = (float(night.catalog[name][-1]) for name in ("ra", "dec"))
    assert f"{ra:.6f} {dec:+.6f}" in told
    assert "My star" in told


@pytest.mark.parametrize("options", [["csv"], ["fits", "--label", "aperture"], ["fits", "--sources", "1"]])
def test_a_stack_is_a_fits_image_of_a_camera(night: SmallNight, options: list[str]) -> None:
    assert main(["export", str(night.out), "--stack", "--format", *options]) == 2
