"""What is used of photutils' segmentation, imported in half of the time.

At its import photutils looks through the files of all installed packages for the name of its own, and takes one
function of scipy.signal, which no detection calls and which brings all of scipy.stats with it. Both are put off here:
the first until another package is asked for, the second until something of it is used. Everything else is as ever, for
users of photutils and scipy as well.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping

from opticam_dask.kernels.later import put_off


class _Distributions(Mapping[str, list[str]]):
    """Packages to install by names to import; all are only looked for when it is not photutils' own that is wanted."""

    def __init__(self, look: Callable[[], Mapping[str, list[str]]]) -> None:
        self._look = look

    def __getitem__(self, name: str) -> list[str]:
        return ["photutils"] if name == "photutils" else self._look()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._look())

    def __len__(self) -> int:
        return len(self._look())


@contextlib.contextmanager
def _without_detours() -> Iterator[None]:
    look = importlib.metadata.packages_distributions
    importlib.metadata.packages_distributions = lambda: _Distributions(look)
    put_off("scipy.signal", "fftconvolve")
    try:
        yield
    finally:
        importlib.metadata.packages_distributions = look


with _without_detours():
    from photutils.segmentation import SegmentationImage, SourceCatalog, SourceFinder
    from photutils.utils.exceptions import NoDetectionsWarning

__all__ = ["NoDetectionsWarning", "SegmentationImage", "SourceCatalog", "SourceFinder"]
