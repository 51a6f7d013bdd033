"""What a report says of where its numbers come from."""

import os
import platform
import subprocess
import time
from collections.abc import Iterable
from datetime import date
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]


def measured_at(device: str = "cpu") -> str:
    """`2026-11-25, commit 1a2b3c4, 2 CPU cores (x86_64, AVX512)`; a commit with changes that are not in it ends with
    -dirty. Of "cuda" the name of the card comes last.
    """
    git = ["git", "describe", "--always", "--dirty", "--abbrev=7", "--match="]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    vectors = torch.backends.cpu.get_cpu_capability()
    cores = f"{os.cpu_count()} CPU cores ({platform.machine()}, {vectors})"
    card = f", {torch.cuda.get_device_name()}" if device == "cuda" else ""
    return f"{date.today()}, commit {commit}, {cores}{card}"


def seconds(device: str) -> float:
    """Of this process on a CPU, of the clock once a GPU has done all it was given."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def tell(lines: Iterable[str], report: Path | None) -> None:
    """Prints a report, and writes it where that is asked for."""
    text = "\n".join(lines) + "\n"
    print(text)
    if report is not None:
        report.write_text(text, encoding="utf-8")
