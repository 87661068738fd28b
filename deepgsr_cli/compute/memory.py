"""Memory: that of the processor, which is freed and taken again, and errors for want of it."""

from __future__ import annotations

import ctypes

# How the allocators of CUDA libraries, MPS, and the CPU (Linux, Windows) say that memory ran out in what is
# only a RuntimeError.
_OUT_OF_MEMORY = ("_ALLOC_FAILED", "out of memory", "can't allocate memory", "not enough memory")
# Parameters of mallopt, as glibc's malloc.h has them.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Have this process keep the memory it frees for its next use, where the C library is glibc.

    By itself glibc gives large blocks back to the system, which fills them with zeros when they are taken
    anew. With maps of many megabytes that is up to a third of a network's time. No result changes.
    """
    if (library := _glibc()) is not None:
        library.mallopt(_MMAP_MAX, 0)  # no block is a mapping of its own
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)  # and the end of the heap is not given back


def give_back_freed_memory() -> None:
    """Have this process give the memory it has freed to the system, where the C library is glibc.

    For the end of work that took much, before other work whose blocks do not fit in what was freed. Its next
    use costs about 0.1 s for 100 MiB, of pages that the system fills with zeros.
    """
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, None where it is not glibc."""
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # where there is no one namespace of the process, as on Windows
        return None
    return library if hasattr(library, "gnu_get_libc_version") else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is for want of memory, of the processor or of a device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return True
    return any(sign in str(error) for sign in _OUT_OF_MEMORY)
