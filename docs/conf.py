"""Configuration of the documentation site: ``sphinx-build -W --keep-going -b html docs docs/_build``.

Nothing is fetched, neither when the site is built nor when it is read.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import generate  # noqa: E402 - beside this file

project = "opticam_dask"
author = "the developers of opticam_dask"
release = version = metadata.version("opticam-dask")
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "mathml"]
exclude_patterns = ["_build", "jupyter_execute", "generated/*"]
templates_path = ["_templates"]

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # tests/project/test_notebooks.py has executed them
nb_merge_streams = True
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # would be fetched; progress bars are nothing to read

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc has them in words
numpydoc_show_class_members = False
add_module_names = False

html_theme = "pydata_sphinx_theme"
html_title = "opticam_dask"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["map.js"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "opticam_dask"},
    "header_links_before_dropdown": 5,
    "navigation_with_keys": False,
    "show_prev_next": True,
    # figures of tutorials need the room
    "secondary_sidebar_items": {"*": ["page-toc"], "tutorials/*": []},
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {page: [] for page in ("index", "getting-started", "steps", "method", "from-opticam", "contributing")}
copyright = "the developers of opticam_dask, MIT licence"

#: Files of the project that are pages here, by their paths from ``docs/``.
PAGES = {
    "../CONTRIBUTING.md": "contributing.md",
    "../CHANGELOG.md": "changelog.md",
    "../README.md": "index.md",
    "../benchmarks/results.md": "measured/results.md",
}

#: For the first page, where the notebook is executed.
PICTURE = """:::{figure} pictures/light-curves.png
:alt: A cloudy night in three filters, and the relative light curves of a variable star
:width: 80%

A star that varies by 4 % in three filters, through a cloud that takes 60 % of the light: flux above, relative fluxes
below, the truth in black ([tutorial](tutorials/reduction.ipynb)).
:::
"""


def write_pages(app: Sphinx, config: Config) -> None:
    """Write what is made from the code, and the notebooks, where the pages include them from."""
    parts = {
        "store-variables.md": generate.store_variables(),
        "flags.md": generate.flag_tables(),
        "commands.md": generate.command_pages(),
        "parameters.md": generate.parameter_tables(),
        "tutorial-list.md": generate.tutorial_list(),
        "module-map.html": generate.module_map(),
    }
    picture = generate.last_figure("reduction")
    _write(HERE / "pictures", {} if picture is None else {"light-curves.png": picture})
    parts["picture.md"] = "" if picture is None else PICTURE
    _write(HERE / "generated", parts)
    _write(HERE / "tutorials", {f"{name}.ipynb": text for name, text in generate.tutorials().items()})
    _write(HERE / "api", {"index.md": generate.api_page()})
    measured = HERE.parent / "benchmarks" / "results.md"
    _write(HERE / "measured", {"results.md": measured.read_text(encoding="utf-8")} if measured.exists() else {})
    if (missing := generate.not_executed()) and os.environ.get("OPTICAM_DASK_CI"):
        logging.getLogger("conf").warning("not executed by tests/project/test_notebooks.py: %s", ", ".join(missing))


def _write(directory: Path, wanted: Mapping[str, str | bytes]) -> None:
    """Make a directory hold these files and no others; files that are right already keep their times."""
    directory.mkdir(exist_ok=True)
    for old in directory.iterdir():
        if old.is_file() and old.name not in wanted:
            old.unlink()
    for name, content in wanted.items():
        path, data = directory / name, content.encode() if isinstance(content, str) else content
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)


def keep_links_inside(app: Sphinx, docname: str, source: list[str]) -> None:
    """Links to files of the project outside of ``docs/`` lead to the page of that file, or name it."""

    def replacement(match: re.Match[str]) -> str:
        text, target = match.groups()
        page = PAGES.get(target.partition("#")[0], "")
        return f"[{text}]({page})" if (HERE / page).is_file() else f"`{target.removeprefix('../')}`"

    if not docname.startswith("tutorials/"):
        source[0] = re.sub(r"\[([^\]]*)\]\((\.\./[^)]*)\)", replacement, source[0])


def leave_out_missing(app: Sphinx, docname: str, source: list[str]) -> None:
    """A line ``name*`` of a list of pages is left out where there is no such page."""
    is_missing = lambda line: re.fullmatch(r"[\w/-]+\*", line) and not any(HERE.glob(f"{line}.md"))  # noqa: E731
    if ":glob:" in source[0]:
        source[0] = "".join(line for line in source[0].splitlines(True) if not is_missing(line.strip()))


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.connect("config-inited", write_pages)  # before Sphinx looks what pages there are
    app.connect("source-read", keep_links_inside)
    app.connect("source-read", leave_out_missing)
