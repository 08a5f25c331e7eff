"""Be an ordinary user for a moment, so that permissions mean something where the tests run as root."""

from __future__ import annotations

import contextlib
import ctypes
import os

#: Bits of the privileges to pass over permissions (capabilities(7): DAC_OVERRIDE and DAC_READ_SEARCH).
_PASS_OVER = 1 << 1 | 1 << 2
_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextlib.contextmanager
def ordinary_user():
    """Root, in this thread and those it starts, is bound to the permissions of its files as everybody is to theirs."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = _Header(_VERSION_3, 0), (_Data * 2)()
    assert libc.capget(ctypes.byref(header), data) == 0
    before = data[0].effective
    data[0].effective = before & ~_PASS_OVER
    assert libc.capset(ctypes.byref(header), data) == 0
    try:
        yield
    finally:
        data[0].effective = before
        assert libc.capset(ctypes.byref(header), data) == 0
