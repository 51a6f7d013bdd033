"""From the command to the first step: wall and CPU seconds, of one process and of torchrun.

    python benchmarks/startup.py [--ranks 1 2] [--report FILE]

`train experiment=quickstart`, imports and all, on a dataset that is there, beside a process that imports torch and
torchrec and does nothing else, in turns; medians of several starts.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import ROOT, measured_at, tell

STARTS = 5
FIRST_STEP = re.compile(r"^step 1 ")


def to_first_step(line: list[str]) -> float:
    """Wall seconds until the console says that the first step is done."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(line, cwd=ROOT, env=environment, text=True, **both)
    assert process.stdout is not None
    found, said = None, []
    for text in process.stdout:
        said.append(text)
        if found is None and FIRST_STEP.match(text):
            found = time.monotonic() - started
    if process.wait() or found is None:
        raise SystemExit("".join(said))
    return found


def cpu_seconds() -> float:
    """Of all children that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def main() -> None:
    """Prints the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    lines = [
        "# From the command to the first step",
        "",
        f"`python {' '.join(sys.argv)}`, {measured_at()}; seconds, medians of {STARTS} starts in turns.",
        "",
        "| | wall, to the first step | of importing alone | CPU, to the end of the process |",
        "|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        words = ["experiment=quickstart", f"data={folder}/data"]
        subprocess.run([sys.executable, "-m", "sharded_emb.prepare", *words], cwd=ROOT, check=True, capture_output=True)
        bare = [sys.executable, "-c", "import torch, torchrec; print('step 1 ')"]
        starts = {"importing torch and torchrec alone": bare}
        for ranks in options.ranks:
            torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"]
            how = [] if ranks == 1 else torchrun
            more = ["steps=1", "log_every_steps=1"]
            starts[f"train, {ranks} rank(s)"] = [sys.executable, "-m", *how, "sharded_emb.train", *words, *more]
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in starts}
        for number in range(STARTS):
            for place, (name, line) in enumerate(starts.items()):
                before = cpu_seconds()
                wall = to_first_step([*line, f"run={folder}/{place}-{number}"])
                found[name].append((wall, cpu_seconds() - before))
    alone = statistics.median(wall for wall, _ in next(iter(found.values())))
    for name, seconds in found.items():
        wall, cpu = (statistics.median(each) for each in zip(*seconds, strict=True))
        lines.append(f"| {name} | {wall:.1f} | {wall / alone:.1f} | {cpu:.1f} |")
    tell(lines, options.report)


if __name__ == "__main__":
    main()
