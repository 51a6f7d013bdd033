"""Command `prepare`: raw log to dataset folder.

python -m sharded_emb.prepare experiment=sasrec_beauty dataset.raw=PATH data=FOLDER
"""

from sharded_emb import cli


def main() -> None:
    """Prepares the dataset that the command line describes."""
    cli.run("prepare", prepare)


def prepare(composed: cli.Composed) -> None:
    """Writes the folder `data`."""
    from sharded_emb.config.run import PrepareConfig
    from sharded_emb.data.prepare import prepare as write
    from sharded_emb.data.work import How

    config = composed.validated(PrepareConfig)
    assert config.data is not None
    manifest = write(
        config.dataset,
        config.data,
        seed=config.seed,
        overwrite=config.overwrite,
        how=How(config.prepare, config.extend),
    )
    counts = ", ".join(f"{count:,} {name}" for name, count in manifest.counts.items())
    splits = ", ".join(f"{name} {split.rows:,}" for name, split in manifest.splits.items())
    print(f"{config.data}: {counts}; rows: {splits}")


if __name__ == "__main__":
    main()
