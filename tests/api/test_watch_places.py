"""A target that is followed while frames land may be told by its place on the sky, where headers have coordinates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_nights import FIELD, INSTRUMENT, add_stars, read_out, rows_of, write_frame

from opticam_dask.cli.parser import main
from opticam_dask.frames import sky_coordinates

N_FRAMES = 6
SCALE = 0.8
CENTRE = (52.5, 20.0)


def truth() -> sky_coordinates.WCS:
    wcs = sky_coordinates.tangent_wcs(*CENTRE)
    wcs.wcs.crpix, wcs.wcs.cdelt = [100.5, 100.5], [-SCALE / 3600, SCALE / 3600]
    wcs.wcs.set()
    return wcs


def write_night(directory: Path) -> None:
    rng = np.random.default_rng(3)
    cards = {name: value for name, value in sky_coordinates.wcs_header(truth()).items() if name != "WCSAXES"}
    for index in range(N_FRAMES):
        electrons = add_stars(np.full((200, 200), 400.0), FIELD, fwhm=3.5)
        write_frame(directory / "frames" / f"frame_{index}.fits", read_out(electrons, rng), 10.0 * index, **cards)
    (directory / "camera.json").write_text(json.dumps(INSTRUMENT))


def test_the_target_is_told_by_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_night(tmp_path)
    ra, dec = (f"{float(value[0]):.5f}" for value in sky_coordinates.icrs_of_pixels(truth(), *FIELD[2:3, :2].T))
    out = tmp_path / "out"
    command = ["watch", str(tmp_path / "frames"), "--out", str(out), "--instrument", str(tmp_path / "camera.json")]
    command += ["--cluster", "none", "--n-first", "3", "--n-frames", str(N_FRAMES), "--idle", "60", "--patience", "2"]
    assert main([*command, "--target", ra, dec, "--comparisons", "1", "2"]) == 0
    fluxes = rows_of(out / "watch" / "1-V_fluxes.csv")
    live = rows_of(out / "watch" / f"target_{ra}_{dec}_1-V_light_curve.csv")
    assert len(live) == len(fluxes) == N_FRAMES
    for flux, ratio in zip(fluxes, live, strict=True):
        expected = float(flux["flux_3"]) / (float(flux["flux_1"]) + float(flux["flux_2"]))
        assert float(ratio["rel_flux"]) == pytest.approx(expected, rel=1e-6)
        assert expected == pytest.approx(1e5 / 3.5e5, rel=0.05)
    (final,) = (out / "relative_light_curves" / "aperture").glob("target_3_*.csv")
    assert final.stat().st_size > 0
