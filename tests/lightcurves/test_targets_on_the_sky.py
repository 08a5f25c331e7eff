"""A reduced night knows where its sources are, and finds a target by place or name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table
from small_nights import FIELD, KEY, SmallNight, add_star, read_out, reduce_frames, write_frame

import opticam_dask as opticam
from opticam_dask.cli.parser import main
from opticam_dask.frames import sky_coordinates
from opticam_dask.lightcurves.targets import source_number, source_numbers
from opticam_dask.store.store import Store

CENTRE, SCALE = (52.5, 20.0), 0.8
#: The field is turned by 30 degrees and mirrored.
ANGLE = np.radians(30.0)


def truth() -> sky_coordinates.WCS:
    wcs = sky_coordinates.tangent_wcs(*CENTRE)
    wcs.wcs.crpix = [100.5, 100.5]
    turn = np.array([[np.cos(ANGLE), -np.sin(ANGLE)], [np.sin(ANGLE), np.cos(ANGLE)]])
    wcs.wcs.cd = SCALE / 3600 * turn
    wcs.wcs.set()
    return wcs


def write_night(directory: Path, **cards: object) -> None:
    rng = np.random.default_rng(5)
    for index in range(4):
        electrons = np.full((200, 200), 400.0)
        for x, y, flux in FIELD:
            add_star(electrons, x + 0.4 * index, y - 0.3 * index, flux, 3.5)
        write_frame(directory / "frames" / f"frame_{index}.fits", read_out(electrons, rng), 10.0 * index, **cards)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> SmallNight:
    """Four frames without coordinates of their own, pointed 4 arcminutes beside, with a catalogue of their stars."""
    directory = tmp_path_factory.mktemp("sky")
    write_night(directory, RA=CENTRE[0] + 4 / 60, DEC=CENTRE[1], PIXSCALE=0.82)
    found = reduce_frames(directory)
    ra, dec = sky_coordinates.icrs_of_pixels(truth(), FIELD[:, 0], FIELD[:, 1])
    around = sky_coordinates.tangent_wcs(*CENTRE).wcs_pix2world(
        np.random.default_rng(6).uniform(-0.15, 0.15, (60, 2)) + np.array([0.2, 0.0]), 0
    )
    stars = Table({"ra": np.append(ra, around[:, 0]), "dec": np.append(dec, around[:, 1])})
    stars["g_mag"] = np.append(20 - 2.5 * np.log10(FIELD[:, 2] / 1e3), np.full(60, 19.0))
    stars["name"] = [f"Star {i}" if i != 4 else "\u00c5sgard" for i in range(len(stars))]
    stars.write(directory / "stars.csv")
    return found


def places(night: SmallNight) -> tuple[np.ndarray, np.ndarray]:
    """Of the catalogue's sources: the reference frame is shifted against the first, of which the truth is."""
    index = int(night.group("reference").attrs["reference_index"])
    x, y = night.catalog["x"].to_numpy() - 0.4 * index, night.catalog["y"].to_numpy() + 0.3 * index
    return sky_coordinates.icrs_of_pixels(truth(), x, y)


def test_without_coordinates_a_place_is_refused_with_the_way_out(night: SmallNight) -> None:
    with pytest.raises(ValueError, match="opticam-dask sky"):
        source_number(night.out, KEY, CENTRE)


def test_numbers_with_commas_are_sources(night: SmallNight) -> None:
    assert source_numbers(night.out, KEY, ["1,3", 2, "5, 4"]) == [1, 3, 2, 5, 4]


def test_sources_are_found_on_the_sky(night: SmallNight, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command: places within 0.1 pixel, names and magnitudes, and what it rests on is told and stored."""
    assert main(["sky", str(night.out), "--sky-catalog", str(night.out.parent / "stars.csv")]) == 0
    assert "10 stars of stars.csv" in capsys.readouterr().out
    catalog = night.group("catalog")
    off = SkyCoord(*places(night), unit="deg").separation(SkyCoord(catalog["ra"], catalog["dec"], unit="deg"))
    assert off.arcsec.max() < 0.1 * SCALE
    assert catalog.attrs["wcs_n_matched"] == 10
    assert 0 < catalog.attrs["wcs_rms_pixel"] < 0.1
    assert catalog["band"].to_numpy().tolist() == ["g"]
    brightest = night.source_at(FIELD[0, 0], FIELD[0, 1])
    assert catalog["name"].to_numpy()[brightest] == "Star 0"
    assert catalog["magnitude"].to_numpy()[brightest, 0] == pytest.approx(20 - 2.5 * np.log10(200))
    assert main(["verify", str(night.out)]) == 0


def test_a_target_is_found_by_place_and_name(night: SmallNight) -> None:
    opticam.find_sky(night.out, night.out.parent / "stars.csv", verbose=False)
    ra, dec = sky_coordinates.icrs_of_pixels(truth(), *FIELD[3, :2])
    number = int(night.catalog["source_id"][night.source_at(*FIELD[3, :2])])
    place = SkyCoord(ra * u.deg, dec * u.deg)
    for target in (
        number, str(number), (float(ra), float(dec)), place, place.galactic, place.to_string("hmsdms", sep=":"),
        f"{float(ra):.6f} {float(dec):+.6f}", "star 3", [str(float(ra)), str(float(dec))], ["Star 3"],
    ):  # fmt: skip
        assert source_number(night.out, KEY, target) == number
    with pytest.raises(ValueError, match=rf"within 3 arcseconds .* nearest are {number} \(10.0 arcseconds away\)"):
        source_number(night.out, KEY, place.directional_offset_by(0 * u.deg, 10 * u.arcsec))
    with pytest.raises(ValueError, match="no source of 1:V has the name 'AY Psc'"):
        source_number(night.out, KEY, "AY Psc")


def test_light_curves_take_places(night: SmallNight, tmp_path: Path) -> None:
    opticam.find_sky(night.out, night.out.parent / "stars.csv", verbose=False)
    ra, dec = sky_coordinates.icrs_of_pixels(truth(), *FIELD[3, :2])
    number = int(night.catalog["source_id"][night.source_at(*FIELD[3, :2])])
    comparison = 1 if number != 1 else 2
    by_number = opticam.relative_light_curve(night.out, KEY, number, comparison)
    by_place = opticam.relative_light_curve(night.out, KEY, SkyCoord(ra * u.deg, dec * u.deg), comparison)
    np.testing.assert_array_equal(by_place["relative_flux"], by_number["relative_flux"])
    assert by_place.attrs["target"] == number
    command = ["lightcurve", str(night.out), "--comparisons", str(comparison), "--prefix", "placed", "--target"]
    assert main([*command, f"{float(ra):.6f}", f"{float(dec):.6f}"]) == 0
    assert main([*command, "Star 3"]) == 0
    assert main([*command, "10.0", "-5.0"]) == 2
    other = next(number for number in (1, 2) if number != source_number(night.out, KEY, "\u00e5sgard"))
    assert main(["lightcurve", str(night.out), "--comparisons", str(other), "--target", "\u00c5sgard"]) == 0
    assert [name for name in Store.open(night.out).camera(KEY).differential_names if "target_-sgard-" in name]
    files = set(night.out.rglob("*.csv"))
    assert main(["lightcurve", str(night.out), "--comparisons", "1", "--target", "2", "--prefix", "\u00c5"]) == 2
    assert set(night.out.rglob("*.csv")) == files
    (file,) = opticam.export_light_curves(night.out, "csv", sources=["Star 3"])
    assert file.name == f"1-V_source_{number}.csv"
    assert main(["export", str(night.out), "--format", "csv", "--sources", "star 3", str(comparison)]) == 0
    curves = opticam.light_curves(night.out, KEY)
    assert int(opticam.select(curves, source="Star 3")["source_id"]) == number
    assert main(["plot", str(night.out), "growth-curves", "--targets", "Star 3"]) == 0


def test_coordinates_of_the_header_are_taken_at_once(tmp_path: Path) -> None:
    """Every camera whose reference frame has a header with coordinates has its sources on the sky; rebinned too."""
    cards = {name: value for name, value in sky_coordinates.wcs_header(truth()).items() if name != "WCSAXES"}
    write_night(tmp_path, **cards)
    night = reduce_frames(tmp_path, rebin_factor=2)
    catalog = night.group("catalog")
    index = int(night.group("reference").attrs["reference_index"])
    # every header is the same, so that the coordinates are those of whichever frame is the reference
    x, y = 2 * catalog["x"].to_numpy() + 0.5, 2 * catalog["y"].to_numpy() + 0.5
    expected = SkyCoord(*sky_coordinates.icrs_of_pixels(truth(), x, y), unit="deg")
    assert expected.separation(SkyCoord(catalog["ra"], catalog["dec"], unit="deg")).arcsec.max() < 1e-5
    assert catalog.attrs["wcs_origin"] == f"the header of frame_{index}.fits"
    assert np.isnan(catalog["ra_err"]).all()


def test_a_plate_solved_copy_of_another_frame_serves(night: SmallNight, tmp_path: Path) -> None:
    """Coordinates of frame 3, which is shifted against the reference, are carried to the reference frame."""
    from astropy.io import fits

    index = int(night.group("reference").attrs["reference_index"])
    other = 3 if index != 3 else 0
    header = sky_coordinates.wcs_header(truth())
    header["CRPIX1"] = float(header["CRPIX1"]) + 0.4 * other
    header["CRPIX2"] = float(header["CRPIX2"]) - 0.3 * other
    pixels = fits.getdata(night.out.parent / "frames" / f"frame_{other}.fits")
    fits.writeto(tmp_path / f"frame_{other}.new", pixels, fits.Header(header))
    opticam.find_sky(night.out, wcs=tmp_path / f"frame_{other}.new", verbose=False)
    catalog = night.group("catalog")
    expected = SkyCoord(*places(night), unit="deg")
    off = expected.separation(SkyCoord(catalog["ra"], catalog["dec"], unit="deg")).arcsec
    assert off.max() < 0.1 * SCALE
    fits.writeto(tmp_path / "other.fits", pixels, fits.Header(header))
    with pytest.raises(ValueError, match="name of no aligned frame"):
        opticam.find_sky(night.out, wcs=tmp_path / "other.fits", verbose=False)
