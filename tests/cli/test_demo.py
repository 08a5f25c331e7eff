"""The demonstration says what its frames can tell, however many they are."""

from __future__ import annotations

import re

import numpy as np
import pytest
import xarray as xr

from opticam_dask.cli import demo
from opticam_dask.cluster import connections
from opticam_dask.flags import SourceFlag
from opticam_dask.frames.simulation import synthetic

KEYS, SIMULATED = ("1:g", "2:r", "3:i"), 2


@pytest.fixture(scope="module")
def measured():
    """Photometry of 60 frames of each camera: the truth with the photon noise of stars and of the sky under them."""
    truth, rng = synthetic.observation_truth(n_images=60), np.random.default_rng(8)
    found = {}
    for row, key in enumerate(KEYS):
        flux = truth["flux"].to_numpy()[row]
        error = np.sqrt(flux + 60.0 * truth.attrs["sky"])
        mjd = 60310.0 + truth["time"].to_numpy() / 86400.0
        cells = ("frame", "source")
        found[key] = xr.Dataset(
            {
                "flux": (cells, flux + error * rng.normal(size=flux.shape)),
                "flux_err": (cells, error),
                "flags": (cells, np.full(flux.shape, int(SourceFlag.REDUCED), np.uint32)),
            },
            {
                "source_id": ("source", truth["source_id"].to_numpy()),
                "mjd_utc": ("frame", mjd),
                "bmjd_tdb": ("frame", mjd),
                "night": ("frame", np.full(len(mjd), "2024-01-01")),
            },
            {"key": key, "label": "aperture"},
        )
    return found


class _Heard:
    def __init__(self):
        self.lines = []

    def tell(self, line):
        self.lines.append(line)


def test_demo__of_any_number_of_frames_says_nothing_wrong(measured):
    truth = synthetic.observation_truth(n_images=1)
    for n_frames in range(1, 61):
        some, heard = {key: one.isel(frame=slice(n_frames)) for key, one in measured.items()}, _Heard()
        assert demo.find_variable(some[KEYS[0]], SIMULATED, heard) == SIMULATED, n_frames
        text = "\n".join(demo.describe_variation(demo.relative_curves(some, SIMULATED), truth.attrs["frequency"]))
        for amplitude, error in re.findall(r"amplitude ([0-9.]+) \+- ([0-9.]+) %", text):
            away = abs(float(amplitude) - 100 * truth.attrs["amplitude"])
            assert away < 3.5 * float(error) + 0.3, f"{n_frames} frames: {text}"
        for frequency in re.findall(r"Its frequency is ([0-9.]+) Hz", text):
            assert abs(float(frequency) - truth.attrs["frequency"]) < 0.5 / n_frames
        if n_frames <= 8:
            assert "too few frames" in text
            assert "%" not in text
    assert "Its frequency is 0.13" in text


@pytest.mark.parametrize("n_images", [1, 8])
def test_demo__of_few_frames_runs_to_its_end(tmp_path, capsys, n_images):
    with connections.connect("none") as client:
        demo.run_demo(tmp_path, n_images, client=client)
    told = capsys.readouterr().out
    assert "Which source varies cannot be told" in told
    assert "too few frames" in told
    assert "amplitude" not in told
    assert (tmp_path / "reduced/report.html").is_file()
