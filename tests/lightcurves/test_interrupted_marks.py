"""No mark is lost, wherever the writing of marks stops: readers see the old list or the new one."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shutil
import uuid

import fsspec
import numpy as np
import pandas as pd
import pytest

import opticam_dask as opticam
from opticam_dask import schema
from opticam_dask.lightcurves.curation import marking
from opticam_dask.lightcurves.curation.marks import Marks, marks_of
from opticam_dask.store import integrity
from opticam_dask.store.errors import StoreError
from opticam_dask.store.groups import Group
from opticam_dask.store.migrations import migrate
from opticam_dask.store.store import Store

KEY = "1:g"


class _Stopped(BaseException):
    """The process dies here."""


class _Changes:
    """Every change of a file: what readers see before it, and one at which the process dies."""

    def __init__(self, patched, look):
        self.count, self.dies_at, self.seen = 0, 0, []
        self._look, self._is_looking = look, False
        for module, name in (
            (os, "replace"),
            (os, "rename"),
            (os, "unlink"),
            (os, "rmdir"),
            (os, "mkdir"),
            (io, "open"),
        ):
            patched.setattr(module, name, self._watched(getattr(module, name)))

    def _watched(self, function):
        def called(*arguments, **options):
            mode = str(options.get("mode", arguments[1] if len(arguments) > 1 else "r"))
            if not self._is_looking and (function is not _OPEN or set(mode) & set("wax+")):
                self._is_looking = True
                self.count += 1
                if not asyncio._get_running_loop():  # Zarr writes in a thread that must not wait for itself
                    self.seen.append(self._look())
                self._is_looking = False
                if self.count == self.dies_at:
                    raise _Stopped
            return function(*arguments, **options)

        return called


_OPEN = io.open


@pytest.fixture
def marked(tmp_path):
    """Output directory of a camera with four sources and two marks."""
    out = tmp_path / "marked"
    store = Store.create(out, {"parameters": "{}"})
    store.add_camera(KEY, "1", "g").catalog.write({"source_id": np.arange(1, 5)}, {})
    marking.mark_spans(out, "junk", KEY, [], sources=[2], why="variable, says the 2ü catalogue", who="Ada")
    marking.mark_spans(out, "cloud", KEY, [(59000.123456789012, np.inf)], who="Grace")
    return out


def _as_arrays(out):
    """The marks as older versions wrote them: an array a column, without transforms."""
    group = Group(Store.open(out).path, "marks", "marks")
    table = opticam.marks(out, undone=True).reset_index().drop(columns="transform")
    group.write({name: values.to_numpy() for name, values in table.items()}, {})

    Store.open(out).update({"schema_version": "1.7"})


def _migrate_and_mark(out):
    migrate(out)
    _mark(out)


def _mark(out):
    opticam.mark(out, "junk", KEY, sources=[1, 3], who="Ada")


def _unmark(out):
    opticam.unmark(out, [1], who="Ada")


@pytest.mark.parametrize(("change", "is_old"), [(_mark, False), (_migrate_and_mark, True), (_unmark, False)])
def test_list__is_the_old_or_the_new_one_wherever_the_change_stops(marked, tmp_path, monkeypatch, change, is_old):
    monkeypatch.setattr(marking, "_now", lambda: "2026-01-01T00:00:00Z")
    before = opticam.marks(marked, undone=True)
    assert before["mjd_end"].tolist()[1] == np.inf
    given = shutil.copytree(marked, tmp_path / "given")
    if is_old:
        _as_arrays(given)
    seen, dies_at, is_done = [], 0, False
    while not is_done:
        # old arrays are removed in many changes that are all alike
        dies_at += 1 if dies_at < 14 else 40
        out = shutil.copytree(given, tmp_path / uuid.uuid4().hex)
        store = Store.open(out)
        with monkeypatch.context() as patched:
            changes = _Changes(patched, lambda store=store: marks_of(store, undone=True))
            changes.dies_at = dies_at
            with contextlib.suppress(_Stopped):
                change(out)
                is_done = True
        seen.append([*changes.seen, opticam.marks(out, undone=True)])
        if not is_done:
            assert integrity.find_damage(store.path) == []
            # what was not done can be done again, and is
            migrate(out)
            opticam.mark(out, "keep", KEY, sources=[4])
            assert opticam.marks(out).iloc[-1]["kind"] == "keep"
        shutil.rmtree(out)
    after = seen[-1][-1]
    assert len(seen) > 5
    assert not after.equals(before)
    assert all(table.equals(before) or table.equals(after) for tables in seen for table in tables)
    assert any(tables[-1].equals(before) for tables in seen)
    # in one run, nobody sees the old list after the new one
    is_new = [table.equals(after) for table in seen[-1]]
    assert is_new == sorted(is_new)


def test_list__of_an_older_version_is_read_and_migrated(marked):
    before = opticam.marks(marked, undone=True)
    _as_arrays(marked)
    pd.testing.assert_frame_equal(opticam.marks(marked, undone=True), before)
    with pytest.raises(StoreError, match="opticam-dask migrate"):
        _mark(marked)
    # older versions refuse what they would overlook
    assert migrate(marked) == ["1.7 -> 1.8: the marks of observers are in one file."]
    assert Group(Store.open(marked).path, "marks").array_names == []
    pd.testing.assert_frame_equal(opticam.marks(marked, undone=True), before)
    _mark(marked)


def _without(name):
    return lambda records: {column: values for column, values in records.items() if column != name}


@pytest.mark.parametrize(
    "damage",
    [
        lambda records: records | {"who": []},
        lambda records: records | {"mjd_start": ["soon", "later"]},
        lambda records: records | {"mjd_start": [None, None]},
        lambda records: records | {"number": ["1", "2"]},
        lambda records: records | {"kind": "no"},
        lambda records: records | {"source_id": [3, 0]},
        lambda records: {**records, "extra": [1, 2]},
        _without("number"),
        _without("label"),
        lambda _: [1, 2],
        lambda _: None,
    ],
)
def test_list__that_is_damaged_is_named(marked, damage):
    store = Store.open(marked)
    file = store.path / "marks" / "zarr.json"
    document = json.loads(file.read_text())
    document["attributes"]["records"] = damage(document["attributes"]["records"])
    file.write_text(json.dumps(document))
    for read in (opticam.marks, lambda out: Marks.of(Store.open(out), KEY, "aperture"), _mark):
        with pytest.raises(StoreError, match=r"marks/zarr\.json is damaged"):
            read(marked)
    (found,) = integrity.find_damage(store.path)
    assert str(found).startswith("marks/zarr.json: the metadata are damaged (")
    assert not found.is_repairable


def test_list__that_is_lost_is_told(marked):
    file = Store.open(marked).path / "marks" / "zarr.json"
    file.write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    with pytest.raises(StoreError, match="damaged"):
        opticam.marks(marked)


def test_list__is_read_once_for_light_curves(marked, monkeypatch):
    reads, read = [], Store.read_marks
    monkeypatch.setattr(Store, "read_marks", lambda store: reads.append(store) or read(store))
    assert len(Marks.of(Store.open(marked), KEY, "aperture").table) == 2
    assert len(reads) == 1


def test_list__of_an_object_store_is_the_old_or_the_new_one(monkeypatch):
    """Where nothing can be renamed, every file is put at once."""
    store = Store.create(f"memory://{uuid.uuid4().hex}", {"parameters": "{}"})
    columns = {entry.name: [entry.fill] for entry in schema.MARKS} | {"number": [1], "mjd_start": [np.nan]}
    later = {name: 2 * values for name, values in columns.items()} | {"number": [1, 2], "mjd_end": [np.inf, -np.inf]}
    store.write_marks(columns)
    put, seen, stops_at = type(fsspec.filesystem("memory")).pipe_file, [], [0]

    def stopping(self, path, *arguments, **options):
        seen.append(store.read_marks()["number"])
        stops_at[0] -= 1
        if stops_at[0] == 0:
            raise _Stopped
        put(self, path, *arguments, **options)

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "pipe_file", stopping)
    for number in (1, 2, 3):
        store.write_marks(columns)
        stops_at[0] = number
        with contextlib.suppress(_Stopped):
            store.write_marks(later)
        stops_at[0] = 0  # with old releases of fsspec, zarr keeps the file system of before, and its write is not seen
        seen.append(store.read_marks()["number"])
    assert all(numbers in ([1], [1, 2]) for numbers in seen)
    assert [1, 2] in seen
    store.write_marks(later)
    assert store.read_marks()["mjd_end"] == [np.inf, -np.inf]
    assert np.isnan(store.read_marks()["mjd_start"]).all()
