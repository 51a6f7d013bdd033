"""From a validated config to what the loop drives: the one place that knows how the parts belong together."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch.optim import Optimizer

from sharded_emb.batch import CANDIDATES
from sharded_emb.config.beginnings import unlike_beginnings
from sharded_emb.config.file_rules import raw_columns
from sharded_emb.config.reading import hard_negatives, item_attributes, item_rows, item_table, make_reading, seen_before
from sharded_emb.config.run import OfRunConfig, RunConfig
from sharded_emb.config.same_start import require_same_data
from sharded_emb.config.vocabularies import rows_by_table
from sharded_emb.config.weights import checkpoints_of_runs, open_weights
from sharded_emb.config.workload import lengths, workload
from sharded_emb.data.collate import Collate
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.flat import FlatCopy
from sharded_emb.data.source import Measures, Source
from sharded_emb.data.window import InMemory, LengthsOf, Split
from sharded_emb.distributed.agree import all_values, from_first_rank, patience, together
from sharded_emb.distributed.phases import Phases
from sharded_emb.distributed.plan import Asked, Plan, make_plan, present
from sharded_emb.distributed.process_group import Place
from sharded_emb.distributed.shard import Sharded, fill, load_pretrained, shard, unsharded
from sharded_emb.embeddings.lookup import Embeddings, candidate_feature
from sharded_emb.embeddings.poolings import Poolings
from sharded_emb.embeddings.updates import step_of, with_updates
from sharded_emb.losses.base import Loss
from sharded_emb.planning.cluster import unlike_the_device
from sharded_emb.planning.picture import picture
from sharded_emb.planning.plan_file import PlanFile
from sharded_emb.pretrained import Filled
from sharded_emb.tables import Table, held, part_name, resolve
from sharded_emb.training.checkpoint_vocabularies import Vocabulary, vocabularies_of
from sharded_emb.training.evaluation import BinaryEvaluator, NextItemEvaluator, make_evaluator
from sharded_emb.training.run_folder import peak_memory_bytes
from sharded_emb.training.scoring import Scoring
from sharded_emb.training.signals import Signals
from sharded_emb.training.stream import Parting, Stream
from sharded_emb.training.trainee import Trainee
from sharded_emb.training.verify import Tolerances, alone, replicated, tolerance_of


class Built:
    """A sharded, filled model of a config, and its data. draw: see `fill`.

    Raises InputError on every rank for a plan that fails.
    """

    def __init__(self, config: RunConfig, place: Place, draw: bool = True) -> None:
        assert config.data is not None
        torch.manual_seed(config.seed)  # dense weights; tables have streams of their own
        torch.use_deterministic_algorithms(config.deterministic)
        self.config, self.place = config, place
        with together(place):
            self.dataset = Dataset.open(config.data)
        require_same_data(self.dataset.manifest, place)
        self.flat = FlatCopy(self.dataset, config.flat_copy)
        for ready in (place.local_rank == 0, True):  # one of a machine copies what the others then read
            with together(place), patience(place):  # a damaged part shows now, not after the training
                for split in self.dataset.manifest.splits if ready else ():
                    self.flat.split(split)
        self.given = given_plan(config)
        self.tables = resolve_tables(config, self.dataset, self.given)
        with together(place):
            self.seen = seen_before(config, self.tables, self.flat.split("train"))
            self.hard = None if isinstance(config, OfRunConfig) else hard_negatives(config, self.tables, self.dataset)
            of_items = item_attributes(self.tables, self.dataset)
        self.reading = replace(make_reading(config, self.tables, self.seen, self.hard), of_items=of_items)
        self.held = held(self.tables)
        self.plan: Plan = from_first_rank(self._plan, place)
        self._bytes_before_tables = peak_memory_bytes(place.device)
        distinct_ids, plan = config.sharding.distinct_ids, self.plan
        embeddings = Embeddings(self.tables, plan.replicated, place.device, distinct_ids, plan.widths)
        poolings, model = Poolings(self.tables, place.device), config.model.build(self.tables)
        trainee = Trainee(embeddings, poolings, model, self._loss(), self.config.dense)
        self.sharded: Sharded = shard(trainee, embeddings, self.plan, place)
        fill(self.sharded, config.seed, draw)
        self._bytes_with_tables = peak_memory_bytes(place.device)
        self.of_runs: dict[str, Path | None] = {}
        if not isinstance(config, OfRunConfig):
            # of a run that goes on the newest checkpoint may change while ranks look
            self.of_runs = from_first_rank(lambda: checkpoints_of_runs(self.tables), place)
        self.pretrained = self._load_pretrained()
        # dropout may differ by rank; a common stream would drop the same places of different rows
        torch.manual_seed(config.seed * 1_000_003 + place.rank)
        self.dense: Optimizer = config.dense_optimizer.build(self.sharded.dense_parameters())

    def _plan(self) -> Plan:
        """The plan that is given, or one for what the data read. Raises InputError where none fits."""
        known = lengths(self.config, self.tables, self.dataset, {})
        work, given = workload(self.config, self.tables, known), self.given
        replicas = 1 if isinstance(self.config, OfRunConfig) else self.config.sharding.replicas
        asked = Asked(self.config.cluster, None if given is None else given.placements(), replicas)
        return make_plan(self.held, self.place, work, self.config.sharding.communication, asked)

    def _loss(self) -> Loss:
        rows = item_rows(self.config, self.tables)
        return self.config.loss.build(rows, self.seen)

    def _load_pretrained(self) -> dict[str, Filled]:
        """By table what its file of weights gave. Raises InputError on every rank."""
        found = {}
        with together(self.place), patience(self.place):
            for name in self.of_runs:
                found[name] = self._fill(self.sharded, name)
        return found

    def _fill(self, sharded: Sharded, name: str) -> Filled:
        (table,) = (each for each in self.tables if each.name == name)
        weights = open_weights(table, self.dataset, self.of_runs[name])
        load_pretrained(sharded, name, weights)
        return weights.filled

    def unsharded(self) -> Sharded:
        """The same model in this process alone, its tables whole, with the weights that all begin with."""
        tables = replicated(self.tables)
        names = frozenset(table.name for table in held(tables))
        embeddings = Embeddings(tables, names, self.place.device)
        poolings, model = Poolings(tables, self.place.device), self.config.model.build(tables)
        trainee = Trainee(embeddings, poolings, model, self._loss(), self.config.dense)
        found = unsharded(trainee.to(self.place.device), embeddings, alone(self.place))
        fill(found, self.config.seed)
        for name in self.of_runs:
            self._fill(found, name)
        for name, module in found.dense().items():
            module.load_state_dict(self.sharded.dense()[name].state_dict())
        return found

    def tolerances(self) -> Tolerances:
        """How far tables, dense weights and losses may be from an unsharded model: what rounding accounts for."""
        wire = self.config.sharding.communication
        return Tolerances(
            {table.name: tolerance_of(table) for table in self.held},
            (wire.forward, wire.backward, self.config.dense.dtype),
            self.config.verify_tolerance,
        )

    def evaluator(self, signals: Signals | None = None) -> BinaryEvaluator | NextItemEvaluator:
        """Evaluates splits of the dataset, until one of the signals is heard on any rank."""
        signals = signals or Signals()
        scoring = Scoring(
            sharded=self.sharded,
            dataset=self.dataset,
            flat=self.flat,
            reading=self.reading,
            batch_per_rank=self.config.evaluation.batch_per_rank,
            heard=lambda: signals.heard,
            streamed=self.config.stream.folder is not None,
        )
        return make_evaluator(scoring, self.config.evaluation.counts)

    def source(self) -> Source:
        """The batches of the training split."""
        split = self.flat.split("train")
        return self._source(split, split.row_bytes)

    def _source(self, split: Split, row_bytes: float) -> Source:
        lengths, config = LengthsOf(split, self.reading.events()), self.config
        measures = Measures(row_bytes, config.global_batch_events)
        return Source(lengths, config.batches, config.global_batch, config.seed, measures)

    def stream(self) -> Stream | None:
        """The samples that come while the run trains; None where it trains on the training split."""

        def source(part: pa.Table) -> Source:
            return self._source(InMemory(part), part.nbytes / max(len(part), 1))

        def collate(part: pa.Table) -> Collate:
            return Collate(part, self.reading, self.place.rank)

        if self.config.stream.folder is None:
            return None
        return Stream(self.config.stream, Parting(self.dataset.columns, self.collate(), source, collate), self.place)

    def collate(self) -> Collate:
        """Rows of the training split to batches."""
        return Collate(self.flat.split("train"), self.reading, self.place.rank)

    def vocabularies(self) -> dict[str, Vocabulary]:
        """Of each table that has one."""
        return vocabularies_of(self.dataset, self.tables)

    def told(self) -> Iterator[str]:
        """A line a table: what a person should know of it when a run begins; and of ids that were to travel ahead."""
        for table in self.tables:
            if (ids := table.ids.told(table.rows)) is not None:
                yield f"table {table.name}: {ids}"
        if self.hard is not None:
            yield f"loss.hard: {self.hard.told}"
        for table in self.held:
            where, how = self.plan.types[table.name], "frozen" if table.freeze else f"{table.update} update"
            size = f"{table.rows:,} x {table.dim} {table.dtype}"
            yield f"table {table.name}: {size}, {where}, {how}, {table.optimizer.told()}"
            if (filled := self.pretrained.get(table.name)) is not None:
                missing = f", such as {', '.join(map(str, filled.first_missing))}" if filled.missing else ""
                assert table.weights is not None
                yield (
                    f"table {table.name}: {filled.from_file:,} rows from {table.weights.path}; {filled.missing:,} ids "
                    f"are not in it{missing}; {filled.unused:,} of its ids are not used"
                )
        if self.config.prefetch.ids is True and not self.sharded.embeddings.knows_ids:
            yield "prefetch.ids: no ids go to another rank here, so that none go ahead of their step"

    def memory(self) -> dict[str, list[int]]:
        """What the plan predicted of each rank's memory, and the most that it was: before there were tables, once they
        were filled, and in the end, with batches, dense weights and the copies that a checkpoint is written from.
        """
        predicted = [*self.plan.outcome(self.held).bytes_W] * self.plan.replicas
        return {
            "predicted_table_bytes_by_rank": [round(each) for each in predicted],
            "bytes_before_tables_by_rank": all_values(self._bytes_before_tables, self.place),
            "bytes_with_tables_by_rank": all_values(self._bytes_with_tables, self.place),
            "peak_bytes_by_rank": all_values(peak_memory_bytes(self.place.device), self.place),
        }

    def times(self, phases: Phases | None) -> dict[str, Any] | None:
        """Seconds of a step as the plan predicted them, and as they were on each rank in the steps that were watched;
        None if there were none.

        In an exchange all wait for the slowest rank, which itself waits least: its time is what is compared.
        """
        everyone = [each for each in all_values(phases, self.place) if each is not None]
        if len(everyone) < self.place.world_size:
            return None
        outcome = self.plan.outcome(self.held)
        latency = outcome.latency
        replicas = self.plan.replicas
        lookup = [seconds + latency.lookup for seconds in outcome.lookup_W.tolist()] * replicas
        communication = [seconds + latency.communication for seconds in outcome.communication_W.tolist()] * replicas
        least = min(each.communication for each in everyone)
        return {
            "predicted": {"lookup_seconds_by_rank": lookup, "communication_seconds_by_rank": communication},
            "measured": {
                "steps": everyone[0].steps,
                "step_seconds": max(each.step for each in everyone),
                "lookup_seconds_by_rank": [each.seconds["lookup"] for each in everyone],
                "communication_seconds_by_rank": [each.communication for each in everyone],
                "phase_seconds_by_rank": [each.seconds for each in everyone],
            },
            "predicted_by_measured": {
                "lookup": max(lookup) / max(max(each.seconds["lookup"] for each in everyone), 1e-9),
                "communication": max(communication) / max(least, 1e-9),
            },
        }

    def notes(self, drawn: bool) -> Iterator[str]:
        """What a person may not expect: of rows, where they are drawn, and of a cluster that is not this machine."""
        if drawn:
            model = self.config.model
            history = getattr(model, "history", None)
            yield from unlike_beginnings(self.tables, history, getattr(model, "beside", ()))
        machine, cluster = present(self.place), self.config.cluster
        if (text := unlike_the_device(cluster, machine)) is not None:
            yield text
        hosts, per_host = cluster.hosts or machine.hosts, cluster.gpus_per_host or machine.per_host
        if (hosts, per_host) != (machine.hosts, machine.per_host):
            yield (
                f"cluster: {hosts} x {per_host} ranks are described, but {machine.hosts} x {machine.per_host} were "
                "launched; the plan is for these"
            )

    def plan_report(self) -> Mapping[str, Any]:
        """What plan.json holds."""
        return self.plan.report(self.held)

    def plan_picture(self) -> str:
        """What plan.svg holds: of ranks with all sharded tables between them, where there are several such groups."""
        return picture(self.plan.outcome(self.held))


def given_plan(config: RunConfig) -> PlanFile | None:
    """The plan that the config names. Raises InputError for a file that holds none."""
    return None if config.sharding.plan is None else PlanFile(config.sharding.plan)


def resolve_tables(
    config: RunConfig, dataset: Dataset | None, given: PlanFile | None, device: str | None = None
) -> list[Table]:
    """All tables with their rows known, and with the feature through which the loss reads candidates.

    given: the plan that the config names. device: that tables are for, null for that of the config.
    """
    rows = {} if dataset is None else rows_by_table(config.features, dataset)
    raw = frozenset() if dataset is None else raw_columns(dataset)
    tables = resolve(config.tables, config.features, rows, config.sharding.defaults(config.embedding_optimizer), raw)
    if given is not None:
        tables = given.applied(tables)
    step = step_of(device or config.device, config.accumulation, config.clip_norm, config.sharding.replicas)
    tables = with_updates(tables, step)
    scored = item_table(config)
    tables = [table.reading(candidate_feature(table.name)) if table.name == scored else table for table in tables]
    return [_describing_candidates(table) for table in tables]


def _describing_candidates(table: Table) -> Table:
    """What describes the items of the sequence describes the candidates, too."""
    for feature in [feature for feature in table.features if feature.of is not None]:
        table = table.reading(replace(feature, name=part_name(CANDIDATES, feature.name), of=CANDIDATES))
    return table
