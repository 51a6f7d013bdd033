"""Command `train`: dataset folder to run folder.

python -m sharded_emb.train experiment=sasrec_beauty data=FOLDER
torchrun --nproc-per-node 2 -m sharded_emb.train experiment=sasrec_beauty data=FOLDER
"""

from typing import Any

from sharded_emb import cli


def main() -> None:
    """Trains what the command line describes."""
    cli.run("train", train)


def train(tree: dict[str, Any]) -> int:
    """Trains, evaluates, writes the run folder; returns the exit code."""
    cli.check_versions()  # before FBGEMM is imported
    from sharded_emb.config.run import RunConfig
    from sharded_emb.config.validate import validate
    from sharded_emb.config.session import train as train_session

    return train_session(validate(RunConfig, tree))


if __name__ == "__main__":
    main()
