"""Command `train`: dataset folder to run folder.

python -m sharded_emb.train experiment=sasrec_beauty data=FOLDER
torchrun --nproc-per-node 2 -m sharded_emb.train experiment=sasrec_beauty data=FOLDER
"""

from sharded_emb import cli


def main() -> None:
    """Trains what the command line describes."""
    cli.run("train", train)


def train(composed: cli.Composed) -> int:
    """Trains, evaluates, writes the run folder; returns the exit code."""
    from sharded_emb.config.run import RunConfig
    from sharded_emb.config.session import train as train_session

    return train_session(composed.validated(RunConfig)).exit_code


if __name__ == "__main__":
    main()
