"""What a process of long work asks of the system: to keep its memory, and not to outlive who started it."""

from __future__ import annotations

import ctypes
import os
import sys
from multiprocessing import parent_process
from threading import Thread


def keep_freed_memory() -> None:
    """Have the C library, where it is glibc, keep what is freed for the next tensor.

    It would give large blocks back to the kernel at once, and pay for fresh pages in every layer of every step.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_max = -1, -4  # as malloc.h has them
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def end_with_parent() -> None:
    """Have a process of a pool end when what started it was killed; it would work on, then wait for ever."""
    parent = parent_process()
    assert parent is not None, "only what multiprocessing started has a parent"

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
