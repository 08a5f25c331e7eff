"""Steps in unusual orders, on images in place of datasets and on joined parts: the same numbers, or one clear line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from small_nights import FIELD, INSTRUMENT, KEY, add_star, never, read_out, write_frame

import opticam_dask as opticam

CAMERA = opticam.Instrument.from_json(INSTRUMENT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("composed"), np.random.default_rng(19)
    for number in range(6):
        image, (dx, dy) = np.full((128, 128), 80.0), rng.normal(0.0, 1.5, 2)
        for x, y, flux in FIELD[:8]:
            add_star(image, 0.6 * x + dx, 0.6 * y + dy, flux)
        write_frame(folder / f"f{number}.fits", read_out(image, rng), 60.0 * number)
    return folder


@pytest.fixture(scope="module")
def known(folder: Path) -> dict[str, xr.Dataset]:
    """The frames after each step, lazily, and fluxes in memory."""
    with dask.config.set(scheduler="sync"):
        raw = opticam.open_frames(folder, key=KEY, instrument=CAMERA, chunks=4)
        electrons = opticam.calibrate(raw)
        sources = opticam.detect(opticam.background(electrons))
        ref = opticam.reference(sources).load()
        aligned = opticam.align(sources, ref)
        deep = opticam.stack(aligned, ref).load()
        cat = opticam.catalog(deep)
        found = {"raw": raw, "electrons": electrons, "sources": sources, "ref": ref, "aligned": aligned}
        return found | {"stack": deep, "cat": cat, "curves": opticam.photometry(aligned, cat).load()}


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    with dask.config.set(scheduler="sync"):
        for name in ("flux", "flux_err", "x", "flags", "frame_flags"):
            np.testing.assert_array_equal(found[name].to_numpy(), expected[name].to_numpy(), err_msg=name)


def test_every_step__is_a_method_of_the_image_too(known) -> None:
    with dask.config.set(scheduler=never):
        part = known["raw"].image[2:6].opticam.calibrate().image[:3]
        sources = part.opticam.background().image.opticam.detect()
        aligned = sources.image.opticam.align(known["ref"])
        curves = aligned.image.opticam.photometry(known["cat"])
        assert sources.image.opticam.subtract_background().shape == (3, 128, 128)
        again = known["aligned"].image.opticam.stack(known["aligned"].image.opticam.reference())
        assert again.image.opticam.catalog().sizes["source"] == 100  # slots
    assert_same(curves, known["curves"].isel(frame=slice(2, 5)))


def test_image_that_was_changed__is_not_taken_for_the_one_of_the_frames(known) -> None:
    electrons = known["electrons"]
    for changed in (electrons.image * 2.0, electrons.image.where(electrons.image > 0.0)):
        with dask.config.set(scheduler=never):
            with pytest.raises(ValueError, match="background expected the image of calibrate, but it was changed"):
                opticam.background(electrons.assign(image=changed))
            with pytest.raises(ValueError, match="was changed belongs into its Dataset, before calibrate"):
                changed.opticam.background()


def test_parts_that_are_joined_again__have_the_numbers_of_the_whole(known) -> None:
    aligned, cat = known["aligned"], known["cat"]
    parts = [aligned.isel(frame=slice(3)), aligned.isel(frame=slice(3, None))]
    assert_same(opticam.photometry(xr.concat(parts, "frame"), cat), known["curves"])
    raw = xr.concat([known["raw"].isel(frame=[4, 5]), known["raw"].isel(frame=[0])], "frame")
    found = opticam.align(opticam.detect(opticam.background(opticam.calibrate(raw))), known["ref"])
    assert_same(opticam.photometry(found, cat), known["curves"].isel(frame=[4, 5, 0]))


def test_step_that_is_done_again__takes_the_results_of_later_ones_away(known) -> None:
    again = opticam.background(known["aligned"], box_size=16)
    assert not {"transform", "n_sources", "background_offset_mesh"} & set(again.variables)
    again = opticam.align(opticam.detect(again), known["ref"])
    first = opticam.detect(opticam.background(known["electrons"], box_size=16))
    expected = opticam.photometry(opticam.align(first, known["ref"]), known["cat"])
    with dask.config.set(scheduler="sync"):
        assert_same(opticam.photometry(again, known["cat"]), expected.load())
        alone = opticam.align(known["sources"], known["ref"], merge=False)
        np.testing.assert_array_equal(alone["transform"], known["aligned"]["transform"])
    assert "image" not in alone


def with_a_frame_each(ds: xr.Dataset) -> xr.Dataset:
    """Frames whose masters were joined along with them."""
    parts = [opticam.calibrate(ds.isel(frame=[one]), bias=np.full((128, 128), 100.0)) for one in (0, 1)]
    return xr.concat(parts, "frame", data_vars="all")


REFUSED: dict[str, tuple[Callable[[dict[str, xr.Dataset]], object], str]] = {
    "headers": (lambda k: opticam.background(k["electrons"].drop_vars("gain")), "do not drop gain"),
    "cameras": (
        lambda k: opticam.calibrate(xr.concat([k["raw"], k["raw"].assign_coords(key=("frame", ["2:R"] * 6))], "frame")),
        "expected frames of one camera, got 1:V, 2:R",
    ),
    "masters": (lambda k: opticam.background(with_a_frame_each(k["raw"])), "one master_bias for all frames"),
    "one frame": (lambda k: opticam.calibrate(k["raw"].isel(frame=0)), r"select one frame with isel\(frame=\[0\]\)"),
    "one image": (lambda k: k["raw"].image[0].opticam.calibrate(), r"isel\(frame=\[0\]\)"),
    "estimator": (lambda k: opticam.background(k["electrons"], estimator=3), "estimator must be a callable"),
    "finder": (lambda k: opticam.detect(k["sources"], finder="sep"), "finder must be a callable"),
    "frame": (lambda k: opticam.reference(k["sources"], frame=1.5), 'expected "best" or a frame of the 6'),
    "no reference": (lambda k: opticam.align(k["sources"], None), "align expected a reference, a Dataset, got None"),
    "catalogue": (lambda k: opticam.stack(k["aligned"], k["cat"]), "stack expected a reference: use reference"),
    "stack_frames": (lambda k: opticam.stack(k["aligned"], stack_frames=-1), "stack_frames must be"),
    "no stack": (lambda k: opticam.catalog(None), "catalog expected a stack"),
    "no catalogue": (lambda k: opticam.photometry(k["aligned"], None), "photometry expected a catalogue"),
    "photometer": (
        lambda k: opticam.photometry(k["aligned"], k["cat"], opticam.AperturePhotometer),
        r"expected a photometer such as AperturePhotometer\(\)",
    ),
    "one source": (lambda k: opticam.relative(k["curves"].sel(source=[1]), 1), "two sources along source"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_call_that_cannot_work__is_refused_in_one_line(known, name: str) -> None:
    call, told = REFUSED[name]
    with dask.config.set(scheduler=never), pytest.raises((ValueError, TypeError), match=told) as raised:
        call(known)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("chunks", [0, -1, "big", 2.5, True])
def test_chunks__are_numbers_of_frames(folder, chunks: object) -> None:
    with pytest.raises(ValueError, match="open_frames expected chunks of"):
        opticam.open_frames(folder, key=KEY, instrument=CAMERA, chunks=chunks)
