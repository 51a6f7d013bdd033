"""Command `evaluate`: run folder to metrics of a split.

python -m sharded_emb.evaluate run=FOLDER baselines=true predictions=FILE
torchrun --nproc-per-node 2 -m sharded_emb.evaluate run=FOLDER split=valid
"""

from sharded_emb import cli


def main() -> None:
    """Evaluates the run that the command line names."""
    cli.run("evaluate", evaluate, of_run=True)


def evaluate(composed: cli.Composed) -> None:
    """Prints the metrics, and writes what was asked for."""
    with cli.importing():
        from sharded_emb.config.evaluating import evaluate as evaluate_session
        from sharded_emb.config.run import EvaluateConfig

    evaluate_session(composed.validated(EvaluateConfig))


if __name__ == "__main__":
    main()
