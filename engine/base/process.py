"""How a computing process treats the machine that it shares.

Two habits of the C libraries under torch on Linux, both found by measuring. GNU
OpenMP's threads spin while they wait for each other; when another program uses a
core, a product then waits for whole time slices (a token took six times as long
beside two busy processes). And glibc's allocator keeps what was freed below a
block that lives on. Other systems are left alone.
"""

import ctypes
import os
import sys

SPINS = "1000"  # turns of the waiting loop before a thread sleeps; GNU OpenMP's own default is about 300,000


def wait_politely() -> None:
    """Have threads sleep soon when they wait; call before torch is imported. A user's own OMP_WAIT_POLICY stays."""
    if sys.platform.startswith("linux") and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def return_freed_memory() -> None:
    """Give freed memory back to the system, where the C library is glibc; takes milliseconds."""
    if sys.platform.startswith("linux"):
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):  # another C library
            return
