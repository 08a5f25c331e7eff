"""What a person sees on a terminal while a command runs: something from the first moment on, and bars that end."""

import json
import os
import pty
import re
import subprocess
import sys
import types

import pytest
from small_nights import INSTRUMENT, write_frames

from opticam_dask import Instrument, Reducer, cli
from opticam_dask.console import Console
from opticam_dask.display import plotting
from opticam_dask.parameters import ReductionParameters
from opticam_dask.pipeline.reduction import WrongParameters


def on_terminal(*arguments: object, program: tuple[str, ...] = ("-m", "opticam_dask.cli")) -> list[str]:
    """Lines of a command on a terminal, without colours; a bar that is drawn again counts as a line."""
    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *program, *map(str, arguments)], stdin=inside, stdout=inside, stderr=inside
    )
    os.close(inside)
    output = b""
    while True:
        try:
            some = os.read(terminal, 1 << 16)
        except OSError:  # how a terminal ends
            some = b""
        if not some:
            break
        output += some
    os.close(terminal)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode())
    assert process.wait() == 0, text
    return [line for line in re.split(r"[\r\n]+", text) if line.strip()]


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    """A directory of three frames and what a terminal showed of their reduction."""
    directory = tmp_path_factory.mktemp("terminal")
    write_frames(directory / "frames", 3, seed=3)
    (directory / "camera.json").write_text(json.dumps(INSTRUMENT))
    command = ["reduce", directory / "frames", "--out", directory / "out", "--instrument", directory / "camera.json"]
    return directory, command, on_terminal(*command, "--workers", 1)


def test_reduce__speaks_first_and_shows_every_stage_to_its_end(reduced):
    directory, _, lines = reduced
    assert lines[0].startswith(f"Reducing {directory / 'frames'}")  # before anything of size is imported
    # every bar is seen empty, or as soon as something of it is done, and ends full
    seen: dict[str, list[tuple[int, int]]] = {}
    for line in lines:
        if match := re.match(r"(\D+?) +[━╸╺]+ +(\d+)/(\d+)", line):
            seen.setdefault(match[1], []).append((int(match[2]), int(match[3])))
    assert {"Reading headers", "Starting"} < seen.keys()
    assert len(seen) >= 4, seen
    for stage, steps in seen.items():
        assert steps[-1][0] == steps[-1][1], stage
        assert steps == sorted(steps), stage
    assert seen["Reading headers"][-1] == (3, 3)
    assert seen["Starting"][-1] == (1, 1)
    order = [next(i for i, line in enumerate(lines) if line.startswith(stage)) for stage in ("Reading", "Starting")]
    assert order == sorted(order)


def test_commands_that_import_much__speak_first(reduced):
    directory, _, _ = reduced
    frames = directory / "frames"
    assert on_terminal("export", directory / "out", "--format", "csv")[0] == f"Opening {directory / 'out'} ..."
    assert on_terminal("check", frames, "--instrument", directory / "camera.json")[0] == f"Reading {frames} ..."


def test_report__is_announced_by_a_line_not_by_a_bar_that_stands_still(reduced):
    lines = on_terminal("report", reduced[0] / "out")
    assert "Writing the report ..." in lines
    assert not [line for line in lines if "━" in line]


def test_reduce__again_draws_nothing(reduced, monkeypatch, capsys):
    directory, command, _ = reduced
    files = [file for folder in ("cat", "diag") for file in sorted((directory / "out" / folder).iterdir())]
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}
    assert len(before) == 6

    def refuse(*_, **__):
        raise AssertionError("drawn")

    monkeypatch.setattr(plotting, "save_figure", refuse)
    assert cli.main([*map(str, command), "--cluster", "none"]) == 0
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files} == before


def test_reducer__other_parameters_are_refused_before_a_header_is_read(reduced, monkeypatch):
    directory, _, _ = reduced
    monkeypatch.setattr("opticam_dask.api.reducer.scan", lambda *_, **__: pytest.fail("headers were read"))
    with pytest.raises(WrongParameters, match="threshold"):
        Reducer(
            directory / "out",
            directory / "frames",
            instrument=Instrument.from_json(INSTRUMENT),
            threshold=9.0,
            parameters=ReductionParameters(threshold=9.0),
            client="none",
        )


def test_console__a_stage_within_a_stage_ends_and_the_outer_one_goes_on(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))  # imported, but this is no kernel
    console = Console(prefix="")
    console.begin("Aligning", 4)
    console.advance(1)
    with console.stage("Starting", 2, "workers"):
        console.reach(2, 2)
    console.advance(3)
    console.end()
    assert capsys.readouterr().out.splitlines() == ["Aligning: 4 frames", "Starting: 2 workers"]


_NESTED = """
import io, sys
from opticam_dask.console import Console
console = Console(prefix="")
console.begin("Aligning", 4)
sys.stdout = other = io.StringIO()  # as old releases of rich do: what stands for it is no terminal
with console.stage("Starting", 2, "workers"):
    console.advance(2)
console.advance(4)
console.end()
assert other.getvalue() == ""
"""


def test_console__a_stage_within_a_bar_has_a_bar_whatever_rich_puts_in_place_of_the_output():
    lines = on_terminal(program=("-c", _NESTED))
    assert [line for line in lines if re.match(r"Starting +━+ 2/2 ", line)], lines
    assert not [line for line in lines if "workers" in line]
