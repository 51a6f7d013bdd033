"""How a CPU process holds memory: freed tensors stay with it, and tables lie on huge pages.

glibc gives blocks of more than 32 MB back to the system when they are freed, and the top of its heap too; the next step
takes them anew, page by page, each zeroed first. The lookup of 163,840 vectors of 64 spends two thirds of its time so.
Rows at random places of a table that lies on pages of 4 KB miss the TLB at almost every row; pages of 2 MB make lookup
and update 5 to 20 % faster. What fails here costs speed and nothing else, so no error is raised.
"""

import ctypes
import os
import sys

import torch
from torch import Tensor

# of glibc's malloc.h and Linux's mman.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_MADV_DONTNEED, _MADV_HUGEPAGE = 4, 14
_HUGE_PAGE = 1 << 21
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


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None


def workers(ranks_on_host: int) -> int:
    """How many threads of a rank that call torch keep the cores busy that this process may use, which the ranks of the
    host share: each thread has a team of torch's own threads. At least 1.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, cores // ranks_on_host // torch.get_num_threads())
