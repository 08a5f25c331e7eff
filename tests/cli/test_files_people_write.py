"""Files that people write with editors and spreadsheets, and programs that are started without standard streams."""

from __future__ import annotations

import codecs
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from small_nights import INSTRUMENT, write_frame

from opticam_dask import Instrument
from opticam_dask.cli.parser import main
from opticam_dask.frames.sky_catalogs import read_sky_catalog
from opticam_dask.parameters import read_parameters

DEFINITION = json.dumps(INSTRUMENT)


@pytest.fixture
def data(tmp_path):
    for number in range(2):
        write_frame(tmp_path / "data" / f"f{number}.fits", np.full((20, 24), 100.0), 7.0 * number)
    return tmp_path / "data"


def test_mark_of_an_editor_before_a_text__is_no_part_of_it(tmp_path):
    (tmp_path / "camera.json").write_bytes(codecs.BOM_UTF8 + DEFINITION.encode())
    assert Instrument.from_json(tmp_path / "camera.json") == Instrument.from_json(INSTRUMENT)
    (tmp_path / "run.toml").write_bytes(codecs.BOM_UTF8 + b"threshold = 4.0")
    (tmp_path / "run.json").write_bytes(codecs.BOM_UTF8 + b'{"threshold": 4.0}')
    for name in ("run.toml", "run.json"):
        assert read_parameters(tmp_path / name) == {"threshold": 4.0}
    (tmp_path / "stars.csv").write_bytes(codecs.BOM_UTF8 + b"ra,dec,name\n10.5,-3.25,one\n11.5,-3.5,two\n")
    catalogue = read_sky_catalog(tmp_path / "stars.csv")
    assert (catalogue.ra.tolist(), catalogue.name.tolist()) == ([10.5, 11.5], ["one", "two"])


@pytest.mark.parametrize("name", ["camera.json", "run.toml"])
def test_text_that_is_not_utf8__is_refused_in_one_line(tmp_path, data, capsys, name):
    (tmp_path / name).write_text("threshold = 4.0", encoding="utf-16")
    option = "--instrument" if name == "camera.json" else "--config"
    arguments = ["reduce", data, "--out", tmp_path / "out", option, tmp_path / name, "--cluster", "none"]
    assert main(list(map(str, arguments))) == 2
    told = capsys.readouterr().err
    assert "it is not UTF-8 text" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("separator", [";", "\t"])
def test_table_of_a_spreadsheet_without_commas__is_read(tmp_path, separator):
    rows = ("name", "ra", "dec"), ("one, or two", "10.5", "-3.25"), ("007", "11.5", "-3.5")
    (tmp_path / "stars.csv").write_text("\n".join(separator.join(row) for row in rows))
    catalogue = read_sky_catalog(tmp_path / "stars.csv")
    assert (catalogue.ra.tolist(), catalogue.name.tolist()) == ([10.5, 11.5], ["one, or two", "007"])


@pytest.mark.parametrize("option", ["--instrument", "--config", "--sources"])
def test_directory_in_the_place_of_a_file__is_refused_in_one_line(tmp_path, data, capsys, option):
    arguments = ["reduce", data, "--out", tmp_path / "out", option, tmp_path, "--cluster", "none"]
    assert main(list(map(str, arguments))) == 2
    told = capsys.readouterr().err
    assert str(tmp_path) in told
    assert told.count("\n") == 1


def test_entry_that_stands_twice__is_refused_and_named(tmp_path, data, capsys):
    (tmp_path / "camera.json").write_text(DEFINITION.replace("{", '{"default_gain": 5.0, ', 1))
    assert main(["check", str(data), "--instrument", str(tmp_path / "camera.json")]) == 2
    assert "default_gain stands in it twice" in capsys.readouterr().err
    (tmp_path / "run.json").write_text('{"threshold": 4.0, "threshold": 5.0}')
    with pytest.raises(ValueError, match="threshold stands in it twice"):
        read_parameters(tmp_path / "run.json")


@pytest.mark.parametrize("closed", [(1,), (0, 1, 2)])
def test_streams_that_are_closed__do_no_harm(tmp_path, data, closed):
    (tmp_path / "camera.json").write_text(DEFINITION)
    code = f"""
import os, sys
for number in {closed}:
    os.close(number)
sys.stdout, sys.stderr = None, (None if 2 in {closed} else sys.stderr)
from opticam_dask.cli.parser import main
status = main(["check", {str(data)!r}, "--instrument", {str(tmp_path / "camera.json")!r}])
taken = os.open({str(tmp_path / "taken")!r}, os.O_CREAT | os.O_WRONLY)
os._exit(status if taken > 2 else 77)
"""
    done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), stderr=subprocess.PIPE, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
