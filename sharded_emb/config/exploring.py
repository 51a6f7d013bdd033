"""`explore`: what a run has made of its tables."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from sharded_emb.config.reading import item_attributes, make_reading
from sharded_emb.config.run import ExploreConfig
from sharded_emb.config.run_rules import EXPLORE, there
from sharded_emb.config.saved import SavedRun, saved_run
from sharded_emb.config.session import joined
from sharded_emb.config.vocabularies import vocabulary_by_table
from sharded_emb.config.weights import checkpoints_of_runs, open_weights
from sharded_emb.data.flat import FlatCopy
from sharded_emb.data.layouts.base import ITEM
from sharded_emb.distributed.agree import from_first_rank
from sharded_emb.errors import InputError
from sharded_emb.exploring import PAGE
from sharded_emb.exploring.attributes import Attribute
from sharded_emb.exploring.explore import Asked, Look, write_exploration
from sharded_emb.exploring.names import Names, Owners
from sharded_emb.exploring.reads import count_reads
from sharded_emb.exploring.vectors import Beginning, TableVectors
from sharded_emb.ids.quotient_remainder import QuotientRemainder
from sharded_emb.ids.rows import Rows
from sharded_emb.losses.base import NOTHING_SEEN
from sharded_emb.replacing import replacing_folder
from sharded_emb.tables import Table


def explore(config: ExploreConfig) -> dict[str, Any]:
    """Writes the folder `out`, or `explore` in the run folder, of the best checkpoint of a run, else its last. Of many
    ranks the first does the work. Returns what explore.json says.

    Raises InputError on every rank for a checkpoint or a dataset that does not do, and for ids that are none.
    """
    with joined(config) as place:
        return from_first_rank(lambda: _explore(config), place, slowly=True)


def _explore(config: ExploreConfig) -> dict[str, Any]:
    assert config.run is not None
    out = (config.out or config.run / EXPLORE.name).resolve()
    run = saved_run(config)
    seed, epochs = run.state["config"]["seed"], run.state["run"]["progress"]["epoch"]
    asked = Asked(config.ids, config.top_k, config.map, config.points, seed, a_whole_epoch=epochs > 0)
    facts = {
        "run": str(config.run),
        "checkpoint": run.checkpoint.name,
        "step": run.state["step"],
        "epochs": epochs,
        "data": str(config.data),
        "map": config.map,
    }
    with replacing_folder(out, key="out") as aside:
        if wrong := there(EXPLORE, out, overwrite=True):  # since when this was asked first
            raise InputError(wrong)
        said = write_exploration(aside, _looks(config, run), asked, facts)
    for line in _told(said, wanted=bool(config.ids)):
        print(line)
    print(f"explored {run.checkpoint.name} of {config.run}: {out / PAGE}")
    return said


def _looks(config: ExploreConfig, run: SavedRun) -> list[Look]:
    tables = [table for table in run.tables if config.table in (None, table.name)]
    owners = {table.name: Owners.of(table, run.checkpoint) for table in run.tables if table.ids.assigned}
    reading = replace(make_reading(config, run.tables, NOTHING_SEEN), of_items=item_attributes(run.tables, run.dataset))
    train = FlatCopy(run.dataset, config.flat_copy).split("train")
    reads, vocabularies = count_reads(train, reading, owners), vocabulary_by_table(config.features, run.dataset)
    looks = []
    for table in tables:
        beginning = _beginning(config, run, table)
        known = beginning if isinstance(beginning, Beginning) else None
        vocabulary = vocabularies.get(table.name)
        of_items = vocabulary == ITEM and isinstance(table.ids, Rows | QuotientRemainder)  # whose rows are theirs
        colours, captions = (_attribute(run, name) if of_items else None for name in (config.colour, config.caption))
        looks.append(
            Look(
                vectors=TableVectors(table, run.checkpoint, known),
                names=replace(Names.of(table, run.dataset, vocabulary, owners.get(table.name)), captions=captions),
                vocabulary=vocabulary,
                reads_R=reads[table.name],
                unknown_beginning=beginning if isinstance(beginning, str) else None,
                colours=colours,
            )
        )
    given = {key for key in ("colour", "caption") if getattr(config, key) is not None}
    if given and all(look.colours is None and look.names.captions is None for look in looks):
        names = ", ".join(table.name for table in tables)
        raise InputError(*(f"{key}: want a table whose rows are items, got {names}; leave it out" for key in given))
    return looks


def _attribute(run: SavedRun, name: str | None) -> Attribute | None:
    return None if name is None else Attribute.of(run.dataset, name)


def _beginning(config: ExploreConfig, run: SavedRun, table: Table) -> Beginning | str | None:
    """What a table began with, why that is not known, or None where it does not matter."""
    seed: int = run.state["config"]["seed"]
    if table.freeze:
        return None
    if config.warm_start.run is not None:
        return f"the run began with the weights of {config.warm_start.run}"
    if table.weights is None:
        return Beginning(seed)
    try:
        checkpoint = checkpoints_of_runs([table])[table.name]
        return Beginning(seed, open_weights(table, run.dataset, checkpoint))
    except InputError as error:
        return f"its weights cannot be read any more ({error.problems[0]})"


def _told(said: Mapping[str, Any], wanted: bool) -> Iterator[str]:
    """Lines of each table. wanted: whether neighbours were asked for."""
    for name, each in said["tables"].items():
        moved = "" if each["never_moved"] is None else f", {each['never_moved']:,} never moved"
        yield (
            f"table {name}: {each['rows']:,} x {each['dim']} {each['dtype']}, {each['rows_of_ids']:,} rows of ids, "
            f"{each['never_read']:,} never read{moved}"
        )
        yield f"  {_figures(each)}"
        yield from (f"  note: {note}" for note in each["notes"])
        for neighbour in each["neighbours"] if wanted else ():
            found = ", ".join(f"{near['id']} {near['cosine']:.3f}" for near in neighbour["nearest"])
            yield f"  near {neighbour['id']}: {found or 'none'}"


def _figures(each: Mapping[str, Any]) -> str:
    norm, share = each["norm"], each["reads_of_the_most_read_percent"]
    parts = []
    if norm["median"] is not None:
        parts.append(f"norms {norm['least']:.3g} to {norm['greatest']:.3g}, median {norm['median']:.3g}")
    parts.append(f"effective rank {each['effective_rank']:.3g} of {each['dim']}")
    if each["mean_cosine"] == each["mean_cosine"]:
        parts.append(f"mean cosine {each['mean_cosine']:.3g}")
    if share is not None:
        parts.append(f"the most read 1 % have {share:.1%} of the reads")
    return "; ".join(parts)
