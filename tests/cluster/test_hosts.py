"""Several hosts: scheduler, client and workers with addresses of their own, and a cable that is cut in mid-run."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import held_runs
import pytest

from opticam_dask import cli
from opticam_dask.cluster import connections
from opticam_dask.store import integrity
from opticam_dask.store.store import Store

SCHEDULER, CLIENT, LOST, KEPT = range(1, 5)


@contextlib.contextmanager
def _network():
    """Four hosts on one switch: names of their namespaces by number, and how to cut the cable of one."""
    tag = f"od{os.getpid() % 10**6}"
    switch, hosts = f"{tag}-0", {number: f"{tag}-{number}" for number in (SCHEDULER, CLIENT, LOST, KEPT)}

    def ip(*arguments):
        subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)

    made = []
    try:
        for name in (switch, *hosts.values()):
            ip("netns", "add", name)
            made.append(name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        for number, name in hosts.items():
            port = f"port{number}"
            ip("link", "add", port, "netns", switch, "type", "veth", "peer", "name", "cable", "netns", name)
            ip("-n", switch, "link", "set", port, "master", "bridge", "up")
            ip("-n", name, "address", "add", f"10.99.7.{number}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
        yield hosts, lambda number: ip("-n", switch, "link", "set", f"port{number}", "down")
    finally:
        for name in made:
            ip("netns", "delete", name)


@pytest.fixture
def network():
    if os.geteuid() != 0:
        pytest.skip("hosts need root, to make network namespaces")
    if not os.environ.get("OPTICAM_DASK_CI"):
        if shutil.which("ip") is None:
            pytest.skip("hosts need the program ip (package iproute2)")
        _skip_without_namespaces()
    with _network() as made:
        yield made


def _skip_without_namespaces():
    """Root of a container may not make them."""
    name = f"od{os.getpid() % 10**6}-try"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, timeout=30)
    if tried.returncode != 0:
        pytest.skip(f"hosts need network namespaces, which cannot be made here: {tried.stderr.strip()}")
    subprocess.run(["ip", "netns", "delete", name], check=True, capture_output=True, timeout=30)


def reduce_there(data, out, hold):
    """The run of the client, on the scheduler's other host."""
    with connections.connect(f"tcp://10.99.7.{SCHEDULER}:8786") as place:
        place.client.wait_for_workers(2, timeout=120)
        held_runs.reduce(Path(data), Path(out), place, held_runs.Reader(f"{out}/reads", hold=hold))


@pytest.mark.timeout(400)
def test_hosts__a_cable_cut_in_mid_run(network, tmp_path):
    hosts, cut = network
    data, out, alone, hold = (tmp_path / name for name in ("data", "out", "alone", "hold"))
    out.mkdir()
    held_runs.simulate(data)
    assert cli.main(["reduce", str(data), "--out", str(alone), *held_runs.OPTIONS, "--cluster", "none"]) == 0
    hold.touch()
    # 30 seconds by default until a silent connection counts as lost; Dask takes no less than 11
    environment = {**os.environ, "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s", "OMP_NUM_THREADS": "1"}

    with contextlib.ExitStack() as running:

        def start(number, *command):
            log = running.enter_context(open(tmp_path / f"host{number}", "w"))
            command = ["ip", "netns", "exec", hosts[number], sys.executable, *map(str, command)]
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
            running.callback(_end, process)
            return process

        start(SCHEDULER, "-m", "dask", "scheduler", "--host", f"10.99.7.{SCHEDULER}", "--no-dashboard")
        for number in (LOST, KEPT):
            where = [f"tcp://10.99.7.{SCHEDULER}:8786", "--host", f"10.99.7.{number}", "--local-directory", tmp_path]
            start(number, "-m", "dask", "worker", *where, "--nthreads", "1", "--no-dashboard")
        places = [str(Path(__file__).parent), str(Path(held_runs.__file__).parent)]
        program = f"import sys; sys.path[:0] = {places!r}; import test_hosts; "
        call = f"test_hosts.reduce_there({str(data)!r}, {str(out)!r}, {str(hold)!r})"
        client = start(CLIENT, "-c", program + call)
        held_runs.until(lambda: held_runs.is_held(held_runs.Reader(f"{out}/reads")), 200)
        cut(LOST)
        scheduler_says = tmp_path / f"host{SCHEDULER}"
        held_runs.until(lambda: f"Remove worker addr: tcp://10.99.7.{LOST}:" in scheduler_says.read_text())
        hold.unlink()
        assert client.wait(timeout=200) == 0, (tmp_path / f"host{CLIENT}").read_text()
    assert integrity.compare(Store.open(alone).path, Store.open(out).path) == []


def _end(process):
    """End a program and what it started: namespaces last as long as somebody is in them."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()
