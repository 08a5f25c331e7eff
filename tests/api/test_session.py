"""One session: whoever works on an output directory owns it, writes one log, and ends together with its workers."""

from __future__ import annotations

import contextlib
import logging
import os
import signal

import pytest

from opticam_dask.api.session import LOG_NAME, Session
from opticam_dask.cluster.connections import Connection
from opticam_dask.cluster.executors import InProcess, Work
from opticam_dask.cluster.interruption import Interrupted, interruptible, raise_if_interrupted
from opticam_dask.console import Console
from opticam_dask.store import ownership
from opticam_dask.store.errors import StoreError


class Place:
    """Where blocks run: counts how often it is opened and closed."""

    def __init__(self):
        self.opened = self.closed = 0

    @contextlib.contextmanager
    def open(self):
        self.opened += 1
        try:
            yield InProcess()
        finally:
            self.closed += 1


def _session(out, place=None, **options):
    place = place or Place()
    return Session(out, Connection(place.open, print), Console(verbose=False), **options)


def _lose_ctrl_c():
    """Ctrl-C whose exception is dropped, as in a finaliser."""
    with contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        signal.sigtimedwait([], 1)


def test_session__entered_again_inside_is_the_same_one(tmp_path):
    place = Place()
    session = _session(tmp_path / "out", place)
    with session as outer:
        owner = session.owner
        assert place.opened == 0  # nothing has run
        with session as inner:
            assert inner is outer
            assert session.owner is owner
            list(session.executor.run([Work(abs, [0])]))
            logging.getLogger("opticam_dask").info("once")
        assert (place.opened, place.closed) == (1, 0)
        assert (tmp_path / "out" / ownership.OWNER_NAME).is_file()
    assert (place.opened, place.closed) == (1, 1)
    assert not (tmp_path / "out" / ownership.OWNER_NAME).exists()
    assert (tmp_path / "out" / LOG_NAME).read_text().count("once") == 1
    with session:  # and it can be used once more
        assert session.owner is not owner


def test_session__an_error_frees_the_directory_and_ends_the_workers(tmp_path):
    place = Place()

    def fail():
        with _session(tmp_path, place) as session:
            list(session.executor.run([Work(abs, [0])]))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert place.closed == 1
    assert not (tmp_path / ownership.OWNER_NAME).exists()
    assert logging.getLogger("opticam_dask").handlers == []


def test_session__of_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(StoreError, match=r"out cannot be made: .*Choose another --out"),
        _session(tmp_path / "file/out"),
    ):
        pass


def test_session__jobs_of_a_planned_run_share_it(tmp_path):
    with ownership.own(tmp_path) as owner:
        ownership.hand_over(owner, "plan")
    with _session(tmp_path, token="plan") as session:
        session.owner.check()
        logging.getLogger("opticam_dask").info("a thousand jobs would write here")
    assert not (tmp_path / LOG_NAME).exists()
    assert ownership.is_owned_by(tmp_path, "plan")  # it stays the run's
    with pytest.raises(ownership.OwnershipLost), _session(tmp_path, token="another"):
        pass
    with pytest.raises(ownership.OwnedError, match="belongs to a run of job arrays"), _session(tmp_path):
        pass


def test_session__a_lost_ctrl_c_ends_it_at_the_next_block(tmp_path):
    before = signal.getsignal(signal.SIGINT)

    def run():
        with _session(tmp_path), _session(tmp_path / "inner"):
            _lose_ctrl_c()
            raise_if_interrupted()

    with pytest.raises(Interrupted):
        run()
    assert signal.getsignal(signal.SIGINT) is before
    raise_if_interrupted()  # nothing is left of it


def test_interruptible__inside_another_forgets_nothing():
    with interruptible():
        with interruptible(signal.SIGINT), contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([], 1)
        with pytest.raises(Interrupted):
            raise_if_interrupted()
