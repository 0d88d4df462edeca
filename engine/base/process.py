"""How a computing process treats the machine that it shares: call `prepare` before torch is imported.

Two settings of the C libraries under torch on Linux, both found by measuring.
GNU OpenMP's threads spin while they wait for each other; when another program
uses a core, a product then waits for whole time slices (a token took six times
as long beside two busy processes). And glibc's allocator keeps what lies between
long-lived blocks; mapping large blocks returns them when they are freed (peak
memory of learning falls by a third). Other systems are left alone.
"""

import ctypes
import os
import sys

SPINS = "1000"  # turns of the waiting loop before a thread sleeps; GNU OpenMP's own default is about 300,000
_M_MMAP_THRESHOLD = -3
LARGE = 1_000_000  # bytes; blocks from here on are mapped


def prepare() -> None:
    """Make threads wait politely and freed memory go back. A user's own OMP_WAIT_POLICY or GOMP_SPINCOUNT stays."""
    if not sys.platform.startswith("linux"):
        return
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    try:
        ctypes.CDLL("libc.so.6").mallopt(_M_MMAP_THRESHOLD, LARGE)
    except (OSError, AttributeError):  # another C library
        return
