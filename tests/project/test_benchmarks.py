"""The benchmarks run, small, so that they cannot rot; what they claim is checked where it does not depend on time."""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def _main(name):
    return runpy.run_path(str(BENCHMARKS / f"{name}.py"))["main"]


@pytest.fixture
def benchmark_main(monkeypatch):
    """Function that gives the ``main`` of a benchmark, which finds the modules beside it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: importlib.import_module(name).main


def test_kernels__give_a_ratio_for_every_step(benchmark_main):
    rows = benchmark_main("kernels")(["--sides", "256", "--runs", "1", "--no-record"])
    assert {row["peer"] for row in rows} >= {"photutils", "sep"}
    assert all(float(row["times as fast"]) > 0 for row in rows)


def test_catalogue__finds_what_sextractor_finds(benchmark_main):
    if shutil.which("source-extractor") is None and not os.environ.get("OPTICAM_DASK_CI"):
        pytest.skip("source-extractor (a Debian package) is not installed")
    rows = benchmark_main("catalogue")(["--sides", "512", "--frames", "5", "--runs", "1", "--no-record"])
    assert len(rows) == 2
    assert all(float(row["found"].split()[0]) >= 98 for row in rows)


def test_measuring_pass__tells_its_steps_and_a_script_with_sep(benchmark_main):
    (row,) = benchmark_main("measuring_pass")(["--sides", "256", "--rounds", "1", "--no-gz", "--no-record"])
    assert float(row["share of its time"]) > 0
    assert float(row["times"]) > 0


@pytest.mark.timeout(900)
def test_end_to_end__both_pipelines_measure_the_same_light_curves(benchmark_main):
    sizes = ["--rounds", "1", "--own", "8", "16", "--reference", "4", "8"]
    (row,) = benchmark_main("end_to_end")(["--sides", "256", *sizes, "--no-gz", "--no-record"])
    ours, theirs = (float(part.split()[0]) for part in row["scatter of bright stars"].split(", "))
    assert ours < 1.5 * theirs + 0.1


def test_small_night__commands_that_only_read_cost_little():
    # a process of its own: it waits for all its children, of which this one has more (clusters of other tests)
    options = ["--frames", "2", "--binning", "8", "--rounds", "1", "--commands", "help", "check"]
    command = [sys.executable, BENCHMARKS / "small_night.py", *options]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    processor = {
        name: float(time) for name, time in re.findall(r"^\| *(help|check) *\| *[\d.]+ *\| *([\d.]+) *\|", told, re.M)
    }
    assert list(processor) == ["help", "check"]
    assert 0 < processor["help"] < processor["check"]


def test_planning__one_task_a_block(benchmark_main):
    rows = benchmark_main("planning")(["--frames", "300", "10000", "--headers", "--run", "--no-record"])
    assert [row["nights"] for row in rows] == [1, 2]
    assert rows[1]["tasks a pass"] < 10000 / 8


def test_planning__headers_of_many_files(benchmark_main):
    benchmark_main("planning")
    found = importlib.import_module("planning").read_headers(300)
    assert found["memory"] < 2000


@pytest.mark.timeout(900)
def test_planning__some_frames_of_a_large_plan_run(benchmark_main):
    benchmark_main("planning")
    row = importlib.import_module("planning")._row_of_run(6000, 256)
    assert row["planned"] == "6,000"
    assert float(row["workers, ms of CPU a frame"]) > 0


@pytest.mark.timeout(900)
def test_growth__every_frame_is_reduced(benchmark_main):
    (row,) = benchmark_main("growth")(["--frames", "20", "--no-record"])
    assert row["tasks"] == "2"


@pytest.mark.timeout(900)
def test_workers__four_ways_take_turns(benchmark_main):
    arguments = ["--sides", "128", "--frames", "8", "16", "--rounds", "1", "--no-record"]
    (row,) = benchmark_main("workers")(arguments)
    assert "two processes, ms a frame" in row


@pytest.mark.timeout(900)
def test_throughput_model__measures_and_checks(benchmark_main):
    arguments = ["--sides", "128", "--frames", "16", "64", "--blocks", "100", "--workers", "1", "--no-record"]
    model, check = benchmark_main("throughput_model")(arguments)
    assert model["frames a block"] == 256
    assert check["workers"] == 1


def test_throughput_model__says_which_part_is_the_limit(benchmark_main):
    benchmark_main("throughput_model")
    model = importlib.import_module("throughput_model").Model(0.08, 8, scheduler=0.002, client=0.001)
    assert model.seconds(1) == pytest.approx(0.08)
    assert model.limit("scheduler") == pytest.approx(320)
    assert model.limit("client") == pytest.approx(640)
    # beyond the limit more workers are of no use
    assert model.seconds(1000) == pytest.approx(model.seconds(10_000)) == pytest.approx(0.002 / 8)
    assert model.limit_of_run() == pytest.approx(model.limit("client"))
    whole = dataclasses.replace(model, beside=0.0001, shared=0.01, nightly=0.0003)
    assert whole.seconds(10) == pytest.approx(0.008 + 0.0001 + 0.001 + 0.0001)
    assert whole.limit_of_run() == pytest.approx((0.08 + 0.01) / (0.001 / 8 + 0.0001 + 0.0001))


def test_browser__is_small_and_reads_what_it_shows(benchmark_main):
    if shutil.which("chromium") is None and not os.environ.get("OPTICAM_DASK_CI"):
        pytest.skip("chromium (a Debian package) is not installed")
    (row,) = benchmark_main("browser")(["--runs", "128:5100", "--sources", "8", "--no-record"])
    assert row["nights"] == 2
    assert float(row["largest memory, MB"]) < 1000


def test_record__replaces_the_table_of_the_same_title(benchmark_main, tmp_path):
    benchmark_main("kernels")
    common = importlib.import_module("common")
    file = tmp_path / "results.md"
    for title, value in (("One", 1), ("Two", 2), ("One", 3)):
        common.record(title, "command", [{"name": "a", "value": value}], ("numpy",), to=file)
    text = file.read_text()
    assert text.count("## ") == 2
    assert "| a | 3 |" in text
    assert "| a | 2 |" in text
    assert "| a | 1 |" not in text


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Place of the frames of both tests of robustness, and of the run of them that nothing breaks."""
    return tmp_path_factory.mktemp("robustness")


@pytest.mark.timeout(900)
def test_robustness__workers_killed_through_the_run(unbroken):
    found = _main("robustness")(["workers", "--frames", "1000", "--kills", "4", "--directory", str(unbroken)])
    assert found["kills"] == 4


@pytest.mark.timeout(900)
def test_robustness__everything_killed_again_and_again(unbroken):
    found = _main("robustness")(["everything", "--frames", "1000", "--kills", "4", "--directory", str(unbroken)])
    assert found["kills"] == 4
    assert found["redone"] < 0.05
