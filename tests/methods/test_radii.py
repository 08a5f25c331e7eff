"""Several radii from frames to light curves and files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from opticam_dask import AperturePhotometer, Reducer, cli, light_curves, relative_light_curve, simulate_observations


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    directory = tmp_path_factory.mktemp("radii")
    simulate_observations(
        directory / "frames", n_frames=5, shape=(96, 112), n_sources=5, filters=("g",), flux_range=(2e4, 1e5), fwhm=3.0
    )
    reducer = Reducer(directory / "out", directory / "frames", client="none", figures=False, verbose=False)
    reducer.create_catalogs()
    reducer.photometry(AperturePhotometer(radius=(2.0, 3.5, 5.0)))
    reducer.photometry(AperturePhotometer(radius=3.5), label="alone")
    reducer.photometry(AperturePhotometer(radius="best"), label="best")
    return directory / "out"


def test_radii__are_a_last_dimension_and_one_can_be_chosen(out):
    curves = light_curves(out, "1:g").load()
    assert curves["flux"].dims == ("frame", "source", "radius")
    assert curves["radius"].to_numpy().tolist() == [2.0, 3.5, 5.0]
    one, alone = light_curves(out, "1:g", radius=3.5).load(), light_curves(out, "1:g", "alone").load()
    for name in ("flux", "flux_err", "aperture_correction"):
        np.testing.assert_allclose(one[name], alone[name], rtol=1e-12)
    assert np.all(np.diff(curves["flux"].to_numpy(), axis=2) > 0)
    assert np.all(np.diff(curves["aperture_correction"].to_numpy(), axis=2) < 0)


def test_radii__light_curve_of_one_of_them(out, capsys):
    curve = relative_light_curve(out, "1:g", 1, [2, 3], radius=5.0)
    assert np.isfinite(curve["relative_flux"]).all()
    with pytest.raises(ValueError, match=r"has the radii 2, 3.5, 5: choose one"):
        relative_light_curve(out, "1:g", 1, [2, 3])
    with pytest.raises(ValueError, match=r"no radius 4 in photometry 'aperture': it has 2, 3.5, 5"):
        light_curves(out, "1:g", radius=4.0)
    with pytest.raises(ValueError, match="it has one aperture"):
        light_curves(out, "1:g", "alone", radius=4.0)
    command = ["lightcurve", str(out), "--target", "1", "--comparisons", "2", "3"]
    assert cli.main(command) == 2
    assert "choose one" in capsys.readouterr().err
    assert cli.main([*command, "--radius", "2"]) == 0
    auto = ["lightcurve", str(out), "--target", "3", "--label", "alone", "--weighting", "optimal", "--comparisons"]
    assert cli.main([*auto, "auto"]) == 0
    assert "sources chosen as comparisons: " in capsys.readouterr().out
    assert cli.main([*auto, "auto", "1"]) == 2
    assert "not both" in capsys.readouterr().err


def test_radii__files_for_people_have_a_column_each(out):
    table = pd.read_csv(out / "lcs" / "aperture" / "1-g_source_1.csv")
    assert [f"flux_r{radius}" in table for radius in ("2", "3.5", "5")] == [True] * 3
    assert table["flux_r2"].lt(table["flux_r5"]).all()


def test_radii__the_best_is_the_same_in_all_frames(out):
    best, alone = light_curves(out, "1:g", "best").load(), light_curves(out, "1:g", "alone").load()
    ratio = (best["flux"] / alone["flux"]).to_numpy()
    assert best["flux"].dims == ("frame", "source")
    assert np.std(ratio[:, 0]) < 0.01
