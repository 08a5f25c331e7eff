"""Answers for programs, quiet and talkative commands, examples and completion."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from small_nights import FIELD, INSTRUMENT, add_stars, read_out, write_frame

from opticam_dask import cli, simulate_observations
from opticam_dask.cli.answers import answer
from opticam_dask.cli.help.texts import EXAMPLES, GROUPS
from opticam_dask.cli.parser import build_parser
from opticam_dask.console import Console
from opticam_dask.store.store import Store


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Directory with ``data`` (and one file that is no frame) and ``out``, reduced."""
    top = tmp_path_factory.mktemp("night")
    simulate_observations(
        top / "data", n_frames=8, shape=(128, 128), n_sources=6, filters=("g",), flux_range=(1e4, 2e5), seed=5
    )
    (top / "data" / "broken.fits").write_bytes(b"SIMPLE")
    assert cli.main(["reduce", str(top / "data"), "--out", str(top / "out"), "--cluster", "none", "--quiet"]) == 0
    return top


def _answer(capsys, *arguments):
    status = cli.main([*map(str, arguments), "--json"])
    captured = capsys.readouterr()
    assert captured.err == ""
    return status, json.loads(captured.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_check__answers(night, capsys):
    status, found = _answer(capsys, "check", night / "data")
    assert status == 0
    assert (found["n_usable"], found["n_set_aside"]) == (8, 1)
    assert [entry["file"] for entry in found["set_aside"]] == [str(night / "data" / "broken.fits")]
    (part,) = found["frames"]
    assert (part["key"], part["n_frames"], part["shapes"]) == ("1:g", 8, [[128, 128]])


def test_status__answers(night, capsys):
    status, found = _answer(capsys, "status", night / "out")
    assert status == 0
    (camera,) = found["cameras"]
    assert camera["catalog"]["n_sources"] == len(Store.open(night / "out").camera("1:g").catalog["source_id"])
    assert camera["parts"][0]["photometry"]["aperture"]["n_blocks_done"] == camera["parts"][0]["n_blocks"]
    assert (found["unfinished"], found["planned_run"]) == ([], [])
    assert found["problems"][0]["file"].endswith("broken.fits")
    assert found["parameters"]["threshold"] == 5.0


def test_lightcurve__answers_what_it_says_in_words(night, capsys):
    status, found = _answer(capsys, "lightcurve", night / "out", "--target", 2, "--comparisons", 1, 3)
    (curve,) = found["light_curves"]
    assert status == 0
    assert (curve["key"], curve["target"], curve["comparisons"]) == ("1:g", 2, [1, 3])
    assert cli.main(["lightcurve", str(night / "out"), "--target", "2", "--comparisons", "1", "3"]) == 0
    told = capsys.readouterr().out
    assert f"median {curve['median']:.5g}, scatter {100 * curve['scatter']:.2f} %" in told
    assert curve["file"] in told


def test_verify__answers_and_its_status_says_the_same(night, tmp_path, capsys):
    assert _answer(capsys, "verify", night / "out") == (0, {"is_good": True, "findings": []})
    out = shutil.copytree(night / "out", tmp_path / "out")
    next((out / "reduction.zarr" / "1-g" / "catalog" / "flux").rglob("c*/*")).write_bytes(b"damaged")
    status, found = _answer(capsys, "verify", out)
    assert status == 1
    assert not found["is_good"]
    assert "flux" in found["findings"][0]


def test_answer__what_is_not_a_number_is_null(capsys):
    answer({"values": np.array([1.0, np.nan]), "count": np.int64(2), 3: float("inf")})
    assert json.loads(capsys.readouterr().out) == {"values": [1.0, None], "count": 2, "3": None}


def test_errors__are_told_whatever_is_asked_for(tmp_path, capsys):
    for how in ("--json", "--quiet"):
        assert cli.main(["status", str(tmp_path), how]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1


def test_quiet__says_nothing_and_does_the_same(night, capsys):
    before = Console.is_quiet
    assert cli.main(["export", str(night / "out"), "--format", "csv", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert Console.is_quiet == before
    assert list((night / "out").rglob("*.csv"))


def test_verbose__shows_the_log_with_times(night, tmp_path, capsys):
    levels = logging.getLogger("opticam_dask").handlers[:]
    how = ("--out", str(tmp_path / "out"), "--cluster", "local", "--workers", "1", "--verbose")
    assert cli.main(["reduce", str(night / "data"), *how]) == 0
    captured = capsys.readouterr()
    assert re.search(r"^[-\d]+ [:.,\d]+ opticam_dask\.cluster\.pool INFO starting 1 processes", captured.err, re.M)
    assert "8 frames" in captured.out
    assert logging.getLogger("opticam_dask").handlers == levels


def test_log__holds_every_line_of_the_run_with_its_time(night, tmp_path, capsys):
    rng = np.random.default_rng(1)
    image = add_stars(np.full((200, 200), 100.0), FIELD)
    for frame in range(4):
        write_frame(tmp_path / "data" / f"{frame}.fits", read_out(image, rng), 6.0 * frame)
    definition = tmp_path / "camera.json"
    definition.write_text(json.dumps(INSTRUMENT))
    how = ("--out", str(tmp_path / "out"), "--cluster", "none", "--instrument", str(definition))
    assert cli.main(["reduce", str(tmp_path / "data"), *how]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line]
    logged = (tmp_path / "out" / "opticam_dask.log").read_text().splitlines()
    lines = [line.partition(" INFO ")[2] for line in logged]
    assert [line for line in lines if line in told] == told
    # the reason why a run is refused as well
    assert cli.main(["reduce", str(tmp_path / "data"), *how, "--threshold", "9"]) == 2
    last = (tmp_path / "out" / "opticam_dask.log").read_text().splitlines()[-1]
    assert "threshold" in capsys.readouterr().err
    assert " ERROR the run ended with " in last
    assert "threshold" in last
    assert all(line[:4].isdigit() and line[4] == "-" for line in logged)


@pytest.mark.parametrize("command", sorted(EXAMPLES))
def test_examples__are_valid_and_in_the_help(command):
    parser = build_parser()
    shown = parser._subparsers._group_actions[0].choices[command].format_help()
    for example in EXAMPLES[command]:
        assert f"opticam-dask {example}" in shown
        words = shlex.split(example)
        words = words[: min((words.index(mark) for mark in ("|", ">") if mark in words), default=len(words))]
        assert parser.parse_args(words).command == command


def test_help__lists_every_command_in_its_group():
    parser = build_parser()
    commands = set(parser._subparsers._group_actions[0].choices)
    assert commands == {name for names in GROUPS.values() for name in names} == set(EXAMPLES)
    shown = parser.format_help()
    assert all(f"\n  {name} " in shown for name in commands)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh"])
def test_completion__is_a_script_with_every_command(shell, capsys):
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in EXAMPLES)
    assert ("-l photometer" if shell == "fish" else "--photometer") in script


def test_completion__completes_in_bash(tmp_path):
    script = _script("bash", tmp_path / "complete")
    ask = f"""
        source {script}
        COMP_WORDS=(opticam-dask lightc); COMP_CWORD=1
        $(complete -p opticam-dask | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        echo "${{COMPREPLY[@]}}"
    """
    found = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["lightcurve"]


def _script(shell, path):
    path.write_bytes(subprocess.check_output([sys.executable, "-m", "opticam_dask.cli", "completion", shell]))
    return path


def _said(*command):
    if shutil.which(command[0]) is None and not os.environ.get("OPTICAM_DASK_CI"):
        pytest.skip(f"{command[0]} (a Debian package) is not installed")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_completion__completes_in_fish(tmp_path):
    script = _script("fish", tmp_path / "opticam-dask.fish")
    for words, expected in (
        ("lightc", "lightcurve"), ("lightcurve OUT --weig", "--weighting"), ("lightcurve OUT --weighting o", "optimal"),
        ("instrument gu", "guess"), ("completion f", "fish"),
    ):  # fmt: skip
        found = _said("fish", "--no-config", "-c", f"source {script}; complete -C'opticam-dask {words}'")
        assert [line.split("\t")[0] for line in found.splitlines()] == [expected]


def test_completion__is_read_by_zsh(tmp_path):
    script = _script("zsh", tmp_path / "_opticam-dask")
    asked = f"autoload -Uz compinit && compinit -u -D && source {script} && typeset -p"
    assert ":(sum optimal)" in _said("zsh", "-f", "-c", f"{asked} _shtab_opticam_dask_lightcurve_options")
