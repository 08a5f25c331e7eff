"""One run at a time on an output directory: the owner record."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from opticam_dask.store import ownership
from opticam_dask.store.ownership import OWNER_NAME, OwnedError, OwnershipLost, own

HOLD = """
import sys, time
from opticam_dask.store.ownership import own
with own(sys.argv[1]):
    print("mine", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """A process that owns the directory."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"mine\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def _make_older(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def _rewrite(path, **changes):
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(record))


def test_own__second_run_is_refused_by_name(tmp_path, other):
    with pytest.raises(OwnedError, match=f"process {other.pid}.*--break-lock"), own(tmp_path):
        pass


def test_own__is_free_again_afterwards(tmp_path):
    for _ in range(2):
        with own(tmp_path) as owner:
            assert owner.path.is_file()
        assert list(tmp_path.iterdir()) == []


def test_own__is_free_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), own(tmp_path):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_own__a_killed_owner_on_this_machine_is_taken_over_at_once(tmp_path, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / OWNER_NAME).exists()
    with own(tmp_path) as owner:
        assert json.loads(owner.path.read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_own__a_new_process_with_the_number_of_the_dead_one_is_not_the_owner(tmp_path, other):
    _rewrite(tmp_path / OWNER_NAME, process_started="1 ticks")
    with own(tmp_path):
        pass


def test_own__an_owner_elsewhere_is_dead_after_five_minutes_without_a_sign_of_life(tmp_path, other):
    record = tmp_path / OWNER_NAME
    _rewrite(record, host="another")
    _make_older(record, 240)
    with pytest.raises(OwnedError, match=r"on another .* last sign of life 2[34]. s ago"), own(tmp_path):
        pass
    _make_older(record, 310)
    with own(tmp_path):
        pass


def test_own__an_owner_on_this_machine_that_lives_is_not_dead_however_long_it_slept(tmp_path, other):
    _make_older(tmp_path / OWNER_NAME, 3600)
    with pytest.raises(OwnedError), own(tmp_path):
        pass


def test_own__an_owner_on_this_machine_that_lives_is_not_dead_when_the_clock_was_set(tmp_path, other, monkeypatch):
    # the clock of this machine cannot be set here: as psutil tells it, every process began two minutes later
    began = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: began(process) + 120.0)
    with pytest.raises(OwnedError), own(tmp_path):
        pass


def test_own__a_killed_owner_that_its_parent_has_not_waited_for_is_dead(tmp_path, other):
    other.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its number is still taken
    assert psutil.Process(other.pid).status() == psutil.STATUS_ZOMBIE
    with own(tmp_path):
        pass


def test_own__an_owner_elsewhere_that_was_touched_in_the_future_is_dead_five_minutes_later(tmp_path, other):
    record = tmp_path / OWNER_NAME
    _rewrite(record, host="another")
    _make_older(record, -86400)
    with pytest.raises(OwnedError), own(tmp_path):
        pass
    assert abs(record.stat().st_mtime - time.time()) < 10
    _make_older(record, 310)
    with own(tmp_path):
        pass


def test_own__break_lock_takes_over_and_the_other_run_notices(tmp_path):
    with own(tmp_path) as first:
        held = dict(ownership._held)
        ownership._held.clear()  # as another process
        with own(tmp_path, break_lock=True) as second:
            first.beat()
            with pytest.raises(OwnershipLost, match="taken over"):
                first.check()
            second.check()
        ownership._held.update(held)
    assert list(tmp_path.iterdir()) == []


def test_own__whoever_lost_the_directory_does_not_remove_the_record_of_the_next(tmp_path):
    with own(tmp_path) as first:
        _rewrite(first.path, token="somebody else's")
    assert (tmp_path / OWNER_NAME).exists()


def test_own__a_run_inside_the_run_that_owns(tmp_path):
    with own(tmp_path) as outer, own(tmp_path / ".") as inner:
        assert inner is outer
    assert list(tmp_path.iterdir()) == []


def test_own__gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "HEARTBEAT", 0.05)
    with own(tmp_path) as owner:
        _make_older(owner.path, 1000)
        deadline = time.monotonic() + 10
        while time.time() - owner.path.stat().st_mtime > 500:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_own__a_record_that_cannot_be_understood_ends_with_its_age(tmp_path):
    record = tmp_path / OWNER_NAME
    record.write_text("{ half a rec")
    with pytest.raises(OwnedError), own(tmp_path):
        pass
    _make_older(record, 310)
    with own(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_own__a_claim_of_a_run_that_died_while_taking_over_ends_with_its_age(tmp_path, other):
    other.kill()
    other.wait()
    token = json.loads((tmp_path / OWNER_NAME).read_text())["token"]
    claim = tmp_path / f".{OWNER_NAME}.{token}.claim"
    claim.write_text("{}")
    with pytest.raises(OwnedError), own(tmp_path):
        pass
    _make_older(claim, 310)
    with own(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_own__directory_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OSError, match="cannot be written") as caught, own(file):
        pass
    assert caught.value.filename == str(file)


def _compete(directory, start, all_tried, result):
    start.wait()
    try:
        with own(directory):
            result.put(True)
            all_tried.wait()
    except OwnedError:
        result.put(False)


@pytest.mark.parametrize("left_behind", [False, True])
def test_own__of_many_at_once_one_wins(tmp_path, left_behind):
    if left_behind:  # by a run that died: then they race to take over
        done = subprocess.run(
            [sys.executable, "-c", HOLD.replace("time.sleep(60)", "import os; os._exit(1)"), tmp_path], check=False
        )
        assert done.returncode == 1
        assert (tmp_path / OWNER_NAME).exists()
    context = multiprocessing.get_context("spawn")
    start, all_tried, result = context.Event(), context.Event(), context.Queue()
    processes = [context.Process(target=_compete, args=(tmp_path, start, all_tried, result)) for _ in range(8)]
    for process in processes:
        process.start()
    time.sleep(2)
    start.set()
    won = [result.get(timeout=60) for _ in processes]
    all_tried.set()
    for process in processes:
        process.join()
    assert sum(won) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def planned(tmp_path):
    """A directory that was left to a planned run with the token 'plan'."""
    with own(tmp_path) as owner:
        ownership.hand_over(owner, "plan")
    return tmp_path


def test_planned_run__owns_its_directory_while_no_process_of_it_lives(planned):
    _rewrite(planned / OWNER_NAME, process_started="1 ticks")
    _make_older(planned / OWNER_NAME, 1e7)
    with pytest.raises(OwnedError, match=r"run of job arrays .* opticam-dask status .* --break-lock"), own(planned):
        pass
    assert ownership.is_owned_by(planned, "plan")


def test_planned_run__its_jobs_join_and_leave_and_others_do_not(planned):
    with ownership.join(planned, "plan"):
        ownership.check_owner(planned)
    assert ownership.is_owned_by(planned, "plan")
    with pytest.raises(OwnershipLost, match="taken over"), ownership.join(planned, "another"):
        pass
    ownership.end_planned(planned, "another")
    assert ownership.is_owned_by(planned, "plan")
    ownership.end_planned(planned, "plan")
    assert list(planned.iterdir()) == []
    with pytest.raises(OwnershipLost), ownership.join(planned, "plan"):
        pass


def test_planned_run__is_given_up_by_break_lock(planned, monkeypatch):
    monkeypatch.setattr(ownership, "HEARTBEAT", 0.0)
    with ownership.join(planned, "plan"):
        held = dict(ownership._held)
        ownership._held.clear()  # as another process
        monkeypatch.setattr(ownership, "HEARTBEAT", 30.0)
        with own(planned, break_lock=True) as other:
            other.check()
            ownership._held.update(held)
            with pytest.raises(OwnershipLost):
                ownership.check_owner(planned)
            ownership._held.clear()
            ownership._held[os.path.realpath(planned)] = other
        ownership._held.update(held)


def test_planned_run__jobs_look_at_the_record_now_and_then_only(planned, monkeypatch):
    n_looks = []
    read = ownership._read
    monkeypatch.setattr(ownership, "_read", lambda path: (n_looks.append(path), read(path))[1])
    with ownership.join(planned, "plan"):
        for _ in range(100):
            ownership.check_owner(planned)
    assert len(n_looks) == 1
