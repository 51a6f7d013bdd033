"""Which torch, FBGEMM and TorchRec fit, and what is said when they do not."""

import subprocess
import sys
from pathlib import Path

import pytest

from sharded_emb import versions

ROOT = Path(__file__).resolve().parents[2]
WANT = (
    "want torch 2.13.0 + fbgemm-gpu(-cpu) 1.8.0 + torchrec 1.8.0"
    " or torch 2.11.0 + fbgemm-gpu(-cpu) 1.6.0 + torchrec 1.6.1"
)
MEND_CPU = (
    "pip install torch==2.13.0 tensordict torchmetrics==1.0.3 tqdm pyre-extensions iopath"
    " && pip install --no-deps --force-reinstall fbgemm-gpu-cpu==1.8.0 torchrec==1.8.0"
)


def found(
    torch: str | None = None, cuda: str | None = None, cpu: str | None = None, torchrec: str | None = None
) -> dict[str, str | None]:
    return {"torch": torch, "fbgemm-gpu": cuda, "fbgemm-gpu-cpu": cpu, "torchrec": torchrec}


@pytest.mark.parametrize(
    "installed",
    [
        found("2.13.0", cpu="1.8.0", torchrec="1.8.0"),
        found("2.13.0", cuda="1.8.0", torchrec="1.8.0"),
        found("2.11.0", cpu="1.6.0", torchrec="1.6.1"),
        found("2.11.0", cuda="1.6.0", torchrec="1.6.1"),
    ],
)
def test_each_triple_fits_with_either_build_of_fbgemm(installed: dict[str, str | None]) -> None:
    assert versions.problem(installed) is None


def test_the_triple_installed_here_fits() -> None:
    versions.check()


def test_a_mismatch_says_found_want_and_the_command() -> None:
    assert versions.problem(found("2.13.0", cpu="1.6.0", torchrec="1.8.0")) == (
        "versions: found torch 2.13.0, fbgemm-gpu missing, fbgemm-gpu-cpu 1.6.0, torchrec 1.8.0; "
        f"{WANT}; run: {MEND_CPU}"
    )


def test_nothing_installed_is_mended_with_the_default_triple() -> None:
    said = versions.problem(found())
    assert said is not None
    assert said.startswith(
        "versions: found torch missing, fbgemm-gpu missing, fbgemm-gpu-cpu missing, torchrec missing;"
    )
    assert said.endswith(f"run: {MEND_CPU}")


def test_the_command_keeps_the_torch_and_the_device_that_are_there() -> None:
    said = versions.problem(found("2.11.0", cuda="1.8.0", torchrec="1.8.0"))
    assert said is not None
    assert "run: pip install torch==2.11.0 " in said
    assert said.endswith("pip install --no-deps --force-reinstall fbgemm-gpu==1.6.0 torchrec==1.6.1")


def test_a_torch_of_no_triple_is_a_mismatch() -> None:
    said = versions.problem(found("2.12.1", cpu="1.8.0", torchrec="1.8.0"))
    assert said is not None
    assert said.startswith("versions: found torch 2.12.1,")
    assert "run: pip install torch==2.13.0 " in said


def test_both_fbgemm_builds_have_to_go_before_one_is_installed() -> None:
    said = versions.problem(found("2.13.0", cuda="1.8.0", cpu="1.8.0", torchrec="1.8.0"))
    assert said is not None
    assert "(both FBGEMM builds install into one folder and overwrite each other); want" in said
    assert "run: pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu && pip install torch==2.13.0 " in said
    assert "fbgemm-gpu==1.8.0" in said


def test_check_raises_the_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "found", lambda: found("2.13.0", cpu="1.6.0", torchrec="1.8.0"))
    with pytest.raises(versions.VersionMismatchError, match=r"^versions: found torch 2\.13\.0, .*; want .*; run: pip "):
        versions.check()


def test_the_local_part_of_a_version_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions.metadata, "version", lambda _: "2.13.0+cu130")
    assert versions.installed("torch") == "2.13.0"


def test_the_cpu_triple_never_asks_pip_for_the_cuda_fbgemm() -> None:
    for torch in versions.TRIPLES:
        full, alone = versions.requirements("cpu", torch)
        assert not [line for line in full if "fbgemm" in line or "torchrec" in line]
        assert [line.partition("==")[0] for line in alone] == ["fbgemm-gpu-cpu", "torchrec"]


def run_as_a_file(*arguments: str) -> subprocess.CompletedProcess[str]:
    """As launch/setup.sh does: with nothing of the project importable."""
    command = [sys.executable, "-I", str(ROOT / "sharded_emb" / "versions.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("torch", versions.TRIPLES)
def test_run_as_a_file_it_prints_both_lines_of_requirements(device: str, torch: str) -> None:
    full, alone = versions.requirements(device, torch)
    assert run_as_a_file(device, torch).stdout.splitlines() == [" ".join(full), " ".join(alone)]


def test_a_torch_that_no_triple_has_is_named_with_those_that_are_there() -> None:
    done = run_as_a_file("cpu", "2.12")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "--torch: no triple with torch '2.12'; there are: 2.13, 2.11\n"


def test_setup_takes_its_requirements_from_here_and_defaults_to_the_same_torch() -> None:
    script = (ROOT / "launch" / "setup.sh").read_text()
    code = [line for line in script.splitlines() if not line.lstrip().startswith("#")]
    assert "-I sharded_emb/versions.py" in "\n".join(code)
    assert f"torch=${{torch:-{versions.DEFAULT_TORCH}}}" in "\n".join(code)
    # no version of its own beside that default
    assert not [line for line in code if any(f"=={triple.torch}" in line for triple in versions.TRIPLES.values())]


def test_the_project_itself_requires_no_part_of_the_triple() -> None:
    """Its metadata would pull in whatever build pip prefers."""
    text = (ROOT / "pyproject.toml").read_text()
    wanted = text[text.index("dependencies = [") : text.index("[project.scripts]")].splitlines()
    assert not [line for line in wanted if line.strip().startswith(('"torch', '"fbgemm', '"torchrec'))]
