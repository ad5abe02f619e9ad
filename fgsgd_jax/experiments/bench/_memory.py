"""Memory that is kept, so that every contestant finds the heap as it would in a loop of its own.

The C library of Linux hands freed memory back to the system from a threshold on, and every page of
it that is used anew costs a fault: for the temporary memory of a million components half as much as
their update, or more. In a program that repeats one step that soon stops, as the threshold follows
what is freed, up to 32 MiB; among contestants that take turns, each hands back what the next needs.
So the threshold is set to where it would go, here and in the processes of the others. Larger pieces
are still handed back, as they are everywhere.
"""

import ctypes
import sys

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # M_… of malloc.h
LARGEST_THRESHOLD = 32 << 20
NEVER = 2**31 - 1

ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(LARGEST_THRESHOLD),
    "MALLOC_TRIM_THRESHOLD_": str(NEVER),
}
"""What tells a new process the same."""


def keep_freed() -> None:
    """Lets this process keep the memory it frees, where the C library can be told."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        set_option(MMAP_THRESHOLD, LARGEST_THRESHOLD)
        set_option(TRIM_THRESHOLD, NEVER)
