"""`plan.json`: a plan as it is written, and read again with everything refused that it does not fit."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from sharded_emb.batch import CANDIDATES
from sharded_emb.errors import InputError, nearest
from sharded_emb.planning.outcome import Outcome
from sharded_emb.planning.shapes import Placement, Ranks, Shard, blocks, whole_on_all
from sharded_emb.planning.sizes import state_bytes, weight_bytes
from sharded_emb.sharding import Kernel, ShardingType
from sharded_emb.tables import Table

_ANEW = "make it anew with plan out=FOLDER"
_ASKED_FOR = ("dense", "uvm", "uvm_caching")  # kernels that nothing but a config takes


def written(outcome: Outcome) -> dict[str, Any]:
    """What `plan.json` holds of tables and ranks; the shards of a data-parallel table go without saying."""
    return {
        "world_size": outcome.cluster.world_size,
        "ranks_per_host": outcome.cluster.per_host,
        "device": outcome.cluster.device,
        "tables": {
            each.table.name: {
                "rows": each.table.rows,
                "dim": each.table.dim,
                "features": [feature.name for feature in each.table.features],
                "collection": "pooled" if each.table.pooled else "unpooled",
                "sharding": each.placement.kind,
                "shards": [] if each.placement.kind == "data_parallel" else _shards(each.placement),
                "dtype": each.table.dtype,
                "kernel": each.table.kernel or ("fused" if each.table.update == "fused" else "none"),
                "cache_load_factor": each.table.cache_load_factor,
                "update": "none" if each.table.freeze else each.table.update,
                "optimizer": each.table.optimizer.told(),
                "weight_bytes": weight_bytes(each.table),
                "optimizer_state_bytes": state_bytes(each.table),
                **outcome.predictions_of(each),
            }
            for each in outcome.tables
        },
        **outcome.predictions(),
    }


def _shards(placement: Placement) -> list[dict[str, Any]]:
    return [
        {"rank": shard.rank, "offsets": [shard.row, shard.column], "sizes": [shard.rows, shard.columns]}
        for shard in placement.shards
    ]


class _Read(BaseModel):
    """What more a file holds was predicted or is known."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _ShardOfFile(_Read):
    rank: NonNegativeInt
    offsets: tuple[NonNegativeInt, NonNegativeInt]
    sizes: tuple[PositiveInt, PositiveInt]


class _TableOfFile(_Read):
    rows: PositiveInt
    dim: PositiveInt
    dtype: str
    features: list[str]
    sharding: ShardingType
    shards: list[_ShardOfFile]
    kernel: Kernel | Literal["none"] = "none"
    cache_load_factor: float | None = None


class _PlanOfFile(_Read):
    world_size: PositiveInt
    ranks_per_host: PositiveInt | None = None
    tables: dict[str, _TableOfFile]


class PlanFile:
    """A plan that was written. Raises InputError for a file that is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan = _read(path)

    def applied(self, tables: Sequence[Table]) -> list[Table]:
        """The tables of a config, with the kernels of this plan; those data-parallel that are it in this plan, which is
        also how they are updated.
        """
        return [self._applied(table) for table in tables]

    def _applied(self, table: Table) -> Table:
        names = [part.name for part in table.parts.values()] or [table.name]
        found = [self.plan.tables[name] for name in names if name in self.plan.tables]
        if not found:
            return table
        first = found[0]
        if table.kernel is None and first.kernel != "none" and first.kernel in _ASKED_FOR:
            table = replace(table, kernel=first.kernel, cache_load_factor=first.cache_load_factor)
        replicated = table.sharding == "auto" and all(each.sharding == "data_parallel" for each in found)
        return replace(table, sharding="data_parallel") if replicated else table

    def typed(self, tables: Sequence[Table]) -> list[Table]:
        """Tables that hold weights, with their types in this plan."""
        kinds = {name: table.sharding for name, table in self.plan.tables.items()}
        return [
            replace(table, sharding=kinds[table.name], ranks=None, min_partition=None)
            for table in tables
            if table.name in kinds
        ]

    def placements(self) -> dict[str, Placement]:
        """Of all tables, once there are no misfits."""
        return {name: self._placement(name) for name in self.plan.tables}

    def _placement(self, name: str) -> Placement:
        table = self.plan.tables[name]
        if table.sharding == "data_parallel":
            return whole_on_all(table.rows, table.dim, self.plan.world_size)
        shards = [Shard(each.rank, *each.offsets, *each.sizes) for each in table.shards]
        # TorchRec puts vectors together in the order of this list, whatever the offsets are
        return Placement(table.sharding, tuple(sorted(shards, key=lambda shard: (shard.column, shard.row))))

    def misfits(self, tables: Sequence[Table], ranks: Ranks) -> Iterator[str]:
        """What of a run it does not fit, a line each beginning with the key. tables: those that hold weights."""
        key, plan = "sharding.plan", self.plan
        if plan.world_size != ranks.world_size:
            yield (
                f"{key}: want a plan for {_ranks(ranks.world_size)}, got one for {plan.world_size} in {self.path}; "
                f"plan for as many, or start {plan.world_size}"
            )
            return
        names = [table.name for table in tables]
        for name in sorted(set(plan.tables) - set(names)):
            yield f"{key}: table {name} of {self.path} is none of this config{nearest(name, names)}"
        for table in tables:
            if table.name not in plan.tables:
                yield f"{key}: want every table in {self.path}, which has no {table.name}; {_ANEW}"
            else:
                yield from (f"{key}: table {table.name}: {text}" for text in self._misfits_of(table, ranks))

        for name in {table.name.partition(":")[0] for table in tables if ":" in table.name}:
            kinds = {each.sharding for part, each in plan.tables.items() if part.partition(":")[0] == name}
            if "data_parallel" in kinds and len(kinds) > 1:
                got = ", ".join(sorted(kinds))
                yield f"{key}: table {name}: want all of its parts data_parallel, or none, got {got} in {self.path}"

    def _misfits_of(self, table: Table, ranks: Ranks) -> Iterator[str]:
        planned = self.plan.tables[table.name]
        wanted: Mapping[str, Any] = {
            "rows": table.rows,
            "dim": table.dim,
            "dtype": table.dtype,
            "features": _of_data(feature.name for feature in table.features),
        }
        found = {**dict(planned), "features": _of_data(planned.features)}
        differing = [name for name, value in wanted.items() if found[name] != value]
        for name in differing:
            yield f"want {name} {_shown(wanted[name])}, got {_shown(found[name])} in {self.path}; {_ANEW}"
        name = table.name.partition(":")[0]
        kernel, factor = planned.kernel, planned.cache_load_factor
        if table.kernel not in (None, kernel) and {table.kernel, kernel} & {*_ASKED_FOR}:
            yield f"want kernel {table.kernel}, which the config asks for, got {kernel} in {self.path}; {_ANEW}"
        elif table.kernel is not None and table.cache_load_factor != factor:
            wanted_factor = table.cache_load_factor
            yield f"want cache_load_factor {wanted_factor}, as the config has it, got {factor} in {self.path}; {_ANEW}"
        if table.sharding not in ("auto", planned.sharding):
            yield (
                f"want {table.sharding}, which the config asks for, got {planned.sharding} in {self.path}; set "
                f"tables.{name}.sharding=auto, or {_ANEW}"
            )
        if not differing and planned.sharding != "data_parallel":
            text = wrong_shards(self._placement(table.name), table, ranks)
            if text is not None:
                yield f"{text} in {self.path}; {_ANEW}"


def _read(path: Path) -> _PlanOfFile:
    key = "sharding.plan"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        why = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise InputError(f"{key}: want a plan.json, got {path}, which {why}; make one with plan out=FOLDER") from error
    except ValueError as error:
        where = f"{error.msg} in line {error.lineno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise InputError(f"{key}: want JSON in {path}, got: {where}; {_ANEW}") from error
    try:
        return _PlanOfFile.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise InputError(f"{key}: want a plan in {path}, got: {place}: {first['msg']}; {_ANEW}") from error


def _of_data(features: Iterable[str]) -> list[str]:
    """Without the one through which a loss reads: it comes and goes with the loss."""
    return [name for name in features if name.partition(":")[0] != CANDIDATES]


def _ranks(number: int) -> str:
    return f"{number} rank{'s' * (number > 1)}"


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def wrong_shards(placement: Placement, table: Table, ranks: Ranks) -> str | None:
    """What is wrong with the shards of a table, as `want ..., got ...`; None if TorchRec serves them."""
    for shard in placement.shards:
        if shard.rank >= ranks.world_size:
            return f"want ranks below {ranks.world_size}, got {shard.rank}"
        if shard.columns % 4 or shard.column % 4:
            return f"want column shards that are multiples of 4 wide, got {shard.columns} columns on rank {shard.rank}"
    if len(set(placement.ranks)) < len(placement.shards):
        return f"want each shard on a rank of its own, got ranks {', '.join(map(str, placement.ranks))}"
    by_columns: dict[tuple[int, int], list[Shard]] = {}
    for shard in placement.shards:
        by_columns.setdefault((shard.column, shard.columns), []).append(shard)
    stripes = sorted(by_columns)
    starts = [0, *(first + width for first, width in stripes)]
    if [first for first, _ in stripes] != starts[:-1] or starts[-1] != table.dim:
        return f"want shards that cover its {table.dim} columns once, got {_stripes(stripes)}"
    if not table.pooled and len({width for _, width in stripes}) > 1:  # sums may be of any widths
        return f"want column shards of one width, since a feature reads vectors, got {_stripes(stripes)}"
    for stripe in stripes:
        if (text := _wrong_rows(placement, by_columns[stripe], table, ranks)) is not None:
            return text
    return _wrong_hosts(placement, len(stripes), ranks)


def _stripes(stripes: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{first}-{first + width - 1}" for first, width in stripes) or "none"


def _wrong_rows(placement: Placement, stripe: Sequence[Shard], table: Table, ranks: Ranks) -> str | None:
    """Rows are cut as TorchRec looks them up: blocks of the same length while they last, rank after rank."""
    tall = {"row_wise": ranks.world_size, "table_row_wise": ranks.per_host, "grid": ranks.per_host}
    over = tall.get(placement.kind, 1)
    wanted = [(part.start, len(part)) for part in blocks(range(table.rows), over)]
    got = [(shard.row, shard.rows) for shard in stripe]
    if got != wanted:
        rows = ", ".join(f"{first}-{first + count - 1}" for first, count in got)
        how = "" if over == 1 else f", {wanted[0][1]} a rank while they last"
        return f"want all of its {table.rows} rows in each column shard of {placement.kind}{how}, got {rows}"
    first = stripe[0].rank
    expected = [*range(ranks.world_size)] if placement.kind == "row_wise" else [*range(first, first + over)]
    if [shard.rank for shard in stripe] != expected:
        return f"want its rows rank after rank, got ranks {', '.join(str(shard.rank) for shard in stripe)}"
    return None


def _wrong_hosts(placement: Placement, stripes: int, ranks: Ranks) -> str | None:
    """The types along hosts have hosts to be along."""
    hosts = {rank // ranks.per_host for rank in placement.ranks}
    on_one = placement.kind in ("table_wise", "table_row_wise", "table_column_wise")
    wanted = stripes if placement.kind == "grid" else 1
    if (on_one or placement.kind == "grid") and len(hosts) != wanted:
        return f"want {placement.kind} on {wanted} host{'s' * (wanted > 1)} of {ranks.per_host} ranks, got {len(hosts)}"
    starts = [shard.rank for shard in placement.shards if shard.row == 0]
    if placement.kind in ("table_row_wise", "grid") and any(rank % ranks.per_host for rank in starts):
        return f"want {placement.kind} from the first rank of a host of {ranks.per_host}, got {starts[0]}"
    if placement.kind in ("table_wise", "table_row_wise", "row_wise") and stripes > 1:
        return f"want all columns in each shard of {placement.kind}, got {stripes} column shards"
    return None
