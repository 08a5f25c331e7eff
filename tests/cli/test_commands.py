"""The commands: each one has its function in one module, and none reaches into another room."""

from __future__ import annotations

import argparse
import ast
import importlib
from pathlib import Path

import pytest

import opticam_dask
from opticam_dask.cli import build_parser, running

PACKAGE = Path(opticam_dask.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


def test_commands__every_one_of_the_parser_has_a_function_and_the_other_way_round():
    [parsers] = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    assert sorted(parsers.choices) == sorted(running._MODULES)
    for name, place in running._MODULES.items():
        module = importlib.import_module(f"opticam_dask.cli.{place}")
        assert {command for command, where in running._MODULES.items() if where == place} == set(module.COMMANDS)
        assert callable(module.COMMANDS[name])
        assert module.COMMANDS[name].__doc__


@pytest.mark.parametrize("file", sorted((PACKAGE / "cli").glob("*.py")), ids=lambda file: file.stem)
def test_commands__touch_no_private_name_of_an_object(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_") or node.attr.startswith("__"), f"line {node.lineno}: {node.attr}"


def test_modules__import_no_private_name_of_another_and_look_nothing_up_in_globals():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("opticam_dask"):
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                assert not private, f"{file}: {private}"
            if file.parent.name == "cli" and isinstance(node, ast.Call):
                assert getattr(node.func, "id", "") != "globals", file
