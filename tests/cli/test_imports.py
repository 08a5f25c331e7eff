"""What a command and a worker import: modules are counted, not seconds."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_nights import INSTRUMENT, reducer_of, write_frames

import opticam_dask
from opticam_dask.cluster import connections

#: Packages that take long to import, and the room that needs each of them.
HEAVY = {
    *("photutils", "matplotlib", "scipy.stats", "scipy.signal", "distributed", "dask.array", "xarray", "pandas"),
    *("astropy.io.fits", "astropy.coordinates", "astropy.table", "cv2", "rich", "bokeh", "zarr", "numpy"),
}

_RUN = """
import json, sys
from opticam_dask.cli.parser import main
try:
    main({arguments!r})
except SystemExit:
    pass
print("MODULES", json.dumps(sorted(sys.modules)))
"""


def modules_after(code: str) -> set[str]:
    """Names of the modules that a process has imported at the end of some code."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.rpartition("MODULES")[2]))


def modules_of(*arguments: object) -> set[str]:
    """Names of the modules that a command imports."""
    return modules_after(_RUN.format(arguments=[str(one) for one in arguments]))


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    directory = tmp_path_factory.mktemp("imports")
    write_frames(directory / "frames", 4, seed=5)
    (directory / "camera.json").write_text(json.dumps(INSTRUMENT))
    with connections.connect("local", n_workers=1) as place:
        place.client  # noqa: B018 - a cluster, which small nights do without
        reducer = reducer_of(directory, client=place, figures=True)
        reducer.create_catalogs()
        reducer.photometry()
        [on_worker] = place.client.run(lambda: list(sys.modules)).values()
    return directory, set(on_worker)


@pytest.mark.parametrize("command", ["", "reduce"])
def test_help__imports_no_package_at_all(command):
    assert not modules_of(*command.split(), "--help") & HEAVY


def test_import__of_the_package_imports_none_of_its_rooms():
    found = modules_after("import json, sys, opticam_dask; print('MODULES', json.dumps(sorted(sys.modules)))")
    assert not found & HEAVY
    assert {name for name in found if name.startswith("opticam_dask")} == {"opticam_dask"}


def test_names__that_people_see_are_those_that_editors_see():
    tree = ast.parse(Path(opticam_dask.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    seen = {
        alias.asname: (node.module or "").removeprefix("opticam_dask.")
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == opticam_dask._HOME


def test_status_and_verify__import_the_store_alone_and_only_verify_what_reads_any_array(night):
    directory, _ = night
    assert modules_of("status", directory / "out") & HEAVY == {"numpy"}
    assert modules_of("verify", directory / "out") & HEAVY == {"numpy", "zarr"}


def test_check__imports_tables_but_nothing_of_astropy(night):
    directory, _ = night
    found = modules_of("check", directory / "frames", "--instrument", directory / "camera.json")
    assert found & HEAVY == {"numpy", "pandas"}
    assert "astropy" not in found


def test_lightcurve__imports_what_draws_and_nothing_that_opens_tables_or_datasets(night):
    directory, _ = night
    found = modules_of("lightcurve", directory / "out", "--target", 2, "--comparisons", 1, 3)
    assert found & HEAVY == {"numpy", "matplotlib"}
    assert not found & {"astropy", "scipy", "dask", "fontTools.varLib"}
    assert not {name for name in found if name.startswith(("opticam_dask.passes", "opticam_dask.pipeline"))}


def test_export__of_csv_imports_the_store_alone_and_of_fits_astropy_besides(night):
    directory, _ = night
    assert modules_of("export", directory / "out", "--format", "csv") & HEAVY == {"numpy"}
    found = modules_of("export", directory / "out", "--format", "fits")
    assert not found & {"xarray", "pandas", "dask", "matplotlib", "photutils", "scipy.stats", "scipy.signal"}


def test_reducer__draws_nothing_itself():
    code = "import json, sys, opticam_dask.api.reducer; print('MODULES', json.dumps(sorted(sys.modules)))"
    found = modules_after(code)
    assert not found & {"matplotlib", "xarray", "dask.array", "photutils", "astropy.table"}
    assert not {name for name in found if name.startswith("opticam_dask.display.plotting")}


def test_reduction__needs_neither_zarr_nor_datasets_nor_dask_arrays(night, tmp_path):
    directory, _ = night
    options = ["--cluster", "none", "--instrument", directory / "camera.json"]
    found = modules_of("reduce", directory / "frames", "--out", tmp_path / "out", *options)
    assert "matplotlib" in found
    # astropy before 7 imports Dask arrays with its NDData, where there is Dask
    of_astropy = modules_after("import json, sys, astropy.nddata; print('MODULES', json.dumps(sorted(sys.modules)))")
    assert not (found - of_astropy) & {"zarr", "xarray", "dask.array"}


def test_reducer__comes_without_the_report_and_the_fits_that_it_shows():
    found = modules_after(
        "import json, sys, opticam_dask.api.reducer; print('MODULES', json.dumps(sorted(sys.modules)))"
    )
    assert not {
        name for name in found if name.startswith(("opticam_dask.display.report", "opticam_dask.lightcurves.fitting"))
    }


def test_worker__imports_what_its_tasks_use(night):
    _, found = night
    assert "opticam_dask.passes.survey" in found
    # figures are drawn and catalogues made there, so that the process that drives the run need not
    assert not found & {"bokeh", "rich"}
    rooms = ("opticam_dask.display.browser", "opticam_dask.display.report", "opticam_dask.api")
    assert not {name for name in found if name.startswith(rooms)}


_GARBAGE = """
import gc, sys
from opticam_dask.cli import main
from opticam_dask.cluster import tasks
usual, looked, seen = gc.get_threshold(), [], []
gc.callbacks.append(lambda phase, _: looked.append(phase))
run = tasks.run
tasks.run = lambda *a, **k: (seen.append(gc.get_threshold()), run(*a, **k), seen.append(gc.get_threshold()))[1]
sys.argv[1:] = {arguments}
status = main()
assert status == 0, status
{then}
"""


def test_lightcurve__hardly_looks_for_garbage_which_imports_make_none_of(night):
    directory, _ = night
    arguments = ["lightcurve", str(directory / "out"), "--target", "2", "--comparisons", "1", "3"]
    code = _GARBAGE.format(arguments=arguments, then="assert looked.count('start') < 40, looked.count('start')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_tasks__of_a_command_look_for_garbage_as_ever(night, tmp_path):
    directory, _ = night
    arguments = ["reduce", str(directory / "frames"), "--out", str(tmp_path / "out"), "--cluster", "none"]
    arguments += ["--instrument", str(directory / "camera.json")]
    then = "assert seen[0] != usual and set(seen[1:]) == {usual}, seen[:3]"
    code = _GARBAGE.format(arguments=arguments, then=then)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
