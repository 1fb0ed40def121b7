"""A folder as one sees it who may not write there, whoever runs the tests."""

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_VERSION_3 = 0x20080522
_MAY_WRITE_ANYWHERE = 1 << 1 | 1 << 3
"""CAP_DAC_OVERRIDE and CAP_FOWNER."""


@contextmanager
def read_only(root: Path) -> Iterator[None]:
    """Nobody may write below `root`; this thread, and what it starts, not even as root."""
    modes = {path: path.stat().st_mode for path in (root, *root.rglob("*")) if not path.is_symlink()}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        with _without_privilege() if os.geteuid() == 0 else _nothing():
            yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _without_privilege() -> Iterator[None]:
    """Root's right to write whatever the modes say is put down for a while."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", _VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    assert libc.capget(header, data) == 0
    effective, *rest = struct.unpack("6I", data.raw)
    assert libc.capset(header, struct.pack("6I", effective & ~_MAY_WRITE_ANYWHERE, *rest)) == 0
    try:
        yield
    finally:
        assert libc.capset(header, data) == 0
