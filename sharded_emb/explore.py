"""Command `explore`: run folder to nearest neighbours of an id, a map of a table, dead and hot rows, norms.

python -m sharded_emb.explore run=FOLDER
python -m sharded_emb.explore run=FOLDER table=item 'ids=[B0001,B0002]' map=tsne
"""

from sharded_emb import cli


def main() -> None:
    """Looks at the run that the command line names."""
    cli.run("explore", explore, of_run=True)


def explore(composed: cli.Composed) -> None:
    """Writes a page, and prints what is on top of it."""
    with cli.importing():
        from sharded_emb.config.exploring import explore as explore_session
        from sharded_emb.config.run import ExploreConfig

    explore_session(composed.validated(ExploreConfig))


if __name__ == "__main__":
    main()
