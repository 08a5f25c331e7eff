"""The whole chain of steps has at most two tasks a chunk, however many chunks there are, and the same bits."""

from __future__ import annotations

from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from small_nights import FIELD, INSTRUMENT, KEY, add_star, read_out, write_frame

import opticam_dask as opticam
from opticam_dask.api.steps.chains import Chain
from opticam_dask.api.steps.frames import with_chain
from opticam_dask.api.steps.reading import SOURCE, OpenedFrames
from opticam_dask.cluster import blocks
from opticam_dask.lightcurves.indexes import with_indexes

N_FRAMES, SIDE = 12, 200
CAMERA = opticam.Instrument.from_json(INSTRUMENT)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames of ten stars, of which one varies."""
    directory, rng = tmp_path_factory.mktemp("chain"), np.random.default_rng(77)
    for number in range(N_FRAMES):
        image, (dx, dy) = np.full((SIDE, SIDE), 150.0), rng.normal(0.0, 2.0, 2)
        for star, (x, y, flux) in enumerate(FIELD):
            add_star(image, x + dx, y + dy, flux * (1.0 + 0.1 * np.sin(number) * (star == 3)))
        write_frame(directory / f"f{number:02d}.fits", read_out(image, rng), 600.0 * number)
    return directory


class Nothing:
    """Reader of frames that are only described."""

    def read(self, path: str) -> np.ndarray:
        raise AssertionError(f"{path} was read")


def described(frames: Path, n_chunks: int, size: int) -> xr.Dataset:
    """So many chunks of a camera's frames, of which there are no files."""
    few, n_frames = opticam.open_frames(frames, key=KEY, instrument=CAMERA), n_chunks * size
    rows = np.arange(n_frames) % few.sizes["frame"]
    own = ("time", "mjd_utc", "file")
    coords = {
        name: ("frame", one.to_numpy()[rows])
        for name, one in few.coords.items()
        if one.dims == ("frame",) and name not in own
    }
    files = [f"/night/{number:06d}.fits" for number in range(n_frames)]
    coords |= {
        "mjd_utc": ("frame", 60310.0 + np.arange(n_frames) / 86400.0),
        "file": ("frame", np.array(files, object)),
    }
    image = blocks.lazy_frames(files, Nothing(), (SIDE, SIDE), few["image"].dtype, size)
    dataset = xr.Dataset({"image": (("frame", "y", "x"), image)}, coords=coords, attrs=few.attrs)
    dataset.encoding = {SOURCE: OpenedFrames(tuple(files), Nothing(), (SIDE, SIDE), image)}
    return with_chain(with_indexes(dataset), Chain.of(CAMERA, (SIDE, SIDE), 1))


def chain(ds: xr.Dataset, masters: xr.Dataset | None = None, ref: xr.Dataset | None = None) -> xr.Dataset:
    ds = opticam.detect(opticam.background(opticam.calibrate(ds, masters)))
    ref = opticam.reference(ds) if ref is None else ref
    ds = opticam.align(ds, ref)
    return opticam.photometry(ds, opticam.catalog(opticam.stack(ds, ref)))


def n_tasks(lc: xr.Dataset) -> int:
    return len(dict(dask.optimize(lc["flux"].data)[0].dask))


CASES = [(1, 32), (1, 1), (2, 32), (2, 1), (3, 32), (4, 32), (5, 8), (8, 32), (8, 1), (9, 256), (12, 1), (25, 32),
         (60, 32), (60, 1), (625, 32), (3125, 32)]  # fmt: skip


@pytest.mark.parametrize(("n_chunks", "size"), CASES)
def test_chain_to_light_curves__has_at_most_two_tasks_a_chunk(frames, n_chunks: int, size: int) -> None:
    lc = chain(described(frames, n_chunks, size))
    assert lc["flux"].data.numblocks[0] == n_chunks
    assert n_tasks(lc) <= 2 * n_chunks


@pytest.mark.parametrize("n_chunks", [3, 4, 8, 60])
def test_masters_that_are_still_to_be_made__are_no_tasks_too_many(frames, n_chunks: int) -> None:
    masters = opticam.calibration_masters(key=KEY, instrument=CAMERA, flats=frames)
    lc = chain(described(frames, n_chunks, 32), masters)
    assert n_tasks(lc) <= 2 * n_chunks
    # one task makes them for survey, catalogue and light curves
    keys = dict(dask.optimize(lc["flux"].data)[0].dask)
    assert [key[0].split("-")[0] for key in keys if "masters" in key[0]] == ["masters"]


@pytest.mark.parametrize("n_chunks", [4, 8, 60])
def test_survey_of_few_chunks__is_no_single_task(frames, n_chunks: int) -> None:
    """With as many workers as chunks no task has many more frames than a chunk; of four chunks two survey."""
    lc = chain(described(frames, n_chunks, 32))
    keys = dict(dask.optimize(lc["flux"].data)[0].dask)
    surveys = {key for key in keys if isinstance(key, tuple) and str(key[0]).startswith("survey")}
    assert len(surveys) >= min(n_chunks // 2, 32)


def test_light_curves__have_the_same_bits_for_all_chunks(frames) -> None:
    with dask.config.set(scheduler="sync"):
        one, other = (
            chain(opticam.open_frames(frames, key=KEY, instrument=CAMERA, chunks=chunks)).compute() for chunks in (1, 7)
        )
    for name, values in one.variables.items():
        np.testing.assert_array_equal(values, other[name], err_msg=str(name))
