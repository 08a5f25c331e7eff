"""Programs that a run starts import what it imports itself, whatever lies in the directory in which they start."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest

from opticam_dask.api.jobs import submission
from opticam_dask.cluster import job_scripts, worker_programs
from opticam_dask.cluster.cluster_settings import ClusterSettings

#: Says where the modules of a program come from.
PROGRAM = "import importlib.util as u; print(*(u.find_spec(n).origin for n in ('dask', 'numpy', 'opticam_dask')))"


@pytest.fixture
def treacherous(tmp_path, monkeypatch):
    """A working directory with things named like packages, and a directory with a module of the user's."""
    (tmp_path / "numpy.py").write_text("raise ImportError('a file of the user')")
    for name in ("dask", "opticam_dask"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('a folder of the user')")
    own = tmp_path / "scripts"
    own.mkdir()
    (own / "own_photometer.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(own))
    return tmp_path


def _of_array_job():
    run = SimpleNamespace(
        out_directory=SimpleNamespace(resolve=lambda: "/out"), name="plan", cluster="none", n_workers=1
    )
    words = shlex.split(submission.command(run, "finish", 1))
    assert words[:2] == ["exec", "env"]
    return shlex.join(words[1 : words.index(sys.executable)])


def _of_job_script():
    pytest.importorskip("dask_jobqueue")
    script = job_scripts.job_script(ClusterSettings("slurm"))
    return "; ".join([line for line in script.splitlines() if line.startswith(("cd ", "export "))] + ["env"])


def _of_worker_program():
    environment = worker_programs._program_environment()
    return shlex.join(["env", *(f"{name}={environment[name]}" for name in ("PYTHONPATH", "PYTHONSAFEPATH"))])


@pytest.mark.parametrize("prepare", [_of_array_job, _of_job_script, _of_worker_program])
def test_program__imports_nothing_that_lies_where_it_starts(treacherous, prepare):
    given = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    program = f"{PROGRAM}; import own_photometer"
    done = subprocess.run(
        ["sh", "-c", f"{prepare()} {shlex.join([sys.executable, '-c', program])}"],
        capture_output=True, text=True, check=True, env=given,
    )  # fmt: skip
    expected = [sys.modules[name].__file__ for name in ("dask", "numpy", "opticam_dask")]
    assert done.stdout.split() == expected
