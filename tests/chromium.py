"""Chromium for tests of pages."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@contextmanager
def opened_chromium() -> Iterator[Any]:
    """Chromium without a window; a test that asks for it is skipped where it is not installed, but not in CI."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    is_there = program is not None and importlib.util.find_spec("playwright") is not None
    if not is_there and not os.environ.get("OPTICAM_DASK_CI"):
        pytest.skip("chromium (a Debian package) or playwright (pip install -e '.[test]') is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield started
        started.close()
