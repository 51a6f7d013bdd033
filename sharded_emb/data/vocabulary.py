"""Vocabularies: raw ids in the order of their rows, and ids turned into rows."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sharded_emb.data.base import Attribute, RawLog
from sharded_emb.data.dataset import Column, VocabularyInfo
from sharded_emb.data.layouts.base import ITEM, USER, Log
from sharded_emb.vocabulary_rows import FIRST_ROW, UNKNOWN_ROW

BUILT_OVER = (
    "all events after filtering, those of valid and test included (as the published protocols do); rows by count, most "
    "frequent first, ties by raw id, ascending"
)
# up to 18 digits always fit into int64; a leading zero or sign would not come back from a number
_WHOLE_NUMBER = r"^(0|-?[1-9][0-9]{0,17})$"


def count_ids(raw: RawLog, attributes: dict[str, Attribute]) -> dict[str, pa.Table]:
    """By table: raw (string, null for missing) and count (int64), how many events have it, in no order."""
    by_user = raw.events.group_by(USER).agg(count=raw.events.count())
    by_item = raw.events.group_by(ITEM).agg(count=raw.events.count())
    counted = {"user": [by_user.select(raw=USER, count="count")], "item": [by_item.select(raw=ITEM, count="count")]}
    weighed = {"event": raw.events.mutate(count=ibis.literal(1, "int64"))}
    if raw.users is not None:
        weighed["user"] = by_user.left_join(raw.users, USER).drop(f"{USER}_right")
    if raw.items is not None:
        weighed["item"] = by_item.left_join(raw.items, ITEM).drop(f"{ITEM}_right")
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


def build(counts: pa.Table) -> pa.Table:
    """row, raw, count in the order of the rows; see BUILT_OVER. The count of row 1 is that of missing values."""
    missing = pc.is_null(counts["raw"])
    known = counts.filter(pc.invert(missing))
    raw = known["raw"].combine_chunks()
    if len(raw) and pc.all(pc.match_substring_regex(raw, _WHOLE_NUMBER)).as_py():
        raw = raw.cast(pa.int64())
    known = pa.table({"raw": raw, "count": known["count"].combine_chunks()})
    known = known.sort_by([("count", "descending"), ("raw", "ascending")])
    out_of_vocabulary = pc.sum(counts.filter(missing)["count"]).as_py() or 0
    heads = pa.table({"raw": pa.nulls(FIRST_ROW, raw.type), "count": pa.array([0, out_of_vocabulary], pa.int64())})
    table = pa.concat_tables([heads, known]).combine_chunks()
    return table.add_column(0, "row", pa.array(np.arange(len(table), dtype=np.int64)))


def describe(vocabulary: pa.Table) -> VocabularyInfo:
    """Size, type and hash of the raw ids: their type, then their values (strings: their lengths, then their bytes)."""
    raw = vocabulary["raw"].combine_chunks()[FIRST_ROW:]
    kind = "int64" if pa.types.is_int64(raw.type) else "string"
    digest = hashlib.sha256(kind.encode())
    if kind == "int64":
        digest.update(raw.to_numpy().astype("<i8").tobytes())
    else:
        digest.update(pc.binary_length(raw).to_numpy(zero_copy_only=False).astype("<i8").tobytes())
        digest.update("".join(raw.to_pylist()).encode())
    return VocabularyInfo(rows=len(vocabulary), raw=kind, sha256=digest.hexdigest())


def write(folder: Path, vocabularies: dict[str, pa.Table]) -> dict[str, VocabularyInfo]:
    """Write vocabulary/TABLE.parquet for each, and describe them."""
    (folder / "vocabulary").mkdir()
    for name, table in vocabularies.items():
        pq.write_table(table, folder / "vocabulary" / f"{name}.parquet")
    return {name: describe(table) for name, table in vocabularies.items()}


class Encoder:
    """Turns raw ids into rows by joins with the vocabularies; what has no row, a missing value too, is row 1."""

    def __init__(self, backend: Any, vocabularies: dict[str, pa.Table]) -> None:
        self._backend = backend
        self._tables: dict[str, Any] = {}
        for name, table in vocabularies.items():
            known = table.slice(FIRST_ROW)
            text = known["raw"].cast(pa.string())
            rows = ibis.memtable(pa.table({"raw": text, "vocabulary_row": known["row"]}))
            self._tables[name] = backend.create_table(f"vocabulary_{len(self._tables)}", rows)

    def encode(self, raw: RawLog, attributes: dict[str, Attribute]) -> Log:
        """The log with rows in place of raw ids."""
        ids = {n: a for n, a in attributes.items() if a.counted}
        of = {kind: {n: a.table or n for n, a in ids.items() if a.of == kind} for kind in ("event", USER, ITEM)}
        plain = {n: Column(type="float32" if a.number else "int64") for n, a in attributes.items() if n not in ids}
        events = self._rows(raw.events, {USER: USER, ITEM: ITEM, **of["event"]}, "position")
        users = None if raw.users is None else self._side(raw.users, USER, of[USER])
        items = None if raw.items is None else self._side(raw.items, ITEM, of[ITEM])
        return Log(
            events=self._backend.create_table("encoded_events", events),
            users=users,
            items=items,
            has_time=raw.has_time,
            event_columns={**_columns(events, of["event"]), **plain},
            user_columns=_columns(users, of[USER]),
            item_columns=_columns(items, of[ITEM]),
        )

    def _side(self, table: Any, key: str, columns: dict[str, str]) -> Any:
        """One row for every user or item of the vocabulary, those without attributes too."""
        known = self._tables[key]
        whole = known.select(**{key: known.raw}).left_join(table, key).drop(f"{key}_right")
        whole = self._backend.create_table(f"whole_{key}s", whole)
        return self._backend.create_table(f"encoded_{key}s", self._rows(whole, {key: key, **columns}, key))

    def _rows(self, table: Any, columns: dict[str, str], unique: str) -> Any:
        for name, vocabulary in columns.items():
            known = self._tables[vocabulary]
            if table[name].type().is_array():
                lists = self._list_rows(table.select(at=table[unique], value=table[name]), known)
                table = table.drop(name).left_join(lists, table[unique] == lists["at"]).drop("at")
                table = table.mutate(**{name: ibis.coalesce(table["value"], _empty())}).drop("value")
            else:
                table = table.left_join(known, table[name] == known["raw"]).drop("raw", name)
                row = ibis.coalesce(table["vocabulary_row"], ibis.literal(UNKNOWN_ROW, "int64"))
                table = table.mutate(**{name: row}).drop("vocabulary_row")
        return table

    def _list_rows(self, lists: Any, known: Any) -> Any:
        """at, value: lists of rows in the order of the values; empty texts are no values."""
        flat = lists.unnest("value", offset="step").filter(lambda t: t["value"] != "")
        flat = flat.left_join(known, flat["value"] == known["raw"])
        row = ibis.coalesce(flat["vocabulary_row"], ibis.literal(UNKNOWN_ROW, "int64"))
        packed = ibis.struct({"step": flat["step"], "row": row}).collect().sort()
        grouped = flat.group_by("at").agg(packed=packed)
        return grouped.select(at=grouped["at"], value=grouped.packed.map(lambda each: each["row"]))


def _empty() -> Any:
    return ibis.literal([], type="array<int64>")


def _columns(table: Any | None, vocabularies: dict[str, str]) -> dict[str, Column]:
    if table is None:
        return {}
    return {
        name: Column(type="list<int64>" if table[name].type().is_array() else "int64", vocabulary=vocabulary)
        for name, vocabulary in vocabularies.items()
    }


def attribute_table(items: Any, columns: Iterable[str], rows: int) -> pa.Table:
    """The attributes of items, row i for row i of the vocabulary; rows 0 and 1 have none (row 1, or an empty list)."""
    names = list(columns)
    known = items.order_by(ITEM).select(names).to_pyarrow()
    heads: dict[str, list[Any]] = {
        name: [[]] * FIRST_ROW if pa.types.is_list(known.schema.field(name).type) else [UNKNOWN_ROW] * 2
        for name in names
    }
    head_table = pa.table({name: pa.array(heads[name], known.schema.field(name).type) for name in names})
    table = pa.concat_tables([head_table, known]).combine_chunks()
    assert len(table) == rows, "every item of the vocabulary has its row"
    return table
