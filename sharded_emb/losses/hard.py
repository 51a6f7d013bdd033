"""Hard negatives: items from a file that are to be told apart from the one that followed.

S  predicted events    T  all events    B  rows    L  events of the longest row    H  negatives of an event
"""

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from pydantic import PositiveInt

from sharded_emb.component import Frozen, GivenPath
from sharded_emb.data.columns import Int64s
from sharded_emb.data.task import Events
from sharded_emb.errors import InputError, nearest
from sharded_emb.initializers import hashed_uniform, stream_key
from sharded_emb.vocabulary_rows import FIRST_ROW, PADDING_ROW


class HardConfig(Frozen):
    """The key `loss.hard`. path: a Parquet file of raw ids: by item a list of negatives, such as the items that an
    earlier model takes for it. per_event: of the list of the item that followed, as many neighbours, from a place on
    that is drawn by seed, step and sample; all of a list that is shorter.
    """

    path: GivenPath
    per_event: PositiveInt = 8
    item_column: str = "item"
    negatives_column: str = "negatives"


@dataclass(frozen=True)
class HardNegatives:
    """offsets_N, values: of row i of the item table values[offsets_N[i] : offsets_N[i + 1]], rows too. unknown: ids of
    the file that the vocabulary has not, and that are left out. own: items among their own negatives, left out too.
    """

    offsets_N: Int64s
    values: Int64s
    unknown: int
    own: int
    per_event: int

    @property
    def digest(self) -> str:
        """Of the lists, in hexadecimal."""
        found = blake2b(self.offsets_N.tobytes(), digest_size=16)
        found.update(self.values.tobytes())
        return found.hexdigest()

    @property
    def told(self) -> str:
        """For people."""
        lengths = np.diff(self.offsets_N)
        text = f"{np.count_nonzero(lengths):,} of {len(lengths) - FIRST_ROW:,} items have hard negatives"
        text += f", {lengths.mean(where=lengths > 0) if lengths.any() else 0:.3g} each"
        return f"{text}; left out: {self.unknown:,} unknown ids, {self.own:,} of an item for itself"

    def of(self, events: Events, seed: int, step: int) -> Int64s:
        """H for each predicted event (S * H), in their order; the padding row where its list is too short."""
        longest = int(events.lengths_B.max(initial=0))
        drawn_BL = hashed_uniform(
            stream_key(seed, f"hard.{step}"), torch.from_numpy(events.samples_B), torch.arange(longest)
        ).numpy()
        drawn_S = drawn_BL[np.arange(longest) < events.lengths_B[:, None]][events.predicted_T]
        # an id that is no row is found by nobody here: it has its own error, or stands for what is unknown
        rows = len(self.offsets_N) - 1
        ids_S = events.ids_T[events.predicted_T]
        ids_S = np.where((ids_S >= 0) & (ids_S < rows), ids_S, PADDING_ROW)
        starts_S, lengths_S = self.offsets_N[ids_S], np.diff(self.offsets_N)[ids_S]
        place_H = np.arange(self.per_event)
        first_S = (drawn_S.astype(np.float64) * lengths_S).astype(np.int64)
        at_SH = (first_S[:, None] + place_H) % np.maximum(lengths_S, 1)[:, None] + starts_S[:, None]
        there_SH = place_H < lengths_S[:, None]
        found_SH = np.full(there_SH.shape, PADDING_ROW, np.int64)
        found_SH[there_SH] = self.values[at_SH[there_SH]]
        return found_SH.ravel()


def check(config: HardConfig, known: pa.DataType) -> list[str]:
    """The problems of a file, as far as they show without reading it whole. known: the type of raw ids."""
    path = config.path.expanduser()
    if not path.is_file():
        return [f"loss.hard.path: want a file, got {config.path}, which does not exist; check the path"]
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        return [_not_whole(config, error)]
    found = []
    for key, name in (("item_column", config.item_column), ("negatives_column", config.negatives_column)):
        if name not in schema.names:
            hint = nearest(name, schema.names)
            found.append(f"loss.hard.{key}: want a column of {path.name}, got {name!r}{hint}")
            continue
        kind = schema.field(name).type
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        ids = kind.value_type if lists else kind
        if (
            lists != (key == "negatives_column")
            or _integer(ids) != _integer(known)
            or not (_integer(ids) or _text(ids))
        ):
            want = f"lists of {known}" if key == "negatives_column" else f"{known}"
            found.append(f"loss.hard.{key}: want {want}, as the ids of the vocabulary are, got {kind}")
    return found


def _integer(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind))


def _text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _not_whole(config: HardConfig, error: Exception) -> str:
    got = (str(error).splitlines() or [type(error).__name__])[0]
    return f"loss.hard.path: want a whole Parquet file, got {config.path}: {got}; mend it"


def read(config: HardConfig, raw_ids: pa.Array) -> HardNegatives:
    """The negatives of a file as rows of the item table. raw_ids: by row, of its vocabulary. Raises InputError."""
    known = raw_ids[FIRST_ROW:]
    if wrong := check(config, known.type):
        raise InputError(*wrong)
    try:
        columns = [config.item_column, config.negatives_column]
        table = pq.read_table(config.path.expanduser(), columns=columns).combine_chunks()
        items = table[config.item_column].cast(known.type).combine_chunks()
        lists = table[config.negatives_column].cast(pa.large_list(known.type)).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise InputError(_not_whole(config, error)) from error
    if items.null_count or lists.null_count or lists.flatten().null_count:
        raise InputError(f"loss.hard.path: want no nulls, got some in {config.path}; leave these rows out")
    if len(pc.unique(items)) != len(items):
        raise InputError(
            f"loss.hard.item_column: want each item once, got some twice in {config.path}; join their lists"
        )
    row_of_line, rows = _rows(items, known), _rows(lists.flatten(), known)
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    of = np.repeat(row_of_line, lengths)
    unknown = int(np.count_nonzero(row_of_line < 0)) + int(np.count_nonzero(rows < 0))
    kept = (of >= 0) & (rows >= 0) & (of != rows)
    order = np.argsort(of[kept], kind="stable")
    counts_N = np.bincount(of[kept], minlength=len(raw_ids))
    offsets_N = np.concatenate([[0], np.cumsum(counts_N)]).astype(np.int64)
    return HardNegatives(offsets_N, rows[kept][order], unknown, int(((of >= 0) & (of == rows)).sum()), config.per_event)


def _rows(ids: pa.Array, known: pa.Array) -> Int64s:
    """Of raw ids; below 0 for those that are not known."""
    found = pc.fill_null(pc.index_in(ids, known), -1 - FIRST_ROW).to_numpy(zero_copy_only=False)
    return np.asarray(found.astype(np.int64) + FIRST_ROW)
