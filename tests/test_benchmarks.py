"""The benchmarks run, small, so that they cannot rot; what they claim is checked where it does not depend on time."""

from __future__ import annotations

import importlib
import os
import runpy
import shutil
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


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


@pytest.mark.timeout(900)
def test_end_to_end__both_pipelines_measure_the_same_light_curves(benchmark_main):
    sizes = ["--own", "8", "16", "--reference", "4", "8"]
    (row,) = benchmark_main("end_to_end")(["--sides", "256", *sizes, "--no-gz", "--no-record"])
    ours, theirs = (float(part.split()[0]) for part in row["scatter of bright stars"].split(", "))
    assert ours < 1.5 * theirs + 0.1


def test_planning__one_task_a_block(benchmark_main):
    rows = benchmark_main("planning")(["--frames", "300", "10000", "--no-record"])
    assert [row["nights"] for row in rows] == [1, 2]
    assert rows[1]["tasks a pass"] < 10000 / 8


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


@pytest.mark.timeout(900)
def test_robustness__workers_killed_through_the_run():
    found = _main("robustness")(["workers", "--frames", "1000", "--every", "5"])
    assert found["kills"] >= 3


@pytest.mark.timeout(900)
def test_robustness__everything_killed_again_and_again():
    found = _main("robustness")(["everything", "--frames", "1000", "--kills", "4"])
    assert found["kills"] == 4
    assert found["redone"] < 0.05
