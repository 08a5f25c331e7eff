"""The steps on datasets: the numbers of the durable reduction bit for bit, lazily, one task a chunk."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr
from small_nights import (
    FIELD,
    INSTRUMENT,
    KEY,
    NIGHT,
    SmallNight,
    add_star,
    never,
    read_out,
    reduce_frames,
    write_frame,
)

import opticam_dask as opticam

N_FRAMES = 14
CAMERA = opticam.Instrument.from_json(INSTRUMENT)


def open_night(frames, chunks: object = 4) -> xr.Dataset:
    return opticam.open_frames(frames, key=KEY, instrument=CAMERA, chunks=chunks)


def searched(ds: xr.Dataset) -> xr.Dataset:
    return opticam.detect(opticam.background(opticam.calibrate(ds)))


def aligned(ds: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    ds = searched(ds)
    ref = opticam.reference(ds).load()
    return opticam.align(ds, ref), ref


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> SmallNight:
    """Ten stars of which one varies; one frame is constant, one without stars."""
    directory, rng = tmp_path_factory.mktemp("steps"), np.random.default_rng(19)
    for number in range(N_FRAMES):
        image, (dx, dy) = np.full((200, 200), 120.0), rng.normal(0.0, 2.0, 2)
        for star, (x, y, flux) in enumerate(FIELD):
            is_empty = number == 9
            add_star(image, x + dx, y + dy, 0.0 if is_empty else flux * (1.0 + 0.1 * np.sin(number) * (star == 3)))
        pixels = np.full((200, 200), 7, np.uint16) if number == 5 else read_out(image, rng)
        write_frame(directory / "frames" / f"f{number:02d}.fits", pixels, 600.0 * number)
    return reduce_frames(directory)


@pytest.fixture(scope="module")
def frames(night: SmallNight):
    return night.out.parent / "frames"


@pytest.fixture(scope="module")
def chain(frames) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset, xr.Dataset]:
    """Aligned frames (lazy), their reference, stack and catalogue (of a stack in memory: as many as there are)."""
    with dask.config.set(scheduler="sync"):
        ds, ref = aligned(open_night(frames))
        deep = opticam.stack(ds, ref).load()
        return ds, ref, deep, opticam.catalog(deep)


def same_bits(found: xr.DataArray, stored: xr.DataArray) -> bool:
    one, other = found.to_numpy(), stored.to_numpy()
    if one.dtype == object or other.dtype.kind in "UTO":
        return list(map(str, one.tolist())) == list(map(str, other.tolist()))
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def test_first_steps__are_the_store_bit_for_bit(night, chain) -> None:
    ds, ref, deep, cat = chain
    of_frames = ("background", "background_rms", "fwhm", "n_sources", "transform", "transform_rms", "n_matched")
    of_sky = ("background_mesh", "background_rms_mesh", "background_offset_mesh", "background_n_sky")
    with dask.config.set(scheduler="sync"):
        loaded = ds[[*of_frames, "flags", "message", *of_sky, "x", "y", "flux", "semimajor_sigma"]].compute()
        image = deep["image"].compute()
    for name in (*of_frames, "flags", "message"):
        assert same_bits(loaded[name], night.frames[name]), name
    for group, names in (("background", of_sky), ("sources", ("x", "y", "flux", "semimajor_sigma"))):
        stored = night.group(f"{NIGHT}/{group}")
        for name in names:
            assert same_bits(loaded[name], stored[name]), name
    stored = night.group("reference")
    assert same_bits(image, stored["image"])
    assert same_bits(ref["alignment_x"].dropna("alignment_source"), stored["alignment_x"])
    for name in night.catalog.data_vars:
        assert same_bits(cat[name], night.catalog[name]), name
    assert same_bits(cat["coefficient"], night.group(f"{NIGHT}/psf")["coefficient"])


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_light_curves__are_the_store_bit_for_bit(night, chain, scheduler: str) -> None:
    ds, _, _, cat = chain
    with dask.config.set(scheduler=scheduler):
        found = opticam.photometry(ds, cat).compute()
    stored = night.curves()
    for name in ("flux", "flux_err", "x", "y", "flags", "aperture_correction", "profile_chi2", "frame_flags"):
        assert same_bits(found[name], stored[name]), name
    assert np.isnan(found["flux"].isel(frame=5)).all()
    assert found["frame_flags"].isel(frame=5) != 0


def test_numpy_frames_and_other_chunks__give_the_same_bits(frames, chain) -> None:
    ds, ref, _, cat = chain
    first = slice("2024-01-01T20", "2024-01-01T20:45")
    with dask.config.set(scheduler="sync"):
        expected = opticam.photometry(ds, cat)["flux"].sel(time=first).compute()
        for chunks in (1, 3):
            again = opticam.align(searched(open_night(frames, chunks).sel(time=first)), ref)
            assert same_bits(opticam.photometry(again, cat)["flux"], expected)
        at_once = opticam.align(searched(open_night(frames, None).sel(time=first)), ref)
    assert isinstance(at_once["transform"].data, np.ndarray)
    assert same_bits(opticam.photometry(at_once, cat)["flux"], expected)


def test_nothing_is_computed_before_it_is_asked_for__and_two_tasks_a_chunk_do_all(frames, chain) -> None:
    _, _, _, cat = chain
    with dask.config.set(scheduler=never):
        ds = searched(open_night(frames, 2))
        ref = opticam.reference(ds)
        lazy = opticam.align(ds, ref)
        opticam.stack(lazy, ref)
        opticam.subtract_background(lazy)
        curves = opticam.photometry(lazy, cat)
    with dask.config.set(scheduler="sync"):
        ref = ref.load()
    few = opticam.photometry(opticam.align(ds, ref), cat)["flux"].data
    n_chunks, n_tasks = few.numblocks[0], len(dict(dask.optimize(few)[0].dask))
    # beside the chunks: the stars of the reference frame, once
    assert n_chunks == N_FRAMES // 2
    assert n_tasks <= 2 * n_chunks + 8
    assert curves["flux"].chunks is not None


def test_a_few_sources_in_a_time_range__are_those_of_the_whole_night(chain) -> None:
    ds, _, _, cat = chain
    part = ds.sel(time=slice("2024-01-01T20:20", "2024-01-01T21"))
    with dask.config.set(scheduler="sync"):
        wide = opticam.AperturePhotometer(radius=[1.0, 2.0])
        all_of_them = opticam.photometry(ds, cat, wide).compute()
        some = opticam.photometry(part, cat.sel(source=[4, 2]), wide).compute()
    assert some["source"].to_numpy().tolist() == [4, 2]
    assert 0 < some.sizes["frame"] < N_FRAMES
    expected = all_of_them["flux"].sel(source=[4, 2], time=some["time"].to_numpy())
    assert same_bits(some["flux"], expected)


def test_one_star_again_by_a_reduction_that_is_there__has_the_stored_flux(night, frames) -> None:
    ref, cat = opticam.open_catalog(night.out, KEY)
    hour = open_night(frames).sel(time=slice("2024-01-01T20:30", "2024-01-01T21:30"))
    with dask.config.set(scheduler="sync"):
        found = opticam.photometry(opticam.align(searched(hour), ref), cat.sel(source=[2])).compute()
    assert same_bits(found["flux"], night.curves()["flux"].sel(source=[2], time=found["time"].to_numpy()))


def test_an_added_source__has_the_next_id_and_changes_no_other(chain) -> None:
    ds, _, _, cat = chain
    more = opticam.add_sources(cat, xy=[(15.0, 100.0)], name=["empty sky"])
    with dask.config.set(scheduler="sync"):
        before, after = opticam.photometry(ds, cat).compute(), opticam.photometry(ds, more).compute()
    new = int(more["source"].max())
    assert new == int(cat["source"].max()) + 1
    assert str(after["name"].sel(source=new).item()) == "empty sky"
    assert same_bits(after["flux"].sel(source=cat["source"].to_numpy()), before["flux"])
    sky = after.sel(source=new)
    pull = (sky["flux"] / sky["flux_err"]).to_numpy()
    assert np.nanmax(np.abs(pull)) < 4.0  # sigma: there is nothing


def test_sources_in_another_order_or_read_from_a_file__have_the_same_light_curves(chain, tmp_path) -> None:
    ds, ref, _, cat = chain
    # beside a star: placed sources are measured after those that were found, which they do not change
    xy, other = [(float(cat["x"][0]) + 3.0, float(cat["y"][0])), (15.0, 100.0)], slice(None, None, -1)
    with dask.config.set(scheduler="sync"):
        ds = opticam.persist(ds)
        lazy = opticam.catalog(opticam.stack(ds, ref))
        more, lazy_more = (opticam.add_sources(one, xy) for one in (cat, lazy))
        for name, one in (("loaded", more), ("lazy", lazy_more)):
            one.to_netcdf(tmp_path / f"{name}.nc")
        files = [xr.open_dataset(tmp_path / f"{name}.nc", chunks=chunks) for name, chunks in
                 (("loaded", None), ("lazy", None), ("lazy", {}))]  # fmt: skip
        expected = opticam.photometry(ds, more)[["flux", "flux_err"]].compute()
        assert expected["flux"].notnull().all("source").any()
        parts = (
            more.sortby("x"), more.isel(source=other), more.sortby("x").sel(source=[3, 1]),
            lazy_more.isel(source=other), lazy_more.compute().sortby("flux"),
            *(opticam.add_sources(one.isel(source=other), xy) for one in (cat, lazy)),
            *files, files[1].isel(source=other), xr.merge([more, xr.Dataset({"mine": 1})]),
        )  # fmt: skip
        found = dask.compute(*(opticam.photometry(ds, part)[["flux", "flux_err"]] for part in parts))
    for part, one in zip(parts, found, strict=True):
        measured = one.isel(source=one["flux"].notnull().any("frame").to_numpy())
        assert measured.sizes["source"] == min(part.sizes["source"], more.sizes["source"])
        numbers = measured["source_id"].to_numpy()
        # the placed ones come after all slots of a lazy catalogue
        same = np.where(numbers > 100, numbers - 100 + cat.sizes["source"], numbers)
        for name in ("flux", "flux_err"):
            np.testing.assert_array_equal(measured[name], expected[name].sel(source=same), err_msg=name)
    with pytest.raises(ValueError, match="star profile along component alone"):
        opticam.photometry(ds, cat.where(cat["flux"] > 0))


def test_relative_curves_of_a_selection__are_those_of_the_store(night, chain) -> None:
    ds, _, _, cat = chain
    with dask.config.set(scheduler="sync"):
        curves = opticam.photometry(ds, cat).compute()
    stored = opticam.relative_light_curve(night.out, KEY, 4, [1, 2, 3])
    found = opticam.relative(curves, target=4, comparisons=[1, 2, 3])
    assert same_bits(found["relative_flux"], stored["relative_flux"])
    part = curves.sel(time=slice("2024-01-01T20", "2024-01-01T20:45"))
    expected = stored["relative_flux"].sel(time=slice("2024-01-01T20", "2024-01-01T20:45"))
    assert same_bits(opticam.relative(part, 4, [1, 2, 3])["relative_flux"], expected)


def test_indexes__select_by_id_and_time(night, chain) -> None:
    curves = night.curves()
    np.testing.assert_array_equal(curves["source"], curves["source_id"])
    assert int(curves["flux"].sel(source=2)["source_id"]) == 2
    assert curves["time"].to_numpy()[0] == np.datetime64("2024-01-01T20:00:02.5")
    hourly = curves["flux"].resample(time="1h").mean()
    assert hourly.sizes["time"] == 3
    assert curves["flux"].groupby("time.hour").mean().sizes["hour"] == 3
    assert "time" in open_night(night.out.parent / "frames").xindexes
    assert "time" in opticam.relative_light_curve(night.out, KEY, 4, [1, 2]).xindexes


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::xarray.SerializationWarning")
def test_round_trips__keep_values_units_and_flags(chain, tmp_path) -> None:
    ds, _, _, cat = chain
    with dask.config.set(scheduler="sync"):
        lc = opticam.photometry(ds, cat)
        lc.to_zarr(tmp_path / "curves.zarr")
        again = xr.open_zarr(tmp_path / "curves.zarr").load()
        rel = opticam.relative(lc, 4, [1, 2])
        small = ds[["transform", "flags", "background_mesh"]].compute()
    small.to_netcdf(tmp_path / "frames.nc")
    rel.to_netcdf(tmp_path / "relative.nc")
    assert same_bits(again["flux"], lc["flux"])
    assert again["flux"].attrs["units"] == "electron"
    assert again["flags"].attrs["flag_meanings"] == lc["flags"].attrs["flag_meanings"]
    with xr.open_dataset(tmp_path / "frames.nc") as frames, xr.open_dataset(tmp_path / "relative.nc") as curve:
        assert same_bits(frames["transform"], small["transform"])
        np.testing.assert_array_equal(curve["relative_flux"], rel["relative_flux"])
        assert curve.attrs["target"] == 4


def test_subtracted_frames__are_image_less_sky(chain) -> None:
    ds, _, _, _ = chain
    with dask.config.set(scheduler="sync"):
        clean = ds.opticam.subtract_background().isel(frame=0).compute()
        image = ds["image"].isel(frame=0).compute()
    sky = float(np.median(image - clean))
    assert sky == pytest.approx(220.0, abs=2.0)  # 120 electrons of sky, 100 of bias
    assert float(np.median(clean)) == pytest.approx(0.0, abs=2.0)


def test_functions_of_the_user__serve_as_sky_and_finder(frames) -> None:
    ds = opticam.calibrate(open_night(frames).isel(frame=[0, 1]))

    class Flat:
        def __init__(self, image: np.ndarray) -> None:
            self.background_median, self.background_rms_median = float(np.median(image)), float(np.std(image[:20, :20]))
            self.background = np.full(image.shape, self.background_median)
            self.background_rms = np.full(image.shape, self.background_rms_median)

    own = opticam.detect(
        opticam.background(ds, estimator=lambda image: Flat(image)), finder=opticam.DefaultFinder(9, 5)
    )
    assert "background_mesh" not in own
    with dask.config.set(scheduler="sync"):
        found = own[["background", "n_sources"]].compute()
    np.testing.assert_allclose(found["background"], 220.0, atol=2.0)
    assert (found["n_sources"] >= 8).all()


def test_durable_run_of_a_dataset__is_the_reduction(night, frames, tmp_path) -> None:
    tree = opticam.reduce(open_night(frames), tmp_path / "again", client="none", figures=False, verbose=False)
    assert "1-V" in tree.children
    again = opticam.light_curves(tmp_path / "again", KEY)
    assert same_bits(again["flux"], night.curves()["flux"])


def test_masters_rebinning_and_cosmic_rays__give_the_fluxes_of_the_reduction(tmp_path) -> None:
    rng, response = np.random.default_rng(5), np.ones((128, 128))
    response[:, ::7] = 0.9
    stars = FIELD[:8] * np.array([0.6, 0.6, 3.0])
    for number in range(5):
        image = np.full((128, 128), 150.0)
        for x, y, flux in stars:
            add_star(image, x + number * 0.3, y, flux)
        image *= response
        image[20 * number + 10, 60] += 20_000.0  # a cosmic ray
        write_frame(tmp_path / "frames" / f"f{number}.fits", read_out(image, rng), 30.0 * number)
        write_frame(tmp_path / "flats" / f"t{number}.fits", read_out(response * 20_000.0, rng), number, IMAGETYP="flat")
        bias = read_out(np.zeros((128, 128)), rng)
        write_frame(tmp_path / "biases" / f"b{number}.fits", bias, number, IMAGETYP="bias", EXPTIME=0.0)
    folders = {"flats": tmp_path / "flats", "biases": tmp_path / "biases"}
    reduced = reduce_frames(tmp_path, rebin_factor=2, remove_cosmic_rays=True, **folders)
    masters = opticam.calibration_masters(key=KEY, instrument=CAMERA, **folders)
    ds = opticam.calibrate(open_night(tmp_path / "frames", 2), masters, rebin_factor=2, remove_cosmic_rays=True)
    with dask.config.set(scheduler="sync"):
        ds = opticam.detect(opticam.background(ds))
        ds = opticam.align(ds, opticam.reference(ds).load())
        found = opticam.photometry(ds, opticam.catalog(opticam.stack(ds))).compute()
    found = found.dropna("source", how="all", subset=["flux"])  # slots of the lazy catalogue that are empty
    for name in ("flux", "flux_err", "flux_err_sys", "flags"):
        assert same_bits(found[name], reduced.curves()[name]), name


def test_image_alone__can_be_calibrated(frames) -> None:
    image = open_night(frames)["image"].isel(frame=[0, 1])
    with dask.config.set(scheduler="sync"):
        alone, together = image.opticam.calibrate()["image"], opticam.calibrate(open_night(frames))["image"]
        assert same_bits(alone, together.isel(frame=[0, 1]))


def test_bad_calls__say_in_one_line_what_was_expected(frames, chain) -> None:
    ds, ref, deep, cat = chain
    raw = open_night(frames)
    electrons = opticam.calibrate(raw)
    other = cat.assign_attrs(key="2:r")
    calls = {
        "calibrate": lambda: opticam.background(raw),
        "background": lambda: opticam.detect(electrons),
        "background(ds)": lambda: opticam.subtract_background(electrons),
        "detect": lambda: opticam.reference(opticam.background(electrons)),
        "align": lambda: opticam.photometry(searched(raw), cat),
        "whole frames": lambda: opticam.calibrate(raw.chunk({"y": 50})),
        "at least one frame": lambda: opticam.background(electrons.isel(frame=[])),
        "at least one source": lambda: opticam.photometry(ds, cat.sel(source=[])),
        "2:r": lambda: opticam.photometry(ds, other),
        "in electrons already": lambda: opticam.calibrate(electrons),
        "changed since": lambda: opticam.background(electrons.assign(image=electrons["image"].drop_attrs() * 2.0)),
        "a stack": lambda: opticam.catalog(cat),
        "light curves": lambda: opticam.relative(cat, 1, [2]),
        "open_frames": lambda: opticam.background(xr.Dataset()),
        "of (200, 200)": lambda: opticam.calibrate(raw, bias=np.zeros((3, 3))),
    }
    assert "coverage" in deep
    assert "alignment_x" in ref
    with dask.config.set(scheduler=never):
        for told, call in calls.items():
            with pytest.raises(ValueError, match=r".") as raised:
                call()
            message = str(raised.value)
            assert told in message
            assert "\n" not in message
