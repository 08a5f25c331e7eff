"""Steps on what a reduction has frozen: several nights, a changing PSF, every scheduler, functions of the user's."""

from __future__ import annotations

from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from small_nights import FIELD, INSTRUMENT, KEY, SmallNight, add_star, never, read_out, reduce_frames, write_frame

import opticam_dask as opticam
from opticam_dask.api.steps import chains
from opticam_dask.steps.align import reduce_frame

CAMERA = opticam.Instrument.from_json(INSTRUMENT)
NIGHTS = ("2024-01-01", "2024-01-03")


@pytest.fixture(scope="module")
def two_nights(tmp_path_factory: pytest.TempPathFactory) -> SmallNight:
    """Six frames in each of two nights of other stars' forms, which change over the field."""
    directory, rng = tmp_path_factory.mktemp("nights"), np.random.default_rng(23)
    for night, day in enumerate(NIGHTS):
        for number in range(6):
            image, (dx, dy) = np.full((200, 200), 120.0), rng.normal(0.0, 1.5, 2)
            for x, y, flux in FIELD:
                add_star(image, x + dx, y + dy, flux, 3.6 + 1.5 * night + 0.004 * x, 3.0 + night)
            frame = directory / "frames" / f"{day}-{number}.fits"
            write_frame(frame, read_out(image, rng), 300.0 * number, start=f"{day}T20:00:00")
    return reduce_frames(directory)


@pytest.fixture(scope="module")
def frames(two_nights: SmallNight) -> Path:
    return two_nights.out.parent / "frames"


def aligned_to(frames: Path, ref: xr.Dataset, chunks: int = 4) -> xr.Dataset:
    ds = opticam.open_frames(frames, key=KEY, instrument=CAMERA, chunks=chunks)
    return opticam.align(opticam.detect(opticam.background(opticam.calibrate(ds))), ref)


def assert_same_bits(found: xr.Dataset, stored: xr.Dataset, names: tuple[str, ...]) -> None:
    for name in names:
        np.testing.assert_array_equal(found[name].to_numpy(), stored[name].to_numpy(), err_msg=name)


MEASURED = ("flux", "flux_err", "x", "y", "flags", "aperture_correction", "profile_chi2", "frame_flags", "fwhm")


def test_several_nights__have_each_their_own_star_profile(two_nights, frames) -> None:
    ref, cat = opticam.open_catalog(two_nights.out, KEY)
    assert cat["profile_night"].to_numpy().tolist() == list(NIGHTS)
    stored = two_nights.curves()
    with dask.config.set(scheduler="sync"):
        found = opticam.photometry(aligned_to(frames, ref), cat).compute()
        of_one = opticam.open_catalog(two_nights.out, KEY, night=NIGHTS[0])[1]
        other = opticam.photometry(aligned_to(frames, ref), of_one)["aperture_correction"].compute()
    assert_same_bits(found, stored, MEASURED)
    assert np.abs(other[6:] - stored["aperture_correction"][6:]).max() > 0.001  # the other night's stars are no help


def test_results_that_were_kept__give_the_same_bits(two_nights, frames) -> None:
    ref, cat = opticam.open_catalog(two_nights.out, KEY)
    with dask.config.set(scheduler="sync"):
        ds = aligned_to(frames, ref)
        kept = opticam.persist(ds)
        part = kept.isel(frame=slice(3, 9))
        assert_same_bits(opticam.photometry(part, cat).compute(), two_nights.curves().isel(frame=slice(3, 9)), MEASURED)
        one = slice(0, 6)
        expected = opticam.stack(ds.isel(frame=one), ref)["image"].to_numpy()
        np.testing.assert_array_equal(opticam.stack(kept.isel(frame=one), ref)["image"].to_numpy(), expected)
    np.testing.assert_array_equal(expected, two_nights.group("reference")["image"].to_numpy())


def test_transforms_and_photometry_together__align_each_frame_once(two_nights, frames, monkeypatch) -> None:
    ref, cat = opticam.open_catalog(two_nights.out, KEY)
    ds = aligned_to(frames, ref)
    seen = []

    def counting(job, entry):
        seen.append(entry["file"])
        return reduce_frame(job, entry)

    monkeypatch.setattr(chains, "reduce_frame", counting)
    with dask.config.set(scheduler="sync"):
        dask.compute(opticam.photometry(ds, cat)["flux"], ds["transform"], ds["fwhm"])
        assert len(seen) == ds.sizes["frame"]
        # a stack shares its survey with the catalogue and the light curves that are made of it
        deep = opticam.stack(ds, ref)
        dask.compute(deep["image"], opticam.photometry(ds, opticam.catalog(deep))["flux"])
        assert len(seen) == 2 * ds.sizes["frame"]


class Level:
    """Sky of one level, of a user's own function."""

    def __init__(self, image: np.ndarray) -> None:
        self.background_median, self.background_rms_median = float(np.median(image)), float(np.std(image[:15, :15]))
        self.background = np.full(image.shape, self.background_median)
        self.background_rms = np.full(image.shape, self.background_rms_median)


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0") as made:
        yield made


def all_steps(frames: Path, ref: xr.Dataset, cat: xr.Dataset) -> dict[str, np.ndarray]:
    """What every step finds in a few frames, some by functions that were defined here."""
    part = slice(2, 8)
    ds = aligned_to(frames, ref, chunks=3).isel(frame=part)
    own = opticam.calibrate(
        opticam.open_frames(frames, key=KEY, instrument=CAMERA, chunks=3).isel(frame=part),
        image_filter=lambda image: image + 1.0,
    )
    own = opticam.detect(opticam.background(own, estimator=lambda image: Level(image)))
    found = {name: ds[name] for name in ("image", "background_mesh", "x", "transform", "flags")}
    found |= {"clean": opticam.subtract_background(ds), "own": own["n_sources"], "own_sky": own["background"]}
    found |= {f"reference_{name}": opticam.reference(ds)[name] for name in ("alignment_x", "reference_index")}
    found["stack"], found["sums"] = opticam.stack(ds, ref)["image"], opticam.coadd(ds, ref, frames=2)["image"]
    found["flux"] = opticam.photometry(ds, cat)["flux"]
    (computed,) = dask.compute({name: values.variable for name, values in found.items()})  # processes start once
    return {name: values.to_numpy() for name, values in computed.items()}


def test_every_step__gives_the_same_bits_by_every_scheduler(two_nights, frames, cluster) -> None:
    ref, cat = opticam.open_catalog(two_nights.out, KEY)
    with dask.config.set(scheduler="sync"):
        expected = all_steps(frames, ref, cat)
    with dask.config.set(scheduler="processes", num_workers=1):
        by_processes = all_steps(frames, ref, cat)
    with Client(cluster):
        by_cluster = all_steps(frames, ref, cat)
    for found in (by_processes, by_cluster):
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_client_of_the_users__is_used_and_none_is_started(two_nights, frames, cluster, tmp_path, monkeypatch) -> None:
    ref, cat = opticam.open_catalog(two_nights.out, KEY)
    with Client(cluster) as client:
        begun = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.task_prefixes))
        monkeypatch.setattr(LocalCluster, "__init__", never)
        monkeypatch.setattr(Client, "__init__", never)
        opticam.photometry(aligned_to(frames, ref).isel(frame=slice(0, 4)), cat)["flux"].compute()

        def done(dask_scheduler):
            return {name: prefix.states["memory"] + prefix.states["released"] + prefix.states["forgotten"]
                    for name, prefix in dask_scheduler.task_prefixes.items()}  # fmt: skip

        assert len(client.run_on_scheduler(done)) > begun
        opticam.reduce(
            opticam.open_frames(frames, key=KEY, instrument=CAMERA), tmp_path / "again", figures=False, verbose=False
        )
    again = opticam.light_curves(tmp_path / "again", KEY)
    np.testing.assert_array_equal(again["flux"].to_numpy(), two_nights.curves()["flux"].to_numpy())
