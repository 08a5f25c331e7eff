"""A run that has nothing to do starts no process, draws no figure and writes no file of light curves."""

from __future__ import annotations

import os
import subprocess

import pytest
from small_nights import reducer_of, write_frames

from opticam_dask.cluster import connections, pool
from opticam_dask.display import plotting


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    directory = tmp_path_factory.mktemp("idle")
    write_frames(directory / "frames", 6, seed=8)
    with connections.connect("none") as place:
        _reduce(directory, place)
    return directory


def _reduce(directory, place, out="out", *, figures=True):
    reducer_of(directory, client=place, out=out, figures=figures).reduce()


def _written(out):
    """What tells that a file was written anew, of all files for people."""
    files = [file for folder in ("cat", "diag", "lcs") for file in (out / folder).rglob("*") if file.is_file()]
    return {str(file.relative_to(out)): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def test_nothing_to_do__no_process_starts_and_no_file_is_written(night, monkeypatch):
    before = _written(night / "out")
    assert {name.partition("/")[0] for name in before} == {"cat", "diag", "lcs"}
    for owner, name in ((subprocess, "Popen"), (connections, "local_client"), (plotting, "save_figure")):
        monkeypatch.setattr(owner, name, lambda *_, **__: pytest.fail("something was started or drawn"))
    with connections.connect("local", n_workers=2) as place:
        _reduce(night, place)
    assert _written(night / "out") == before


def test_figures__are_not_drawn_where_they_are_not_wanted_and_can_be_later(night):
    drawn = {name for name in _written(night / "out") if name.endswith(".pdf")}
    assert len(drawn) == 5
    with connections.connect("none") as place:
        _reduce(night, place, "plain", figures=False)
        assert set(_written(night / "plain")) == set(_written(night / "out")) - drawn
        _reduce(night, place, "plain")
    assert set(_written(night / "plain")) == set(_written(night / "out"))


@pytest.mark.parametrize("change", ["a file was lost", "a block was measured anew"])
def test_light_curve_files__are_written_again_when(change, night):
    before = {name: facts for name, facts in _written(night / "out").items() if name.endswith(".csv")}
    if change == "a file was lost":
        (night / "out" / next(iter(before))).unlink()
    else:
        [chunk] = (night / "out" / "reduction.zarr").glob("*/*/photometry/aperture/flux/c/0/*")
        os.utime(chunk, (1, 1))
    with connections.connect("none") as place:
        _reduce(night, place)
    after = _written(night / "out")
    assert all(after[name] != facts for name, facts in before.items())


def test_connection__opens_nothing_for_no_block(monkeypatch):
    monkeypatch.setattr(pool.Pool, "start", lambda self: pytest.fail("processes were started"))
    monkeypatch.setattr(connections, "local_client", lambda *_, **__: pytest.fail("a cluster was started"))
    with connections.connect("local") as place:
        assert list(place.run([])) == []
        assert list(place.run([connections.Work(abs, [])])) == []
