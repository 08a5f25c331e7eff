"""An output directory that is taken away under a run (unmounted, removed or moved) is named as that."""

from __future__ import annotations

import pytest
from small_nights import INSTRUMENT

from opticam_dask import Instrument
from opticam_dask.frames.headers import keywords
from opticam_dask.pipeline.driver import as_begun
from opticam_dask.store import ownership
from opticam_dask.store.camera import Camera, Part
from opticam_dask.store.store import Store


def test_run__says_that_its_directory_is_gone_whatever_failed_and_goes_on_when_it_is_back(tmp_path):
    out, away = tmp_path / "out", tmp_path / "away"
    out.mkdir()
    gone = pytest.raises(ownership.OwnershipLost, match=r"out is not there any more, .* Bring it back")
    with gone as told, ownership.own(out):
        out.rename(away)
        out.mkdir()  # the empty place where a disk was
        raise KeyError("data_root")
    assert isinstance(told.value.__cause__, KeyError)
    out.rmdir()
    away.rename(out)
    # the record still names this process, in which no run of that name goes on
    refused = pytest.raises(ownership.OwnedError)
    with ownership.own(out) as owner, refused:
        ownership._acquire(ownership.Owner(owner.path, "another"), break_lock=False)
    assert not (out / ownership.OWNER_NAME).exists()


def test_run__says_that_a_file_is_where_its_directory_was(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    gone = pytest.raises(ownership.OwnershipLost, match="out is not there any more")
    with gone, ownership.own(out) as owner:
        out.rename(tmp_path / "away")
        out.write_text("", encoding="utf-8")
        owner.check()


def test_run__says_what_was_removed_from_its_directory_and_leaves_other_errors_alone(tmp_path):
    removed = pytest.raises(ownership.OwnershipLost, match=r"scratch.kept was removed while this run worked on it")
    with removed, ownership.own(tmp_path):
        (tmp_path / "scratch" / "kept").write_text("", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="elsewhere"), ownership.own(tmp_path):
        (tmp_path.parent / "elsewhere" / "x").write_text("", encoding="utf-8")
    with pytest.raises(ZeroDivisionError), ownership.own(tmp_path):
        _ = 1 // 0


def test_part__that_is_gone_is_not_called_made_anew(tmp_path):
    camera = Camera(Store.create(tmp_path, {}).path, "1:g")
    part = Part(camera, "2024-01-01", 4, 4, (8, 8), 1, None, 3, uid="1")
    for use in (lambda: part.write_block(0, {}), part._attributes_of_run):
        with pytest.raises(ownership.OwnershipLost, match="is gone: it was removed or moved"):
            use()


def test_store_of_before__goes_on_with_the_defaults_that_it_was_begun_with(tmp_path):
    camera = Instrument.from_json(INSTRUMENT)
    assert as_begun(tmp_path, camera) == camera
    of_then = INSTRUMENT | {"airmass_keyword": "AIRMASS", "gain_keyword": "GAIN", "ra_unit": "hourangle"}
    Store.create(tmp_path, {"instrument_definition": of_then})
    found = as_begun(tmp_path, camera)
    assert (found.airmass_keyword, found.gain_keyword, found.ra_unit) == ("AIRMASS", "GAIN", "hourangle")
    assert found.filter_keyword == keywords.FILTER  # the store has it as it is now
    chosen = Instrument.from_json(INSTRUMENT | {"airmass_keyword": "SECZ"})
    assert as_begun(tmp_path, chosen).airmass_keyword == "SECZ"
