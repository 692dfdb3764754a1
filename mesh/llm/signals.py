"""llama.cpp takes over SIGINT and SIGTERM of the process that hosts it; we keep our own.

Its handlers would stop its loop and leave the process alive, deaf to the signal that its
supervisor sent. Python can set handlers only in its main thread, so this speaks to the C
library: the structure is saved and put back unread.
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SIZE = 1_024
"""Bytes; more than any platform's ``struct sigaction``."""


@contextmanager
def keep_signal_handlers() -> Iterator[None]:
    """What is installed inside the block is undone at its end."""
    libc = ctypes.CDLL(None, use_errno=True)
    saved = {number: ctypes.create_string_buffer(_SIZE) for number in _SIGNALS}
    for number, buffer in saved.items():
        libc.sigaction(int(number), None, buffer)
    try:
        yield
    finally:
        for number, buffer in saved.items():
            libc.sigaction(int(number), buffer, None)
