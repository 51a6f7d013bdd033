"""Command `train`: dataset folder to run folder.

python -m sharded_emb.train experiment=sasrec_beauty data=FOLDER
torchrun --nproc-per-node 2 -m sharded_emb.train experiment=sasrec_beauty data=FOLDER
torchrun --nproc-per-node 2 -m sharded_emb.train experiment=sasrec_beauty data=FOLDER verify=true
"""

from pathlib import Path

from sharded_emb import cli


def main() -> None:
    """Trains what the command line describes."""
    cli.run("train", train)


def train(composed: cli.Composed) -> int:
    """Trains, evaluates, writes the run folder, or compares with an unsharded model; returns the exit code."""
    with cli.importing():
        from sharded_emb.config.run import RunConfig
        from sharded_emb.config.session import train as train_session
        from sharded_emb.config.verifying import verify
        from sharded_emb.config.where import from_home
        from sharded_emb.training.launches import made_by_this_launch

    run = composed.tree.get("run")
    if isinstance(run, str) and made_by_this_launch(from_home(Path(run))):  # by an earlier start of these ranks
        composed.tree["resume"] = True
    config = composed.validated(RunConfig)
    if config.verify:
        return 0 if all(difference.passes for difference in verify(config)) else 1
    return train_session(config, is_command=True).exit_code


if __name__ == "__main__":
    main()
