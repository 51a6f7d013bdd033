"""Memory of a CPU process: what is kept, and what large tables lie on."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sharded_emb.distributed.host_memory import empty_on_huge_pages, host_bytes, workers

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="of Linux alone")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

COUNT = """
import resource, torch
from sharded_emb.distributed.process_group import process_group
with process_group("cpu"):
    for _ in range(40):  # glibc takes some turns until it finds what is free, once more than ten
        torch.ones(16 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16 << 20)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment: str) -> int:
    """Pages that ten tensors of 64 MB, one after the other, took anew from the system."""
    clean = {name: value for name, value in os.environ.items() if not re.match("MALLOC_|GLIBC_TUNABLES", name)}
    done = subprocess.run(
        [sys.executable, "-c", COUNT], env=clean | environment, check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@LINUX
def test_a_process_keeps_the_memory_of_freed_tensors_unless_told_otherwise() -> None:
    assert faults() < 1000
    assert faults(MALLOC_MMAP_MAX_="65536") > 10 * (64 << 20) // os.sysconf("SC_PAGE_SIZE") // 600  # huge ones at most


@LINUX
def test_only_what_lies_inside_of_a_part_is_emptied() -> None:
    whole = torch.arange(6 << 20, dtype=torch.float32).view(-1, 64)
    part = slice(10_000, 80_000)
    empty_on_huge_pages(whole[part])
    whole[part] = 7.0
    expected = torch.arange(6 << 20, dtype=torch.float32).view(-1, 64)
    expected[part] = 7.0
    assert torch.equal(whole, expected)


@LINUX
@pytest.mark.skipif(not HUGE_PAGES.exists() or "[never]" in HUGE_PAGES.read_text(), reason="there are no huge pages")
def test_a_large_part_is_emptied() -> None:
    values = torch.ones(4 << 20)
    empty_on_huge_pages(values)
    assert 0 < int((values == 0).sum()) <= values.numel()


@pytest.mark.parametrize("values", [torch.ones(1000), torch.ones(2048, 4096).T], ids=["small", "not contiguous"])
def test_other_tensors_stay_as_they_are(values: torch.Tensor) -> None:
    empty_on_huge_pages(values)
    assert bool((values == 1).all())


def test_ranks_of_a_host_share_its_cores() -> None:
    assert workers(10_000) == 1 <= workers(2) <= workers(1)


@pytest.mark.parametrize(
    ("groups", "limits", "most"),
    [
        ("0::/", {"memory.max": "4096"}, 4096),  # a container with a tree of its own
        ("0::/", {"memory.max": "max"}, None),
        ("0::/jobs/one", {"jobs/one/memory.max": "max", "jobs/memory.max": "8192"}, 8192),
        ("4:memory:/jobs/one\n0::/", {"memory/jobs/one/memory.limit_in_bytes": "2048"}, 2048),
        ("9:cpu,memory:/docker/abc", {"memory/memory.limit_in_bytes": "1024"}, 1024),  # which sees its own alone
        ("3:cpuset:/", {"memory.max": "512"}, None),
        ("nothing that is known\n0::/", {"memory.max": "0"}, None),
    ],
)
def test_a_container_has_the_memory_that_it_may_take(
    tmp_path: Path, groups: str, limits: dict[str, str], most: int | None
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"{groups}\n")
    for name, limit in limits.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{limit}\n")
    all_of_it = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert host_bytes(tmp_path) == (all_of_it if most is None else most)
    assert host_bytes(tmp_path / "nowhere") == all_of_it
