"""Which torch, FBGEMM and TorchRec fit together, and what is installed here.

Looks at package metadata alone: a mismatched FBGEMM must be named before it is imported, because importing it ends in
a bare `OSError` or an undefined symbol. Standard library only, so `launch/setup.sh` runs this file before anything is
installed: `python sharded_emb/versions.py cpu 2.13` prints the requirements of a triple.
"""

import sys
from dataclasses import dataclass
from importlib import metadata

DEFAULT_TORCH = "2.13"


@dataclass(frozen=True)
class Triple:
    """Releases of torch, FBGEMM and TorchRec that were built for each other."""

    torch: str
    fbgemm: str
    torchrec: str


TRIPLES = {
    "2.13": Triple("2.13.0", "1.8.0", "1.8.0"),
    "2.11": Triple("2.11.0", "1.6.0", "1.6.1"),
}
# what TorchRec imports besides FBGEMM, whose CUDA wheel its own metadata would put over the CPU one
TORCHREC_NEEDS = ("tensordict", "torchmetrics==1.0.3", "tqdm", "pyre-extensions", "iopath")


class VersionMismatchError(RuntimeError):
    """The installed torch, FBGEMM and TorchRec do not fit together; the message says what does."""


def requirements(device: str, torch_minor: str = DEFAULT_TORCH) -> tuple[list[str], list[str]]:
    """What pip installs for a triple: with dependencies, and without.

    device is "cpu" or "cuda". Raises KeyError for a torch that no triple has.
    """
    triple = TRIPLES[torch_minor]
    fbgemm = "fbgemm-gpu-cpu" if device == "cpu" else "fbgemm-gpu"
    return [f"torch=={triple.torch}", *TORCHREC_NEEDS], [f"{fbgemm}=={triple.fbgemm}", f"torchrec=={triple.torchrec}"]


def mending_command(device: str, torch_minor: str = DEFAULT_TORCH) -> str:
    """The pip command that installs a triple."""
    full, alone = requirements(device, torch_minor)
    return f"pip install {' '.join(full)} && pip install --no-deps --force-reinstall {' '.join(alone)}"


def installed(package: str) -> str | None:
    """The version of an installed distribution without its local part (`+cpu`), or None."""
    try:
        return metadata.version(package).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None


def found() -> dict[str, str | None]:
    """The installed version of each package of the triple; both builds of FBGEMM are looked for."""
    return {name: installed(name) for name in ("torch", "fbgemm-gpu", "fbgemm-gpu-cpu", "torchrec")}


def problem(versions: dict[str, str | None]) -> str | None:
    """What is wrong with these installed versions, with the command that mends it; None if they fit."""
    torch, torchrec = versions["torch"], versions["torchrec"]
    cuda, cpu = versions["fbgemm-gpu"], versions["fbgemm-gpu-cpu"]
    fits = [t for t in TRIPLES.values() if (torch, torchrec) == (t.torch, t.torchrec) and (cuda or cpu) == t.fbgemm]
    if fits and not (cuda and cpu):
        return None
    minor = next((m for m, t in TRIPLES.items() if t.torch == torch), DEFAULT_TORCH)
    have = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
    triples = [f"torch {t.torch} + fbgemm-gpu(-cpu) {t.fbgemm} + torchrec {t.torchrec}" for t in TRIPLES.values()]
    want = " or ".join(triples)
    if cuda and cpu:
        have += " (both FBGEMM builds install into one folder and overwrite each other)"
        drop = "pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu && "
    else:
        drop = ""
    return f"versions: found {have}; want {want}; run: {drop}{mending_command('cuda' if cuda else 'cpu', minor)}"


def check() -> None:
    """Raises VersionMismatchError unless the installed triple fits. Call it before anything imports FBGEMM."""
    wrong = problem(found())
    if wrong:
        raise VersionMismatchError(wrong)


if __name__ == "__main__":
    device_asked, minor_asked = sys.argv[1:3]
    if minor_asked not in TRIPLES:
        sys.exit(f"--torch: no triple with torch {minor_asked!r}; there are: {', '.join(TRIPLES)}")
    for line in requirements(device_asked, minor_asked):
        print(" ".join(line))
