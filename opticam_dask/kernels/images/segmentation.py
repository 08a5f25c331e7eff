"""What is used of photutils' segmentation, imported in half of the time.

At its import photutils looks through the files of all installed packages for the name of its own, and takes one
function of scipy.signal, which no detection calls and which brings all of scipy.stats with it. Both are put off here:
the first until another package is asked for, the second until something of it is used. Everything else is as ever, for
users of photutils and scipy as well.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

_SIGNAL = "scipy.signal"
_LOCK = threading.RLock()


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


class _Later(ModuleType):
    """A module that is run when anything but ``fftconvolve`` is asked of it, or that is called."""

    def fftconvolve(self, *arguments: Any, **options: Any) -> Any:
        """Run the module, which has a function of this name, and call that."""
        return _Later._run(self).fftconvolve(*arguments, **options)

    def _run(self) -> ModuleType:
        with _LOCK:
            if type(self) is _Later:
                self.__class__ = ModuleType  # type: ignore[assignment]  # as importlib.util.LazyLoader does
                assert self.__spec__ is not None
                assert self.__spec__.loader is not None
                self.__spec__.loader.exec_module(self)
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(_Later._run(self), name)

    def __dir__(self) -> list[str]:
        return dir(_Later._run(self))


@contextlib.contextmanager
def _without_detours() -> Iterator[None]:
    look = importlib.metadata.packages_distributions
    importlib.metadata.packages_distributions = lambda: _Distributions(look)
    spec = None if _SIGNAL in sys.modules else importlib.util.find_spec(_SIGNAL)
    if spec is not None:
        later = _Later(_SIGNAL)
        later.__spec__, later.__path__ = spec, spec.submodule_search_locations or []
        later.__file__, later.__package__, later.__loader__ = spec.origin, _SIGNAL, spec.loader
        sys.modules.setdefault(_SIGNAL, later)
    try:
        yield
    finally:
        importlib.metadata.packages_distributions = look


with _without_detours():
    from photutils.segmentation import SegmentationImage, SourceCatalog, SourceFinder
    from photutils.utils.exceptions import NoDetectionsWarning

__all__ = ["NoDetectionsWarning", "SegmentationImage", "SourceCatalog", "SourceFinder"]
