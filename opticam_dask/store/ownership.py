"""One run at a time on one output directory: an owner record that survives crashes and needs no file locks.

File locks do not work on every network file system, and a lock that outlives its owner needs a person. So the owner
is a small file that is made exclusively (which NFS since version 3 and every local file system can do), touched every
half minute while the run is alive, and taken over when its owner is known to be dead or has not touched it for five
minutes. Clocks of different machines are never compared: times are those that the file system gives to files.

A planned run (:mod:`~opticam_dask.api.jobs.job_arrays`) owns its directory also while no process of it is alive: its
record gives no sign of life and never counts as dead, its jobs join it by its token.

On an object store the record is made by a conditional put (S3: ``If-None-Match``), and a sign of life is an object of
the owner's own beside it: to put the record itself again could undo another run's taking over. Where a store knows no
conditional put, of two runs that begin within the same second one stops at its next sign of life.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from opticam_dask import locations, remote_paths

logger = logging.getLogger(__name__)

#: Name of the record in the output directory.
OWNER_NAME = "owner.json"

#: Name of the directory there that holds the record of a planned run.
PLANNED_RUN = "planned_run"

#: Seconds between two signs of life of a run.
HEARTBEAT = 30.0
#: Seconds without a sign of life until a run counts as dead.
STALE = 300.0

#: What the record of a planned run says to whoever finds it.
_MEANING = "A planned run (opticam-dask plan) owns this directory until its last finish, or until --break-lock."

#: Directories that this process owns; a call inside a run that owns its directory needs no record of its own.
_held: dict[str, Owner] = {}
#: Tokens of the records of this process, from before they are made until they are taken away.
_tokens: set[str] = set()


class OwnedError(Exception):
    """Another run works on the output directory; the message says which one, and what to do."""


class OwnershipLost(Exception):
    """Another run has taken the output directory over while this one worked on it."""


@dataclass
class Owner:
    """Hold on one output directory.

    Attributes
    ----------
    path : Path
        File of the record.
    token : str
        Tells this hold from all others.
    is_lost : bool
        Whether another run is known to have taken over, or the record to be gone.
    seconds_between_looks : float
        ``check`` reads the record at most this often.
    """

    path: Path
    token: str
    is_lost: bool = False
    seconds_between_looks: float = 0.0
    _next_look: float = 0.0

    def check(self) -> None:
        """Do nothing while the directory is this run's own.

        Raises
        ------
        OwnershipLost
            When another run has taken over, or the directory is gone.
        """
        if time.monotonic() >= self._next_look:
            self._look()
            self._next_look = time.monotonic() + self.seconds_between_looks
        if self.is_lost:
            raise OwnershipLost(self._why_lost())

    def loss_behind(self, error: Exception) -> str:
        """Why something failed, where that is because the directory, or something in it, was taken away; else empty."""
        if _read(self.path) is None:
            return self._why_lost()
        missing = str(getattr(error, "filename", None) or "") if isinstance(error, FileNotFoundError) else ""
        if missing.startswith(f"{self.path.parent}{os.sep}"):
            return f"{missing} was removed while this run worked on it: run the same command again to go on."
        return ""

    def _why_lost(self) -> str:
        if _read(self.path) is None and not self.seconds_between_looks:  # what jobs share may have been finished
            return (
                f"{self.path.parent} is not there any more, or not as it was (its {OWNER_NAME} is gone): was it "
                "removed, moved or unmounted? Bring it back and run the same command again to go on."
            )
        return (
            f"another run has taken over {self.path.parent} (see {OWNER_NAME} there): this one stops. "
            "What was reduced is kept."
        )

    def beat(self) -> None:
        """Give a sign of life, unless the record is somebody else's by now."""
        self._look()
        if self.is_lost:
            return
        with contextlib.suppress(OSError):  # a file system that is away for a moment
            if locations.is_remote(self.path):
                locations.write_text(_sign_of_life(self.path, self.token), "")
            else:
                os.utime(self.path)

    def _look(self) -> None:
        found = _read(self.path)
        if found is None or found.get("token", self.token) != self.token:
            self.is_lost = True


@contextlib.contextmanager
def own(out_directory: str | Path, *, break_lock: bool = False) -> Iterator[Owner]:
    """Own an output directory while the block runs.

    Parameters
    ----------
    out_directory : path
        Output directory, which must exist.
    break_lock : bool
        Take over whoever owns it. If that run is alive after all, it stops when it notices.

    Yields
    ------
    Owner
        ``check()`` raises when another run has taken over.

    Raises
    ------
    OwnedError
        When another run owns the directory.
    OwnershipLost
        In the place of whatever fails in the block because the directory is gone.
    OSError
        When the directory cannot be written.
    """
    place = _identity(out_directory)
    if place in _held:
        _held[place].check()
        yield _held[place]
        return
    owner = Owner(locations.location(out_directory) / OWNER_NAME, uuid.uuid4().hex)
    _acquire(owner, break_lock)
    _held[place] = owner
    stop = threading.Event()
    pulse = threading.Thread(target=_beat_until, args=(owner, stop), daemon=True, name="opticam-dask-owner")
    pulse.start()
    try:
        yield owner
    except OwnershipLost:
        raise
    except Exception as error:
        if reason := owner.loss_behind(error):
            raise OwnershipLost(reason) from error
        raise
    finally:
        stop.set()
        pulse.join()
        del _held[place]
        _release(owner)


def check_owner(out_directory: str | Path) -> None:
    """Check that a directory which this process took for itself is still its own; of any other, do nothing.

    Raises
    ------
    OwnershipLost
        When it has lost it.
    """
    if owner := _held.get(_identity(out_directory)):
        owner.check()


def hand_over(owner: Owner, token: str) -> None:
    """Leave a directory to a planned run, whose jobs may start on any machine and at any time.

    Parameters
    ----------
    owner : Owner
        Hold of this process.
    token : str
        Token of the planned run.

    Raises
    ------
    OwnershipLost
        As :meth:`Owner.check`.
    """
    owner.check()
    _write(owner.path, _record(token) | {"is_planned": True, "meaning": _MEANING})


@contextlib.contextmanager
def join(out_directory: str | Path, token: str) -> Iterator[Owner]:
    """Work on a directory as one of many jobs of the planned run that owns it, while the block runs.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    token : str
        Token of the planned run.

    Raises
    ------
    OwnershipLost
        When the directory is not, or no longer, the planned run's.
    """
    place = _identity(out_directory)
    # a thousand jobs that look after every block would make the record a hot file
    owner = Owner(Path(out_directory) / OWNER_NAME, token, seconds_between_looks=HEARTBEAT / 3)
    owner.check()
    _held[place] = owner
    try:
        yield owner
    finally:
        del _held[place]


def end_planned(out_directory: str | Path, token: str) -> None:
    """Free the directory of a planned run that is finished."""
    _release(Owner(Path(out_directory) / OWNER_NAME, token))


def is_owned_by(out_directory: str | Path, token: str) -> bool:
    """Whether a directory belongs to the planned run with this token."""
    return (_read(Path(out_directory) / OWNER_NAME) or {}).get("token") == token


def _identity(out_directory: str | Path) -> str:
    place = locations.location(out_directory)
    return str(place) if locations.is_remote(place) else os.path.realpath(place)


def _sign_of_life(path: Path, token: str) -> Path:
    """Object that an owner writes again and again, on an object store."""
    return path.with_name(f".{OWNER_NAME}.{token}.alive")


def _beat_until(owner: Owner, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT):
        owner.beat()


def _acquire(owner: Owner, break_lock: bool) -> None:
    _tokens.add(owner.token)
    try:
        _make_record(owner, break_lock)
    except BaseException:
        _tokens.discard(owner.token)
        raise


def _make_record(owner: Owner, break_lock: bool) -> None:
    try:
        if _create(owner.path, _record(owner.token)):
            return
    except OSError as error:
        raise OSError(error.errno, f"cannot be written ({error.strerror})", str(owner.path.parent)) from error
    found = _read(owner.path)
    if found is None and _create(owner.path, _record(owner.token)):  # the other run ended just now
        return
    reason = "--break-lock" if break_lock else _why_dead(owner.path, found or {})
    if reason is None:
        raise OwnedError(_refusal(owner.path, found or {}))
    _take_over(owner, str((found or {}).get("token", "unknown")), found or {})
    logger.info("%s taken over (%s) from %s", owner.path, reason, found)


def _take_over(owner: Owner, dead: str, found: dict[str, Any]) -> None:
    """Put the record in the place of a dead run's. Only one can: who makes the claim on that run's token."""
    claim = owner.path.with_name(f".{OWNER_NAME}.{dead}.claim")
    if not _create(claim, _record(owner.token)):
        if _age(claim) < STALE:
            raise OwnedError(_refusal(owner.path, found))
        claim.unlink(missing_ok=True)  # whoever claimed it died as well
        if not _create(claim, _record(owner.token)):
            raise OwnedError(_refusal(owner.path, found))
    try:
        now = _read(owner.path)
        if now is not None and str(now.get("token", "unknown")) != dead:
            raise OwnedError(_refusal(owner.path, now))
        _write(owner.path, _record(owner.token))
        if locations.is_remote(owner.path):
            _sign_of_life(owner.path, dead).unlink(missing_ok=True)
    finally:
        claim.unlink(missing_ok=True)


def _release(owner: Owner) -> None:
    _tokens.discard(owner.token)
    with contextlib.suppress(OSError):
        found = _read(owner.path)
        if found is not None and found.get("token") == owner.token:
            owner.path.unlink()
        if locations.is_remote(owner.path):
            _sign_of_life(owner.path, owner.token).unlink(missing_ok=True)


def _record(token: str) -> dict[str, Any]:
    return {
        "token": token,
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "process_started": _start_of(os.getpid()),
        "user": user_name(),
        "command": " ".join(sys.argv),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "meaning": f"A run owns this directory; touched every {HEARTBEAT:g} s, taken over after {STALE:g} s without.",
    }


def user_name() -> str:
    """Name of who runs this, or his number where it has no name (a container)."""
    with contextlib.suppress(KeyError, OSError):  # no name for this number
        return getpass.getuser()
    return str(os.getuid())


def _boot() -> str:
    """Tells one start of one machine, and one name space of process numbers on it, from every other."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _why_dead(path: Path, found: dict[str, Any]) -> str | None:
    """Why the owner counts as dead; None when it does not."""
    if found.get("is_planned"):
        return None
    if _is_own_past(found):
        return "its run in this process has ended"
    if _is_same_machine(found):  # whoever slept with the whole machine gave no sign of life, but is not dead
        return None if _is_alive(found) else "its process has ended"
    age = _age_of_owner(path, found)
    if age < -HEARTBEAT and not locations.is_remote(path):
        # touched before the clock of the file system was put back: from now on it has to give signs of life again
        os.utime(path)
    return f"no sign of life for {age:.0f} s" if age > STALE else None


def _is_own_past(found: dict[str, Any]) -> bool:
    """Whether a record is of a run of this process that is over: it could not take it away, as the disk was gone."""
    is_here = _is_same_machine(found) and found.get("pid") == os.getpid() and _is_alive(found)
    return is_here and found.get("token") not in _tokens


def _is_same_machine(found: dict[str, Any]) -> bool:
    """Whether process numbers in the record mean anything here: same boot, and not another container's."""
    return bool(found.get("boot")) and (found["boot"], found.get("host")) == (_boot(), socket.gethostname())


def _is_alive(found: dict[str, Any]) -> bool:
    """Whether the process that wrote a record on this machine runs; a zombie or another process does not count."""
    try:
        number = int(found["pid"])
        is_over = psutil.Process(number).status() == psutil.STATUS_ZOMBIE
        return not is_over and _start_of(number) == found["process_started"]
    except (psutil.Error, OSError, KeyError, TypeError, ValueError):
        return False


def _start_of(number: int) -> str:
    """When a process of this machine began, whatever the clock of the machine was set to since then.

    Linux counts ticks from the start of the machine (field 22 of ``/proc/PID/stat``, see proc(5)); the time of day
    that is made of them moves with the clock.
    """
    try:
        # the name of the program, in parentheses, may hold anything
        fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return f"{fields[19]} ticks"
    except OSError:
        return f"{psutil.Process(number).create_time():.2f} s"


def _age_of_owner(path: Path, found: dict[str, Any]) -> float:
    """Seconds since the owner gave a sign of life."""
    age = _age(path)
    if locations.is_remote(path):
        age = min(age, _age(_sign_of_life(path, str(found.get("token", "unknown")))))
    return age


def _age(path: Path) -> float:
    """Seconds since a file was touched, by the clock of its file system."""
    probe = path.with_name(f".{path.name.removeprefix('.')}.{uuid.uuid4().hex}.clock")
    try:
        if locations.is_remote(path):
            locations.write_text(probe, "")
        else:
            probe.touch()
        return locations.modified(probe) - locations.modified(path)
    except FileNotFoundError:
        return float("inf")
    finally:
        probe.unlink(missing_ok=True)


def _refusal(path: Path, found: dict[str, Any]) -> str:
    if found.get("is_planned"):
        return (
            f"{path.parent} belongs to a run of job arrays that {found.get('user', '?')} planned on "
            f"{found.get('started', '?')}. opticam-dask status {path.parent} says where it stands and how it goes on; "
            "to give it up, add --break-lock: what was reduced is kept."
        )
    who = (
        f"{found.get('user', '?')} on {found.get('host', '?')} (process {found.get('pid', '?')}, since "
        f"{found.get('started', '?')}, last sign of life {max(0.0, _age_of_owner(path, found)):.0f} s ago)"
    )
    return (
        f"{path.parent} belongs to another run: {who}. Wait for it, stop it, or use another output directory; "
        f"if it is surely dead, add --break-lock (a dead run's hold ends by itself after {STALE / 60:.0f} minutes)."
    )


def _create(path: Path, record: dict[str, Any]) -> bool:
    """Make a file with content, unless there is one; never one that is half written.

    Raises
    ------
    OSError
        When the directory cannot be written.
    """
    if isinstance(path, remote_paths.RemotePath):
        return remote_paths.create_remote(path, _text(record))
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    temporary.write_text(_text(record), encoding="utf-8")
    try:
        # a link appears whole or not at all, fails where the name is taken, and does so on NFS too
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:
        return _create_without_links(path, record)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _create_without_links(path: Path, record: dict[str, Any]) -> bool:
    """For file systems that know no links."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        json.dump(record, stream, indent=2)
    return True


def _write(path: Path, record: dict[str, Any]) -> None:
    locations.write_text(path, _text(record))


def _text(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=2)


def _read(path: Path) -> dict[str, Any] | None:
    """Content of a record; None when there is none, nothing in it when it cannot be understood."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
