"""photutils is imported without the packages and the files that no detection needs, and stays what it is."""

from __future__ import annotations

import subprocess
import sys

IMPORTED = """
import importlib.metadata, sys
look = importlib.metadata.packages_distributions
def looked():
    looked.n_times += 1
    return look()
looked.n_times = 0
importlib.metadata.packages_distributions = looked
import opticam_dask.kernels.images.segmentation as segmentation
assert importlib.metadata.packages_distributions is looked
assert looked.n_times == 0, "the files of all packages were looked through"
assert not {"scipy.stats", "scipy.signal._signaltools"} & set(sys.modules)
"""


def run(code):
    done = subprocess.run([sys.executable, "-c", IMPORTED + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_segmentation__imports_neither_statistics_nor_signals():
    run("from photutils.utils import _optional_deps; assert 'HAS_TQDM' in _optional_deps.__all__")


def test_packages__other_than_photutils_are_looked_for_when_somebody_asks():
    run("""
known = segmentation._Distributions(look)
assert known["photutils"] == ["photutils"]
assert known["numpy"] == look()["numpy"] and set(known) == set(look()) and len(known) == len(look())
assert known.get("no such package") is None
""")


def test_scipy_signal__is_itself_as_soon_as_something_of_it_is_used():
    run("""
import numpy as np
first = sys.modules["scipy.signal"]
labels = np.zeros((20, 20), dtype=int)
labels[5:9, 5:9] = 1
grown = segmentation.SegmentationImage(labels).make_source_mask(footprint=np.ones((3, 3)))
assert grown.sum() == 36
from photutils.segmentation import core
fftconvolve = vars(core).get("fftconvolve", first.fftconvolve)  # newer ones import it when they need it
for _ in range(2):
    assert np.allclose(fftconvolve([1.0, 2.0], [1.0, 1.0]), [1.0, 3.0, 2.0])
import scipy.signal
from scipy.signal import windows, butter
assert scipy.signal is first and type(first) is type(np) and "fftconvolve" in dir(scipy.signal)
assert scipy.signal.fftconvolve.__module__.startswith("scipy.signal")
assert windows.hann(3).shape == (3,) and callable(butter)
""")


def test_scipy_signal__that_was_there_before_stays():
    done = "import scipy.signal as before; import opticam_dask.kernels.images.segmentation, scipy.signal as after; "
    done += "assert after is before and callable(after.butter)"
    assert subprocess.run([sys.executable, "-c", done], check=False).returncode == 0
