"""How a computing process uses the C libraries under torch on Linux; each setting was found by measuring.

GNU OpenMP's threads spin while they wait for each other; when another program
uses a core, a product then waits for whole time slices (a token took six times
as long beside two busy processes). MKL's last bits depend on where its operands
lie in memory, unless it is asked not to; a resumed job must end with the same
bits. And glibc's allocator keeps what was freed below a block that lives on.
Other systems are left alone. Also says which errors mean that the memory was not
enough: each library has its own.
"""

import ctypes
import os
import sys

# Turns of the waiting loop before a thread sleeps; GNU OpenMP's own default is about 300,000. A step of tuning a layer, on two
# cores, took 12.1 ms with 1,000, 11.2 with 4,000 and 10.8 with the default (5 runs each, in turn); beside a busy process 21 ms
# with 1,000 and 23 with 3,000, beside another job 21 and 24 (4 runs each), and with 100,000 above 100 (one run).
# llama.cpp's threads wait in the same way: beside eight busy processes it said 36, 9 and 10 tokens a second with 1,000, 8, 6 and 10
# with 3,000, and 1 to 8 with 20,000 (3 runs each, in turn).
SPINS = "1000"


def prepare_libraries() -> None:
    """Short waits, repeatable bits, and no progress bars or warnings of libraries; call before torch and transformers are
    imported. What the user has set stays."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' bars as well
    if not sys.platform.startswith("linux"):
        return
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


def return_freed_memory() -> None:
    """Give freed memory back to the system, where the C library is glibc; takes milliseconds."""
    if sys.platform.startswith("linux"):
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):  # another C library
            return


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error says that the memory of the machine, or of its accelerator, was not enough."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    known = isinstance(error, RuntimeError | OSError) or type(error).__name__ == "SafetensorError"
    return known and says_out_of_memory(str(error))


def says_out_of_memory(text: str) -> bool:
    """Whether a library's message, or what a process wrote before it died, says that memory ran out."""
    words = ("allocate memory", "not enough memory", "out of memory", "_ALLOC_FAILED", "bad_alloc", "MemoryError")
    return any(word in text for word in words)
