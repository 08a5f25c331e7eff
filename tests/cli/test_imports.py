"""What a command and a worker import: modules are counted, not seconds."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from small_nights import add_star, read_out, reduce_frames, write_frame

import opticam_dask

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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    return set(json.loads(done.stdout.rpartition("MODULES")[2]))


def modules_of(*arguments: str) -> set[str]:
    """Names of the modules that a command imports."""
    return modules_after(_RUN.format(arguments=list(arguments)))


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    directory = tmp_path_factory.mktemp("imports")
    rng = np.random.default_rng(5)
    for frame in range(3):
        image = np.zeros((128, 128))
        for number in range(6):
            add_star(image, 20.0 + 17 * number, 30.0 + 11 * number, 2e4)
        write_frame(directory / "frames" / f"f{frame}.fits", read_out(image, rng), frame)
    return reduce_frames(directory)


@pytest.mark.parametrize("command", ["", "status", "check", "reduce", "lightcurve", "watch"])
def test_help__imports_no_package_at_all(command):
    assert not modules_of(*command.split(), "--help") & HEAVY


def test_import__of_the_package_imports_none_of_its_rooms():
    found = modules_after("import json, sys, opticam_dask; print('MODULES', json.dumps(sorted(sys.modules)))")
    assert not found & HEAVY
    assert {name for name in found if name.startswith("opticam_dask")} == {"opticam_dask"}
