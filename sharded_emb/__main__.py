"""`sharded-emb COMMAND key=value ...`, the same as `python -m sharded_emb.COMMAND key=value ...`."""

import runpy
import sys
from pathlib import Path

from sharded_emb.errors import nearest

COMMANDS = {
    "prepare": "raw log -> dataset folder",
    "train": "dataset folder -> run folder",
    "evaluate": "run folder -> metrics of a split",
    "plan": "the sharding plan for this machine or a described cluster",
    "export": "run folder -> embeddings by raw id, a plain PyTorch model, a nearest-neighbour index",
    "explore": "run folder -> neighbours of an id, maps and norms of tables",
    "doctor": "what this machine can run, and the fix for what it cannot",
}


def present() -> dict[str, str]:
    """The commands whose module is there, with what each does: one that is not written yet is absent."""
    return {name: does for name, does in COMMANDS.items() if Path(__file__).with_name(f"{name}.py").is_file()}


def usage() -> str:
    """The text that `--help` prints."""
    lines = [f"  {name:<9} {does}" for name, does in present().items()]
    return "\n".join(["usage: sharded-emb COMMAND [KEY=VALUE ...] [--help]", "", *lines])


def main() -> None:
    """Runs the command that sys.argv names, in this process; exits with 2 if it names none."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("-h", "--help"):
        print(usage())
        return
    if name not in present():
        problem = (
            f"COMMAND: unknown command {name!r}{nearest(name, present())}" if name else "COMMAND: want one, got none"
        )
        print(f"{problem}\n\n{usage()}", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    # alter_sys: spawned workers find their way back to the command's module, as under `python -m`
    runpy.run_module(f"sharded_emb.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
