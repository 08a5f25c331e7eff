"""The backgrounds tutorial as a script without a main guard; the notebook is run by ``test_notebooks``."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from opticam_dask import light_curves, open_reduction

SCRIPT = """
import functools
import opticam_dask as opticam
from astropy.io import fits
from photutils.background import Background2D, BiweightLocationBackground, BiweightScaleBackgroundRMS

opticam.generate_observations(out_directory="observations", n_images=5, circular_aperture=False)
import os
path = sorted(os.listdir("observations"))[0]
with fits.open(f"observations/{path}") as frame:
    image, header = frame[0].data, frame[0].header
print([header[name] for name in ("FILTER", "BINNING", "GAIN", "EXPOSURE", "DARKCURR", "INSTRUME", "RA", "DEC", "UT")])
bkg = opticam.DefaultBackground(box_size=image.shape[0] // 32)(image)
print(bkg.background.shape)

def custom_background(image, box_size):
    return Background2D(image, box_size, bkg_estimator=BiweightLocationBackground(),
                        bkgrms_estimator=BiweightScaleBackgroundRMS())

reducer = opticam.Reducer(
    out_directory="reduced",
    data_directory="observations",
    background=functools.partial(custom_background, box_size=32),
    remove_cosmic_rays=True,
)
reducer.create_catalogs()
reducer.photometry(opticam.AperturePhotometer())
"""


def test_tutorial__runs_as_a_script_without_main_guard(tmp_path):
    script = tmp_path / "tutorial.py"
    script.write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [sys.executable, script.name], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("variable source is at") == 1
    for words in (
        "['g', '4x4', 1.0, 1.0, 0.0, 'OPTICAM', 0.0, 0.0, '2024-01-01 00:00:00']",
        "[OPTICAM] reduced not found, attempting to create ...",
        "[OPTICAM] Checking instrument OPTICAM_MX.",
        "[OPTICAM] OPTICAM_MX successfully passed all checks.",
        "[OPTICAM] Binning: 4x4",
        "[OPTICAM] Filters: 1:g, 2:r, 3:i",
        "[OPTICAM] 5 1:g images.",
        "[OPTICAM] Creating source catalogs.",
        "[OPTICAM] 1:g: 5 image(s) aligned.",
        "[OPTICAM] 3:i: 0 image(s) could not be aligned.",
        f"[OPTICAM] Plot saved to {tmp_path.resolve()}/reduced/cat/catalogs.pdf.",
        f"[OPTICAM] Plot saved to {tmp_path.resolve()}/reduced/diag/background.pdf.",
    ):
        assert words in done.stdout, f"{words!r} is not in\n{done.stdout}"
    tree = open_reduction(tmp_path / "reduced")
    assert all(tree[f"{key}/catalog"].sizes["source"] == 6 for key in ("1-g", "2-r", "3-i"))
    assert "background" not in tree["1-g/2023-12-31"].children
    assert light_curves(tmp_path / "reduced", "1:g")["flux"].notnull().all()
