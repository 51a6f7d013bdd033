"""The rows of a table in the checkpoint of another run, as weights that a table of this one begins with.

N  rows of a chunk    D  dim
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sharded_emb.errors import nearest
from sharded_emb.pretrained import Chunk, Filled, PretrainedWeights, Wanted
from sharded_emb.training import checkpoint_files as files
from sharded_emb.training.checkpoint_rows import SavedRows, saved_tables
from sharded_emb.training.checkpoint_vocabularies import Vocabulary, raw_ids_of
from sharded_emb.vocabulary_rows import FIRST_ROW

_NAMED = 5  # missing ids that a message lists


@dataclass(frozen=True)
class Mine:
    """The table that is to be filled. vocabulary: None without one. ids: what they say about rows."""

    wanted: Wanted
    vocabulary: Vocabulary | None
    ids: str


def newest_of(config: PretrainedWeights) -> Path | None:
    """The checkpoint of a run that weights are taken from, if there is one."""
    return files.newest(config.path.expanduser() / "checkpoints")


class TableOfRun:
    """A table of a run, which fits. It has what `WeightsFile` has. checkpoint: of that run, None for its newest.

    Raises InputError on `tables.NAME.weights` for a run without a checkpoint, a table that it has not, one of another
    dim, and rows of which nobody knows the ids.
    """

    def __init__(self, config: PretrainedWeights, mine: Mine, checkpoint: Path | None = None) -> None:
        self.config, self.mine, self.wanted = config, mine, mine.wanted
        run = config.path.expanduser()
        if (checkpoint := checkpoint or newest_of(config)) is None:
            raise self.wanted.problem("path", f"want a run with a checkpoint, got {config.path} without one")
        self.checkpoint = checkpoint
        self._require_whole(".metadata", files.STATE)
        self.said = files.state_of(checkpoint, f"tables.{self.wanted.name}.weights.path")
        self.table = config.key or self.wanted.name
        known = saved_tables(checkpoint)
        if self.table not in known:
            raise self.wanted.problem("key", f"want a table of {run}, got {self.table!r}{nearest(self.table, known)}")
        self.saved = SavedRows(checkpoint, self.table)
        dim = self.saved.dim
        if dim != self.wanted.dim:
            hint = f"set tables.{self.wanted.name}.dim={dim}"
            raise self.wanted.problem(
                "path", f"want vectors of dim {self.wanted.dim}, as the table has, got {dim}; {hint}"
            )
        self.filled = Filled()
        self._rows_there = self._mapped()

    def chunks(self, first_row: int, end_row: int) -> Iterator[Chunk]:
        """The vectors (N, D) that the run has for these rows of the table, and the rows (N), a shard of it at a time.

        Raises InputError for a checkpoint that is damaged.
        """
        self._require_whole(self.saved.entry)
        there_R = self._rows_there[first_row:end_row]
        for first, end in self.saved.pieces:
            rows_N = np.flatnonzero((there_R >= first) & (there_R < end))
            if len(rows_N):
                values = self.saved.read(first, end)
                yield rows_N + first_row, values[there_R[rows_N] - first].float().numpy()

    def _require_whole(self, *names: str) -> None:
        if wrong := [line for name in names for line in files.damage(self.checkpoint, entry=name)]:
            got = f"got {self.checkpoint} with a damaged {', '.join(dict.fromkeys(wrong))}"
            raise self.wanted.problem("path", f"want a whole checkpoint, {got}; take another run")

    def _mapped(self) -> npt.NDArray[np.int64]:
        """By row of the table that of the run, -1 for none: by raw ids where there are vocabularies."""
        wanted, vocabulary = self.wanted, self.mine.vocabulary
        sha256, ids = self.said["vocabularies"].get(self.table), self.said["ids"].get(self.table)
        if ids != self.mine.ids:
            raise wanted.problem("path", f"want a table with ids: {self.mine.ids}, got {ids} in {self.checkpoint}")
        if (vocabulary is None) != (sha256 is None):
            have = "a vocabulary" if vocabulary is not None else "no vocabulary"
            raise wanted.problem(
                "path",
                f"want rows for the same ids, got a table of {self.checkpoint} where one of the"
                f" two has {have} and the other has not",
            )
        fewer = vocabulary is not None and wanted.rows < vocabulary.rows  # ids share rows, which go by all of them
        if vocabulary is not None and fewer and sha256 != vocabulary.sha256:
            raise wanted.problem(
                "path", f"want a run on the vocabulary of {vocabulary.name}, whose ids share rows, got another"
            )
        if vocabulary is None or sha256 is None or fewer:
            if self.saved.rows != wanted.rows:
                raise wanted.problem("path", f"want {wanted.rows} rows, as the table has, got {self.saved.rows}")
            self.filled = Filled(from_file=self.saved.rows)
            return np.arange(self.saved.rows)
        before = self.said["vocabulary_rows"][self.table]
        found = np.full(wanted.rows, -1, np.int64)
        found[:FIRST_ROW] = np.arange(FIRST_ROW)
        if sha256 == vocabulary.sha256 or vocabulary.extends(sha256, before):
            found[:before] = np.arange(before)
        else:
            found[FIRST_ROW : vocabulary.rows] = self._by_raw_ids(vocabulary, sha256)
        self._count(found[FIRST_ROW : vocabulary.rows], vocabulary, before - FIRST_ROW)
        return found

    def _by_raw_ids(self, vocabulary: Vocabulary, sha256: str) -> npt.NDArray[np.int64]:
        before = raw_ids_of(self.said, sha256)
        if before is None:
            where = self.said.get("config", {}).get("data")
            raise self.wanted.problem(
                "path", f"want the dataset of that run, which knows whose its rows are, got none like it in {where}"
            )
        mine, theirs = vocabulary.raw_ids.cast(pa.string()), before[1].cast(pa.string())
        return pc.fill_null(pc.index_in(mine, theirs), -1 - FIRST_ROW).to_numpy().astype(np.int64) + FIRST_ROW

    def _count(self, there: npt.NDArray[np.int64], vocabulary: Vocabulary, ids_of_run: int) -> None:
        missing = np.flatnonzero(there < 0)
        found = len(there) - len(missing)
        named = [vocabulary.raw_ids[int(at)].as_py() for at in missing[:_NAMED]]
        self.filled = Filled(found, len(missing), ids_of_run - found, named)
        if self.config.missing == "error" and len(missing):
            got = f"got none for {len(missing)} of them, such as {', '.join(map(str, named))}"
            raise self.wanted.problem("missing", f"want vectors of all {len(there)} ids, {got}")
