"""Plays the steps of launch/Dockerfile where no container engine is there: copies what it copies, then runs its lines.

    python -m tests.cli.dockerfile ROOT        in a chroot, such as one of `debootstrap --include=python3,python3-venv`

The base images are whatever is there; each stage is a folder of its own in which COPY and RUN do what they say.
"""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Stage:
    """name: what COPY --from calls it. steps: instruction and the rest of its line, in order."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def last(self, instruction: str) -> str:
        """The rest of the line that counts, of those that replace each other."""
        return next(rest for name, rest in reversed(self.steps) if name == instruction)

    def all(self, instruction: str) -> list[str]:
        return [rest for name, rest in self.steps if name == instruction]


def stages(text: str) -> list[Stage]:
    """Of a Dockerfile."""
    found: list[Stage] = []
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append(Stage(base, name))
        elif found:
            found[-1].steps.append((instruction, rest))
    return found


def copied(root: Path, ignore: str) -> list[Path]:
    """What `COPY . .` takes of a folder, by a .dockerignore that leaves out all but some names at its top."""
    rules = [line for line in ignore.splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    dropped = [rule.removeprefix("**/") for rule in rules if rule.startswith("**/")]
    files = [path.relative_to(root) for name in kept for path in [root / name, *(root / name).rglob("*")]]
    return sorted(
        path
        for path in files
        if (root / path).is_file() and not any(fnmatch.fnmatch(part, rule) for part in path.parts for rule in dropped)
    )


def copy_context(target: Path) -> None:
    """What an engine would put where `COPY . .` points."""
    for path in copied(ROOT, (ROOT / "launch" / "Dockerfile.dockerignore").read_text()):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target / path)


def play(root: Path, arguments: dict[str, str]) -> None:
    """All steps in a chroot. One root serves both stages: what the last one would not have is not taken away."""
    print(f"in {root}: {arguments}")
    for stage in stages((ROOT / "launch" / "Dockerfile").read_text()):
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        folder, user = "/", 0
        for instruction, rest in stage.steps:
            print(f"{stage.name or 'final'}: {instruction} {rest}", flush=True)
            if instruction == "ARG":
                name, _, default = rest.partition("=")
                environment[name] = arguments.get(name, default)
            elif instruction == "WORKDIR":
                folder = rest
                (root / folder[1:]).mkdir(parents=True, exist_ok=True)
            elif instruction == "ENV":
                pairs = re.findall(r"(\w+)=(\S+)", rest)
                environment |= {name: value.replace("$PATH", environment["PATH"]) for name, value in pairs}
            elif instruction == "USER":
                user = int(rest)
            elif instruction == "COPY" and rest == ". .":
                copy_context(root / folder[1:])
            elif instruction in ("RUN", "CMD"):
                line = ["/bin/sh", "-c", rest] if instruction == "RUN" else json.loads(rest)
                chroot = ["chroot", f"--userspec={user}:{user}", str(root)]
                subprocess.run([*chroot, *_in(folder, environment, line)], check=True)
            else:
                assert instruction == "COPY", instruction
                assert rest.startswith("--from="), rest  # the same root


def _in(folder: str, environment: dict[str, str], line: list[str]) -> list[str]:
    """A line of a chroot, in a folder and with these variables alone."""
    variables = [f"{name}={value}" for name, value in environment.items()]
    return ["/usr/bin/env", "-i", *variables, "/bin/sh", "-c", f'cd "{folder}" && exec "$@"', "sh", *line]


if __name__ == "__main__":
    play(Path(sys.argv[1]), dict(word.split("=", 1) for word in sys.argv[2:]))
