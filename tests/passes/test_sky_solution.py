"""Fields are found among the stars of the sky: to a tenth of a pixel, and never in another sky.

`benchmarks/unrelated_skies.py` looks for many fields in skies that are not theirs.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from astropy.time import Time
from astropy.wcs import WCS, Sip
from sky_fields import SHAPE, SkyField, make_field

from opticam_dask import OPTICAM_MX
from opticam_dask.frames import fits_files, scanning, sky_catalogs, sky_coordinates
from opticam_dask.passes import sky_solution
from opticam_dask.passes.sky_solution import NoSolution


def solve(field: SkyField) -> sky_solution.SkySolution:
    return sky_solution.from_stars(
        field.detected, SHAPE, field.sky, pointing=field.pointing, scale=field.scale, mjd=60000.0
    )


@pytest.mark.parametrize(("seed", "n_stars"), [(1, 12), (2, 30), (3, 100), (4, 300)])
def test_a_field_is_found(seed: int, n_stars: int) -> None:
    """Half of the stars missing, half too many, 8 arcminutes off, 1 % wrong scale, any rotation and handedness."""
    field = make_field(seed, n_stars)
    solution = solve(field)
    wcs = sky_coordinates.read_wcs(solution.attributes["wcs"])
    assert field.error(wcs).max() < 0.1, "pixels"
    assert solution.attributes["wcs_n_matched"] >= 0.9 * math.ceil(n_stars / 2)
    assert solution.attributes["wcs_rms_pixel"] < 0.1


@pytest.mark.parametrize("place", [(0.001, 10.0), (200.0, 89.9), (10.0, -89.95)], ids=["zero hours", "north", "south"])
def test_a_field_is_found_where_right_ascension_is_awkward(place: tuple[float, float]) -> None:
    field = make_field(5, 60, place=place, off=2.0)
    assert field.error(sky_coordinates.read_wcs(solve(field).attributes["wcs"])).max() < 0.1, "pixels"


def test_a_catalogue_without_magnitudes_serves() -> None:
    field = make_field(6, 150, has_magnitudes=False, off=3.0)
    assert field.error(sky_coordinates.read_wcs(solve(field).attributes["wcs"])).max() < 0.1, "pixels"


def test_distortion_is_fitted_as_far_as_the_stars_allow() -> None:
    """A barrel distortion of 2 pixels at the corners: followed by 100 stars, and no order is invented without it."""
    field = make_field(7, 200, off=2.0)
    middle = (np.array(SHAPE[::-1]) - 1) / 2

    def bend(xy: np.ndarray) -> np.ndarray:
        away = xy - middle
        return xy + 2.0 * away * ((away**2).sum(axis=1) / (middle**2).sum())[:, None] / np.hypot(*middle)

    bent = bend(np.column_stack([field.detected["x"], field.detected["y"]]))
    solution = solve(replace(field, detected=field.detected | {"x": bent[:, 0], "y": bent[:, 1]}))
    ra, dec = sky_coordinates.icrs_of_pixels(field.wcs, *field.xy.T)
    wcs = sky_coordinates.read_wcs(solution.attributes["wcs"])
    error = np.hypot(*(np.column_stack(sky_coordinates.pixels_of_icrs(wcs, ra, dec)) - bend(field.xy)).T)
    assert solution.attributes["wcs_order"] >= 3
    assert error.max() < 0.15, "pixels"
    assert solve(field).attributes["wcs_order"] <= 1


def test_no_order_is_chosen_by_chance() -> None:
    """Curves through the noise of few stars would lead away from the truth at the edges."""
    for seed in (143, *range(1000, 1012)):
        field = make_field(seed, 20 if seed > 143 else 56, off=1.0 if seed > 143 else 8.0)
        solution = solve(field)
        assert solution.attributes["wcs_order"] == 1
        assert field.error(sky_coordinates.read_wcs(solution.attributes["wcs"])).max() < 0.1, "pixels"


def test_errors_of_places_are_those_of_their_scatter() -> None:
    """Places of detected stars scatter about the truth by as much as their errors say."""
    field = make_field(8, 200, off=1.0)
    solution = solve(field)
    ra, dec = sky_coordinates.icrs_of_pixels(field.wcs, *field.xy.T)
    matched = np.flatnonzero(solution.arrays["name"] != "")
    star = np.array([int(name.split()[1]) for name in solution.arrays["name"][matched]])
    off_ra = (solution.arrays["ra"][matched] - ra[star]) * np.cos(np.radians(dec[star])) * 3600
    pulls = np.concatenate(
        [off_ra / solution.arrays["ra_err"][matched],
         (solution.arrays["dec"][matched] - dec[star]) * 3600 / solution.arrays["dec_err"][matched]]
    )  # fmt: skip
    assert 0.8 < pulls.std() < 1.2


@pytest.mark.parametrize(("n_stars", "n_fields"), [(12, 4), (60, 1)])
def test_no_unrelated_field_is_accepted(n_stars: int, n_fields: int) -> None:
    for seed in range(n_fields):
        field = make_field(100 + seed, n_stars, off=2.0)
        other = make_field(500 + seed, n_stars, off=2.0, place=(10.0, 20.0))
        elsewhere = replace(field, sky=other.sky, pointing=other.pointing)
        with pytest.raises(NoSolution, match="not found among"):
            solve(elsewhere)


def test_a_sky_without_stars_there_is_told() -> None:
    field = make_field(9, 20)
    with pytest.raises(NoSolution, match="has 0 stars within"):
        solve(replace(field, pointing=((field.pointing[0] + 90.0) % 360.0, -field.pointing[1])))


def test_stars_move_to_the_time_of_the_frame() -> None:
    """A star of 10 arcseconds a year at declination 60, as astropy moves it."""
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    table = Table({"RA": [269.45], "DEC": [60.0], "pmRA": [-798.6], "pmDE": [10000.0], "ref_epoch": [2016.0]})
    sky = sky_catalogs.from_table(table, "a star")
    mjd = Time("2026-07-01", scale="utc").mjd
    ra, dec = sky.at(mjd)
    star = SkyCoord(
        269.45 * u.deg, 60.0 * u.deg, pm_ra_cosdec=-798.6 * u.mas / u.yr, pm_dec=10000.0 * u.mas / u.yr,
        obstime=Time(2016.0, format="jyear"), distance=20 * u.pc,
    ).apply_space_motion(Time(mjd, format="mjd"))  # fmt: skip
    assert sky_coordinates.separations(star.ra.deg, star.dec.deg, ra, dec)[0] * 3600 < 0.01, "arcseconds"


@pytest.mark.parametrize("suffix", ["csv", "ecsv", "fits", "vot", "xml"])
def test_catalogues_of_every_format_are_read(tmp_path: Path, suffix: str) -> None:
    from astropy import units as u

    has_units = suffix != "csv"
    table = Table({"source_id": [4295806720, 34361129088], "RA": [10.5, 11.25], "Dec": [-5.0, 5.5]})
    table["phot_g_mean_mag"], table["phot_g_mean_mag_error"], table["bp_mag"] = [12.5, 13.5], [0.1, 0.1], [13.0, 14.0]
    if has_units:
        table["RA"].unit, table["Dec"].unit = u.deg, u.deg
    file = tmp_path / f"stars.{suffix}"
    formats = {"csv": "ascii.csv", "ecsv": "ascii.ecsv", "fits": "fits", "vot": "votable", "xml": "votable"}
    table.write(file, format=formats[suffix])
    sky = sky_catalogs.read_sky_catalog(file)
    np.testing.assert_allclose(sky.ra, [10.5, 11.25])
    np.testing.assert_allclose(sky.dec, [-5.0, 5.5])
    assert sky.name.tolist() == ["4295806720", "34361129088"]
    assert list(sky.magnitudes) == ["g", "bp"]


def test_sexagesimal_places_have_hours() -> None:
    sky = sky_catalogs.from_table(Table({"ra": ["05:34:31.94", "12h00m00s"], "dec": ["+22:00:52.2", "-30d"]}), "t")
    np.testing.assert_allclose(sky.ra, [83.633083, 180.0], atol=1e-5)
    np.testing.assert_allclose(sky.dec, [22.014500, -30.0], atol=1e-5)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (Table({"x": [1.0]}), "expected columns ra and dec"),
        (Table({"ra": ["?"], "dec": ["?"]}), "none of 1 rows"),
        (Table({"ra": [1.0], "dec": [1.0], "pmra": [5.0], "pmdec": [5.0]}), "no epoch"),
    ],
)
def test_what_is_no_catalogue_is_refused_in_a_line(table: Table, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sky_catalogs.from_table(table, "stars.csv")


def sip_wcs() -> WCS:
    wcs = sky_coordinates.tangent_wcs(150.0, 30.0)
    wcs.wcs.ctype, wcs.wcs.crpix, wcs.wcs.cd = (
        ["RA---TAN-SIP", "DEC--TAN-SIP"],
        [310.2, 250.7],
        [[-2e-4, 1e-5], [1e-5, 2e-4]],
    )
    a, b = np.zeros((3, 3)), np.zeros((3, 3))
    a[2, 0], a[1, 1], b[0, 2] = 2e-5, 1e-5, -3e-5
    wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    return wcs


def tpv_header() -> dict[str, object]:
    cards: dict[str, object] = {"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", "CRVAL1": 150.0, "CRVAL2": 30.0}
    cards |= {"CRPIX1": 310.2, "CRPIX2": 250.7, "CD1_1": -2e-4, "CD1_2": 1e-5, "CD2_1": 1e-5, "CD2_2": 2e-4}
    cards |= {"PV1_0": 1e-4, "PV1_1": 1.01, "PV1_4": 0.05, "PV2_0": -2e-4, "PV2_1": 0.99, "PV2_4": 0.03}
    return cards


@pytest.mark.parametrize("kind", ["tan", "sip", "tpv"])
def test_coordinates_of_headers_follow_overscan_and_rebinning(kind: str) -> None:
    """Pixel (x, y) of 3 x 3 summed pixels behind 17 overscan columns is (3 x + 1 + 17, 3 y + 1 + 4) of the file."""
    if kind == "tpv":
        header: dict[str, object] = tpv_header()
    else:
        wcs = sip_wcs()
        if kind == "tan":
            wcs.sip, wcs.wcs.ctype = None, ["RA---TAN", "DEC--TAN"]
        header = dict(wcs.to_header(relax=True))
    of_file = sky_coordinates.wcs_of_header(header)
    assert of_file is not None
    reduced = sky_coordinates.reduced_pixels(of_file, (17, 4), 3)
    stored = sky_coordinates.read_wcs(sky_coordinates.wcs_header(reduced))
    x, y = np.array([0.0, 50.5, 130.0]), np.array([10.0, 80.0, 140.0])
    expected = np.array(sky_coordinates.icrs_of_pixels(of_file, 3 * x + 1 + 17, 3 * y + 1 + 4))
    for wcs in (reduced, stored):
        np.testing.assert_allclose(sky_coordinates.icrs_of_pixels(wcs, x, y), expected, atol=1e-9, rtol=0)
    np.testing.assert_allclose(sky_coordinates.pixels_of_icrs(stored, *expected), [x, y], atol=1e-4)


@pytest.mark.parametrize(
    "changed",
    [
        {"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"},
        {"CD1_1": 0.0, "CD2_2": 0.0, "CD1_2": 0.0, "CD2_1": 0.0},
        {"CD1_1": 1.0, "CD2_2": 1.0},
        {"CRVAL1": "unknown"},
        {"CTYPE1": ""},
    ],
)
def test_placeholders_are_no_coordinates(changed: dict[str, object]) -> None:
    cards = dict(sip_wcs().to_header(relax=True))
    matrix = {"CD1_1": -2e-4, "CD2_2": 2e-4, "CD1_2": 0.0, "CD2_1": 0.0}
    plain = {name: value for name, value in cards.items() if not name.startswith(("PC", "CDELT"))} | matrix
    assert sky_coordinates.wcs_of_header(plain) is not None
    assert sky_coordinates.wcs_of_header(plain | changed) is None


@pytest.mark.parametrize(
    ("name", "cell"), [("panoptes_solved.fits.fz", 2), ("panoptes_pole.fits", 2), ("lco_mef_raw_test_frame.fits", 1)]
)
def test_a_real_frame_is_found_where_its_header_says(real_data: Path, name: str, cell: int) -> None:
    """Detections of each real frame with coordinates, put on the sky by them, are found again without the header.

    Cells of the colour filter are averaged.
    """
    import sep

    header = fits_files.read_header(real_data / "oddities" / name)
    wcs = sky_coordinates.wcs_of_header(header.values)
    assert wcs is not None
    pixels = scanning.reader_of(OPTICAM_MX()).read(str(real_data / "oddities" / name)).astype(np.float64)
    ny, nx = (size // cell * cell for size in pixels.shape)
    pixels = np.ascontiguousarray(pixels[:ny, :nx].reshape(ny // cell, cell, nx // cell, cell).mean(axis=(1, 3)))
    wcs = sky_coordinates.reduced_pixels(wcs, (0, 0), cell)
    sky = sep.Background(pixels, bw=32, bh=32)
    found = sep.extract(pixels - sky.back(), 5.0, err=sky.globalrms)
    found = found[np.argsort(-found["flux"])][:150]
    ra, dec = sky_coordinates.icrs_of_pixels(wcs, found["x"], found["y"])
    zero = np.zeros(len(ra))
    flux = {"g": -2.5 * np.log10(found["flux"])}
    stars = sky_catalogs.SkyCatalog(ra, dec, zero, zero, zero + 2016.0, np.full(len(ra), "", dtype=object), flux, "s")
    ny, nx = pixels.shape
    middle = sky_coordinates.icrs_of_pixels(wcs, np.array([nx / 2]), np.array([ny / 2]))
    solution = sky_solution.from_stars(
        {"x": found["x"], "y": found["y"], "flux": found["flux"]},
        pixels.shape,
        stars,
        pointing=(float(middle[0][0]) + 0.1, float(middle[1][0]) - 0.05),
        scale=sky_coordinates.scale_of(wcs) * 1.02,
        mjd=57000.0,
    )
    own = sky_coordinates.read_wcs(solution.attributes["wcs"])
    y, x = (axis.ravel() for axis in np.mgrid[0:ny:50, 0:nx:50])
    back = sky_coordinates.pixels_of_icrs(own, *sky_coordinates.icrs_of_pixels(wcs, x, y))
    assert np.hypot(back[0] - x, back[1] - y).max() < 1.0, "pixels"
