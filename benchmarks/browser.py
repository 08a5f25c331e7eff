"""The browser on a large run: how soon the first picture is there, and what memory the process takes.

    python benchmarks/browser.py

A few real frames are reduced; what was found is written, frame after frame, into a store of 10^5 frames of many nights
whose paths are those of the few, through the functions that a reduction uses. The browser is started as a person would
start it, and looked at with Chromium.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import numpy as np
import pandas as pd

from opticam_dask import OPTICAM_MX, AperturePhotometer, Reducer, schema
from opticam_dask.frames.scanning import Scan, scan
from opticam_dask.parameters import ReductionParameters
from opticam_dask.pipeline import driver
from opticam_dask.store import making
from opticam_dask.store.camera import group_name
from opticam_dask.store.groups import Group
from opticam_dask.store.store import Store

FRAMES_PER_NIGHT = 5000
KEY, LABEL = "1:g", "aperture"
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip

#: The page is there when its documents are idle and the frame's pixels have come.
_DRAWN = (
    "() => window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle && "
    "Bokeh.documents[0].get_model_by_name('frame').title.text.startsWith('Frame ')"
)
_STATE = "() => Bokeh.documents[0].get_model_by_name('state').text"
_TITLE = "name => Bokeh.documents[0].get_model_by_name(name).title.text"


def make_store(
    directory: Path, n_frames: int, shape: tuple[int, int], n_sources: int, frames_per_block: int | None = None
) -> Path:
    """Make a reduction of many frames, and give its output directory.

    Parameters
    ----------
    directory : path
    n_frames : int
    shape : (int, int)
    n_sources : int
        Stars of the field.
    frames_per_block : int, optional
    """
    files = common.write_frames(directory / "frames", shape, n_sources, 8)
    few = directory / "few"
    reducer = Reducer(few, directory / "frames", client="none", show_plots=False, verbose=False)
    reducer.create_catalogs()
    reducer.photometry(AperturePhotometer())
    out = directory / "out"
    out.mkdir()
    setup = driver.Setup(out, OPTICAM_MX(), ReductionParameters(), frames_per_block=frames_per_block)
    driver.prepare(setup, Scan(_table(files, n_frames), [], []))
    _copy(Store.at(few).path, setup.path)
    Store(setup.path).finish_changes()
    return out


def _table(files: list[Path], n_frames: int) -> pd.DataFrame:
    """Table of many frames whose files are the few, again and again."""
    few = scan([str(file) for file in files], OPTICAM_MX()).table.sort_values("mjd_utc")
    index = np.arange(n_frames)
    night = index // FRAMES_PER_NIGHT
    rows = few.iloc[index % len(few)].reset_index(drop=True)
    rows["mjd_utc"] = few["mjd_utc"].iloc[0] + night + (index % FRAMES_PER_NIGHT) * 6.0 / 86400.0
    days = pd.Timestamp(str(few["night"].iloc[0])) + pd.to_timedelta(night, unit="D")
    rows["night"] = days.strftime("%Y-%m-%d").to_numpy(dtype=object)
    return rows


def _copy(source: Path, target: Path) -> None:
    """Write what was found in a few frames into the many, with noise and a slow wave in the fluxes."""
    group = group_name(KEY)
    (few,) = Store(source).camera(KEY).parts
    for name in ("reference", "catalog"):
        attributes = Group(source, f"{group}/{name}").attributes
        Group(target, f"{group}/{name}", name).write(Group(source, f"{group}/{name}").read_all(), attributes)
    found = {
        kind: {name.rpartition("/")[2]: np.asarray(array) for name, array in _arrays(source, f"{few.group}/{kind}")}
        for kind in ("frames", "background", f"photometry/{LABEL}")
    }
    label = Group(source, f"{few.group}/photometry/{LABEL}").attributes
    planned = {entry.name for entry in schema.MANIFEST} | {"source_id"}
    rng = np.random.default_rng(0)
    for part in Store(target).camera(KEY).parts:
        source_ids = found[f"photometry/{LABEL}"]["source_id"]
        making.add_photometry(part, LABEL, source_ids, label, variables=["aperture_correction", "profile_chi2"])
        for block in range(part.n_blocks):
            index = np.arange(*part.block_range(block))
            arrays = {
                kind: {name: values[index % few.n_frames] for name, values in by_name.items() if name not in planned}
                for kind, by_name in found.items()
            }
            wave = 1.0 + 0.05 * np.sin(index / 300.0)[:, None]
            flux = arrays[f"photometry/{LABEL}"]["flux"]
            arrays[f"photometry/{LABEL}"]["flux"] = flux * wave * rng.normal(1.0, 0.005, flux.shape)
            part.write_block(block, arrays)


def _arrays(path: Path, group: str) -> list[tuple[str, np.ndarray]]:
    found = Group(path, group).read_all()
    return list(found.items())


def look(out: Path) -> dict[str, float]:
    """Start the browser on a reduction, look at it, and say how long everything took (s) and the memory (MB)."""
    from playwright.sync_api import sync_playwright

    start = time.perf_counter()
    command = [sys.executable, "-m", "opticam_dask.cli", "browse", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found, "the browser did not say where it is"
        times = {"start": time.perf_counter() - start}
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            page = chromium.new_page(viewport={"width": 1300, "height": 1100})
            start = time.perf_counter()
            page.goto(found[0])
            page.wait_for_function(_DRAWN)
            times["picture"] = time.perf_counter() - start
            page.wait_for_function(f"!({_STATE})().includes('reading')", timeout=600_000)
            times["read"] = time.perf_counter() - start
            page.reload()
            page.wait_for_function(_DRAWN)
            for name, model, value in (("frame", "number", 1234 % _n_frames(out)), ("source", "source", "2")):
                start = time.perf_counter()
                page.evaluate(
                    "([model, value]) => { Bokeh.documents[0].get_model_by_name(model).value = value }", [model, value]
                )
                shown, text = ("frame", f"Frame {value}:") if name == "frame" else ("curve", f"source {value},")
                page.wait_for_function(f"text => ({_TITLE})('{shown}').includes(text)", arg=text)
                times[name] = time.perf_counter() - start
            chromium.close()
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        times["memory"] = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024.0
    finally:
        process.terminate()
        process.communicate(timeout=60)  # which closes the pipe
    return times


def _n_frames(out: Path) -> int:
    return sum(part.n_frames for part in Store.at(out).camera(KEY).parts)


def main(arguments: list[str] | None = None) -> list[dict[str, str]]:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--runs", nargs="+", default=["512:100000", "2048:10000"], metavar="SIDE:FRAMES", help="runs to look at"
    )
    parser.add_argument("--sources", type=int, default=100)
    parser.add_argument("--out", type=Path, help="keep the stores here, and take those that are there")
    parser.add_argument("--no-record", action="store_true", help="print only")
    chosen = parser.parse_args(arguments)
    rows = []
    for side, n_frames in (map(int, run.split(":")) for run in chosen.runs):
        with tempfile.TemporaryDirectory() as temporary:
            directory = (chosen.out or Path(temporary)) / f"{side}-{n_frames}"
            out = directory / "out"
            if not (directory / "made.json").exists():
                start = time.perf_counter()
                make_store(directory, n_frames, (side, side), chosen.sources)
                (directory / "made.json").write_text(json.dumps(time.perf_counter() - start), encoding="utf-8")
            found = look(out)
            parts = Store.at(out).camera(KEY).parts
        rows.append(
            {
                "frame": f"{side} x {side}",
                "frames": f"{n_frames:,}",
                "nights": len(parts),
                "chunks of an array": sum(part.n_blocks for part in parts),
                "command to address, s": f"{found['start']:.1f}",
                "page to first picture, s": f"{found['picture']:.2f}",
                "another frame, s": f"{found['frame']:.2f}",
                "another source, s": f"{found['source']:.2f}",
                "all light curves read, s": f"{found['read']:.1f}",
                "largest memory, MB": f"{found['memory']:.0f}",
            }
        )
    common.record(
        "Browser",
        "python benchmarks/browser.py",
        rows,
        ("opticam-dask", "bokeh", "zarr", "numpy"),
        "The first picture is catalogue, frame with apertures and the axes of the light curves, in headless Chromium "
        "without a graphics card; light curves fill up from then on, spread over the whole run. The memory is that of "
        "the whole process that serves the page.",
        to=None if chosen.no_record else common.RESULTS,
    )
    return rows


if __name__ == "__main__":
    main()
