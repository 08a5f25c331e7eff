"""Sums of a few frames: right fluxes, errors and times, where single frames are lost in read noise."""

from __future__ import annotations

from dataclasses import replace

import dask
import dask.array
import numpy as np
import pytest
import xarray as xr
from small_nights import FIELD, INSTRUMENT, KEY, add_star, read_out, write_frame

import opticam_dask as opticam
from opticam_dask.api.steps.chains import ALIGNED
from opticam_dask.api.steps.frames import chain_of, with_chain
from opticam_dask.flags import UNUSABLE

N_FRAMES, SIZE, READ_NOISE = 80, 4, 8.0
CAMERA = opticam.Instrument.from_json(INSTRUMENT | {"default_read_noise": READ_NOISE})

#: Eight stars of a frame of 128 pixels; electrons a second. The faintest drown in the read noise of a frame.
STARS = FIELD[:8] * np.array([0.6, 0.6, 0.0]) + np.column_stack(
    [np.zeros((8, 2)), [6000.0, 4000.0, 3000.0, 2000.0, 1200.0, 800.0, 100.0, 60.0]]
)
EXPOSURES = np.where(np.arange(N_FRAMES) % 3 == 0, 8.0, 4.0)
STARTS = 20.0 * np.arange(N_FRAMES)
CONSTANT = 9


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.Dataset, xr.Dataset]:
    """Aligned frames of two exposure times, and their reference; one frame is constant."""
    folder, rng = tmp_path_factory.mktemp("coadd"), np.random.default_rng(4)
    for number in range(N_FRAMES):
        image, (dx, dy) = np.full((128, 128), 5.0), rng.normal(0.0, 2.0, 2)
        for x, y, rate in STARS:
            add_star(image, x + dx, y + dy, rate * EXPOSURES[number])
        pixels = np.full((128, 128), 7, np.uint16) if number == CONSTANT else read_out(image, rng, READ_NOISE)
        write_frame(folder / f"f{number:02d}.fits", pixels, STARTS[number], EXPTIME=EXPOSURES[number])
    with dask.config.set(scheduler="sync"):
        ds = opticam.open_frames(folder, key=KEY, instrument=CAMERA, chunks=14)
        ds = opticam.detect(opticam.background(opticam.calibrate(ds)))
        ref = opticam.reference(ds).load()
        return opticam.persist(opticam.align(ds, ref)), ref


def never(*_args: object, **_options: object) -> None:
    raise AssertionError("something was computed")


def searched(co: xr.Dataset, ref: xr.Dataset) -> xr.Dataset:
    return opticam.align(opticam.detect(opticam.background(co)), ref)


def test_fluxes_of_sums__have_the_true_value_and_error(aligned) -> None:
    ds, ref = aligned
    with dask.config.set(scheduler="sync"):
        co = searched(opticam.coadd(ds, ref, frames=SIZE), ref)
        cat = opticam.catalog(opticam.stack(ds, ref).load(), frames=co.compute())
        curves = opticam.photometry(co, cat).compute()
    brightest = cat.sel(source=1)
    offset = np.array([float(brightest["x"]), float(brightest["y"])]) - STARS[0, :2]
    places = np.column_stack([cat["x"], cat["y"]])
    nearest = np.array([np.argmin(np.hypot(*(STARS[:, :2] + offset - place).T)) for place in places])
    assert sorted(nearest.tolist()) == list(range(len(STARS)))  # all of them are in the stack
    truth = curves["exposure_time"].to_numpy()[:, None] * STARS[nearest, 2]
    total, error = (curves[name] * curves["aperture_correction"] for name in ("flux", "flux_err"))
    pulls = ((total - truth) / error).to_numpy()
    assert 0.9 < pulls.std() < 1.1
    # all of them share the error of the profile's total
    shared = float(cat["catalog_facts"].sel(catalog_fact="total_err")) * float(np.abs(total / error).mean())
    assert abs(pulls.mean()) < 0.1 + shared + 2.0 / np.sqrt(pulls.size)
    # nothing of the faintest is seen in one frame: its noise there is above a third of its flux
    faintest = int(np.argmin(STARS[nearest, 2]))
    assert float((error / total).isel(source=faintest).median()) < 0.2


def test_times_exposures_and_counts__are_those_of_the_frames_that_were_added(aligned) -> None:
    ds, ref = aligned
    with dask.config.set(scheduler="sync"):
        co = opticam.coadd(ds, ref, frames=SIZE)
    assert co.sizes["frame"] == N_FRAMES // SIZE
    used = np.arange(N_FRAMES) != CONSTANT
    for number in (0, CONSTANT // SIZE, 19):
        frames = np.arange(SIZE * number, SIZE * (number + 1))
        frames = frames[used[frames]]
        exposures = EXPOSURES[frames]
        assert int(co["n_coadded"][number]) == len(frames)
        assert float(co["exposure_time"][number]) == exposures.sum()
        middle = np.sum(exposures * (STARTS[frames] + exposures / 2.0)) / exposures.sum()
        found = (float(co["mjd_utc"][number]) - 60310.0) * 86400.0 - 20 * 3600.0
        assert found == pytest.approx(middle, abs=1e-3)
        assert co["time"].to_numpy()[number] == np.datetime64("2024-01-01T20:00:00") + np.timedelta64(
            round(middle * 1e6), "us"
        )
        barycentric = ds["bmjd_tdb"].to_numpy()[frames]
        expected = np.average(barycentric - barycentric[0], weights=exposures) + barycentric[0]
        assert float(co["bmjd_tdb"][number]) == pytest.approx(expected, abs=1e-9)


def test_bits_of_a_sum__do_not_depend_on_chunks_or_numpy(aligned) -> None:
    ds, ref = aligned
    part = ds.isel(frame=slice(6, 18))
    with dask.config.set(scheduler="sync"):
        expected = opticam.coadd(part, ref, frames=3)["image"].to_numpy()
        other = part.assign(raw=part["raw"].chunk(frame=2))
        at_once = part.compute()
        for again in (other, at_once):
            np.testing.assert_array_equal(opticam.coadd(again, ref, frames=3)["image"].to_numpy(), expected)


def test_pixels_that_are_not_known__are_not_in_a_sum() -> None:
    from opticam_dask.kernels.images.coadd import ShiftedSum, are_turned

    total, image = ShiftedSum((4, 5)), np.arange(20.0).reshape(4, 5)
    total.add(image, (0, 0))
    total.add(image, (2, -1), saturated=image == 7.0, unknown=image == 8.0)
    found = total.image(1000.0)
    assert found[1, 0] == image[1, 0] + image[0, 2]
    assert np.isnan(found[0]).all()  # the second frame has no such row
    assert np.isnan(found[:, 3:]).all()
    assert found[2, 0] == 1000.0
    assert np.isnan(found[2, 1])
    turn = np.deg2rad(2.0)
    turned = np.array([[np.cos(turn), -np.sin(turn), 0.0], [np.sin(turn), np.cos(turn), 0.0], [0.0, 0.0, 1.0]])
    moved = np.array([[1.0, 0.0, 30.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert are_turned(np.array([turned, moved]), np.eye(3), (100, 100)).tolist() == [True, False]


def test_nothing_is_computed__neither_masters_nor_frames(aligned) -> None:
    ds, ref = aligned
    part = ds.isel(frame=slice(CONSTANT - 5, CONSTANT + 3))
    response = 1.0 + 0.1 * np.random.default_rng(5).random((128, 128))
    masters = {
        "flat": response,
        "flat_variance": np.full_like(response, 1e-4),
        "bad_responses": np.zeros_like(response),
    }
    lazy = {f"master_{name}": (("y", "x"), dask.array.from_array(one)) for name, one in masters.items()}
    chain = replace(chain_of(ds, ALIGNED, "coadd"), is_known=False)
    with_flat = replace(chain, masters=tuple(masters))
    with dask.config.set(scheduler=never):
        co = opticam.coadd(with_chain(part, chain), ref, frames=SIZE)
        flat_fielded = opticam.coadd(with_chain(part.assign(lazy), with_flat), ref, frames=SIZE)
        sources = opticam.detect(opticam.background(flat_fielded))
    with dask.config.set(scheduler="sync"):
        expected = opticam.coadd(part, ref, frames=SIZE)
        for name in ("image", "time", "exposure_time", "n_coadded", "saturation"):
            np.testing.assert_array_equal(co[name][0], expected[name][0])
        # one frame of the second sum cannot be added, which nobody could know before
        assert co["image"][1].isnull().all()
        assert co["n_coadded"].to_numpy().tolist() == [SIZE, 0]
        assert expected["n_coadded"].to_numpy().tolist() == [SIZE, SIZE - 1]
        np.testing.assert_allclose(flat_fielded["master_flat_variance"], 1e-4 / response**2)
        flags = sources["flags"].to_numpy()
    assert flags[0] == 1
    assert flags[1] & UNUSABLE


@pytest.mark.parametrize("frames", [0, -3, 2.5, True])
def test_number_of_frames__is_a_whole_number(aligned, frames: object) -> None:
    ds, ref = aligned
    with pytest.raises(ValueError, match="coadd expected the number of frames of a sum, at least 1"):
        opticam.coadd(ds, ref, frames=frames)
