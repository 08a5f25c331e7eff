"""How often frames are opened, as the operating system counts it: ``strace`` traces every process of a reduction.

The header of a frame is one open; all others are for its pixels. ``python benchmarks/reads.py [N ...]`` needs strace.
"""

from __future__ import annotations

import argparse
import collections
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from common import write_frames

#: Shape and stars of a frame: small, as nothing but opens is counted.
_SHAPE, _N_SOURCES = (96, 96), 8

_OPENED = re.compile(r'open(?:at)?\(.*?"([^"]*\.fits)".*\)\s+= \d+')


def opens(log: Path) -> collections.Counter[str]:
    """Opens of each frame, from what strace wrote of all processes."""
    found: collections.Counter[str] = collections.Counter()
    for file in log.parent.glob(f"{log.name}*"):
        for line in file.read_text(errors="replace").splitlines():
            if opened := _OPENED.search(line):
                found[Path(opened[1]).name] += 1
    return found


def count(n_frames: int, *, cluster: str) -> tuple[float, int]:
    """Opens of a frame for its pixels, on average, and the most of any frame, in a reduction of some frames."""
    with tempfile.TemporaryDirectory() as place:
        frames, log = Path(place, "frames"), Path(place, "trace")
        write_frames(frames, _SHAPE, _N_SOURCES, n_frames)
        trace = ["strace", "-f", "-ff", "-qq", "--seccomp-bpf", "-e", "trace=open,openat", "-o", str(log)]
        reduce = ["reduce", str(frames), "--out", str(Path(place, "out")), "--cluster", cluster]
        reduce += ["--photometer", "aperture", "optimal"]
        subprocess.run(
            [*trace, sys.executable, "-m", "opticam_dask.cli", *reduce], check=True, stdout=subprocess.DEVNULL
        )
        counts = opens(log)
    assert len(counts) == n_frames, f"{len(counts)} of {n_frames} frames were opened"
    return (counts.total() - n_frames) / n_frames, max(counts.values())


def main() -> None:
    """Print a line for each number of frames."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("n_frames", type=int, nargs="*", default=[1000, 10000])
    parser.add_argument("--cluster", choices=["local", "none"], default="local")
    options = parser.parse_args()
    for n_frames in options.n_frames:
        mean, most = count(n_frames, cluster=options.cluster)
        print(f"{n_frames} frames: {mean:.3f} opens a frame for pixels beside its header, at most {most} in all")


if __name__ == "__main__":
    main()
