"""Command `evaluate`: run folder to metrics of a split.

python -m sharded_emb.evaluate run=FOLDER baselines=true predictions=FILE
torchrun --nproc-per-node 2 -m sharded_emb.evaluate run=FOLDER split=valid
"""

from typing import Any

from sharded_emb import cli


def main() -> None:
    """Evaluates the run that the command line names."""
    cli.run("evaluate", evaluate, of_run=True)


def evaluate(tree: dict[str, Any]) -> int:
    """Prints the metrics, and writes what was asked for."""
    cli.check_versions()  # before FBGEMM is imported
    from sharded_emb.config.run import EvaluateConfig
    from sharded_emb.config.validate import validate
    from sharded_emb.config.session import evaluate as evaluate_session

    return evaluate_session(validate(EvaluateConfig, tree))


if __name__ == "__main__":
    main()
