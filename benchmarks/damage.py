"""Good logs, and ways to damage them: what `fuzz_prepare` tries, one case a number."""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Draw = np.random.Generator
Row = dict[str, Any]


@dataclass
class Case:
    """One input. rows: (user, item) -> second of the rows that were written whole. damaged: pairs whose values may be
    anything. config: keys of the event log. anything: the file was damaged as a whole, and any row may have been hit.
    """

    number: int
    raw: Path
    kinds: tuple[str, ...]
    rows: dict[tuple[str, str], int]
    damaged: set[tuple[str, str]] = field(default_factory=set)
    config: dict[str, Any] = field(default_factory=dict)
    max_bad_rows: int = 0
    anything: bool = False


def make_case(number: int, folder: Path) -> Case:
    """The case of a number, written into the folder."""
    draw = np.random.default_rng([7, number])
    kind = str(draw.choice(["csv", "csv.gz", "tsv", "jsonl", "jsonl.gz", "parquet"]))
    rows = _good_rows(draw)
    chosen = [str(name) for name in draw.choice([*ROW_DAMAGE], size=draw.integers(0, 3), replace=False)]
    damaged: set[tuple[str, str]] = set()
    for name in chosen:
        for row in draw.choice(
            np.array(rows, dtype=object), size=min(len(rows), int(draw.integers(1, 4))), replace=False
        ):
            damaged.add((str(row["user"]), str(row["item"])))
            ROW_DAMAGE[name](row, draw)
            damaged.add((str(row["user"]), str(row["item"])))
    good = {
        (str(row["user"]), str(row["item"])): int(row["time"])
        for row in rows
        if (str(row["user"]), str(row["item"])) not in damaged
    }
    data = WRITERS[kind.partition(".")[0]](rows, draw)
    on_bytes = BYTE_DAMAGE if len(chosen) < 1 or draw.random() < 0.4 else {}
    if on_bytes:
        name = str(draw.choice([*on_bytes]))
        data = on_bytes[name](data, draw)
        chosen.append(name)
    if kind.endswith(".gz"):
        data = gzip.compress(data, mtime=0)
        if draw.random() < 0.1:
            data, chosen = data[: int(draw.integers(0, len(data)))], [*chosen, "gzip cut off"]
    raw = folder / f"log.{kind}"
    raw.write_bytes(data)
    most = int(draw.choice([0, 5, 10_000]))
    anything = any(name not in ROW_DAMAGE for name in chosen)
    return Case(number, raw, tuple(chosen) or ("none",), good, damaged, max_bad_rows=most, anything=anything)


def _good_rows(draw: Draw) -> list[Row]:
    """Users in no order, each row with an item of its own, times unsorted."""
    count = int(draw.integers(1, 40))
    users = draw.integers(1, 6, count)
    return [
        {"user": f"u{user}", "item": f"i{i}", "time": int(draw.integers(0, 10**9)), "rating": int(draw.integers(1, 6))}
        for i, user in enumerate(users)
    ]


def _set(key: str, *values: Any) -> Callable[[Row, Draw], None]:
    def change(row: Row, draw: Draw) -> None:
        row[key] = values[int(draw.integers(0, len(values)))]

    return change


# what one row can have
ROW_DAMAGE: dict[str, Callable[[Row, Draw], None]] = {
    "time missing": _set("time", None, ""),
    "time that is none": _set("time", "soon", "12:61", "1e", "0x10", "١٢", "2020-13-01", "true", "[1]"),
    "time not a number": _set("time", float("nan"), float("inf"), float("-inf"), "NaN", "-Infinity"),
    "time huge": _set("time", 2**63, -(2**63) - 1, 10**30, 1e300, "9" * 400),
    "time negative": _set("time", -1, -(10**9), "-0"),
    "time a fraction": _set("time", 1.5, "1e3", ".5", "1.000000001"),
    "time a date": _set("time", "2020-01-01", "2020-01-01T00:00:00Z", "2020-01-01 00:00:00+05"),
    "user missing": _set("user", None, ""),
    "item missing": _set("item", None, ""),
    "id huge": _set("user", 2**31, 2**63 - 1, 2**64, 10**40, "9" * 300),
    "id negative": _set("item", -1, -(2**63), "-007"),
    "id a fraction": _set("item", 1.5, 1e300, float("nan")),
    "id odd text": _set(
        "item", " ", "a b", 'q"q', "it's", "x,y", "a\tb", "#", "\\", "NULL", "nan", "ü", "漢字", "🙂", "\u202e"
    ),
    "id with a line break": _set("user", "a\nb", "a\r\nb", "\n"),
    "id a null byte": _set("user", "a\x00b", "\x00"),
    "id long": _set("user", "x" * 100_000),
    "id nested": _set("item", [1, 2], {"a": 1}, [], True),
}


def _lines(rows: list[Row], separator: str) -> bytes:
    def cell(value: Any) -> str:
        text = "" if value is None else str(value)
        return f'"{text.replace(chr(34), chr(34) * 2)}"' if any(c in text for c in f'{separator}"\n\r') else text

    names = ["user", "item", "time", "rating"]
    body = [separator.join(cell(row[name]) for name in names) for row in rows]
    return ("\n".join([separator.join(names), *body]) + "\n").encode("utf-8", "surrogatepass")


def _json_lines(rows: list[Row], _: Draw) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "surrogatepass")


def _parquet(rows: list[Row], draw: Draw) -> bytes:
    """As typed as the values allow: numbers where all are, else text."""
    columns = {}
    for name in ("user", "item", "time", "rating"):
        values = [row[name] for row in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowException, OverflowError, TypeError):
            columns[name] = pa.array([None if value is None else str(value) for value in values])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, row_group_size=int(draw.integers(1, 50)))
    return sink.getvalue().to_pybytes()


WRITERS: dict[str, Callable[[list[Row], Draw], bytes]] = {
    "csv": lambda rows, _: _lines(rows, ","),
    "tsv": lambda rows, _: _lines(rows, "\t"),
    "jsonl": _json_lines,
    "parquet": _parquet,
}


def _cut(data: bytes, draw: Draw) -> bytes:
    return data[: int(draw.integers(0, max(1, len(data))))]


def _flip(data: bytes, draw: Draw) -> bytes:
    changed = bytearray(data)
    for at in draw.integers(0, len(data), int(draw.integers(1, 6))) if data else []:
        changed[at] = int(draw.integers(0, 256))
    return bytes(changed)


def _insert(*texts: bytes) -> Callable[[bytes, Draw], bytes]:
    def change(data: bytes, draw: Draw) -> bytes:
        at = int(draw.integers(0, len(data) + 1))
        return data[:at] + texts[int(draw.integers(0, len(texts)))] + data[at:]

    return change


def _swap_lines(data: bytes, draw: Draw) -> bytes:
    lines = data.splitlines(keepends=True)
    draw.shuffle(lines)
    return b"".join(lines)


# what a whole file can have
BYTE_DAMAGE: dict[str, Callable[[bytes, Draw], bytes]] = {
    "cut off": _cut,
    "bytes changed": _flip,
    "empty file": lambda data, draw: b"" if draw.random() < 0.5 else data.splitlines(keepends=True)[0],
    "wrong encoding": lambda data, draw: data.decode("utf-8", "replace").encode(
        str(draw.choice(["utf-16", "utf-16-le", "utf-32", "cp037"])), "replace"
    ),
    "latin-1 letters": _insert(b"\xe9", b"\xff\xfe", b"\xc3\x28", b"\x80"),
    "quotes": _insert(b'"', b'""', b'\n"', b'",'),
    "separators": _insert(b",", b"\t", b",,,,", b"\n,,,\n"),
    "line breaks": _insert(b"\n", b"\r", b"\r\n\r\n", b"\n" * 50),
    "brackets": _insert(b"{", b"}", b"[[", b"\n[]\n", b"\nnull\n", b'\n"x"\n', b"\n" + b"[" * 2000 + b"\n"),
    "null bytes": _insert(b"\x00", b"\x00" * 100),
    "byte order mark": lambda data, _: b"\xef\xbb\xbf" + data,
    "lines in another order": _swap_lines,
    "twice the same": lambda data, _: data + data,
    "another format": lambda _, draw: bytes(draw.choice([b"PAR1", b"\x1f\x8b", b"%PDF-1.4", b"{}", b"<html>"])),
}
