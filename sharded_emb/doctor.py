"""`python -m sharded_emb.doctor`: what this machine has, and the exact fix for what does not fit.

usage: python -m sharded_emb.doctor
       [torchrun --nproc-per-node N -m] sharded_emb.doctor calibrate=true [out=FOLDER] [device=cpu]

calibrate=true measures what a plan counts with: memory, and the communication of the ranks that are launched.
out=FOLDER keeps it as FOLDER/cluster/calibrated.yaml, for --config-dir FOLDER cluster=calibrated.

Exit codes: 0 everything fits, 2 there is something to mend, named at the end of the output.
"""

# Standard library only, torch and FBGEMM in a subprocess: the doctor has to work where nothing else does.

import json
import platform
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from sharded_emb import versions
from sharded_emb.errors import InputError, nearest

ROOT = Path(__file__).resolve().parent.parent
PROBE = Path(__file__).with_name("distributed") / "probe.py"
PROBE_LIMIT_SECONDS = 180


@dataclass(frozen=True)
class Finding:
    """One line of the table. mend says what a person has to do; without it the finding is fine."""

    what: str
    found: str
    mend: str = ""


def python_findings() -> Iterator[Finding]:
    """Python, platform, and the .venv of a checkout."""
    found = platform.python_version()
    old = sys.version_info < (3, 11)
    fix = f"python: want 3.11 or newer, got {found}; install one, remove .venv, run: bash launch/setup.sh"
    yield Finding("Python", f"{found} ({sys.executable})", fix if old else "")
    yield Finding("platform", f"{platform.system()} {platform.machine()}")
    if not (ROOT / "launch" / "setup.sh").is_file():
        return
    venv, stamp = ROOT / ".venv", ROOT / ".venv" / "complete"
    if not stamp.is_file():
        inside = Path(sys.prefix).resolve() == venv.resolve()
        fix = ".venv: want it complete, got one whose making was interrupted; run: bash launch/setup.sh"
        found = "incomplete" if inside else "none that is complete; bash launch/setup.sh makes one"
        yield Finding(".venv", found, fix if inside else "")
        return
    device, torch, *_ = [*stamp.read_text().split(), "?", "?"]
    other = "" if Path(sys.prefix).resolve() == venv.resolve() else "; this Python is another, use .venv/bin/python"
    yield Finding(".venv", f"complete ({device}, torch {torch}){other}")


def requirement_findings() -> Iterator[Finding]:
    """What the project needs besides the triple."""
    try:
        needs = [line for line in metadata.requires("sharded-emb") or [] if "extra ==" not in line]
    except metadata.PackageNotFoundError:
        yield Finding("requirements", "sharded-emb is not installed, only run from its folder")
        return
    names = [match[0] for line in needs if (match := re.match(r"[\w.-]+", line))]
    missing = [name for name in names if versions.installed(name) is None]
    if missing:
        pip = f"{sys.executable} -m pip install {' '.join(missing)}"
        fix = f"requirements: want {', '.join(missing)}, got none of them; run: {pip}"
        yield Finding("requirements", f"{len(missing)} of {len(names)} missing", fix)
    else:
        yield Finding("requirements", f"all {len(names)} installed")


def conf_findings() -> Iterator[Finding]:
    """Where the configuration groups are."""
    # by its path: importing the package `config` imports torch
    where = runpy.run_path(str(Path(__file__).with_name("config") / "where.py"))
    try:
        yield Finding("conf", str(where["conf_folder"]()))
    except InputError as error:
        yield Finding("conf", "not found", str(error))


def probe(libraries: list[str]) -> dict[str, dict[str, Any]]:
    """What each library says in a process of its own, by library; one that ended the process has an "error"."""
    # -P: the files beside the probe must not be taken for installed modules
    command = [sys.executable, "-P", str(PROBE), *libraries]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_LIMIT_SECONDS, check=False)
        ending = f"ended its process with code {done.returncode}"
        if done.returncode < 0:
            ending = f"ended its process with {signal.Signals(-done.returncode).name}"
        said = done.stdout
    except subprocess.TimeoutExpired as error:
        ending = f"did not answer in {PROBE_LIMIT_SECONDS} seconds"
        said = error.stdout.decode() if isinstance(error.stdout, bytes) else ""
    lines = [json.loads(line) for line in said.splitlines() if line.startswith('{"library"')]
    facts = {line["library"]: line for line in lines}
    return {library: facts.get(library, {"error": ending}) for library in libraries}


def nvidia_smi() -> list[str]:
    """The driver's own list of GPUs, `NAME, driver VERSION`; empty without a driver."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.replace(", ", ", driver ") for line in done.stdout.splitlines() if line.strip()]


def torch_findings(facts: dict[str, Any], driver_gpus: list[str], reinstalling: str) -> Iterator[Finding]:
    """Build, devices and backends, from what the probe and the driver say."""
    if "error" in facts:
        fix = f"torch: want it to load, got {facts['error']}; run: {reinstalling}"
        yield Finding("torch", "does not load", fix)
        return
    build = f"CUDA {facts['cuda']} build" if facts["cuda"] else "CPU build"
    yield Finding("torch", f"{facts['version']} ({build})")
    for index, gpu in enumerate(facts["gpus"]):
        yield Finding(f"device cuda:{index}", f"{gpu['name']}, {gpu['memory_bytes'] / 2**30:.0f} GiB")
    fix = ""
    if driver_gpus and facts["cuda"] and not facts["gpus"]:
        fix = (
            f"devices: torch wants a driver for CUDA {facts['cuda']} and a visible GPU, got {driver_gpus[0]}; "
            "update the driver, unset CUDA_VISIBLE_DEVICES, or run: bash launch/setup.sh cpu"
        )
    if driver_gpus:
        unused = "" if facts["cuda"] else "; unused by a CPU build, bash launch/setup.sh cuda installs the other"
        yield Finding("driver", f"{len(driver_gpus)} x {driver_gpus[0]}{unused}", fix)
    yield Finding("device cpu", "always there")
    backends = [name for name in ("gloo", "nccl") if facts[name]]
    needed = "nccl" if facts["gpus"] else "gloo"
    fix = f"backends: want {needed}, got {' '.join(backends) or 'none'}; install another build of torch: {reinstalling}"
    yield Finding("backends", ", ".join(backends) or "none", "" if needed in backends else fix)


def operator_findings(facts: dict[str, dict[str, Any]], fixing: str) -> Iterator[Finding]:
    """Whether FBGEMM and TorchRec load; fixing is the command that installs them anew."""
    for library in ("fbgemm", "torchrec"):
        error = facts[library].get("error")
        if error:
            yield Finding(library, "does not load", f"{library}: want it to load, got {error}; run: {fixing}")
        else:
            yield Finding(library, f"{facts[library]['version']}, loads")


def stack_findings() -> Iterator[Finding]:
    """Torch, FBGEMM and TorchRec: the versions first, and only a matching FBGEMM is imported."""
    found = versions.found()
    mismatch = versions.problem(found)
    have = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    yield Finding("triple", have or "none of torch, FBGEMM, TorchRec", mismatch or "")
    libraries = ["torch"] if mismatch else ["torch", "fbgemm", "torchrec"]
    if found["torch"]:
        facts = probe(libraries)
        reinstalling = f"pip install --force-reinstall torch=={found['torch']}"
        yield from torch_findings(facts["torch"], nvidia_smi(), reinstalling)
        if not mismatch and "error" not in facts["torch"]:
            minor = next(name for name, triple in versions.TRIPLES.items() if triple.torch == found["torch"])
            fixing = versions.mending_command("cuda" if found["fbgemm-gpu"] else "cpu", minor)
            yield from operator_findings(facts, fixing)


def examine() -> list[Finding]:
    """Everything the doctor looks at, in the order of the table."""
    return [*python_findings(), *stack_findings(), *requirement_findings(), *conf_findings()]


def report(findings: list[Finding]) -> str:
    """The table, then one line for each thing to mend. Never wrapped: the fixes are there to be copied."""
    width = max(len(finding.what) for finding in findings)
    lines = [f"{'mend' if f.mend else 'ok':<5} {f.what:<{width}}  {f.found}" for f in findings]
    fixes = [f.mend for f in findings if f.mend]
    if not fixes:
        return "\n".join([*lines, "", "everything fits"])
    return "\n".join([*lines, "", f"to mend ({len(fixes)}):", *fixes])


def problems(given: dict[str, str]) -> Iterator[str]:
    """What is wrong with the words of the command line, a line each."""
    takes = {"calibrate": ["true", "false"], "out": None, "device": ["auto", "cpu", "cuda"]}
    for key, value in given.items():
        if key not in takes:
            yield f"{key}: unknown key{nearest(key, list(takes))}"
        elif (values := takes[key]) is not None and value not in values:
            yield f"{key}: want {' or '.join(values)}, got {value!r}"
        elif not value:
            yield f"{key}: want a folder, got nothing"
    if given.get("calibrate") != "true" and {"out", "device"} & {*given}:
        yield "calibrate: want true with out or device, which are of nothing else; leave them out"


def measure(given: dict[str, str]) -> int:
    """Calibrates; the exit code."""
    if wrong := versions.problem(versions.found()):
        print(f"doctor: {wrong}", file=sys.stderr)
        return 2
    from sharded_emb.cli import quiet_libraries
    from sharded_emb.config.calibrated import calibrate
    from sharded_emb.distributed.process_group import leave

    quiet_libraries()
    code = 0
    try:
        calibrate(given.get("device", "auto"), Path(given["out"]) if "out" in given else None)  # type: ignore[arg-type]
    except InputError as error:
        print("\n  ".join(["doctor: 1 problem", str(error)]), file=sys.stderr)
        code = 2
    leave(code)
    return code


def main(arguments: list[str]) -> int:
    """Prints the report; the exit code."""
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    given = dict(word.partition("=")[::2] for word in arguments)
    if wrong := [*problems(given)]:
        print("\n  ".join([f"doctor: {len(wrong)} problem{'s' * (len(wrong) > 1)}", *wrong]), file=sys.stderr)
        return 2
    if given.get("calibrate") == "true":
        return measure(given)
    findings = examine()
    print(report(findings))
    return 2 if any(finding.mend for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
