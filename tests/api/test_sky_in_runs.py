"""Stars of a catalogue and sources of the observer, given to runs of job arrays and while frames land."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from small_nights import FIELD, INSTRUMENT, KEY, SmallNight, add_stars, read_out, write_frame

from opticam_dask.cli.parser import main
from opticam_dask.frames import sky_coordinates
from opticam_dask.lightcurves.targets import source_number
from opticam_dask.store import integrity
from opticam_dask.store.store import Store

N_FRAMES, SCALE = 6, 0.8
#: What the catalogue calls the third brightest star of the field.
NAME = "AY Psc"
#: Where nothing is.
EMPTY = (130.0, 110.0)


def truth() -> sky_coordinates.WCS:
    wcs = sky_coordinates.tangent_wcs(52.5, 20.0)
    wcs.wcs.crpix, wcs.wcs.cdelt = [100.5, 100.5], [-SCALE / 3600, SCALE / 3600]
    wcs.wcs.set()
    return wcs


def write_places(file: Path, xy: np.ndarray, names: list[str], **columns: np.ndarray) -> None:
    ra, dec = sky_coordinates.icrs_of_pixels(truth(), *np.asarray(xy).T)
    Table({"name": names, "ra": ra, "dec": dec, **columns}).write(file)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames that do not know where they look, a catalogue of the stars around, and sources of the observer."""
    directory = tmp_path_factory.mktemp("given")
    rng = np.random.default_rng(3)
    for index in range(N_FRAMES):
        electrons = add_stars(np.full((200, 200), 400.0), FIELD, fwhm=3.5)
        write_frame(directory / "frames" / f"f_{index}.fits", read_out(electrons, rng), 10.0 * index, PIXSCALE=SCALE)
    (directory / "camera.json").write_text(json.dumps(INSTRUMENT))
    names = [NAME if row == 2 else f"star {row}" for row in range(len(FIELD))]
    write_places(directory / "stars.csv", FIELD[:, :2], names, g_mag=20.0 - 2.5 * np.log10(FIELD[:, 2]))
    write_places(directory / "mine.csv", np.array([EMPTY]), ["mine"])
    write_places(directory / "more.csv", np.array([(60.0, 75.0)]), ["more"])
    return directory


def command(name: str, given: Path, out: Path, *options: str) -> list[str]:
    return [name, str(given / "frames"), "--out", str(out), "--instrument", str(given / "camera.json"), *options]


def run_jobs(out: Path) -> None:
    for number in range(4):
        if number:
            assert main(["work", str(out), "--pass", str(number), "--cluster", "none"]) == 0
        assert main(["finish", str(out), "--pass", str(number), "--cluster", "none"]) == 0


def test_job_arrays_find_the_field_and_measure_what_was_placed(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As ``reduce`` does, bit for bit, though the jobs work elsewhere; also what is placed when all is done."""
    planned, reduced, elsewhere = tmp_path / "planned", tmp_path / "reduced", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(given)
    files = ["--sky-catalog", "stars.csv", "--sources", "mine.csv"]
    assert main(command("reduce", given, reduced, *files, "--cluster", "none")) == 0
    assert main(command("plan", given, planned, *files)) == 0
    monkeypatch.chdir(elsewhere)
    run_jobs(planned)
    assert integrity.compare(Store.at(planned).path, Store.at(reduced).path) == []
    night = SmallNight(planned)
    assert night.catalog["name"].to_numpy().tolist()[2] == NAME
    assert night.catalog.attrs["wcs_n_matched"] == len(FIELD)
    wcs = sky_coordinates.read_wcs(night.catalog.attrs["wcs"])
    back = sky_coordinates.pixels_of_icrs(wcs, *sky_coordinates.icrs_of_pixels(truth(), *FIELD[:, :2].T))
    assert np.abs(np.array(back) - FIELD[:, :2].T).max() < 0.1, "pixels"
    before = night.curves()["flux"].to_numpy()
    assert np.isfinite(before[:, source_number(planned, KEY, "mine") - 1]).all()

    assert main(command("plan", given, planned, "--sources", str(given / "more.csv"))) == 0
    run_jobs(planned)
    after = night.curves()["flux"].to_numpy()
    assert after.shape[1] == before.shape[1] + 1
    np.testing.assert_array_equal(after[:, :-1], before)
    assert np.isfinite(after[:, -1]).all()
    capsys.readouterr()
    assert main(["plan", "--out", str(planned), "--sky-catalog", str(given / "stars.csv")]) == 2
    assert "--sky-catalog would change nothing. Give DATA" in capsys.readouterr().err


def test_a_reduction_by_job_arrays_is_found_on_the_sky_later(given: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(command("reduce", given, out, "--cluster", "none")) == 0
    assert "ra" not in SmallNight(out).catalog
    assert main(command("plan", given, out, "--sky-catalog", str(given / "stars.csv"))) == 0
    assert source_number(out, KEY, NAME) == 3
    assert NAME in (out / "cat" / "1-V_catalog.ecsv").read_text()


def test_names_of_the_sky_catalogue_and_of_the_observer_are_known_while_frames_land(
    given: Path, tmp_path: Path
) -> None:
    shutil.copytree(given / "frames", tmp_path / "frames")
    out = tmp_path / "out"
    options = ["--cluster", "none", "--n-first", "3", "--n-frames", str(N_FRAMES), "--idle", "60", "--patience", "2"]
    options += ["--sky-catalog", str(given / "stars.csv"), "--sources", str(given / "mine.csv")]
    watch = command("watch", given, out, *options, "--target", NAME, "--comparisons", "star 0", "star 1")
    watch[1] = str(tmp_path / "frames")
    assert main(watch) == 0
    with next((out / "watch").glob("target_*_light_curve.csv")).open() as stream:
        live = [float(row["rel_flux"]) for row in csv.DictReader(stream)]
    assert len(live) == N_FRAMES
    assert np.mean(live) == pytest.approx(1e5 / 3.5e5, rel=0.01)
    with (out / "watch" / "1-V_fluxes.csv").open() as stream:
        fluxes = list(csv.DictReader(stream))
    placed = len(FIELD) + 1
    assert all(abs(float(row[f"flux_{placed}"])) < 5 * float(row[f"flux_err_{placed}"]) for row in fluxes)
    (final,) = (out / "relative_light_curves" / "aperture").glob("target_3_*.csv")
    assert final.stat().st_size > 0
