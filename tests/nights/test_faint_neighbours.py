"""Sources beyond the limit of the catalogue are known as neighbours of the stars that are measured."""

from __future__ import annotations

import numpy as np
import pytest
from small_nights import FIELD, add_star, add_stars, read_out, reduce_frames, write_frame

from opticam_dask import AperturePhotometer, OptimalPhotometer, PSFPhotometer, open_catalog
from opticam_dask.flags import SourceFlag

N_FRAMES, N_STARS, FWHM = 24, 8, 4.0
LABELS = ("aperture", "optimal", "psf")

#: Faint stars beside the brightest: which star, how far (pixels) in x and y, part of its light.
COMPANIONS = (
    (0, 7.0, 2.0, 0.02),
    (1, -2.0, 7.5, 0.02),
    (2, -6.5, 4.0, 0.04),
    (3, 5.0, -6.0, 0.05),
    (4, 6.0, 6.0, 0.06),
)
#: One of them is gone in the middle of the night, one is ten times as bright in two frames.
GONE, FLARE = 2, 3
ARE_GONE, IN_FLARE = range(8, 16), (10, 11)


def part_of(companion, frame):
    if companion == GONE and frame in ARE_GONE:
        return 0.0
    return COMPANIONS[companion][3] * (10.0 if companion == FLARE and frame in IN_FLARE else 1.0)


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Faint companions of stars whose catalogue has room for the stars alone; the last frames are behind cloud."""
    directory, rng = tmp_path_factory.mktemp("faint"), np.random.default_rng(5)
    for frame in range(N_FRAMES):
        image, stars = np.zeros((200, 200)), FIELD + np.array([0.13, -0.08, 0.0]) * frame
        add_stars(image, stars, fwhm=FWHM)
        for companion, (star, dx, dy, _) in enumerate(COMPANIONS):
            x, y, flux = stars[star]
            add_star(image, x + dx, y + dy, part_of(companion, frame) * flux, FWHM)
        image = 50.0 + image * (0.3 if frame >= N_FRAMES - 4 else 1.0)
        write_frame(directory / "frames" / f"f{frame:02d}.fits", read_out(image, rng), 6.0 * frame)
    photometers = AperturePhotometer(radius=1.5, radius_unit="reference_fwhm"), OptimalPhotometer(), PSFPhotometer()
    return reduce_frames(directory, *photometers, catalogs={"max_catalog_sources": N_STARS})


def of_stars(night, label, flag):
    """Which measurements of the stars of the field have a flag, (frame, star)."""
    rows = [night.source_at(*star[:2]) for star in FIELD[:N_STARS]]
    return (night.curves(label)["flags"].to_numpy()[:, rows] & np.uint32(flag)) != 0


def test_sources_beyond_the_limit_are_kept_as_neighbours(night):
    assert night.catalog.sizes["source"] == N_STARS
    places = np.column_stack([night.catalog["neighbour_x"], night.catalog["neighbour_y"]])
    for star, dx, dy, _ in COMPANIONS:
        row = night.source_at(*FIELD[star, :2])
        expected = float(night.catalog["x"][row]) + dx, float(night.catalog["y"][row]) + dy
        assert np.hypot(*(places - expected).T).min() < 0.2
    catalog = open_catalog(night.out, night.key)[1]
    assert catalog["neighbour_flux"].sizes == night.catalog["neighbour_flux"].sizes


@pytest.mark.parametrize("label", LABELS)
def test_steady_neighbours_contaminate_nothing(night, label):
    found = of_stars(night, label, SourceFlag.CONTAMINATED)
    found[list(IN_FLARE), COMPANIONS[FLARE][0]] = False
    assert not found.any()


@pytest.mark.parametrize("label", LABELS)
def test_a_neighbour_much_brighter_than_in_the_catalogue_is_other_light(night, label):
    assert of_stars(night, label, SourceFlag.CONTAMINATED)[list(IN_FLARE), COMPANIONS[FLARE][0]].all()


def test_neighbours_are_told_where_their_light_is_in_the_flux(night):
    is_blended = of_stars(night, "aperture", SourceFlag.BLENDED)
    assert is_blended[:, 4].all()  # 6 % of its light, 2 FWHM away
    assert not is_blended[:, len(COMPANIONS) :].any()
    assert not of_stars(night, "psf", SourceFlag.BLENDED).any()


def test_psf_fluxes_are_right_whether_the_neighbour_shines_or_not(night):
    curves = night.curves("psf")
    clear = np.where(np.arange(N_FRAMES) >= N_FRAMES - 4, 0.3, 1.0)
    for star in range(N_STARS):
        row = night.source_at(*FIELD[star, :2])
        pull = (curves["flux"][:, row] - clear * FIELD[star, 2]) / curves["flux_err"][:, row]
        pull = pull.to_numpy()[np.setdiff1d(np.arange(N_FRAMES), IN_FLARE)]
        assert np.abs(pull).max() < 4.5
        assert 0.6 < pull.std() < 1.4
        # what the profile gets wrong of the total light is common to all
        assert abs(pull.mean()) < 0.5 + 0.003 * FIELD[star, 2] / curves["flux_err"][:, row].median()
