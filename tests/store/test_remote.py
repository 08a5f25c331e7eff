"""Frames and reductions in an object store: a real S3 server on the loopback interface, real workers."""

from __future__ import annotations

import gzip
import logging
import os
import re
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import fsspec
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

import opticam_dask
from opticam_dask import cli, locations, remote_paths, schema, simulate_observations
from opticam_dask.cluster import executors
from opticam_dask.frames import scanning
from opticam_dask.frames.fits_files import FitsReader, FrameError, read_header
from opticam_dask.frames.instruments import OPTICAM_MX
from opticam_dask.lightcurves import results
from opticam_dask.lightcurves.xarray_backend import OpticamBackend
from opticam_dask.methods.photometers import AperturePhotometer
from opticam_dask.parameters import ReductionParameters
from opticam_dask.pipeline import driver
from opticam_dask.store import arrays, integrity, ownership
from opticam_dask.store.groups import Group
from opticam_dask.store.store import Store

try:
    import s3fs  # noqa: F401 - what makes fsspec know s3://
    from moto.server import ThreadedMotoServer
except ImportError as error:
    if os.environ.get("OPTICAM_DASK_CI"):
        raise
    pytest.skip(f"{error}: the test extra brings s3fs, moto and flask", allow_module_level=True)

FIELD = {
    "n_frames": 5, "shape": (96, 112), "n_sources": 6, "filters": ("g",), "flux_range": (4e3, 1e5), "fwhm": 3.0,
    "least_separation": 6.0, "seed": 5,
}  # fmt: skip
OPTIONS = ["--frames-per-block", "2", "--n-pixels", "5", "--border-width", "4"]


class _Requests(logging.Handler):
    """Every request that the server has answered."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        plain = re.sub(r"\x1b\[[0-9;]*m", "", record.getMessage())  # answers of some kinds are coloured
        if found := re.search(r'"(GET|PUT|HEAD|POST|DELETE) (\S+) HTTP', plain):
            self.lines.append((found[1], found[2]))

    @contextmanager
    def counted(self):
        self.lines.clear()
        yield self.lines


@pytest.fixture(scope="module")
def requests():
    log, handler = logging.getLogger("werkzeug"), _Requests()
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    yield handler
    log.removeHandler(handler)
    log.level, log.propagate = before


@pytest.fixture(scope="module")
def bucket(requests):
    """Name of a bucket of a server whose address workers find in their environment."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        options = {
            "endpoint_url": f"http://127.0.0.1:{server.get_host_and_port()[1]}",
            "key": "someone",
            "secret": "something",
        }
        for name, value in options.items():
            patch.setenv(f"FSSPEC_S3_{name.upper()}", value)
        patch.setitem(fsspec.config.conf, "s3", options)
        fsspec.filesystem("s3").mkdir("nights")
        yield "nights"
    server.stop()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Frames of one night, on disk: plain, gzipped and tile-compressed."""
    folder = tmp_path_factory.mktemp("data") / "night"
    simulate_observations(folder, **FIELD)
    plain = sorted(folder.rglob("*.fits"))
    with plain[1].open("rb") as stream, gzip.open(f"{plain[1]}.gz", "wb") as zipped:
        shutil.copyfileobj(stream, zipped)
    with fits.open(plain[2]) as hdus:
        packed = fits.CompImageHDU(hdus[0].data, hdus[0].header, compression_type="RICE_1", quantize_level=0)
        packed.writeto(f"{plain[2]}.fz")
    for file in plain[1:3]:
        file.unlink()
    return folder


@pytest.fixture(scope="module")
def remote_data(bucket, data):
    fsspec.filesystem("s3").put(f"{data}/", f"{bucket}/data/", recursive=True)
    return f"s3://{bucket}/data"


def _setup(out):
    chosen = ReductionParameters(n_pixels=5, border_width=4)
    return driver.Setup(locations.location(out), OPTICAM_MX(), chosen, frames_per_block=2)


def _reduce(out, data, **changes):
    """Reduce in this process; return the store."""
    setup, executor = _setup(out), executors.InProcess()
    scan = scanning.scan(scanning.find_files(data), setup.instrument)
    with ownership.own(out):
        driver.prepare(setup, scan, changes=driver.Changes(**changes))
        driver.drive(driver.Run(setup, executor), driver.TO_CATALOGS)
        driver.drive(
            driver.Run(setup, executor, photometers={"aperture": AperturePhotometer()}), driver.TO_LIGHT_CURVES
        )
        driver.finish(setup)
    return setup.path


@pytest.fixture(scope="module")
def local_store(data, tmp_path_factory):
    """The same night reduced on disk, to compare with."""
    out = tmp_path_factory.mktemp("local")
    return _reduce(out, data)


@pytest.fixture(scope="module")
def reduced(bucket, remote_data):
    """From the bucket to the bucket, as a person types it, on two worker processes."""
    out = f"s3://{bucket}/run"
    assert cli.main(["reduce", remote_data, "--out", out, "--cluster", "local", "--workers", "2", *OPTIONS]) == 0
    return out


def _but_for_times(lines):
    """Differences of two stores, without the times of the files, which are those of the upload."""
    return [line for line in lines if "file_mtime" not in line and "file_checksum" not in line]


# ---------------------------------------------------------------- frames


def test_frames__of_a_bucket_are_those_on_disk_bit_for_bit(data, remote_data):
    here, there = scanning.find_files(data), scanning.find_files(remote_data + "/")
    assert [file.removeprefix(str(data)) for file in here] == [url.removeprefix(remote_data) for url in there]
    assert {url.rpartition(".")[2] for url in there} == {"fits", "gz", "fz"}
    for file, url in zip(here, there, strict=True):
        expected, found = FitsReader().read(file), FitsReader().read(url)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        assert read_header(url) == read_header(file)


def test_scan__of_a_bucket_is_that_of_the_disk_and_costs_one_request_a_frame(data, remote_data, requests):
    with requests.counted() as lines:
        found = scanning.scan(scanning.find_files(remote_data), OPTICAM_MX())
    assert len([path for kind, path in lines if kind == "GET" and "list-type" not in path]) == FIELD["n_frames"]
    assert len(lines) - FIELD["n_frames"] <= 4  # listings, whatever the number of frames
    expected = scanning.scan(scanning.find_files(data), OPTICAM_MX())
    own = ["file", "file_mtime", "file_ctime", "file_checksum"]
    there = found.table.drop(columns=own)
    assert there.equals(expected.table.drop(columns=own))
    assert found.table["file_mtime"].gt(1.7e9).all()


def test_read__takes_one_request_a_frame(remote_data, requests):
    url = next(url for url in scanning.find_files(remote_data) if url.endswith(".fits"))
    with requests.counted() as lines:
        FitsReader().read(url)
    assert [kind for kind, _ in lines] == ["GET"]


def test_read__a_long_header_or_an_image_further_on_takes_more_requests_but_only_what_is_needed(bucket, tmp_path):
    big = np.zeros((400, 400), dtype=np.int16)
    image = fits.ImageHDU(np.arange(20, dtype=np.int16).reshape(4, 5), name="SCI")
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.stack([big, big]), name="CUBE"), image]).writeto(
        tmp_path / "a.fits"
    )
    place = locations.location(f"s3://{bucket}/odd/a.fits")
    place.write_bytes((tmp_path / "a.fits").read_bytes())
    assert read_header(str(place)).shape == (4, 5)
    np.testing.assert_array_equal(FitsReader("SCI").read(str(place)), image.data)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"no FITS at all", "not a FITS file"), (None, "cut short")],
)
def test_scan__names_the_url_of_what_cannot_be_used(bucket, data, content, reason):
    if content is None:
        content = next(data.rglob("*.fits")).read_bytes()[:9000]
    url = f"s3://{bucket}/bad/{reason.replace(' ', '-')}.fits"
    locations.location(url).write_bytes(content)
    [(file, why)] = scanning.scan([url], OPTICAM_MX()).set_aside
    assert file == url
    assert reason in why


def test_scan__an_object_that_is_gone_is_set_aside(remote_data):
    url = f"{remote_data}/gone.fits"
    [(file, why)] = scanning.scan([url, *scanning.find_files(remote_data)], OPTICAM_MX()).set_aside
    assert file == url
    assert "gone" in why
    with pytest.raises(FrameError, match="does not exist"):
        FitsReader().read(url)


def test_find_files__the_listing_skips_hidden_names_and_other_files(bucket):
    for name in ("a.FITS", "b.txt", ".c.fits", ".old/d.fits", "deep/er/e.fit.gz"):
        locations.location(f"s3://{bucket}/mixed/{name}").write_bytes(b"x")
    top = f"s3://{bucket}/mixed"
    assert scanning.find_files(top) == [f"{top}/a.FITS", f"{top}/deep/er/e.fit.gz"]
    assert scanning.find_files(f"{top}/b.txt") == [f"{top}/b.txt"]


def test_open_observations__are_lazy_and_equal(data, remote_data):
    here, there = opticam_dask.open_observations(data)["1:g"], opticam_dask.open_observations(remote_data)["1:g"]
    np.testing.assert_array_equal(there.isel(frame=2).compute(), here.isel(frame=2).compute())
    assert there["file"].to_numpy()[0].startswith(remote_data)
    with xr.open_dataset(remote_data, engine=OpticamBackend, key="1:g") as opened:
        np.testing.assert_array_equal(opened["image"].isel(frame=2), here.isel(frame=2))


def test_file_urls__are_the_local_paths(data):
    assert scanning.find_files(f"file://{data}") == scanning.find_files(data)
    with pytest.raises(remote_paths.LocationError, match="file:///path"):
        scanning.find_files("file://host/data")


# ---------------------------------------------------------------- what a person does wrong


def _line(capsys, *arguments):
    status = cli.main(list(arguments))
    return status, capsys.readouterr().err.strip()


def test_errors__one_line_each(bucket, capsys, tmp_path, monkeypatch):
    status, line = _line(capsys, "check", "s3://no-such-bucket/data")
    assert status == 2
    assert "there is none at s3://no-such-bucket/data" in line
    status, line = _line(capsys, "check", "simplecache::s3://nights/data")
    assert (status, "chained URL" in line) == (2, True)
    status, line = _line(capsys, "status", f"s3://{bucket}/nothing")
    assert (status, "holds no reduction" in line) == (2, True)
    status, line = _line(capsys, "watch", f"s3://{bucket}/data", "--out", str(tmp_path))
    assert (status, "needs a directory of this machine" in line) == (2, True)
    status, line = _line(capsys, "reduce", f"s3://{bucket}/data", "--out", "s3://no-such-bucket/run")
    assert status == 2
    assert "no-such-bucket" in line
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3")
    status, line = _line(capsys, "check", f"s3://{bucket}/data")
    assert status == 2
    assert line.count("\n") == 0
    assert "pip install s3fs" in line


def test_errors__a_server_that_does_not_answer(monkeypatch, capsys):
    dead = {
        "endpoint_url": "http://127.0.0.1:9",
        "key": "a",
        "secret": "b",
        "config_kwargs": {"retries": {"max_attempts": 0}},
    }
    monkeypatch.setitem(fsspec.config.conf, "s3", dead)
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    status, line = _line(capsys, "check", "s3://nights/data")
    assert status == 1
    assert "s3://nights/data" in line
    assert "cannot be reached" in line


# ---------------------------------------------------------------- a reduction in the bucket


def test_reduce__bucket_to_bucket_is_the_local_reduction_bit_for_bit(reduced, local_store):
    assert _but_for_times(integrity.compare(Store.at(reduced).path, local_store)) == []
    attributes = Group(Store.at(reduced).path, Store.at(reduced).camera("1:g").parts[0].group).attributes
    assert attributes["data_root"].startswith("s3://")


def test_reduce__readers_need_nothing_of_this_package(reduced):
    tree = xr.open_datatree(f"{reduced}/reduction.zarr", engine="zarr", consolidated=True)
    flags = tree["1-g/2023-12-31/frames/flags"].to_numpy()
    assert (flags & 1 == 1).all()
    tree.close()


def test_reduce__views_and_commands_read_it(reduced, capsys, local_store):
    with results.open_reduction(reduced) as tree:
        assert "1-g" in tree.children
    curves = results.light_curves(reduced, "1:g").load()
    np.testing.assert_array_equal(curves["flux"], results.light_curves(local_store.parent, "1:g")["flux"])
    numbers = curves["source_id"].to_numpy().tolist()
    assert cli.main(["status", reduced]) == 0
    assert cli.main(["verify", reduced]) == 0
    compared = ["lightcurve", reduced, "--target", str(numbers[0]), "--comparisons", *map(str, numbers[1:3])]
    assert cli.main(compared) == 0
    assert cli.main(["export", reduced, "--format", "csv"]) == 0
    assert cli.main(["report", reduced]) == 0
    text = capsys.readouterr().out
    assert "is whole" in text
    assert f"Report: {reduced}/report.html (" in text
    below = {url.removeprefix(f"{reduced}/") for url in locations.files_below(reduced)}
    for name in (
        "cat/catalogs.pdf", "cat/1-g_catalog.ecsv", "diag/header_times.pdf", "lcs/aperture/1-g_source_1.csv",
        "opticam_dask.log", f"relative_light_curves/aperture/target_{numbers[0]}_1-g_light_curve.csv",
        "export/aperture/1-g_source_1.csv", "report.html",
    ):  # fmt: skip
        assert name in below
    assert [name for name in below if "owner.json" in name or name.startswith("scratch")] == []


def test_reduce__again_writes_no_chunk(reduced, remote_data, requests):
    with requests.counted() as lines:
        assert cli.main(["reduce", remote_data, "--out", reduced, "--cluster", "none", *OPTIONS]) == 0
    assert [
        path for kind, path in lines if kind == "PUT" and re.search(r"2023-12-31/(frames|photometry).*/c/", path)
    ] == []


def test_reduce__new_is_refused(reduced, remote_data, capsys):
    status, line = _line(capsys, "reduce", remote_data, "--out", reduced, "--new", "--cluster", "none", *OPTIONS)
    assert status == 2
    assert "nothing can be renamed" in line


def test_write_block__the_flags_are_put_last(bucket, requests, local_store):
    """In a bucket as on disk: whoever sees the flags of a block sees all of it."""
    fsspec.filesystem("s3").put(f"{local_store}/", f"{bucket}/copy/reduction.zarr/", recursive=True)
    path = Store.at(f"s3://{bucket}/copy").path
    [part] = Store(path).camera("1:g").parts
    values = {entry: Group(path, f"{part.group}/frames").read(entry, 0, 2) for entry in ("flags", "fwhm", "message")}
    with requests.counted() as lines:
        part.write_block(0, {"frames": values})
    puts = [url for kind, url in lines if kind == "PUT"]
    assert len(puts) == 3
    assert "frames/flags/c/0" in puts[-1]
    assert _but_for_times(integrity.compare(path, local_store)) == []


def test_block__of_arrays_that_are_open_only_chunks_are_asked_for(bucket, requests, local_store):
    """What docs/storage.md says about requests."""
    fsspec.filesystem("s3").put(f"{local_store}/", f"{bucket}/copy3/reduction.zarr/", recursive=True)
    path = Store.at(f"s3://{bucket}/copy3").path
    [part] = Store(path).camera("1:g").parts

    def chunks_asked_for(function):
        function(0)
        with requests.counted() as lines:
            function(1)
        others = [url for _, url in lines if "/c/" not in url]
        assert len(others) <= 1  # the attributes of the night
        return len(lines) - len(others)

    assert chunks_asked_for(part.manifest) == len(schema.MANIFEST) == 19
    assert chunks_asked_for(part.results) == 18


def test_store__all_threads_have_one_client(bucket):
    path, meeting = Store.at(f"s3://{bucket}/run").path, threading.Barrier(4)

    def client(_):
        meeting.wait(60)
        return arrays._zarr_store(path).fs

    with ThreadPoolExecutor(4) as pool:
        assert len({id(one) for one in pool.map(client, range(4))}) == 1


def test_redo__a_removal_that_was_interrupted_is_finished(bucket, data, local_store, monkeypatch):
    path = Store.at(f"s3://{bucket}/copy2").path
    fsspec.filesystem("s3").put(f"{local_store}/", f"{bucket}/copy2/reduction.zarr/", recursive=True)
    [part] = Store(path).camera("1:g").parts
    monkeypatch.setattr(locations, "remove_tree", lambda place: (_ for _ in ()).throw(OSError("the network is gone")))
    with pytest.raises(OSError, match="network"):
        Group(path, part.group).remove()
    monkeypatch.undo()
    assert Store(path).camera("1:g").parts == []  # not half of one
    Store(path).begin_changes()
    assert Store(path).camera("1:g").part_names == []
    assert list(path.rglob(".*.removed")) == []


def test_damage__is_found_and_repaired_in_the_bucket(bucket, remote_data):
    out = f"s3://{bucket}/damaged"
    path = _reduce(out, remote_data)
    (path / "1-g/2023-12-31/frames/fwhm/c/1").unlink()
    (path / "1-g/2023-12-31/frames/flags/c/0").write_bytes(b"rubbish")
    assert cli.main(["verify", out]) == 1
    assert cli.main(["verify", out, "--repair", "--cluster", "none"]) == 0
    assert cli.main(["verify", out]) == 0


# ---------------------------------------------------------------- whose it is


@contextmanager
def _as_another_process():
    """What this process owns is not its own for a while."""
    held = dict(ownership._held)
    ownership._held.clear()
    yield
    ownership._held.clear()
    ownership._held.update(held)


def test_own__one_run_at_a_time(bucket):
    out = f"s3://{bucket}/owned"
    with ownership.own(out) as owner, _as_another_process():
        with pytest.raises(ownership.OwnedError, match="belongs to another run"), ownership.own(out):
            pass
        with ownership.own(out, break_lock=True), pytest.raises(ownership.OwnershipLost):
            owner.check()
    assert not locations.location(out).exists()


def test_own__a_sign_of_life_counts(bucket, monkeypatch):
    """A run on another machine is alive for as long as it beats, and dead five minutes later."""
    out = f"s3://{bucket}/beating"
    age = {"owner.json": 400.0, ".owner.json.alive": 20.0}

    def modified(place):
        return -age[re.sub(r"\.[0-9a-f]{32}", "", place.name)] if "clock" not in place.name else 0.0

    monkeypatch.setattr(ownership, "_is_same_machine", lambda found: False)
    with ownership.own(out) as owner:
        owner.beat()
        [alive] = locations.location(out).glob(".*.alive")
        assert owner.token in alive.name
        monkeypatch.setattr(locations, "modified", modified)
        with _as_another_process():
            with pytest.raises(ownership.OwnedError, match="20 s ago"), ownership.own(out):
                pass
            age[".owner.json.alive"] = 350.0
            with ownership.own(out), pytest.raises(ownership.OwnershipLost):
                owner.check()
    assert not locations.location(out).exists()


def test_own__of_many_who_put_at_once_one_succeeds(bucket):
    place = locations.location(f"s3://{bucket}/race/owner.json")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: remote_paths.create_remote(place, str(number)), range(8)))
    assert won.count(True) == 1
    assert place.read_text() == str(won.index(True))


# ---------------------------------------------------------------- another kind of place


def test_memory__frames_and_store(data, local_store):
    fsspec.filesystem("memory").put(f"{data}/", "/in/", recursive=True)
    try:
        path = _reduce("memory://out", "memory://in")
        assert _but_for_times(integrity.compare(path, local_store)) == []
        redone = _reduce("memory://out", "memory://in", redo=("2023-12-31",))
        assert _but_for_times(integrity.compare(redone, local_store)) == []
    finally:
        fsspec.filesystem("memory").store.clear()
