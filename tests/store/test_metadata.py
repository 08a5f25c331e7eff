"""Metadata of groups as files: the bytes that Zarr writes."""

import json
import os
import shutil
import warnings

import numpy as np
import pytest
import zarr

from opticam_dask import locations
from opticam_dask.store import metadata
from opticam_dask.store.errors import StoreError
from opticam_dask.store.groups import Group
from opticam_dask.store.store import Store


@pytest.fixture
def store(tmp_path):
    made = Store.create(tmp_path, {"name": "Sérsic", "levels": [1, 2.5, None], "nested": {"a": float("nan")}})
    for key in ("2:r", "1:g"):
        camera = made.add_camera(key, key[0], key[2])
        numbers = np.arange(1, 4)
        camera.catalog.write({"source_id": numbers, "x": numbers * 1.5, "y": numbers * 2.5}, {"checksum": "abc"})
    return made


def of_zarr(store):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(store.path))
    return (store.path / "zarr.json").read_bytes()


def test_consolidated__as_zarr_writes_it(store):
    expected = of_zarr(store)
    store.begin_changes()
    store.finish_changes()
    assert (store.path / "zarr.json").read_bytes() == expected
    assert {"1-g/catalog/x", "2-r/catalog", "2-r"} < set(json.loads(expected)["consolidated_metadata"]["metadata"])


def test_consolidated__without_what_is_hidden_or_has_lost_its_metadata(store):
    expected = of_zarr(store)
    hidden = store.path / "1-g" / ".night.0.removed"
    (store.path / "2-r" / "lost" / "c").mkdir(parents=True)
    hidden.mkdir()
    (hidden / "zarr.json").write_text("{}")
    metadata.consolidate(store.path)
    assert (store.path / "zarr.json").read_bytes() == expected


def test_consolidated__names_the_file_that_is_damaged(store):
    (store.path / "2-r" / "catalog" / "x" / "zarr.json").write_text("{ half")
    with pytest.raises(StoreError, match=r"2-r/catalog/x/zarr\.json is damaged"):
        metadata.consolidate(store.path)


def test_consolidated__with_what_lies_behind_links(store, tmp_path):
    expected = of_zarr(store)
    catalog = store.path / "1-g" / "catalog"
    catalog.rename(tmp_path / "disk")
    catalog.symlink_to(tmp_path / "disk")
    metadata.consolidate(store.path)
    assert (store.path / "zarr.json").read_bytes() == expected
    (store.path / "2-r" / "back").symlink_to(store.path / "2-r")
    metadata.consolidate(store.path)
    assert not any("back/back" in name for name in members_of(store))


def test_consolidated__is_not_written_where_a_directory_cannot_be_read(store, monkeypatch):
    scandir = os.scandir

    def refusing(path):
        if os.fspath(path).endswith("catalog"):
            raise PermissionError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError, match="catalog"):
        metadata.consolidate(store.path)


def members_of(store):
    return json.loads((store.path / "zarr.json").read_bytes())["consolidated_metadata"]["metadata"]


def test_group__made_and_updated_as_zarr_does(store, tmp_path):
    group = Group(store.path, "1-g/differential/star")
    metadata.make_group(store.path, group.name, {"key": "1:g", "weights": [0.5]})
    group.update({"complete": True, "key": "other"})
    root = zarr.create_group(tmp_path / "other", zarr_format=3)
    root.create_group(group.name, attributes={"key": "1:g", "weights": [0.5]}).update_attributes(
        {"complete": True, "key": "other"}
    )
    for name in ("1-g/differential", group.name):
        expected = (tmp_path / "other" / name / "zarr.json").read_bytes()
        assert (store.path / name / "zarr.json").read_bytes() == expected


@pytest.mark.parametrize("begun", [False, True])
def test_group__that_is_half_replaced_is_not_whole(store, monkeypatch, begun):
    catalog = store.camera("1:g").catalog

    def stopping(directory):
        if begun:
            shutil.rmtree(directory / "x")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(locations, "remove_tree", stopping)
        with pytest.raises(KeyboardInterrupt):
            catalog.write({"source_id": np.arange(1, 3)}, {"checksum": "new"})
    assert not catalog.is_whole
    store.begin_changes()
    catalog.write({"source_id": np.arange(1, 3)}, {"checksum": "new"})
    assert catalog.is_whole
    assert not list(store.path.rglob("*.removed"))


def test_link__is_removed_without_what_it_leads_to(store, tmp_path):
    catalog = store.camera("1:g").catalog
    catalog.directory.rename(tmp_path / "disk")
    catalog.directory.symlink_to(tmp_path / "disk")
    catalog.remove()
    assert not catalog.directory.exists()
    assert (tmp_path / "disk" / "x").is_dir()


def test_group__takes_the_place_of_an_old_one(store):
    group = store.camera("1:g").catalog
    group.write({"source_id": np.arange(1, 3)}, {"checksum": "new"})
    assert group.array_names == ["source_id"]
    assert group.attributes == {"checksum": "new", "coordinates": "source_id", "complete": True}
