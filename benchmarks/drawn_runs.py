"""Runs drawn at random: the words of a whole experiment, by the number of a case."""

import random
from dataclasses import dataclass

STEPS = 6
_NEXT_ITEM = ("sasrec", "esasrec", "hstu", "gru4rec", "two_tower", "bert4rec", "item2vec")
_CLICKS = ("din", "dien", "bst", "sim", "dcn", "deepfm", "dlrm", "fm", "linear", "mmoe", "ple", "shared_bottom")
_WITH_TARGET = ("din", "dien", "bst", "sim")
_TASKS = ("mmoe", "ple", "shared_bottom")
_SHARDINGS = (
    "auto", "row_wise", "table_wise", "column_wise", "data_parallel", "table_row_wise", "table_column_wise", "grid"
)  # fmt: skip
_POOLINGS = (
    "sum", "mean", "sqrtn", "max", "last", "position_weighted", "{_target_: weighted, weights: items_rating}",
    "{_target_: time_decay, times: items_times, now: time}",
)  # fmt: skip
_OPTIMIZERS = ("adagrad", "rowwise_adagrad", "sgd", "adam", "lamb", "lars", "partial_rowwise_adam")
_SCHEDULES = ("constant", "warmup", "cosine", "linear", "step", "inverse_sqrt")
_OWN_OPTIMIZERS = tuple(f"{{_target_: {name}, lr: 0.01}}" for name in ("sgd", "adagrad", "adam", "lamb"))


@dataclass(frozen=True)
class Drawn:
    """words: of `train`, without the folders of data and run. data: which dataset. exact: numbers are float32 all the
    way, and one process has those of two ranks but for rounding; else in smaller dtypes. comparable: nothing is random
    by rank.
    """

    number: int
    data: str
    words: tuple[str, ...]
    exact: bool
    comparable: bool


class _Draw:
    """Words so far."""

    def __init__(self, number: int) -> None:
        self.random = random.Random(number)
        self.words: list[str] = []
        self.exact = True

    def often(self, probability: float) -> bool:
        return self.random.random() < probability

    def say(self, key: str, values: tuple[object, ...], probability: float = 0.3) -> None:
        """With this probability, one of the values."""
        if self.often(probability):
            self.words.append(f"{key}={self.random.choice(values)}")

    def round(self, key: str, dtypes: tuple[str, ...], probability: float) -> None:
        """With this probability, one of the dtypes, in which numbers are not exact."""
        before = len(self.words)
        self.say(key, dtypes, probability)
        self.exact = self.exact and len(self.words) == before


def drawn(number: int) -> Drawn:
    """The case of a number."""
    draw = _Draw(number)
    next_item = draw.often(0.5)
    tables = _next_item(draw) if next_item else _clicks(draw)
    for name in tables:
        _table(draw, name, next_item=next_item)
    _run(draw)
    dropout = draw.often(0.25)
    if any("model.dropout" in word for word in draw.words) and not dropout:
        draw.words = [word if "model.dropout" not in word else "model.dropout=0" for word in draw.words]
    if not next_item:
        draw.say("evaluation.progressive", ("true",), 0.5)
    return Drawn(number, "events" if next_item else "clicks", tuple(draw.words), draw.exact, not dropout)


def _next_item(draw: _Draw) -> list[str]:
    model = draw.random.choice(_NEXT_ITEM)
    loss = draw.random.choice(("softmax", "sampled_softmax", "sampled_bce", "gbce", "bpr"))
    draw.words += ["experiment=sasrec_ml100k", f"model={model}", f"loss={loss}", "tables.item.dim=16"]
    if model != "item2vec":
        draw.words += ["model.dropout=0.2"]
    length = draw.random.choice((1, 3, 20, 50))
    draw.words.append(f"features.history.max_length={length}")
    draw.say("model.similarity", ("cosine", "dot"))
    draw.say("evaluation.counts", ("null",))
    if loss != "softmax":
        draw.words.append(f"loss.negatives={draw.random.choice((1, 7, 32))}")
        draw.say("loss.drawn", ("uniform", "popularity", "in_batch"), 0.6)
    if model in ("sasrec", "esasrec", "hstu", "bert4rec"):
        draw.say("model.heads", (1, 2, 4))
        draw.say("model.blocks", (1, 2))
    tables = ["item"]
    if draw.often(0.4):
        tables.append("genre")
        draw.words.append("+tables.genre={rows: auto, dim: 16}")
        draw.words.append(f"+features.genres={{table: genre, column: genres, pooling: {_pooled(draw)}, of: history}}")
    if model not in ("bert4rec",) and draw.often(0.4):
        tables.append("beside")
        column, table = draw.random.choice((("items", "beside"), ("rating_id", "rating")))
        tables[-1] = table
        draw.words.append(f"+tables.{table}={{rows: auto, dim: 16}}")
        draw.words.append(f"+features.beside={{table: {table}, column: {column}, max_length: {length}}}")
        draw.words.append("model.beside=[beside]")
    return tables


def _pooled(draw: _Draw) -> str:
    return draw.random.choice(("sum", "mean", "sqrtn"))


def _clicks(draw: _Draw) -> list[str]:
    model = draw.random.choice(_CLICKS)
    draw.words += ["experiment=din_ml100k", f"model={model}"]
    if model != "fm":
        draw.words.append("model.dropout=0.2")
    tables = ["item", "genre", "year", "gender", "age", "occupation"]
    if model in ("fm", "deepfm", "dlrm"):
        draw.words += [f"tables.{name}.dim=16" for name in tables]
    if model not in _WITH_TARGET:
        draw.words.append(f"features.history.pooling={draw.random.choice(_POOLINGS)}")
        draw.words.append(f"features.disliked.pooling={draw.random.choice(_POOLINGS[:6])}")
    elif draw.often(0.5):
        draw.words.append("model.histories=[history,disliked]")
    else:
        draw.words.append(f"features.disliked.pooling={draw.random.choice(_POOLINGS[:6])}")
    draw.say("features.history.max_length", (1, 4, 50))
    draw.say("features.history.keep", ("newest", "oldest"))
    draw.say("features.genres.pooling", _POOLINGS[:5])
    if draw.often(0.2):
        draw.words.append("features.genres.pooling={_target_: attention, target: item}")
        draw.words.append(f"tables.genre.dim={16 if model in ('fm', 'deepfm', 'dlrm') else 64}")
    if model in _TASKS:
        draw.words += ["loss=multi_task", "model.tasks=[like,love]"]
        draw.words.append("loss.tasks={like: {column: label}, love: {column: rating, at_least: 5, weight: 0.5}}")
    if model != "fm":
        draw.say("model.numbers", ("[rating]",))
    draw.say("loss.weight", ("rating",), 0.2)
    if draw.often(0.3):
        tables.append("film")
        ids = draw.random.choice(("hash", "managed_collision"))
        rows = 42 if ids != "managed_collision" else 82
        draw.words.append(f"+tables.film={{rows: {rows}, dim: 16, ids: {ids}}}")
        draw.words.append("+features.film={table: film, column: film, pooling: sum}")
        draw.words.append("+features.films={table: film, column: items_film, pooling: mean, max_length: 20}")
    return tables


def _table(draw: _Draw, name: str, *, next_item: bool) -> None:
    key = f"tables.{name}"
    draw.round(f"{key}.dtype", ("fp16", "bf16"), 0.15)
    draw.round(f"{key}.output_dtype", ("fp16", "bf16"), 0.1)
    draw.round(f"{key}.state_dtype", ("fp16", "bf16"), 0.1)
    draw.say(f"{key}.max_norm", (0.1, 1.0), 0.15)
    draw.say(f"{key}.scale_grad_by_freq", ("true",), 0.15)
    draw.say(f"{key}.freeze", ("true",), 0.05)
    draw.say(f"{key}.update", ("fused", "sparse", "dense"), 0.2)
    draw.say(f"{key}.padding_row", ("null",), 0.05)
    draw.say(f"{key}.sharding", _SHARDINGS, 0.3)
    if name == "item" and not next_item:
        draw.say(f"{key}.ids", ("quotient_remainder",), 0.15)
    draw.say(f"{key}.optimizer", _OWN_OPTIMIZERS, 0.15)
    draw.say(f"{key}.init", ("xavier_uniform", "{_target_: normal, std: 0.1}"), 0.15)


def _run(draw: _Draw) -> None:
    optimizer = draw.random.choice(_OPTIMIZERS)
    draw.words += [f"embedding_optimizer={optimizer}", f"steps={STEPS}", "log_every_steps=1", "early_stopping=null"]
    if optimizer == "sgd":
        draw.say("embedding_optimizer.momentum", (0.9,))
    draw.say("embedding_optimizer.weight_decay_mode", ("touched_l2", "touched_decoupled", "all_decoupled"), 0.2)
    if "weight_decay_mode" in draw.words[-1]:
        draw.words.append("embedding_optimizer.weight_decay=0.01")
    draw.say("dense_optimizer", ("sgd", "adam", "adamw"), 0.4)
    draw.words.append(f"schedule={draw.random.choice(_SCHEDULES)}")
    draw.words.append(f"schedule.warmup_steps={draw.random.choice((0, 1, 4))}")
    draw.words.append(f"global_batch={draw.random.choice((2, 5, 8, 32))}")
    draw.say("global_batch_events", (40, 400), 0.2)
    draw.say("accumulation", (2, 3))
    draw.say("clip_norm", (0.01, 1.0))
    draw.say("sharding", _SHARDINGS, 0.5)
    draw.say("sharding.distinct_ids", ("true",))
    draw.round("sharding.communication.backward", ("bf16", "fp16", "int8"), 0.15)
    draw.round("sharding.communication.forward", ("bf16", "fp16", "int8"), 0.15)
    draw.say("batches.like_lengths", ("true",))
    draw.say("batches.shuffle", ("false",), 0.1)
    draw.say("prefetch.ids", ("true", "false"))
    draw.say("prefetch.batches", (0, 1, 3), 0.2)
    draw.say("prefetch.workers", (2,), 0.2)
    draw.say("checkpoint.asynchronous", ("true",))
    draw.say("deterministic", ("true",), 0.2)
    draw.say("seed", (1, 2, 3))
    draw.say("checkpoint.every_steps", (1, 2), 0.2)
    draw.say("profile.after_steps", (1,), 0.1)
    if draw.often(0.1):
        draw.words.append("dense.dtype=bf16")
        draw.exact = False
