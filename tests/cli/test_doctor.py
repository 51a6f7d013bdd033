"""`doctor` names what is wrong with the exact fix, and works where torch, FBGEMM or the requirements do not."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sharded_emb import doctor, versions
from sharded_emb.config import calibrated
from sharded_emb.distributed import calibrate
from sharded_emb.planning.cluster import ClusterConfig
from sharded_emb.planning.units import parse_rate
from tests.cli.in_process import Commands

ROOT = Path(__file__).resolve().parents[2]
CPU_TORCH = {"library": "torch", "version": "2.13.0+cpu", "cuda": None, "gpus": [], "gloo": True, "nccl": False}
GPU = {"name": "NVIDIA H100 80GB HBM3", "memory_bytes": 80 * 2**30}
CUDA_TORCH = {**CPU_TORCH, "version": "2.13.0", "cuda": "13.0", "gpus": [GPU], "nccl": True}
FITTING = {"torch": "2.13.0", "fbgemm-gpu": None, "fbgemm-gpu-cpu": "1.8.0", "torchrec": "1.8.0"}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A machine on which everything fits; tests change what it says."""
    said: dict[str, Any] = {
        "found": dict(FITTING),
        "nvidia_smi": [],
        "torch": dict(CPU_TORCH),
        "fbgemm": {"version": "1.8.0"},
        "torchrec": {"version": "1.8.0"},
        "probed": [],
    }

    def probe(libraries: list[str]) -> dict[str, dict[str, Any]]:
        said["probed"] += libraries
        return {library: said[library] for library in libraries}

    monkeypatch.setattr(versions, "found", lambda: said["found"])
    monkeypatch.setattr(doctor, "probe", probe)
    monkeypatch.setattr(doctor, "nvidia_smi", lambda: said["nvidia_smi"])
    monkeypatch.setattr(doctor, "conf_findings", lambda: iter([doctor.Finding("conf", "there")]))
    return said


def examined(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    return doctor.main([]), capsys.readouterr().out


@pytest.mark.usefixtures("machine")
def test_where_everything_fits_it_says_so_and_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = examined(capsys)
    assert code == 0
    assert out.endswith("everything fits\n")
    assert "torch 2.13.0, fbgemm-gpu-cpu 1.8.0, torchrec 1.8.0" in out
    assert "2.13.0+cpu (CPU build)" in out


def test_a_mismatch_is_named_with_its_fix_and_fbgemm_is_not_touched(
    machine: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    machine["found"]["fbgemm-gpu-cpu"] = "1.6.0"
    code, out = examined(capsys)
    assert code == 2
    assert machine["probed"] == ["torch"]
    assert out.splitlines()[-2] == "to mend (1):"
    assert out.splitlines()[-1] == versions.problem(machine["found"])


def test_without_torch_nothing_is_probed(machine: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    machine["found"] = dict.fromkeys(FITTING)
    code, out = examined(capsys)
    assert (code, machine["probed"]) == (2, [])
    assert "none of torch, FBGEMM, TorchRec" in out
    assert out.splitlines()[-1].startswith("versions: found torch missing, ")


def test_fbgemm_that_does_not_load_is_named_with_the_pip_command(
    machine: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    machine["fbgemm"] = {"error": "OSError: undefined symbol: _ZN3c10"}
    code, out = examined(capsys)
    assert code == 2
    assert out.splitlines()[-1] == (
        f"fbgemm: want it to load, got OSError: undefined symbol: _ZN3c10; run: {versions.mending_command('cpu')}"
    )


def test_gpus_are_listed_with_memory_and_driver(machine: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    machine["torch"] = dict(CUDA_TORCH)
    machine["nvidia_smi"] = ["NVIDIA H100 80GB HBM3, driver 580.65.06"]
    code, out = examined(capsys)
    assert code == 0
    assert "device cuda:0" in out
    assert "NVIDIA H100 80GB HBM3, 80 GiB" in out
    assert "1 x NVIDIA H100 80GB HBM3, driver 580.65.06" in out
    assert "gloo, nccl" in out


def test_a_gpu_that_a_cuda_build_cannot_use_is_to_be_mended(
    machine: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    machine["torch"] = {**CUDA_TORCH, "gpus": []}
    machine["nvidia_smi"] = ["NVIDIA H100 80GB HBM3, driver 470.57.02"]
    code, out = examined(capsys)
    assert code == 2
    assert out.splitlines()[-1].startswith(
        "devices: torch wants a driver for CUDA 13.0 and a visible GPU, got NVIDIA H100"
    )


def test_a_gpu_beside_a_cpu_build_is_a_choice_and_no_problem(
    machine: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    machine["nvidia_smi"] = ["NVIDIA H100 80GB HBM3, driver 580.65.06"]
    code, out = examined(capsys)
    assert code == 0
    assert "unused by a CPU build, bash launch/setup.sh cuda installs the other" in out


def test_gpus_without_nccl_are_to_be_mended(machine: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    machine["torch"] = {**CUDA_TORCH, "nccl": False}
    code, out = examined(capsys)
    assert code == 2
    assert out.splitlines()[-1].startswith("backends: want nccl, got gloo; ")


@pytest.mark.usefixtures("machine")
def test_a_missing_requirement_is_named_with_the_pip_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: ["pyyaml>=6", "duckdb2[x]<9", 'ruff; extra == "dev"'])
    code, out = examined(capsys)
    assert code == 2
    assert "1 of 2 missing" in out
    assert out.splitlines()[-1] == (
        f"requirements: want duckdb2, got none of them; run: {sys.executable} -m pip install duckdb2"
    )


def test_a_library_that_ends_its_process_does_not_end_the_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "probe.py"
    broken.write_text(
        "import os, signal\n"
        'print(\'{"library": "torch", "version": "2.13.0"}\', flush=True)\n'
        "os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    monkeypatch.setattr(doctor, "PROBE", broken)
    assert doctor.probe(["torch", "fbgemm"]) == {
        "torch": {"library": "torch", "version": "2.13.0"},
        "fbgemm": {"error": "ended its process with SIGSEGV"},
    }


def test_an_argument_is_an_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sharded_emb.doctor", "device=cpu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "doctor: 1 problem\n  calibrate: want true with out or device, which are of nothing else; leave them out\n"
    )


def test_it_runs_on_a_python_that_has_no_package_at_all() -> None:
    """-S: no site-packages, so neither torch nor pydantic nor hydra; the package alone is on the path."""
    code = "import sys; sys.path.insert(0, sys.argv.pop()); from sharded_emb import doctor; sys.exit(doctor.main([]))"
    command = [sys.executable, "-I", "-S", "-c", code, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr == ""
    assert (
        "versions: found torch missing, fbgemm-gpu missing, fbgemm-gpu-cpu missing, torchrec missing; " in done.stdout
    )


@pytest.mark.slow
def test_it_says_what_is_here() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sharded_emb.doctor"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "everything fits", done.stdout + done.stderr
    assert done.returncode == 0
    assert "device cpu" in done.stdout
    assert "gloo" in done.stdout


def test_a_calibrated_machine_is_a_cluster_to_plan_for(start: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "CPU", calibrate.Effort(rows=5000, dim=8, batch=64, ids=8, steps=3))
    ended = start("doctor", "calibrate=true", "out=mine", "device=cpu")
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert lines[0] == "1 host x 1 rank on cpu"
    assert lines[-1] == "mine/cluster/calibrated.yaml: use it with --config-dir mine cluster=calibrated"
    assert "intra_bandwidth   not measured" in ended.out
    second = (start.folder / "mine" / "cluster" / "calibrated.yaml").read_text().splitlines()[1]
    assert re.fullmatch(r"# a quarter of the steps took [0-9.]+ times as long as another quarter, or longer", second)
    planned = start("plan", "tables.item.rows=1000", "--config-dir", "mine", "cluster=calibrated", "out=there")
    assert planned.code == 0, planned.err
    cluster = json.loads((start.folder / "there" / "plan.json").read_text())["cluster"]
    written = yaml.safe_load((start.folder / "mine" / "cluster" / "calibrated.yaml").read_text())
    for key in ("memory", "update"):
        assert parse_rate(written[f"{key}_bandwidth"]) == cluster[f"{key}_bytes_per_second"]
    assert cluster["lookup_latency_seconds"] == written["lookup_latency"] > 0


def test_a_calibration_of_a_busy_machine_says_so(start: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        calibrated, "calibrated", lambda _: (ClusterConfig(device="cpu", hosts=1, gpus_per_host=1), 2.5)
    )
    ended = start("doctor", "calibrate=true", "device=cpu")
    said = (
        "a quarter of the steps took 2.5 times as long as another quarter, or longer; repeat it where nothing else runs"
    )
    assert (ended.code, ended.err) == (0, f"warning: {said}\n")


def test_what_is_wrong_with_the_words_of_the_doctor_is_said_at_once(start: Commands) -> None:
    (start.folder / "file").write_text("")
    ended = start("doctor", "calibrat=true", "device=tpu", "out=")
    assert (ended.code, ended.err.splitlines()) == (
        2,
        [
            "doctor: 4 problems",
            "  calibrat: unknown key; did you mean calibrate?",
            "  device: want auto or cpu or cuda, got 'tpu'",
            "  out: want a folder, got nothing",
            "  calibrate: want true with out or device, which are of nothing else; leave them out",
        ],
    )
    ended = start("doctor", "calibrate=true", "out=file")
    assert (ended.code, ended.err.splitlines()[1]) == (
        2,
        "  out: want a folder that can be written, got file (Not a directory)",
    )
