"""The best aperture is that in which constant stars scatter least, and it is said which it is and how it was judged."""

from __future__ import annotations

import json

import numpy as np
import pytest
import small_nights
from small_nights import FIELD

from opticam_dask import AperturePhotometer, cli, relative_light_curve
from opticam_dask.kernels.series import ensemble
from opticam_dask.methods.frame_view import CatalogFacts
from opticam_dask.methods.photometers import TRIAL_RADII, best_radius, choose_radius
from opticam_dask.store.store import Store

N_FRAMES = 16


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Seeing changes, and with it how much wider stars on the right are: small apertures lose changing shares."""
    directory, rng = tmp_path_factory.mktemp("radius"), np.random.default_rng(2)
    for frame in range(N_FRAMES):
        image, fwhm, shift = np.full((200, 200), 60.0), rng.uniform(3.0, 4.6), rng.normal(0, 0.6, 2)
        for x, y, flux in FIELD:
            wider = 1.0 + 0.25 * (fwhm - 3.0) * (x / 200.0)
            small_nights.add_star(image, x + shift[0], y + shift[1], flux, fwhm * wider)
        small_nights.write_frame(
            directory / f"frames/f{frame:02d}.fits", small_nights.read_out(image, rng), 10.0 * frame
        )
    return small_nights.reduce_frames(directory, AperturePhotometer(radius="best"), frames_per_block=8)


def _scatter(night, label):
    """Mean scatter of the four brightest stars against each other, per cent."""
    found = []
    for target in range(1, 5):
        others = [number for number in range(1, 5) if number != target]
        relative = relative_light_curve(night.out, night.key, target, others, label)["relative_flux"].to_numpy()
        found.append(100 * np.std(relative) / np.mean(relative))
    return np.mean(found)


def test_best_radius__scatters_least_and_less_than_what_the_profile_makes_one_expect(night):
    chosen = json.loads(night.curves().attrs["aperture_radius"])
    assert chosen["radius"] in TRIAL_RADII
    assert "constant stars in 16 frames" in chosen["judged_by"]
    prepared = json.loads(night.curves().attrs["prepared"])
    assert (prepared["radius"], prepared["radius_unit"]) == (chosen["radius"], "reference_fwhm")
    small_nights.measure_again(night, {"small": 0.8, "one": 1.0, "large": 2.8})
    best = _scatter(night, "aperture")
    assert best < 0.7 * _scatter(night, "small")
    # the faint stars, for which the sky counts, have a voice as well: not quite the best of the brightest four
    assert best < 1.15 * min(_scatter(night, label) for label in ("one", "large"))


def test_best_radius__is_told(night, capsys):
    assert cli.main(["status", str(night.out)]) == 0
    told = capsys.readouterr().out
    radius = json.loads(night.curves().attrs["aperture_radius"])["radius"]
    assert f"photometry aperture: radius {radius:g} FWHM, judged by" in told


def test_best_radius__is_chosen_once(night, monkeypatch):
    before = night.curves().attrs["aperture_radius"]
    path = Store.at(night.out).path
    [part] = Store(path).camera(night.key).parts
    part.records("aperture").forget([1])
    monkeypatch.setattr("opticam_dask.pipeline.stages.photometry.choose_radius", None)  # nobody asks
    small_nights.measure_again(night, {"aperture": "best"})
    assert night.curves().attrs["aperture_radius"] == before
    assert np.isfinite(night.curves()["flux"].to_numpy()).all()


def test_choose_radius__of_few_stars_falls_back_to_the_profile(night):
    facts = CatalogFacts(np.array([1e5, 4e4]), 4.0, 8.0, _gaussian())
    choice = choose_radius(facts)
    assert choice.radius == best_radius(facts)
    assert "signal-to-noise" in choice.judged_by


def _gaussian():
    from opticam_dask.kernels.sources.profiles.profile import gaussian_profile

    return gaussian_profile().table()


def _trial(rng, n_frames=40, n_stars=8, sky=(0.002, 0.001, 0.004)):
    """Fluxes in three apertures with these relative scatters."""
    flux = np.linspace(1e5, 2e4, n_stars)[None, :, None] * np.array([0.7, 0.9, 1.0])
    common = rng.uniform(0.5, 1.0, (n_frames, 1, 1))
    return common * flux * (1.0 + np.array(sky) * rng.normal(size=(n_frames, n_stars, 3))), np.broadcast_to(
        0.001 * flux, (n_frames, n_stars, 3)
    )


def test_scatter_of_apertures__finds_the_quietest_in_spite_of_clouds_variables_and_wild_points():
    rng = np.random.default_rng(9)
    flux, error = _trial(rng)
    flux[:, 2] *= 1.0 + 0.2 * rng.normal(size=(len(flux), 1))  # varies
    flux[7, 3, 1], flux[20:22, 4] = 5e6, np.nan  # a cosmic ray in the best aperture; two frames without a flux
    scatter, n_stars = ensemble.scatter_of_apertures(flux, error, np.zeros(flux.shape, dtype=bool), 1)
    assert n_stars == 7
    assert int(np.argmin(scatter)) == 1
    assert scatter[0] / scatter[1] == pytest.approx(2.0, rel=0.25)
    few, n_stars = ensemble.scatter_of_apertures(flux[:, :2], error[:, :2], np.zeros((40, 2, 3), dtype=bool), 1)
    assert np.isnan(few).all()
    assert n_stars == 2


def test_comparisons__are_told_in_a_few_lines_and_few_of_them_with_a_warning(night, capsys):
    command = ["lightcurve", str(night.out), "--target", "4", "--comparisons", "auto"]
    assert cli.main(command) == 0
    told = capsys.readouterr().out
    assert "of 9 sources chosen as comparisons: " in told
    assert max(map(len, told.splitlines())) < 200
    curves = night.curves()
    curves["flags"][:, 3:] |= np.uint32(128)
    from opticam_dask.lightcurves.differential import compute_relative

    lines = compute_relative(curves, 1, "auto").attrs["choice"].splitlines()
    assert lines[0].startswith("2 of 9 sources chosen")
    assert "7 often flagged: 4, 5, 6, 7, 8, 9, 10" in lines
    assert lines[-1].startswith("warning: with fewer than 3 comparisons")
