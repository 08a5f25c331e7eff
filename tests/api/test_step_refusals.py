"""Calls of steps that cannot work say so in one line before anything runs; results are written and read again."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from small_nights import FIELD, INSTRUMENT, KEY, SmallNight, add_stars, never, read_out, reduce_frames, write_frame

import opticam_dask as opticam
from opticam_dask.api.steps.chains import Chain
from opticam_dask.api.steps.frames import with_chain
from opticam_dask.api.steps.reading import SOURCE, OpenedFrames
from opticam_dask.cluster import blocks
from opticam_dask.lightcurves.indexes import with_indexes
from opticam_dask.lightcurves.xarray_backend import OpticamBackend

CAMERA = opticam.Instrument.from_json(INSTRUMENT)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> SmallNight:
    directory, rng = tmp_path_factory.mktemp("refusals"), np.random.default_rng(29)
    for number in range(8):
        image, (dx, dy) = np.full((200, 200), 120.0), rng.normal(0.0, 2.0, 2)
        add_stars(image, FIELD, (dx, dy))
        write_frame(directory / "frames" / f"f{number}.fits", read_out(image, rng), 300.0 * number)
    return reduce_frames(directory)


@pytest.fixture(scope="module")
def stages(night: SmallNight) -> dict[str, xr.Dataset]:
    """The frames after each step, with their reference, stack and catalogue."""
    with dask.config.set(scheduler="sync"):
        raw = opticam.open_frames(night.out.parent / "frames", key=KEY, instrument=CAMERA, chunks=4)
        found = {"raw": raw, "electrons": opticam.calibrate(raw)}
        found["sky"] = opticam.background(found["electrons"])
        found["sources"] = opticam.detect(found["sky"])
        found["ref"] = opticam.reference(found["sources"]).load()
        found["aligned"] = opticam.persist(opticam.align(found["sources"], found["ref"]))
        found["stack"] = opticam.stack(found["aligned"], found["ref"]).load()
        found["cat"] = opticam.catalog(found["stack"])
        return found


@pytest.mark.parametrize("open_them", [opticam.open_frames, opticam.open_observations])
def test_frames_that_cannot_be_used__are_told_with_the_reason_of_each(open_them, tmp_path):
    (tmp_path / "text.fits").write_text("no frame")
    with pytest.raises(ValueError, match=r"no usable frame in .*, 1 file\(s\).*\. text\.fits: not a FITS file"):
        open_them(tmp_path)


def test_frames__are_of_the_camera_that_is_named_by_its_key_its_group_or_its_filter(tmp_path):
    for number, name in enumerate(("H/a", "r")):
        write_frame(tmp_path / f"{name[0]}.fits", np.full((40, 50), 100 + number, dtype=np.uint16), 300.0 * number)
        fits.setval(tmp_path / f"{name[0]}.fits", "FILTER", value=name)
    for given in ("1:H/a", "1-H_a", "H/a"):
        assert opticam.open_frames(tmp_path, key=given, instrument=CAMERA).attrs["key"] == "1:H/a"
        opened = xr.open_dataset(tmp_path, engine=OpticamBackend, key=given, instrument=CAMERA)
        assert opened["image"].to_numpy().min() == 100
    with pytest.raises(ValueError, match=r"there is no such key: '3:z' in .*; it has 1:H/a, 1:r"):
        opticam.open_frames(tmp_path, key="3:z", instrument=CAMERA)
    with pytest.raises(ValueError, match="one of 1:H/a, 1:r, got None"):
        opticam.open_frames(tmp_path, instrument=CAMERA)


Step = Callable[[dict[str, xr.Dataset], xr.Dataset], object]

#: Each step, and the stage of the frames that it needs.
STEPS: dict[str, tuple[Step, str]] = {
    "background": (lambda known, ds: opticam.background(ds), "electrons"),
    "subtract_background": (lambda known, ds: opticam.subtract_background(ds), "sky"),
    "detect": (lambda known, ds: opticam.detect(ds), "sky"),
    "reference": (lambda known, ds: opticam.reference(ds), "sources"),
    "align": (lambda known, ds: opticam.align(ds, known["ref"]), "sources"),
    "persist": (lambda known, ds: opticam.persist(ds), "aligned"),
    "stack": (lambda known, ds: opticam.stack(ds, known["ref"]), "aligned"),
    "coadd": (lambda known, ds: opticam.coadd(ds, known["ref"], frames=2), "aligned"),
    "photometry": (lambda known, ds: opticam.photometry(ds, known["cat"]), "aligned"),
    "catalog": (lambda known, ds: opticam.catalog(known["stack"], frames=ds), "aligned"),
}
ORDER = ("raw", "electrons", "sky", "sources", "aligned")


def refusal(call: Callable[[], object]) -> str:
    """The line by which a call is refused, before anything is computed."""
    with dask.config.set(scheduler=never), pytest.raises(ValueError, match=r".") as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", STEPS)
def test_step__refuses_what_it_cannot_work_on(stages, name: str) -> None:
    step, needed = STEPS[name]
    ds = stages[needed]
    told = refusal(lambda: step(stages, stages["raw"]))
    assert told.startswith(f"{name} expected frames in electrons, got ADU: use calibrate(ds) first")
    for before in ORDER[1 : ORDER.index(needed)]:
        told = refusal(lambda before=before: step(stages, stages[before]))
        assert told.startswith(f"{name} expected frames that have been through")
        for stage, call in (("sky", "background(ds)"), ("sources", "detect(ds)"), ("aligned", "align(ds, ref)")):
            is_missing = ORDER.index(before) < ORDER.index(stage) <= ORDER.index(needed)
            assert (call in told.split("use ", 1)[1]) == is_missing
    split = ds.assign(raw=ds["raw"].chunk(y=50))
    assert "chunks must not split y and x, found 4 along y and 1 along x" in refusal(lambda: step(stages, split))
    assert "at least one frame, the selection is empty" in refusal(lambda: step(stages, ds.isel(frame=[])))


def test_cropped_frames__are_refused_with_what_they_are(stages) -> None:
    told = refusal(lambda: opticam.calibrate(stages["raw"].sel(x=slice(0, 99))))
    assert "expected whole frames of (200, 200) (y, x), found (200, 100): crop" in told
    assert "after the steps" in told
    assert "chunk" not in told


def test_another_camera_or_reference__is_refused_where_it_is_given(stages, night) -> None:
    ds, other_ref = stages["aligned"], stages["ref"].assign_attrs(key="2:r")
    other_frames = ds.assign_attrs(key="2:r")
    masters = xr.Dataset({"bias": (("y", "x"), np.zeros((200, 200)))}, attrs={"key": "2:r"})
    calls = {
        "align": lambda: opticam.align(stages["sources"], other_ref),
        "stack": lambda: opticam.stack(ds, other_ref),
        "coadd": lambda: opticam.coadd(ds, other_ref, frames=2),
        "photometry": lambda: opticam.photometry(ds, stages["cat"].assign_attrs(key="2:r")),
        "catalog": lambda: opticam.catalog(stages["stack"], frames=other_frames),
        "calibrate": lambda: opticam.calibrate(stages["raw"], masters),
    }
    for name, call in calls.items():
        told = refusal(call)
        assert told.startswith(f"{name} expected")
        assert "2:r" in told
        assert KEY in told
    # frames aligned to one reference frame, and a catalogue on the pixels of another
    with dask.config.set(scheduler="sync"):
        at = int(stages["ref"]["reference_index"])
        ref = opticam.reference(stages["sources"], frame=(at + 1) % 8).load()
    told = refusal(lambda: opticam.photometry(opticam.align(stages["sources"], ref), stages["cat"]))
    assert "expected a catalogue of the reference that the frames are aligned to" in told
    stored_ref, stored = opticam.open_catalog(night.out, KEY)
    opticam.photometry(opticam.align(stages["sources"], stored_ref), stored)  # fits, and waits


@pytest.mark.parametrize("unused", [{"instrument": CAMERA}, {"exposure_time": 5.0}])
def test_masters_of_a_reduction__take_nothing_that_they_do_not_need(tmp_path: Path, unused: dict[str, object]) -> None:
    told = refusal(lambda: opticam.calibration_masters(key=KEY, reduction=tmp_path, **unused))
    assert told == "calibration_masters of a reduction takes neither instrument nor exposure_time"


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::xarray.SerializationWarning")
def test_everything_that_users_get__is_written_to_files_and_read_again(stages, night, tmp_path: Path) -> None:
    stored = opticam.light_curves(night.out, KEY)
    with dask.config.set(scheduler="sync"):
        small = stages["aligned"].drop_vars(["raw", "image", "saturated"]).compute()
        sums = opticam.coadd(stages["aligned"], frames=4)
        found = {
            "frames": small,
            "subtracted": opticam.subtract_background(stages["aligned"]).to_dataset().compute(),
            "reference": stages["ref"],
            "stack": stages["stack"].compute(),
            "catalog": stages["cat"],
            "opened_catalog": opticam.open_catalog(night.out, KEY)[1],
            "curves": opticam.photometry(stages["aligned"], stages["cat"]).compute(),
            "sums": sums.compute(),
            "stored_curves": stored.load(),
            "relative": opticam.relative(stored, 1, "auto", detrend=["fwhm", "x"]),
            "one_comparison": opticam.relative(stored, 1, [2]),
        }
    for name, dataset in found.items():
        dataset.to_netcdf(tmp_path / f"{name}.nc")
        dataset.to_zarr(tmp_path / f"{name}.zarr")
        with xr.open_dataset(tmp_path / f"{name}.nc") as one, xr.open_zarr(tmp_path / f"{name}.zarr") as other:
            for again in (one, other):
                assert set(again.attrs) == set(dataset.attrs), name
                for variable in dataset.data_vars:
                    before, after = dataset[variable], again[variable]
                    is_text = before.dtype == object or before.dtype.kind in "UT"
                    one_of, other_of = before.to_numpy(), after.to_numpy()
                    if is_text:
                        assert list(map(str, one_of.ravel())) == list(map(str, other_of.ravel())), variable
                    else:
                        np.testing.assert_array_equal(
                            other_of.astype(one_of.dtype), one_of, err_msg=f"{name}: {variable}"
                        )
                    for kept in ("units", "long_name", "flag_meanings"):
                        assert after.attrs.get(kept) == before.attrs.get(kept), f"{name}: {variable}"
    trend = json.loads(found["relative"].attrs["detrend"])
    assert set(trend["coefficients"]) == {"fwhm", "x"}
    assert "sources chosen" in found["relative"].attrs["choice"]


def test_many_frames__need_little_memory_before_they_are_computed(stages) -> None:
    n_frames, few = 20_000, stages["raw"]
    rows = np.arange(n_frames) % few.sizes["frame"]
    coords = {
        name: ("frame", values.to_numpy()[rows])
        for name, values in few.coords.items()
        if name not in ("time", "mjd_utc", "file")
    }
    coords |= {
        "mjd_utc": ("frame", 60310.0 + np.arange(n_frames) / 86400.0),
        "file": ("frame", np.array([f"/night/frame_{number:06d}.fits" for number in range(n_frames)], dtype=object)),
    }
    shape = few["image"].shape[1:]
    tracemalloc.start()
    image = blocks.lazy_frames(coords["file"][1], _Nothing(), shape, few["image"].dtype, 32)
    described = xr.Dataset({"image": (("frame", "y", "x"), image)}, coords=coords, attrs=few.attrs)
    described.encoding = {SOURCE: OpenedFrames(tuple(coords["file"][1]), _Nothing(), shape, image)}
    with dask.config.set(scheduler=never):
        ds = with_chain(with_indexes(described), Chain.of(CAMERA, shape, 1))
        ds = opticam.align(opticam.detect(opticam.background(opticam.calibrate(ds))), stages["ref"])
        cat = opticam.catalog(opticam.stack(ds, stages["ref"]))
        flux = opticam.photometry(ds, cat)["flux"].data
        (ready,) = dask.optimize(flux)
        n_tasks = len(dict(ready.dask))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # two a chunk; results of eight chunks of the survey are joined by one task, and a few make bad pixels, catalogue
    # and sources
    assert n_tasks <= 2 * flux.numblocks[0] + flux.numblocks[0] // 7 + 41
    assert peak < 0.06e9  # 100,000 frames need less than 1 GB: all of it grows with their number


class _Nothing:
    """Reader of frames that are only described."""

    def read(self, path: str) -> np.ndarray:
        raise AssertionError(f"{path} was read")
