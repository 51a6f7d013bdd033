"""An exported run.

B  rows    N  rows of the item table    D  dim    K  items of a list
"""

import importlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .counts import Counts, More
from .inputs import ROWS_BEHIND, Bags, Columns, Inputs
from .table import Table
from .vocabulary import FIRST, Vocabulary, bytes_of, of_64_bits

FORMAT = 1  # of export.json
IDS_AT_ONCE = 1 << 16
Listed = list[tuple[int | str, float]]


class Exported:
    """Reads a folder that `export` has written. Another export may take its place meanwhile, and processes be forked.
    columns: that the model reads, by name the vocabulary of their ids, None for numbers and for ids without one.

    Raises ValueError for a folder of another format, one with a file of another size, and one that was replaced while
    it was opened.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        text = self._manifest()
        self.said: dict[str, Any] = json.loads(text)
        if self.said["format"] != FORMAT:
            raise ValueError(f"{self.folder}: want format {FORMAT}, got {self.said['format']}; export again")
        try:
            self._open()
        except (OSError, ValueError):
            if self._manifest(missing="") == text:
                raise
        if self._manifest(missing="") != text:
            raise ValueError(f"{self.folder}: want an export that stays while it is opened, got another; open it again")

    def _manifest(self, missing: str | None = None) -> str:
        file = self.folder / "export.json"
        return missing if missing is not None and not file.exists() else file.read_text(encoding="utf-8")

    def _open(self) -> None:
        """Maps all files, so that they stay those that are there now."""
        said = self.said
        self.vocabularies = {name: Vocabulary(self.folder, name, each) for name, each in said["vocabularies"].items()}
        self.tables = {name: Table(self.folder / "tables" / name, each) for name, each in said["tables"].items()}
        self.inputs = Inputs(self.folder, said, self.vocabularies, self.tables)
        self._graph_bytes = bytes_of(self.folder / "model.pt2")
        self._items, self._counts, self._index_bytes = None, None, None
        if said["task"] == "next_item":
            self._items = Table(self.folder / "items" / "compared", said["items"])
            if said["counts"] is not None:
                self._counts = Counts(self.folder / "items" / "counts", said["counts"], self._items.size)
            if said["items"]["index"] is not None:
                self._index_bytes = bytes_of(self.folder / "items" / "index.faiss")

    @property
    def columns(self) -> dict[str, str | None]:
        """See the class."""
        return dict(self.inputs.columns)

    def vectors(self, table: str, raw_ids: Sequence[Any]) -> Tensor:
        """The vectors (N, D) of a table, by raw id; that of what is unknown for ids that its vocabulary has not. Raises
        ValueError for an id that a table of fewer rows has none for.
        """
        of, rows_N = self._table(table), self._rows(table, raw_ids)
        if len(wrong := ((rows_N < 0) | (rows_N >= of.size)).nonzero()):
            raw = raw_ids[int(wrong[0])]
            raise ValueError(f"{table}: want an id with one of the {of.size} rows, got {raw!r}, which has none")
        return of.vectors(rows_N)

    def known(self, table: str, raw_ids: Sequence[Any]) -> list[bool]:
        """Whether the vocabulary of a table has each id. One that it has not is read as what is unknown, in a history
        as elsewhere: who would rather have it left out, leaves it out. Raises ValueError for a table without one.
        """
        self._table(table)
        name = self.said["tables"][table]["vocabulary"]
        if name is None:
            raise ValueError(f"{table}: want a table with a vocabulary, got one without, which knows all ids")
        found: list[bool] = (self.vocabularies[name].found(raw_ids) >= FIRST).tolist()
        return found

    def neighbours(self, table: str, raw_id: Any, top_k: int = 10) -> Listed:
        """The ids whose vectors are nearest to that of one, by cosine. Raises KeyError for an id that is none, and
        ValueError for a table without a vocabulary, which knows none, and for a top_k below 1.
        """
        of, name = self._table(table), self.said["tables"][table]["vocabulary"]
        if name is None:
            raise ValueError(f"{table}: want a table with a vocabulary, got one without; `vectors` has them by id")
        id_1 = self.vocabularies[name].found([raw_id])
        if int(id_1) < FIRST:
            raise KeyError(f"{table}: {raw_id!r} is no id of its vocabulary")
        unit_1D = F.normalize(self.vectors(table, [raw_id]), dim=1)

        def scored() -> Iterator[tuple[int, Tensor]]:
            for ids_N in torch.arange(self.vocabularies[name].size).split(IDS_AT_ONCE):
                rows_N = of.rows_of(ids_N, raw=False)
                cosine_1N = unit_1D @ F.normalize(of.vectors(rows_N.clamp(max=of.size - 1)), dim=1).T
                yield int(ids_N[0]), cosine_1N.masked_fill(rows_N >= of.size, -torch.inf)

        id_1K, cosine_1K = _best(scored(), top_k, Bags(id_1, torch.ones(1, dtype=torch.int64)))
        return self._named(name, id_1K[0], cosine_1K[0])

    def output(self, columns: Columns) -> Tensor:
        """What the model says of rows: of a click model logits, (B) or (B, tasks); else queries (B, D), whose dot
        products with `items` are scores.
        """
        with torch.no_grad():
            return self._graph(self.inputs.of(columns))[:-ROWS_BEHIND]

    @cached_property
    def _graph(self) -> nn.Module:
        return torch.export.load(io.BytesIO(self._graph_bytes)).module()

    def probabilities(self, columns: Columns) -> Tensor:
        """Of a click model that the label is 1: float64, (B) or (B, tasks)."""
        self._require("binary")
        return self.output(columns).double().sigmoid()

    def scores(self, columns: Columns) -> Tensor:
        """Of a next-item model of all items (B, N), -inf for padding and for what is unknown."""
        self._require("next_item")
        found_BN = torch.cat([chunk for _, chunk in self._scored(columns, self.inputs.histories(columns))], 1)
        found_BN[:, :FIRST] = -torch.inf
        return found_BN

    def recommend(
        self, columns: Columns, top_k: int = 10, leave_out_seen: bool = True, candidates: int | None = None
    ) -> list[Listed]:
        """The best items of each row with their scores, without those of its history unless these may come again.

        candidates: so many, found by the index that was exported and by counts, are scored, in place of all items. It
        needs faiss. Raises ValueError for a top_k below 1, for columns that do not fit, and without an index.
        """
        self._require("next_item")
        _require_some(top_k)
        histories = self.inputs.histories(columns)
        seen = histories if leave_out_seen else histories.only(torch.zeros_like(histories.ids_T, dtype=torch.bool))
        found: Iterable[tuple[Tensor, Tensor]]
        if candidates is None:
            found = zip(*_best(self._scored(columns, histories), top_k, seen), strict=True)
        else:
            queries_BD, more = self.output(columns), self._more(histories)
            found = self._among(queries_BD, more, max(candidates, top_k), seen)
        return [self._named(self.said["items"]["vocabulary"], *each)[:top_k] for each in found]

    def _among(
        self, queries_BD: Tensor, more: More | None, candidates: int, seen: Bags
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """By row the candidates (K), best first, and their scores."""
        wanted = min(candidates + int(seen.lengths_B.max()), self.items.size - FIRST)
        near_BK = torch.from_numpy(self.index.search(queries_BD.numpy(), wanted)[1])
        seen_BK = seen.ids_T.split(seen.lengths_B.tolist())
        for row, (near_K, seen_K) in enumerate(zip(near_BK, seen_BK, strict=True)):
            counted = near_K[:0] if more is None else more.of_row(row)
            item_K = torch.cat([near_K[near_K >= 0] + FIRST, counted]).unique()
            score_K = self.items.read(item_K) @ queries_BD[row]
            if more is not None:
                score_K += more.to_items(row, item_K)
            score_K[torch.isin(item_K, seen_K)] = -torch.inf
            order_K = score_K.argsort(descending=True, stable=True)
            yield item_K[order_K], score_K[order_K]

    @cached_property
    def index(self) -> Any:
        """That of faiss, whose number 0 is the first row that stands for an item."""
        if self._index_bytes is None:
            raise ValueError("candidates: want an export with an index, got one without; export with index=HNSW32")
        faiss, numpy = importlib.import_module("faiss"), importlib.import_module("numpy")  # which faiss brings along
        return faiss.deserialize_index(numpy.frombuffer(self._index_bytes, dtype="uint8"))

    def _more(self, histories: Bags) -> More | None:
        """What counts add."""
        return None if self._counts is None else self._counts.of(histories)

    @property
    def items(self) -> Table:
        """The items as they are compared with queries."""
        self._require("next_item")
        assert self._items is not None
        return self._items

    def _scored(self, columns: Columns, histories: Bags) -> Iterator[tuple[int, Tensor]]:
        """Some items at a time, with the row of the first."""
        queries_BD, more = self.output(columns), self._more(histories)
        for first, items_ND in self.items.chunks():
            scores_BN = queries_BD @ items_ND.T
            if more is not None:
                more.add_to(scores_BN, first)
            yield first, scores_BN

    def _require(self, task: str) -> None:
        if self.said["task"] != task:
            raise ValueError(f"want a model of the task {task}, got one of {self.said['task']}")

    def _table(self, name: str) -> Table:
        if name not in self.tables:
            raise KeyError(f"want one of the tables {', '.join(self.tables)}, got {name}")
        return self.tables[name]

    def _rows(self, table: str, raw_ids: Sequence[Any]) -> Tensor:
        vocabulary = self.said["tables"][table]["vocabulary"]
        if vocabulary is None:
            ids_N = torch.tensor([of_64_bits(table, raw) for raw in raw_ids], dtype=torch.int64)
            return self.tables[table].rows_of(ids_N, raw=True)
        return self.tables[table].rows_of(self.vocabularies[vocabulary].rows(raw_ids), raw=False)

    def _named(self, vocabulary: str, row_K: Tensor, score_K: Tensor) -> Listed:
        of = self.vocabularies[vocabulary]
        listed = [(of.raw(row), score) for row, score in zip(row_K.tolist(), score_K.tolist(), strict=True)]
        return [(raw, score) for raw, score in listed if raw is not None and score > -torch.inf]


def _best(scored: Iterator[tuple[int, Tensor]], top_k: int, left_out: Bags) -> tuple[Tensor, Tensor]:
    """The rows (B, K) of the greatest scores, and these, best first; the lower row first among equals."""
    _require_some(top_k)
    rows, row_T, id_T = len(left_out.lengths_B), left_out.row_T, left_out.ids_T
    best_BK, rows_BK = torch.empty(rows, 0), torch.empty(rows, 0, dtype=torch.int64)
    for first, scores_BN in scored:
        count = scores_BN.shape[1]
        here_T = (id_T >= first) & (id_T < first + count)
        scores_BN[row_T[here_T], id_T[here_T] - first] = -torch.inf
        scores_BN[:, : max(0, FIRST - first)] = -torch.inf
        rows_N = torch.arange(first, first + count).expand(rows, -1)
        best_BK, rows_BK = torch.cat([best_BK, scores_BN], 1), torch.cat([rows_BK, rows_N], 1)
        best_BK, at_BK = best_BK.topk(min(top_k, best_BK.shape[1]), dim=1)
        rows_BK = rows_BK.gather(1, at_BK)
    rows_BK, at_BK = rows_BK.sort(dim=1)
    best_BK, order_BK = best_BK.gather(1, at_BK).sort(dim=1, descending=True, stable=True)
    return rows_BK.gather(1, order_BK), best_BK


def _require_some(top_k: int) -> None:
    if top_k < 1:
        raise ValueError(f"top_k: want 1 or more, got {top_k}")
