"""The whole chain of steps waits: catalogue, masters and relative curves too; computed, it is the durable reduction."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from small_nights import FIELD, INSTRUMENT, KEY, SmallNight, add_star, read_out, reduce_frames, write_frame

import opticam_dask as opticam
from opticam_dask.api.steps import chains
from opticam_dask.frames.fits_files import FitsReader

N_FRAMES, SIDE, STACKED = 12, 200, 8
CAMERA = opticam.Instrument.from_json(INSTRUMENT)
BAD_COLUMN = 120


def never(*_args: object, **_options: object) -> None:
    raise AssertionError("something was computed while a graph was built")


def fringes() -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.sin((x + 0.4 * y) / 6.0) * np.cos(y / 31.0)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> SmallNight:
    """Frames with fringes, a flat field and a bad column, and the frames that take these off; 8 of 12 are stacked."""
    directory, rng = tmp_path_factory.mktemp("lazy"), np.random.default_rng(191)
    response = 1.0 + 0.05 * rng.normal(size=(SIDE, SIDE))
    response[:, BAD_COLUMN] = 0.3
    for number in range(N_FRAMES):
        image, (dx, dy) = 200.0 + 20.0 * fringes(), rng.normal(0.0, 2.0, 2)
        for star, (x, y, flux) in enumerate(FIELD):
            add_star(image, x + dx, y + dy, flux * (1.0 + 0.1 * np.sin(number) * (star == 3)))
        write_frame(directory / "frames" / f"f{number:02d}.fits", read_out(image * response, rng), 600.0 * number)
    for number in range(3):
        for kind, electrons, time in (
            ("flat", response * 20_000.0, 5.0),
            ("fringe", (2000.0 + 200.0 * fringes()) * response, 5.0),
            ("bias", np.zeros((SIDE, SIDE)), 0.0),
        ):
            file = directory / kind / f"{number}.fits"
            write_frame(file, read_out(electrons, rng), number - 3600.0, IMAGETYP=kind, EXPTIME=time)
    return reduce_frames(directory, catalogs={"stack_frames": STACKED}, **calibration(directory))


def calibration(directory: Path) -> dict[str, Path]:
    return {"biases": directory / "bias", "flats": directory / "flat", "fringes": directory / "fringe"}


def lazy_chain(night: SmallNight, chunks: int = 3) -> dict[str, xr.Dataset]:
    """Every step of the contract, one after the other; nothing is loaded in between."""
    directory = night.out.parent
    masters = opticam.calibration_masters(key=KEY, instrument=CAMERA, **calibration(directory))
    ds = opticam.open_frames(directory / "frames", key=KEY, instrument=CAMERA, chunks=chunks)
    ds = opticam.detect(opticam.background(opticam.calibrate(ds, masters)))
    ref = opticam.reference(ds)
    ds = opticam.align(ds, ref)
    deep = opticam.stack(ds, ref, stack_frames=STACKED)
    cat = opticam.catalog(deep)
    lc = opticam.photometry(ds, cat)
    return {"masters": masters, "aligned": ds, "reference": ref, "stack": deep, "catalog": cat, "curves": lc}


MEASURED = ("flux", "flux_err", "flux_err_sys", "x", "y", "flags", "aperture_correction", "profile_chi2", "frame_flags")


def test_nothing_is_computed_by_any_step__and_light_curves_are_the_store_bit_for_bit(night) -> None:
    with dask.config.set(scheduler=never):
        found = lazy_chain(night)
        more = opticam.add_sources(found["catalog"], xy=[(15.0, 100.0)], name=["empty sky"])
        placed = opticam.photometry(found["aligned"], more.sel(source=[2, int(more["source"][-1])]))
        auto = opticam.relative(found["curves"], target=4, comparisons="auto", detrend=["fwhm"])
        opticam.subtract_background(found["aligned"])
        wide = opticam.AperturePhotometer(radius=[1.0, 1.5])
        one = opticam.photometry(found["aligned"], found["catalog"].sel(source=2), wide)
        of_radii = opticam.relative(opticam.photometry(found["aligned"], found["catalog"], wide), 4, [1, 2])
    assert auto["time"].size == N_FRAMES
    with dask.config.set(scheduler="sync"):
        given = (found["curves"], found["catalog"], found["stack"], placed, auto, one, of_radii)
        lc, cat, deep, placed, auto, one, of_radii = dask.compute(*given)
    stored = night.curves()
    n_sources = stored.sizes["source"]
    assert int(cat["n_sources"]) == n_sources
    for name in MEASURED:
        values = lc[name].isel(source=slice(n_sources)) if "source" in lc[name].dims else lc[name]
        np.testing.assert_array_equal(values, stored[name], err_msg=name)
    assert lc["flux"].isel(source=slice(n_sources, None)).isnull().all()
    assert (lc["flags"].isel(source=slice(n_sources, None)) == 0).all()
    np.testing.assert_array_equal(deep["image"], night.group("reference")["image"])
    for name in ("x", "y", "flux", "fwhm", "is_star"):
        np.testing.assert_array_equal(cat[name][:n_sources], night.catalog[name], err_msg=name)
    np.testing.assert_array_equal(placed["flux"].sel(source=2), stored["flux"].sel(source=2))
    sky = placed.isel(source=-1)
    assert float(np.abs(sky["flux"] / sky["flux_err"]).max()) < 5.0  # sigma: there is nothing
    expected = opticam.relative_light_curve(night.out, KEY, 4, "auto", detrend=["fwhm"])
    for name in ("relative_flux", "relative_flux_err", "flags"):
        np.testing.assert_array_equal(auto[name], expected[name], err_msg=name)
    assert of_radii["relative_flux"].dims == ("frame", "radius")
    assert of_radii["relative_flux_err"].sel(radius=1.0).mean() != of_radii["relative_flux_err"].sel(radius=1.5).mean()
    assert one["flux"].shape == (N_FRAMES, 1, 2)
    chosen = auto["source"].to_numpy()[auto["weight"].to_numpy() > 0].tolist()
    assert chosen == sorted(expected.attrs["comparisons"])
    assert auto["weight"].sum() == pytest.approx(1.0, abs=1e-5)


def test_chain_to_light_curves__is_two_tasks_a_chunk_and_aligns_each_frame_once(night, monkeypatch) -> None:
    aligned, read, align = Counter[str](), Counter[str](), chains.reduce_frame

    def counted(job, entry):
        aligned[Path(entry["file"]).name] += 1
        return align(job, entry)

    reading = FitsReader.read

    def counted_reading(self, path):
        read[Path(path).name] += 1
        return reading(self, path)

    monkeypatch.setattr(chains, "reduce_frame", counted)
    monkeypatch.setattr(FitsReader, "read", counted_reading)
    few, many = (lazy_chain(night, chunks) for chunks in (12, 1))
    n_tasks = [len(dict(dask.optimize(one["curves"]["flux"].data)[0].dask)) for one in (few, many)]
    # 9 candidates for the reference frame are in as many chunks; results of eight chunks are joined by one task
    assert n_tasks[1] - n_tasks[0] <= 2 * (12 - 1) + (9 - 1) + 2 + 2
    with dask.config.set(scheduler="sync"):
        many["curves"]["flux"].compute()
    frames = {name: count for name, count in aligned.items() if name.startswith("f")}
    assert set(frames.values()) == {1}
    # the light curves, the survey of those that are stacked, and nine of them for the reference frame
    assert sum(read[name] for name in frames) == N_FRAMES + STACKED + 9


def test_part_of_the_night_that_was_selected__reads_its_own_frames_alone(night, monkeypatch) -> None:
    read, reading = Counter[str](), FitsReader.read

    def counted_reading(self, path):
        read[Path(path).name] += 1
        return reading(self, path)

    ref, cat = opticam.open_catalog(night.out, KEY)
    masters = opticam.calibration_masters(key=KEY, reduction=night.out)
    monkeypatch.setattr(FitsReader, "read", counted_reading)
    ds = opticam.open_frames(night.out.parent / "frames", key=KEY, instrument=CAMERA, chunks=12)
    part = ds.sel(time=slice("2024-01-01T20:25", "2024-01-01T20:45"))
    part = opticam.align(opticam.detect(opticam.background(opticam.calibrate(part, masters))), ref)
    with dask.config.set(scheduler="sync"):
        found = opticam.photometry(part, cat).compute()
    assert set(read) == {"f03.fits", "f04.fits"}
    np.testing.assert_array_equal(found["flux"], night.curves()["flux"].isel(frame=[3, 4]))


def test_frames_that_were_changed_before_calibrate__are_read_as_they_were_changed(night) -> None:
    ds = opticam.open_frames(night.out.parent / "frames", key=KEY, instrument=CAMERA, chunks=5)
    turned = ds.isel(y=slice(None, None, -1))
    with dask.config.set(scheduler="sync"):
        for changed, expected in (
            (turned, ds["image"][3:6, ::-1]),
            (ds.assign(image=ds["image"] + 1), ds["image"] + 1),
        ):
            kept = changed.assign(image=changed["image"].assign_attrs(ds["image"].attrs))
            found = opticam.calibrate(kept.isel(frame=slice(3, 6)))["image"].to_numpy()
            np.testing.assert_array_equal(found, expected.to_numpy()[-3:] if len(expected) == 3 else expected[3:6])
