"""Steps: each frame is aligned once; late frames have the profile of their part; sums know the error of the flat."""

from __future__ import annotations

from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from small_nights import FIELD, INSTRUMENT, KEY, SmallNight, add_star, read_out, reduce_frames, write_frame

import opticam_dask as opticam
from opticam_dask.api.steps import chains

N_EARLY, N_LATE = 8, 4
CAMERA = opticam.Instrument.from_json(INSTRUMENT)
#: Electrons of a flat field: its error is 1/80 a pixel for two exposures of it.
FLAT_LEVEL = 3200.0


def paint(file: Path, number: int, fwhm: float, seed: int, response: float | np.ndarray = 1.0) -> None:
    rng = np.random.default_rng([seed, number])
    electrons = np.full((200, 200), 150.0)
    for x, y, flux in FIELD:
        add_star(electrons, x + 0.1 * number, y - 0.2 * number, flux, fwhm)
    write_frame(file, read_out(electrons * response, rng), 60.0 * number)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> SmallNight:
    """A night of which every third frame came late, when the seeing of those frames was found to be bad."""
    directory = tmp_path_factory.mktemp("late")
    late = set(range(2, 3 * N_LATE, 3))
    for number in set(range(N_EARLY + N_LATE)) - late:
        paint(directory / "frames" / f"f{number:02d}.fits", number, 3.5, 1)
    reduce_frames(directory)
    for number in late:
        paint(directory / "frames" / f"f{number:02d}.fits", number, 5.0, 1)
    return reduce_frames(directory)


def searched(frames: Path) -> xr.Dataset:
    ds = opticam.open_frames(frames, key=KEY, instrument=CAMERA, chunks=5)
    return opticam.detect(opticam.background(opticam.calibrate(ds)))


def test_late_frames__are_measured_with_the_profile_of_their_part(night: SmallNight) -> None:
    assert set(opticam.open_reduction(night.out)["1-V"].children) >= {"2024-01-01", "2024-01-01.2"}
    with dask.config.set(scheduler="sync"):
        ref, cat = opticam.open_catalog(night.out, KEY)
        found = opticam.photometry(opticam.align(searched(night.out.parent / "frames"), ref), cat).compute()
    stored = opticam.light_curves(night.out, KEY).load()
    assert found.sizes["frame"] == N_EARLY + N_LATE
    for name in ("flux", "flux_err", "aperture_correction", "profile_chi2", "flags"):
        np.testing.assert_array_equal(found[name], stored[name], err_msg=name)


def test_each_frame__is_aligned_once_on_the_way_to_light_curves(
    night: SmallNight, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ``persist``, in one computation: what the catalogue needs of frames is kept, also for some of them."""
    aligned: list[str] = []
    align = chains.reduce_frame

    def counted(job, entry):
        aligned.append(entry["file"])
        return align(job, entry)

    monkeypatch.setattr(chains, "reduce_frame", counted)
    with dask.config.set(scheduler="sync"):
        ds = searched(night.out.parent / "frames")
        ref = opticam.reference(ds).load()
        ds = opticam.align(ds, ref)
        cat = opticam.catalog(opticam.stack(ds, ref))
        found, part = dask.compute(
            opticam.photometry(ds, cat), opticam.photometry(ds.isel(frame=slice(3, 9)), cat.sel(source=[2]))
        )
        assert sorted(aligned) == sorted(ds["file"].to_numpy().tolist())
        expected = opticam.photometry(opticam.persist(ds), cat).compute()
    xr.testing.assert_identical(found, expected)
    np.testing.assert_array_equal(part["flux"], found["flux"].isel(frame=slice(3, 9)).sel(source=[2]))


def test_sums__have_the_error_of_the_flat_of_their_frames(tmp_path: Path) -> None:
    """As much as each of their frames, in parts of the flux: it does not become less when frames are added."""
    rng = np.random.default_rng(6)
    response = 1.0 + 0.05 * rng.normal(size=(200, 200))
    for number in range(2):
        pixels = read_out(FLAT_LEVEL * response, rng)
        write_frame(tmp_path / "flats" / f"flat{number}.fits", pixels, -3600.0 + 60.0 * number)
    for number in range(4):
        paint(tmp_path / "frames" / f"f{number}.fits", number, 4.0, 2, response)
    with dask.config.set(scheduler="sync"):
        ds = opticam.open_frames(tmp_path / "frames", key=KEY, instrument=CAMERA, chunks=4)
        masters = opticam.calibration_masters(key=KEY, flats=tmp_path / "flats", instrument=CAMERA)
        ds = opticam.detect(opticam.background(opticam.calibrate(ds, masters)))
        ref = opticam.reference(ds).load()
        ds = opticam.align(ds, ref)
        cat = opticam.catalog(opticam.stack(ds, ref))
        single = opticam.photometry(ds, cat).compute()
        co = opticam.align(opticam.detect(opticam.background(opticam.coadd(ds, ref, frames=4))), ref)
        summed = opticam.photometry(co, cat).compute()
    of_frame = (single["flux_err_sys"] / single["flux"]).median("frame").to_numpy()[:6]
    of_sum = (summed["flux_err_sys"] / summed["flux"]).to_numpy()[0, :6]
    np.testing.assert_allclose(of_sum, of_frame, rtol=0.1)
    # the error of a pixel of the flat, 1/80, by the root of the number of pixels that hold a star, about 36
    assert np.all((of_sum > 0.5 / 80 / 6) & (of_sum < 2 / 80 / 6))
