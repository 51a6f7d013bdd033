"""How a CPU process holds memory: freed tensors stay with it, and tables lie on huge pages.

glibc gives blocks of more than 32 MB back to the system when they are freed, and the top of its heap too; the next step
takes them anew, page by page, each zeroed first. The lookup of 163,840 vectors of 64 spends two thirds of its time so.
Rows at random places of a table that lies on pages of 4 KB miss the TLB at almost every row; pages of 2 MB make lookup
and update 5 to 20 % faster. What fails here costs speed and nothing else, so no error is raised.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

# of glibc's malloc.h and Linux's mman.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_MADV_DONTNEED, _MADV_HUGEPAGE = 4, 14
_HUGE_PAGE, _PAGE = 1 << 21, os.sysconf("SC_PAGE_SIZE")
_KEPT_BYTES = (1 << 31) - 1  # free at the top of the heap; the most that mallopt takes


def keep_freed_memory() -> None:
    """Lets this process use memory again that tensors have left. Does nothing where malloc is not glibc's."""
    if (malloc_options := getattr(_libc(), "mallopt", None)) is not None:
        malloc_options(_M_MMAP_MAX, 0)
        malloc_options(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def empty_on_huge_pages(values: Tensor) -> None:
    """Puts a large contiguous tensor of the CPU on huge pages, from when it is written to again; what was in it is
    lost. Does nothing where the system has none (`/sys/kernel/mm/transparent_hugepage/enabled` is `never`).
    """
    begin, end = values.data_ptr(), values.data_ptr() + values.numel() * values.element_size()
    first, last = -(-begin // _HUGE_PAGE) * _HUGE_PAGE, end // _HUGE_PAGE * _HUGE_PAGE  # whole pages inside
    if values.device.type != "cpu" or not values.is_contiguous() or last <= first:
        return
    if (advise := getattr(_libc(), "madvise", None)) is not None:
        where = ctypes.c_void_p(first), ctypes.c_size_t(last - first)
        if advise(*where, _MADV_HUGEPAGE) == 0:
            advise(*where, _MADV_DONTNEED)  # pages that are there stay small


def let_go_of_pages(values: Tensor) -> None:
    """Lets go of what was read of a file that a tensor maps, and nobody has written to; it is read again when asked
    for. Such pages count as memory of the process, as many as it has ever touched.
    """
    first = -(-values.data_ptr() // _PAGE) * _PAGE
    last = (values.data_ptr() + values.numel() * values.element_size()) // _PAGE * _PAGE
    if last > first and (advise := getattr(_libc(), "madvise", None)) is not None:
        advise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _MADV_DONTNEED)


def host_bytes(root: Path = Path("/")) -> int:
    """Memory of this host, or the part of it that this process and its container may take. root: of the file system."""
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_limits(root)])


def _limits(root: Path) -> Iterator[int]:
    """Of the control groups that this process is in, and of those around them, as far as it can see them."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # no Linux
        return
    mounted = root / "sys/fs/cgroup"
    for kinds, _, path in (line.partition(":")[2].partition(":") for line in lines):
        if not kinds:  # version 2 has one tree
            folder, name = mounted, "memory.max"
        elif "memory" in kinds.split(","):
            folder, name = mounted / "memory", "memory.limit_in_bytes"
        else:
            continue
        inside = PurePosixPath(path.lstrip("/"))  # of the host; a container may see its own group as the outermost one
        for group in (inside, *inside.parents):
            with contextlib.suppress(OSError, ValueError):  # not there, or "max"
                if (limit := int((folder / group / name).read_text(encoding="utf-8"))) > 0:
                    yield limit


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None


def workers(ranks_on_host: int) -> int:
    """How many threads of a rank that call torch keep the cores busy that this process may use, which the ranks of the
    host share: each thread has a team of torch's own threads. At least 1.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, cores // ranks_on_host // torch.get_num_threads())
