"""`explore`: what a run has made of its tables."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharded_emb.config.reading import item_attributes, make_reading
from sharded_emb.config.run import ExploreConfig
from sharded_emb.config.run_rules import EXPLORE, there
from sharded_emb.config.same_rows import Trained, shown
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
from sharded_emb.exploring.explore import Asked, write_exploration
from sharded_emb.exploring.names import Names, Owners
from sharded_emb.exploring.notes import Look
from sharded_emb.exploring.reads import count_reads
from sharded_emb.exploring.vectors import Beginning, TableVectors
from sharded_emb.ids.quotient_remainder import QuotientRemainder
from sharded_emb.ids.rows import Rows
from sharded_emb.losses.base import NOTHING_SEEN
from sharded_emb.replacing import replacing_folder
from sharded_emb.tables import Table, held
from sharded_emb.training.checkpoint_entries import TABLES
from sharded_emb.training.checkpoint_files import damage
from sharded_emb.training.checkpoint_rows import SavedRows, saved_tables


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
    facts = {
        "run": str(config.run),
        "checkpoint": run.checkpoint.name,
        "step": run.state["step"],
        "epochs": _epochs(run),
        "data": str(config.data),
        "map": config.map,
    }
    looks = _looks(config, run)
    # before there is anything to take away again
    rows = {look.names.table: look.names.rows_of(config.ids) for look in looks} if config.ids else {}
    asked = Asked(rows, config.top_k, config.map, config.points, run.state["config"]["seed"])
    with replacing_folder(out, key="out") as aside:
        if wrong := there(EXPLORE, out, overwrite=True):  # since when this was asked first
            raise InputError(wrong)
        said = write_exploration(aside, looks, asked, facts)
    for line in _told(said, wanted=bool(config.ids)):
        print(line)
    print(f"explored {run.checkpoint.name} of {config.run}: {out / PAGE}")
    return said


def _epochs(run: SavedRun) -> int:
    """How many the run had made."""
    epochs: int = run.state["run"]["progress"]["epoch"]
    return epochs


def _looks(config: ExploreConfig, run: SavedRun) -> list[Look]:
    tables = [table for table in run.tables if config.table in (None, table.name)]
    vocabularies = vocabulary_by_table(config.features, run.dataset)
    of_items = {table.name for table in tables if _rows_are_items(table, vocabularies)}
    given = [key for key in ("colour", "caption") if getattr(config, key) is not None]
    if given and not of_items:
        got = ", ".join(table.name for table in tables)
        raise InputError(*(f"{key}: want a table whose rows are items, got {got}; leave it out" for key in given))
    owners = {table.name: Owners.of(table, run.checkpoint) for table in run.tables if table.ids.assigned}
    reading = make_reading(config, run.tables, NOTHING_SEEN)
    reading = replace(reading, of_items=item_attributes(run.tables, run.dataset))
    train = FlatCopy(run.dataset, config.flat_copy).split("train")
    reads = count_reads(train, reading, owners, {table.name for table in tables})
    streamed, others = config.stream.folder is not None, Trained.on(run.checkpoint, run.dataset).other
    looks = []
    for table in tables:
        beginning, notes = _beginning(run, table)
        if streamed:
            notes += (f"reads are of the train split; the run trained on the stream {config.stream.folder}",)
        elif others:
            notes += (
                f"reads are of the train split of {config.data}; the run trained on other rows ({shown(others)})",
            )
        vocabulary, captioned = vocabularies.get(table.name), table.name in of_items
        names = Names.of(table, run.dataset, vocabulary, owners.get(table.name))
        looks.append(
            Look(
                vectors=TableVectors(table, run.checkpoint, beginning),
                names=replace(names, captions=_attribute(run, config.caption if captioned else None)),
                vocabulary=vocabulary,
                reads_R=reads[table.name],
                trained_on=_epochs(run) > 0 and not streamed and not others,
                notes=notes,
                colours=_attribute(run, config.colour if captioned else None),
            )
        )
    return looks


def _rows_are_items(table: Table, vocabularies: Mapping[str, str]) -> bool:
    return vocabularies.get(table.name) == ITEM and isinstance(table.ids, Rows | QuotientRemainder)


def _attribute(run: SavedRun, name: str | None) -> Attribute | None:
    return None if name is None else Attribute.of(run.dataset, name)


def _beginning(run: SavedRun, table: Table) -> tuple[Beginning | None, tuple[str, ...]]:
    """What a table began with, None where that is not known or does not matter, and what there is to say of it."""
    seed: int = run.state["config"]["seed"]
    began: Mapping[str, Any] = run.state["run"]["warm_start"]
    if table.freeze:
        return None, ()
    if began and table.name not in began.get("missing", ()):
        return _beginning_of_run(Path(began["checkpoint"]), table, seed)
    if table.weights is None:
        return Beginning(seed), ()
    try:
        checkpoint = checkpoints_of_runs([table])[table.name]
        weights = open_weights(table, run.dataset, checkpoint)
    except InputError as error:
        return None, (f"how far rows moved is not known: its weights are not there any more ({error.problems[0]})",)
    return Beginning(seed, weights=weights), (f"moved is the distance to {table.weights.path} as it is now",)


def _beginning_of_run(checkpoint: Path, table: Table, seed: int) -> tuple[Beginning | None, tuple[str, ...]]:
    """Of a table that began with the checkpoint of another run, if that is still there."""
    unknown = f"how far rows moved is not known: the run began with {checkpoint}, which is not there any more"
    names = [each.name for each in held([table])]
    if not checkpoint.is_dir() or any(damage(checkpoint, entry=f"{TABLES}.{name}.weight") for name in names):
        return None, (unknown,)
    if table.parts or table.name not in saved_tables(checkpoint):
        return None, (f"how far rows moved is not known: the run began with {checkpoint}",)
    return Beginning(seed, run=SavedRows(checkpoint, table.name)), ()


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
            yield f"  near {neighbour['id']}: {found or 'nobody, as a vector without a direction is'}"


def _figures(each: Mapping[str, Any]) -> str:
    norm, share = each["norm"], each["reads_of_the_most_read_percent"]
    parts = []
    if norm["median"] is not None:
        parts.append(f"norms {norm['least']:.3g} to {norm['greatest']:.3g}, median {norm['median']:.3g}")
    parts.append(f"effective rank {each['effective_rank']:.3g} of {each['dim']}")
    if each["mean_cosine"] is not None:
        parts.append(f"mean cosine {each['mean_cosine']:.3g}")
    if share is not None:
        parts.append(f"the most read 1 % have {share:.1%} of the reads")
    return "; ".join(parts)
