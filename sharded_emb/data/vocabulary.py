"""Vocabularies: raw ids in the order of their rows, and ids turned into rows."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sharded_emb.data.base import Attribute, LogConfig, RawLog, VocabularyRule
from sharded_emb.data.dataset import Column, VocabularyInfo
from sharded_emb.data.layouts.base import FIRST, ITEM, PIECE, POSITION, USER, Log
from sharded_emb.data.layouts.splitting import drawn
from sharded_emb.data.values import exact, mean_of
from sharded_emb.data.vocabulary_hash import hash_of, kind_of
from sharded_emb.data.work import Work
from sharded_emb.vocabulary_rows import FIRST_ROW, UNKNOWN_ROW

BUILT_OVER = (
    "all events after filtering, those of valid and test included (as the published protocols do); rows by count, most "
    "frequent first, ties by raw id, ascending"
)
EVENTS_PER_PIECE, VALUES_PER_PIECE = 1_000_000, 16_000_000  # whichever is less, since a piece is read into memory
_ID, _ROW = "#id", "#row"  # names that no attribute has
# up to 18 digits always fit into int64; a leading zero or sign would not come back from a number
_WHOLE_NUMBER = r"^(0|-?[1-9][0-9]{0,17})$"


def count_ids(raw: RawLog, attributes: dict[str, Attribute]) -> dict[str, pa.Table]:
    """By table: raw (string, null for missing) and count (int64), how many events have it, in no order."""
    weighed = {"event": raw.events.mutate(count=ibis.literal(1, "int64"))}
    counted = {}
    for of, side in ((USER, raw.users), (ITEM, raw.items)):
        if of in raw.events.columns:
            found = raw.events.group_by(of).agg(count=raw.events.count())
            counted[of] = [found.select(raw=of, count="count")]
            if side is not None:
                weighed[of] = found.left_join(side, of).drop(f"{of}_right")
    for name, attribute in attributes.items():
        if not attribute.counted:
            continue
        table = weighed[attribute.of]
        values = table.select(raw=table[name], count=table["count"])
        if values.raw.type().is_array():
            values = values.unnest("raw").filter(lambda t: t.raw != "")
        counted.setdefault(attribute.table or name, []).append(values)
    return {table: _sum_counts(parts) for table, parts in counted.items()}


def _sum_counts(parts: list[Any]) -> pa.Table:
    every = parts[0] if len(parts) == 1 else ibis.union(*parts)
    return every.group_by("raw").agg(count=every["count"].sum().cast("int64")).to_pyarrow()


def build(counts: pa.Table, rule: VocabularyRule | None = None, old: pa.Array | None = None) -> pa.Table:
    """row, raw, count in the order of the rows; see BUILT_OVER. The count of row 1 is that of all without a row.

    rule: which ids get a row. old: raw ids that keep the rows that they have; new ones stand behind them.
    """
    rule = rule or VocabularyRule()
    missing = pc.is_null(counts["raw"])
    known = counts.filter(pc.invert(missing))
    raw, count = known["raw"].combine_chunks(), known["count"].combine_chunks()
    whole = bool(len(raw)) and pc.all(pc.match_substring_regex(raw, _WHOLE_NUMBER)).as_py()
    if old is not None and len(old):
        whole = pa.types.is_int64(old.type) and (whole or not len(raw))
        old = old if whole else old.cast(pa.string())
    if whole:
        raw = raw.cast(pa.int64())
    new = pa.table({"raw": raw, "count": count})
    if old is not None and len(old):
        at = pc.index_in(raw, old)
        kept = pa.table({"raw": raw.filter(pc.is_valid(at)), "count": count.filter(pc.is_valid(at))})
        old_count = pc.fill_null(kept["count"].combine_chunks().take(pc.index_in(old, kept["raw"].combine_chunks())), 0)
        new = new.filter(pc.is_null(at))
    else:
        old, old_count = raw.slice(0, 0), count.slice(0, 0)
    new = new.sort_by([("count", "descending"), ("raw", "ascending")])
    frequent = new.filter(pc.greater_equal(new["count"], rule.min_count))
    if rule.max_rows is not None:
        frequent = frequent.slice(0, max(0, rule.max_rows - len(old)))
    kept_events = (pc.sum(frequent["count"]).as_py() or 0) + (pc.sum(old_count).as_py() or 0)
    unknown = (pc.sum(counts["count"]).as_py() or 0) - kept_events
    heads = pa.table({"raw": pa.nulls(FIRST_ROW, raw.type), "count": pa.array([0, unknown], pa.int64())})
    before = pa.table({"raw": old.cast(raw.type), "count": old_count})
    table = pa.concat_tables([heads, before, frequent.select(["raw", "count"])]).combine_chunks()
    return table.add_column(0, "row", pa.array(np.arange(len(table), dtype=np.int64)))


def describe(vocabulary: pa.Table) -> VocabularyInfo:
    """Size, type and hash of the raw ids."""
    raw = vocabulary["raw"].combine_chunks()[FIRST_ROW:]
    return VocabularyInfo(rows=len(vocabulary), raw=kind_of(raw), sha256=hash_of(raw))


def write(folder: Path, vocabularies: dict[str, pa.Table]) -> dict[str, VocabularyInfo]:
    """Write vocabulary/TABLE.parquet for each, and describe them."""
    (folder / "vocabulary").mkdir()
    for name, table in vocabularies.items():
        pq.write_table(table, folder / "vocabulary" / f"{name}.parquet")
    return {name: describe(table) for name, table in vocabularies.items()}


class Encoder:
    """Turns raw ids into rows by joins with the vocabularies; what has no row, a missing value too, is row 1."""

    def __init__(self, work: Work, vocabularies: dict[str, pa.Table]) -> None:
        self._work = work
        self._backend = work.backend
        self._tables: dict[str, Any] = {}
        for name, table in vocabularies.items():
            known = table.slice(FIRST_ROW)
            # the rank of a raw id among all, numbers as numbers: what orders ties by item
            rank = np.empty(len(known), np.int64)
            rank[pc.sort_indices(known["raw"]).to_numpy()] = np.arange(len(known))
            columns = {"raw": known["raw"].cast(pa.string()), "vocabulary_row": known["row"]}
            if name == ITEM:
                columns["rank"] = pa.array(rank)
            self._tables[name] = self._backend.create_table(
                f"vocabulary_{len(self._tables)}", ibis.memtable(pa.table(columns))
            )

    def encode(self, raw: RawLog, config: LogConfig) -> Log:
        """The log with rows in place of raw ids, cut into pieces; the raw events are dropped."""
        attributes = config.all_attributes()
        ids = {n: a for n, a in attributes.items() if a.counted}
        of = {kind: {n: a.table or n for n, a in ids.items() if a.of == kind} for kind in ("event", USER, ITEM)}
        plain = {n: Column(type="float32" if a.number else "int64") for n, a in attributes.items() if n not in ids}
        plain_of = {kind: {n: c for n, c in plain.items() if attributes[n].of == kind} for kind in of}
        tie = self._tie(raw.events, config.ties if raw.has_time else "file")
        events = raw.events.mutate(tie=tie) if config.ties != "item" or not raw.has_time else self._by_item(raw.events)
        events, pieces = self._in_pieces(events)
        items_of_events = {ITEM: ITEM} if ITEM in events.columns else {}
        events = self._rows(events, {**items_of_events, **of["event"]}, POSITION)
        if pieces > 1:
            events = events.order_by(PIECE)  # so that reading one piece skips the others
        with self._work.progress.step("turning ids into rows"):
            encoded = self._backend.create_table("encoded_events", events)
        self._work.drop(*raw.tables, "firsts")
        users = None if raw.users is None else self._side(raw.users, USER, of[USER], plain_of[USER])
        items = None if raw.items is None else self._side(raw.items, ITEM, of[ITEM], plain_of[ITEM])
        return Log(
            events=encoded,
            users=users,
            items=items,
            has_time=raw.has_time,
            pieces=pieces,
            ties=config.ties,
            seed=self._work.seed,
            event_columns={**_columns(events, of["event"]), **plain_of["event"]},
            user_columns={**_columns(users, of[USER]), **plain_of[USER]},
            item_columns={**_columns(items, of[ITEM]), **plain_of[ITEM]},
        )

    def _in_pieces(self, events: Any) -> tuple[Any, int]:
        """The events with `first` and `piece`, and with rows in place of the ids of users; and how many pieces are."""
        if USER not in events.columns:
            # each by itself: what stands together is read together
            size, last = _events_per_piece(events), events[POSITION].max().to_pyarrow().as_py() or 0
            piece = (events[POSITION] // size).cast("int32")
            return events.mutate(**{FIRST: events[POSITION], PIECE: piece}), last // size + 1
        firsts, pieces = make_pieces(events, self._work)
        # the row of each user is found once, and comes with the rest that there is of the user
        users = self._rows(firsts.mutate(**{_ID: firsts[USER]}), {USER: USER}, FIRST)
        users = users.select(FIRST, PIECE, _ID, **{_ROW: users[USER]})
        events = events.join(users, events[USER] == users[_ID])
        return events.mutate(**{USER: events[_ROW]}).drop(_ID, _ROW), pieces

    def _tie(self, events: Any, rule: str) -> Any:
        """What orders events of the same user and time, before their position does."""
        position = events[POSITION]
        if rule == "reversed":
            return -position
        if rule == "random":
            return drawn(position, self._work.seed)
        return ibis.literal(0, "int8")

    def _by_item(self, events: Any) -> Any:
        ranks = self._tables[ITEM].select(known="raw", tie="rank")
        ranked = events.left_join(ranks, events[ITEM] == ranks.known).drop("known")
        return ranked.mutate(tie=ibis.coalesce(ranked.tie, ibis.literal(-1, "int64")))

    def _side(self, table: Any, key: str, columns: dict[str, str], plain: dict[str, Column]) -> Any:
        """One row for every user or item of the vocabulary, those without attributes too, and for what is unknown."""
        known = self._tables[key].select(key_of="raw")
        unknown = ibis.memtable(pa.table({"key_of": pa.nulls(1, pa.string())}))
        known = ibis.union(known, self._backend.create_table(f"unknown_{key}", unknown))
        whole = known.left_join(table, known.key_of == table[key]).drop(key)
        whole = self._backend.create_table(f"whole_{key}s", whole.rename({key: "key_of"}))
        fits = self._work.fits
        missing = {name: fits.missing(name, partial(mean_of, whole, whole[name])) for name in plain}
        filled = {name: ibis.coalesce(whole[name], exact(value)) for name, value in missing.items()}
        whole = whole.mutate(**filled) if filled else whole
        return self._backend.create_table(f"encoded_{key}s", self._rows(whole, {key: key, **columns}, key))

    def _rows(self, table: Any, columns: dict[str, str], unique: str) -> Any:
        """The table with rows in place of the ids of some columns. unique: a column that has each value once."""
        # side by side: a query within a query for each of forty columns would be deeper than Python recurses
        joined, missing = table, {}
        for number, (name, vocabulary) in enumerate(columns.items()):
            known, (key, row) = self._tables[vocabulary], (f"#key_{number}", f"#row_{number}")
            if table[name].type().is_array():
                lists = self._list_rows(table.select(at=table[unique], value=table[name]), known)
                joined = joined.left_join(lists.select(**{key: "at", row: "value"}), [(unique, key)])
                missing[name] = row, ibis.literal([], type="array<int64>")
            else:
                joined = joined.left_join(known.select(**{key: "raw", row: "vocabulary_row"}), [(name, key)])
                missing[name] = row, ibis.literal(UNKNOWN_ROW, "int64")
        found = {name: ibis.coalesce(joined[row], value) for name, (row, value) in missing.items()}
        return joined.select(**{name: found.get(name, joined[name]) for name in table.columns})

    def _list_rows(self, lists: Any, known: Any) -> Any:
        """at, value: lists of rows in the order of the values; empty texts are no values."""
        flat = lists.unnest("value", offset="step").filter(lambda t: t["value"] != "")
        flat = flat.left_join(known, flat["value"] == known["raw"])
        row = ibis.coalesce(flat["vocabulary_row"], ibis.literal(UNKNOWN_ROW, "int64"))
        packed = ibis.struct({"step": flat["step"], "row": row}).collect().sort()
        grouped = flat.group_by("at").agg(packed=packed)
        return grouped.select(at=grouped["at"], value=grouped.packed.map(lambda each: each["row"]))


def _columns(table: Any | None, vocabularies: dict[str, str]) -> dict[str, Column]:
    if table is None:
        return {}
    return {
        name: Column(type="list<int64>" if table[name].type().is_array() else "int64", vocabulary=vocabulary)
        for name, vocabulary in vocabularies.items()
    }


def attribute_table(items: Any, columns: Iterable[str], rows: int) -> pa.Table:
    """The attributes of items, row i for row i of the vocabulary; rows 0 and 1 have none (row 1, an empty list, 0)."""
    names = list(columns)
    known = items.order_by(ITEM).select(names).to_pyarrow()
    padding = {}
    for name in names:
        kind = known.schema.field(name).type
        value: Any = [] if pa.types.is_list(kind) else 0.0 if pa.types.is_floating(kind) else UNKNOWN_ROW
        padding[name] = pa.array([value], kind)
    table = pa.concat_tables([pa.table(padding), known]).combine_chunks()
    assert len(table) == rows, "every item of the vocabulary has its row"
    return table


def make_pieces(events: Any, work: Work) -> tuple[Any, int]:
    """user, `first` (the position of the user's first event) and `piece`, as a table; and how many pieces there are."""
    users = events.group_by(USER).agg(first=events[POSITION].min(), events=events.count())
    with work.progress.step("finding each user's first event"):
        found: pa.Table = users.to_pyarrow().sort_by("first")
    before = np.cumsum(found["events"].to_numpy()) - found["events"].to_numpy()
    piece = before // _events_per_piece(events)
    piece = np.unique(piece, return_inverse=True)[1].astype(np.int64)
    firsts = pa.table({USER: found[USER], FIRST: found["first"], PIECE: pa.array(piece, pa.int32())})
    return work.backend.create_table("firsts", ibis.memtable(firsts)), int(piece.max(initial=0)) + 1


def _events_per_piece(events: Any) -> int:
    return min(EVENTS_PER_PIECE, max(1, VALUES_PER_PIECE // len(events.columns)))
