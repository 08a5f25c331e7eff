"""Bled and saturated stars decide nothing for the others; the level at which pixels pile up is found."""

from __future__ import annotations

import numpy as np
import pytest
from small_nights import (
    FIELD,
    SIGMA_TO_FWHM,
    SmallNight,
    add_star,
    add_stars,
    read_out,
    reduce_frames,
    write_frame,
)

from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.images.matching.star_choice import highest, mode, pile_up, whole_stars
from opticam_dask.passes.probes import Probe, doubtful_saturation

SIGMA = 1.5
BLED = ((150, 200), (300, 420), (460, 130))
N_SATURATED, N_STARS, SIZE = 40, 120, 600


def star_field():
    """Positions and fluxes of 120 stars, the first 40 of which are far above the saturation."""
    rng = np.random.default_rng(5)
    xy = [rng.uniform(20, SIZE - 20, 2)]
    while len(xy) < N_STARS:
        place = rng.uniform(20, SIZE - 20, 2)
        if min(np.hypot(*(place - other)) for other in xy) > 12:
            xy.append(place)
    saturated, others = 10 ** rng.uniform(6.2, 7.0, N_SATURATED), 10 ** rng.uniform(3.6, 5.5, N_STARS - N_SATURATED)
    return np.array(xy), np.concatenate([saturated, others])


def bled_frame(rng, shift, ceiling=65535):
    """A frame with three stars that bled over 121 rows, at 60000 ADU, on a halo of 25 pixels."""
    xy, flux = star_field()
    electrons = np.full((SIZE, SIZE), 200.0)
    for place, light in zip(xy + shift, flux, strict=True):
        add_star(electrons, *place, light, SIGMA * SIGMA_TO_FWHM, None)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for place in BLED:
        electrons += 8000.0 * np.exp(-np.hypot(columns - place[0] - shift[0], rows - place[1] - shift[1]) / 25.0)
    pixels = np.minimum(rng.poisson(electrons) + rng.normal(0.0, 3.0, electrons.shape) + 100.0, ceiling)
    for place in BLED:
        x, y = np.rint(np.array(place) + shift).astype(int)
        pixels[y - 60 : y + 61, x - 2 : x + 3] = 60000
    return np.clip(np.rint(pixels), 0, 65535).astype(np.uint16)


@pytest.fixture(scope="module")
def bled_night(tmp_path_factory):
    directory, rng = tmp_path_factory.mktemp("bled"), np.random.default_rng(1)
    for index in range(6):
        pixels = bled_frame(rng, np.array([0.37, -0.21]) * index)
        write_frame(directory / "frames" / f"f{index}.fits", pixels, 10.0 * index)
    return reduce_frames(directory, instrument={"default_saturation": 65535.0}), directory


def test_seeing_and_catalogue_are_those_of_the_unsaturated_stars(bled_night):
    night, _ = bled_night
    true = np.sqrt(SIGMA**2 + 1.0 / 12.0) * SIGMA_TO_FWHM
    assert night.frames["fwhm"].to_numpy() == pytest.approx(true, rel=0.01)
    assert night.catalog.attrs["fwhm"] == pytest.approx(true, rel=0.02)


def test_frames_are_aligned_to_a_twentieth_of_a_pixel(bled_night):
    night, _ = bled_night
    shift = night.frames["transform"].to_numpy()[:, :2, 2]
    expected = np.arange(6)[:, None] * np.array([0.37, -0.21])
    assert np.abs((shift - shift[:1]) - (expected - expected[:1])).max() < 0.05


def found_and_true(night):
    """Places of the sources of the catalogue, and of the stars on the reference frame."""
    found, xy = np.column_stack([night.catalog["x"], night.catalog["y"]]), star_field()[0]
    shift = np.median([found[np.argmin(np.hypot(*(found - place).T))] - place for place in xy[N_SATURATED:]], axis=0)
    return found, xy + shift


def test_every_unsaturated_star_inside_the_border_is_in_the_catalogue(bled_night):
    """In the halos of the bled stars as well, up to three FWHM from their columns."""
    night, _ = bled_night
    found, moved = found_and_true(night)
    xy, flux = star_field()
    offset = np.abs(xy[:, None] - BLED)
    on_column = np.any((offset[..., 0] < 12.0) & (offset[..., 1] < 69.0), axis=1)
    in_halo = np.min([np.hypot(*(xy - spot).T) for spot in BLED], axis=0) < 70.0
    wanted = np.all((moved > 42) & (moved < SIZE - 43), axis=1) & ~on_column & (flux > 6e3)
    away = np.array([np.hypot(*(found - place).T).min() for place in moved])
    assert np.count_nonzero(wanted & (flux < 1e6)) > 50
    assert np.count_nonzero(wanted & in_halo) > 10
    assert np.all(away[wanted] < 0.5)


def test_halos_of_bled_stars_make_no_sources(bled_night):
    night, _ = bled_night
    found, moved = found_and_true(night)
    away = np.array([np.hypot(*(moved - place).T).min() for place in found])
    is_bled = np.min([np.abs(found - spot).max(axis=1) for spot in BLED], axis=0) < 8.0
    assert np.all((away < 1.0) | is_bled)
    assert not np.any(night.catalog["is_star"].to_numpy() & np.isnan(night.catalog["fwhm"].to_numpy()))


def test_bled_columns_are_no_stars(bled_night):
    night, _ = bled_night
    catalog = night.catalog
    for place in BLED:
        near = np.hypot(catalog["x"] - place[0], catalog["y"] - place[1]).to_numpy() < 8
        assert not catalog["is_star"].to_numpy()[near].any()
    assert catalog["is_star"].to_numpy().mean() > 0.9


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_detections_of_saturated_stars_are_not_chosen_whatever_their_share(share):
    rng = np.random.default_rng(3)
    n_saturated = round(100 * share)
    xy = np.column_stack([np.arange(100) % 10 * 30.0 + 20.0, np.arange(100) // 10 * 30.0 + 20.0])
    saturated = np.zeros((320, 320), dtype=bool)
    for x, y in xy[:n_saturated].astype(int):
        saturated[y - 1 : y + 2, x - 1 : x + 2] = True
    width = np.where(np.arange(100) < n_saturated, 3.0, 1.5) * rng.normal(1.0, 0.05, 100)
    sources = {"x": xy[:, 0], "y": xy[:, 1], "semimajor_sigma": width, "semiminor_sigma": 0.95 * width}
    is_whole, is_saturated = whole_stars(sources, saturated)
    assert np.array_equal(is_whole, np.arange(100) >= n_saturated)
    assert np.array_equal(is_saturated, np.arange(100) < n_saturated)


def test_trailed_stars_are_whole_when_all_are_trailed():
    xy = np.arange(20.0) * 30.0
    sources = {"x": xy, "y": xy, "semimajor_sigma": np.full(20, 7.0), "semiminor_sigma": np.full(20, 1.2)}
    sources["semimajor_sigma"][3] = 60.0  # a satellite
    assert np.array_equal(whole_stars(sources, None)[0], np.arange(20) != 3)


@pytest.mark.parametrize(
    ("ceiling", "kind"),
    [(60000, np.uint16), (4095, np.uint16), (16383, np.int32), (32302, np.float32), (65520, np.float64)],
)
def test_pile_up__the_level_at_which_stars_are_clipped(ceiling, kind):
    image = np.full((200, 200), 300.0)
    for x, y, flux in FIELD:
        add_star(image, x, y, 5.0 * flux * ceiling / 16383.0)
    pixels = read_out(image, np.random.default_rng(2))
    assert np.isnan(pile_up(np.minimum(pixels, 65534).astype(kind))) or pixels.max() >= 65534
    assert pile_up(np.minimum(pixels, ceiling).astype(kind)) == ceiling


def test_pile_up__bled_columns_above_the_clipped_stars():
    pixels = np.minimum(bled_frame(np.random.default_rng(4), np.zeros(2)), 45000)
    pixels[140:260, 148:153] = 60000
    assert pile_up(pixels) == 45000


@pytest.mark.parametrize("sky", [0.5, 5.0, 300.0, 2e4])
def test_pile_up__nothing_in_frames_of_sky_and_whole_stars(sky):
    rng = np.random.default_rng(7)
    image = np.full((300, 300), sky)
    assert np.isnan(pile_up(read_out(image, rng)))
    add_star(image, 150, 150, 3e5)
    add_star(image, 60, 210, 2.9e5)
    assert np.isnan(pile_up(read_out(image, rng)))
    assert np.isnan(pile_up(read_out(image, rng) // 16 * 16))  # 12 bits in the upper ones of 16


def test_clipped_stars_are_flagged_though_the_header_gives_a_higher_level(tmp_path, capsys):
    """A converter of 14 bits, and a SATLEVEL of 16 bits: the brightest star is clipped, the others are not."""
    rng = np.random.default_rng(11)
    for index in range(5):
        image = np.full((200, 200), 150.0)
        for x, y, flux in FIELD:
            add_star(image, x + 0.3 * index, y, 2.5 * flux if flux > 1.9e5 else 0.5 * flux)
        pixels = np.minimum(read_out(image, rng), 16383)
        write_frame(tmp_path / "frames" / f"f{index}.fits", pixels, 10.0 * index, SATLEVEL=65535)
    reduce_frames(tmp_path, verbose=True)
    said = capsys.readouterr()
    assert "pile up at 16383 ADU" in said.out + said.err
    assert "65535" in said.out + said.err
    curves = SmallNight(tmp_path / "out").curves()
    is_saturated = (curves["flags"].to_numpy() & np.uint32(SourceFlag.SATURATED)) != 0
    assert is_saturated[:, 0].all()
    assert not is_saturated[:, 1:].any()


@pytest.mark.parametrize("every", [1, 2])
def test_stars_beside_a_saturated_patch_are_measured_as_any_other(tmp_path, every):
    """A reflection, in all frames or in some: 40 x 30 saturated pixels, 13 and more from three stars."""
    rng = np.random.default_rng(12)
    for index in range(5):
        image, shift = np.full((200, 200), 100.0), rng.normal(0.0, 0.5, 2)
        add_stars(image, FIELD, shift)
        if index % every == 0:
            image[115:155, 65:95] = 7e4
        write_frame(tmp_path / "frames" / f"f{index}.fits", read_out(image, rng), 10.0 * index)
    night = reduce_frames(tmp_path)
    curves = night.curves()
    for x, y, flux in FIELD:
        source = night.source_at(x, y)
        pull = (curves["total"] - flux).to_numpy()[:, source] / curves["total_err"].to_numpy()[:, source]
        assert np.all(np.abs(pull) < 5.0)
        # the patch may be a source of the stack, whose light is then beside the star
        assert not np.any(curves["flags"].to_numpy()[:, source] & ~np.uint32(SourceFlag.REDUCED | SourceFlag.BLENDED))


def test_mode__where_numbers_are_densest():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(2.0, 0.02, 30), rng.uniform(5.0, 90.0, 60)])
    assert mode(values) == pytest.approx(2.0, abs=0.05)
    assert np.isnan(mode(np.array([np.nan])))
    assert mode(np.array([3.0])) == 3.0


@pytest.mark.parametrize(("saturation", "is_doubtful"), [(1500.0, True), (30000.0, False), (60000.0, False)])
def test_saturation__far_below_the_stars_is_doubtful(saturation, is_doubtful):
    """Stars of 30000 ADU are no stars above 1500; hot pixels and rays at the end of the range show nothing."""
    rng = np.random.default_rng(4)
    probes = []
    for index in range(4):
        image = np.full((100, 100), 200.0)
        add_star(image, 50.2, 48.9, 5e5, 4.0)
        pixels = read_out(image, rng)
        pixels.flat[rng.choice(pixels.size, 6, replace=False)] = 65535
        nothing = np.empty(0)
        probes.append(
            Probe(index, np.empty((0, 2)), nothing, 4.0, 4.0, "", saturation=saturation, highest=highest(pixels))
        )
    assert (doubtful_saturation(probes) is not None) == is_doubtful
