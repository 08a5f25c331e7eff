"""Planning of a large run: the store and the work of up to 10^6 frames, before the first one is read.

    python benchmarks/planning.py

The table of frames is made from one header, repeated with other names and times over many nights; what is measured is
all that the client does from there until it could hand out the first block. Every size runs in a process of its own,
whose largest memory is told.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import numpy as np
import pandas as pd

FRAMES_PER_NIGHT = 5000


def table(directory: Path, n_frames: int) -> pd.DataFrame:
    """Table of many frames like one that was read."""
    from opticam_dask import OPTICAM_MX
    from opticam_dask.frames import scan

    file = common.write_frames(directory, (512, 512), 20, 1)[0]
    row = scan([file], OPTICAM_MX()).table
    rows = row.loc[row.index.repeat(n_frames)].reset_index(drop=True)
    index = np.arange(n_frames)
    night = index // FRAMES_PER_NIGHT
    rows["file"] = [f"{directory}/{n:04d}/{i:07d}.fits" for n, i in zip(night, index, strict=True)]
    rows["mjd_utc"] += night + (index % FRAMES_PER_NIGHT) * 6.0 / 86400.0
    days = pd.Timestamp(str(row["night"].iloc[0])) + pd.to_timedelta(night, unit="D")
    rows["night"] = days.strftime("%Y-%m-%d").to_numpy(dtype=object)
    return rows


def plan(n_frames: int) -> dict[str, float]:
    """Plan a run, here and now: seconds, largest memory in MB, parts, and tasks of one pass."""
    from opticam_dask import OPTICAM_MX, pipeline, store
    from opticam_dask.config import ReductionParameters
    from opticam_dask.frames import Scan

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        found = Scan(table(directory / "frames", n_frames), [], [])
        setup = pipeline.Setup(directory / "out", OPTICAM_MX(), ReductionParameters())
        setup.out_directory.mkdir()
        start = time.perf_counter()
        pipeline.prepare(setup, found)
        parts = store.parts(setup.path, "1:g")
        n_blocks = sum(int(np.count_nonzero(~store.done_blocks(setup.path, part))) for part in parts)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "memory": common.peak_memory(), "parts": len(parts), "tasks": n_blocks}


def main(arguments: list[str] | None = None) -> list[dict[str, str]]:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--one", type=int, help="plan so many frames in this process and print what was found")
    parser.add_argument("--no-record", action="store_true", help="print only")
    chosen = parser.parse_args(arguments)
    if chosen.one:
        print(json.dumps(plan(chosen.one)))
        return []
    rows = []
    for number in chosen.frames:
        command = [sys.executable, __file__, "--one", str(number)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        rows.append(
            {
                "frames": f"{number:,}",
                "nights": found["parts"],
                "seconds": f"{found['seconds']:.1f}",
                "largest memory, MB": f"{found['memory']:.0f}",
                "tasks a pass": found["tasks"],
            }
        )
    common.record(
        "Planning",
        "python benchmarks/planning.py",
        rows,
        ("opticam-dask", "numpy", "pandas", "zarr", "dask"),
        "From the table of frames to a store that is ready for its first block: barycentric times, manifests, arrays. "
        "The memory is that of the whole process with the table in it.",
        to=None if chosen.no_record else common.RESULTS,
    )
    return rows


if __name__ == "__main__":
    main()
