"""Modules that another package imports at its start and hardly ever uses are run when something of them is used."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

_LOCK = threading.RLock()


class _Later(ModuleType):
    """A module that is run when anything is asked of it that it does not have yet."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_run(self), name)

    def __dir__(self) -> list[str]:
        return dir(_run(self))


def _run(module: ModuleType) -> ModuleType:
    with _LOCK:
        if type(module) is _Later:
            module.__class__ = ModuleType  # type: ignore[assignment]  # as importlib.util.LazyLoader does
            assert module.__spec__ is not None
            assert module.__spec__.loader is not None
            module.__spec__.loader.exec_module(module)
    return module


def _at_first_call(module: ModuleType, name: str) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        """Run the module, which has a function of this name, and call that."""
        return getattr(_run(module), name)(*arguments, **options)

    return call


def put_off(name: str, *functions: str) -> None:
    """Let a module be imported without being run, until something of it is used; from then on it is as ever.

    ``importlib.util.LazyLoader`` will not do: ``from package import module`` asks for an attribute, which runs it.

    Parameters
    ----------
    name : str
        Full name. One that is there already, or that is not installed, is left alone.
    *functions : str
        Functions that are imported by name from it, which runs nothing; calling one does.
    """
    package, _, child = name.rpartition(".")
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None:
        return
    later = _Later(name)
    later.__spec__, later.__file__, later.__loader__ = spec, spec.origin, spec.loader
    later.__package__ = package if spec.submodule_search_locations is None else name
    if spec.submodule_search_locations is not None:
        later.__path__ = spec.submodule_search_locations
    for function in functions:
        setattr(later, function, _at_first_call(later, function))
    if sys.modules.setdefault(name, later) is later and package:
        setattr(sys.modules[package], child, later)  # as the import system does with what it has run
