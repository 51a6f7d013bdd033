"""Command `prepare`: raw log to dataset folder.

python -m sharded_emb.prepare experiment=sasrec_beauty dataset.raw=PATH data=FOLDER
python -m sharded_emb.prepare dataset.raw='logs/*.csv' data=FOLDER stream.folder=STREAM
"""

from sharded_emb import cli


def main() -> None:
    """Prepares the dataset that the command line describes."""
    cli.run("prepare", prepare)


def prepare(composed: cli.Composed) -> None:
    """Writes the folder `data`, or adds what is new of a log to a stream."""
    with cli.importing():
        from sharded_emb.config.run import PrepareConfig
        from sharded_emb.data.additions import add_part
        from sharded_emb.data.prepare import prepare as write
        from sharded_emb.data.work import How

    config = composed.validated(PrepareConfig)
    assert config.data is not None
    how = How(config.prepare, config.extend)
    if config.stream.folder is not None:
        added = add_part(config.dataset, config.data, config.stream, how)
        what = "nothing new" if added.part is None else f"{added.samples:,} samples"
        print(f"{added.part or config.stream.folder}: {what}; {added.new:,} new files of events, {added.known:,} known")
        return
    manifest = write(
        config.dataset,
        config.data,
        seed=config.seed,
        overwrite=config.overwrite,
        how=how,
    )
    counts = ", ".join(f"{count:,} {name}" for name, count in manifest.counts.items())
    splits = ", ".join(f"{name} {split.rows:,}" for name, split in manifest.splits.items())
    print(f"{config.data}: {counts}; rows: {splits}")


if __name__ == "__main__":
    main()
