"""Command `export`: run folder to embeddings by raw id, and a model that plain PyTorch loads.

python -m sharded_emb.export run=FOLDER
python -m sharded_emb.export run=FOLDER out=served quantize=int8
"""

from sharded_emb import cli


def main() -> None:
    """Exports the run that the command line names."""
    cli.run("export", export, of_run=True)


def export(composed: cli.Composed) -> None:
    """Writes the folder, and prints what is in it."""
    with cli.importing():
        from sharded_emb.config.exporting import export as export_session
        from sharded_emb.config.run import ExportConfig

    export_session(composed.validated(ExportConfig))


if __name__ == "__main__":
    main()
