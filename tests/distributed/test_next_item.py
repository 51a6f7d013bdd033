"""SASRec through sharded tables: parity, bad ids, exact evaluation, checkpoints of any plan."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from sharded_emb.config.build import Built
from sharded_emb.distributed.process_group import Place
from sharded_emb.errors import InputError, OutOfRangeIdError
from sharded_emb.training.against import of_baseline, of_model
from sharded_emb.training.compare import baseline_metrics, fitted_baselines
from sharded_emb.training.evaluation import NextItemEvaluator
from sharded_emb.training.predictions import Lists, write_lists
from sharded_emb.vocabulary_rows import UNKNOWN_ROW
from tests.distributed import next_item_cases as cases
from tests.distributed.next_item_config import DIM, LOSSES, MODELS, MORE_LOSSES, SHARDINGS, config
from tests.distributed.next_item_data import ITEMS, USERS, sequences, write_dataset
from tests.distributed.plain_next_item import train_plain
from tests.distributed.ranks import on_one_rank, run_ranks

WORLD_SIZES = (1, 2, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "tiny"
    write_dataset(path)
    return path


def everything(place: Any, folder: Path) -> dict[str, Any]:
    """All cases that need a group, in one."""
    return {
        "trained": cases.train_sharded(place, folder),
        "described": cases.train_described(place, folder),
        "models": cases.train_models(place, folder),
        "bad_ids": cases.bad_ids(place, folder),
        "no_number": cases.no_number(place, folder),
        "evaluated": cases.evaluate_and_list(place, folder),
        "performed": cases.perform(place, folder),
    }


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[int, list[dict[str, Any]]]:
    return {
        w: [on_one_rank(lambda place: everything(place, folder))] if w == 1 else run_ranks(everything, w, folder)
        for w in WORLD_SIZES
    }


@pytest.fixture(scope="module")
def plain(folder: Path) -> dict[str, Any]:
    return {loss: train_plain(folder, loss) for loss in LOSSES} | {
        f"{loss} described": train_plain(folder, loss, with_tags=True) for loss in LOSSES
    }


def test_baselines_count_unknown_items_as_the_model_reads_them(folder: Path) -> None:
    rows = 20
    events = np.concatenate([each[:-2] for each in sequences()])
    want_N = np.bincount(np.where(events < rows, events, UNKNOWN_ROW), minlength=rows)

    def measured(place: Place) -> None:
        evaluator = Built(
            config(
                folder,
                tables={"item": {"dim": DIM, "rows": rows}},
                features={"history": {"table": "item", "column": "items", "max_length": 6, "unknown": "row"}},
            ),
            place,
        ).evaluator()
        assert isinstance(evaluator, NextItemEvaluator)
        popularity, *_ = fitted_baselines(evaluator)
        scores_N = popularity.scores(np.zeros(0, np.int64), np.array([0, 0]))[0]
        assert scores_N[2:].tolist() == want_N[2:].tolist()
        assert baseline_metrics(evaluator, "test").keys() == {"popularity", "markov", "sequence_knn"}

    on_one_rank(measured)


@pytest.mark.parametrize("bad", [-1, ITEMS, 2**31 + 11])
def test_what_counts_over_the_train_split_trusts_no_id(tmp_path: Path, bad: int) -> None:
    write_dataset(tmp_path / "tiny")
    part = tmp_path / "tiny" / "train" / "part-00000.parquet"
    train = pq.read_table(part)
    items = train["items"].to_pylist()
    items[5] = [bad, *range(2, 9)]  # which max_length cuts off
    times = [[*range(len(each))] for each in items]
    for name, lists in (("items", items), ("times", times)):
        train = train.set_column(train.column_names.index(name), name, pa.array(lists, pa.list_(pa.int64())))
    pq.write_table(train, part)

    def refused(place: Place) -> None:
        evaluator = Built(config(tmp_path / "tiny"), place).evaluator()
        with pytest.raises(
            OutOfRangeIdError, match=rf": id {bad} is out of range \[0, {ITEMS}\) \(split train, row 5\)$"
        ):
            baseline_metrics(evaluator, "test")

    on_one_rank(refused)


def test_a_split_of_single_events_has_nothing_to_predict(tmp_path: Path) -> None:
    write_dataset(tmp_path / "tiny")
    part = tmp_path / "tiny" / "test" / "part-00000.parquet"
    test = pq.read_table(part)
    for name in ("items", "times"):
        first = pc.list_slice(test[name], 0, 1, return_fixed_size_list=False)
        test = test.set_column(test.column_names.index(name), name, first)
    pq.write_table(test, part)

    def refused(place: Place) -> None:
        evaluator = Built(config(tmp_path / "tiny"), place).evaluator()
        assert isinstance(evaluator, NextItemEvaluator)
        assert evaluator("test") == {"test": {}, "test_unfiltered": {}}
        lists = partial(write_lists, evaluator, "test", tmp_path / "lists.parquet", Lists(5, filter_seen=True))
        for ask in (lists, partial(of_model, evaluator, "test"), partial(of_baseline, evaluator, "markov", "test")):
            with pytest.raises(InputError, match=r"^split: want rows of two events .* none in test; choose another$"):
                ask()

    on_one_rank(refused)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_sasrec_trains_to_the_numbers_of_plain_pytorch(found, plain, sharding, loss, world_size) -> None:  # type: ignore[no-untyped-def]
    want_losses, want_table, _ = plain[loss]
    for answers in found[world_size]:
        losses, table, before, after = answers["trained"][sharding, loss]
        torch.testing.assert_close(torch.tensor(losses), torch.tensor(want_losses), rtol=0, atol=1e-5)
        torch.testing.assert_close(table, want_table, rtol=0, atol=1e-6)
        assert torch.equal(table[0], torch.zeros(DIM))
        assert before != after


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("loss", LOSSES)
def test_what_describes_items_is_part_of_their_vectors_as_in_plain_pytorch(found, plain, loss, world_size) -> None:  # type: ignore[no-untyped-def]
    want = plain[f"{loss} described"]
    for answers in found[world_size]:
        for (_, of), (losses, *tables) in answers["described"].items():
            if of == loss:
                torch.testing.assert_close(torch.tensor(losses), torch.tensor(want[0]), rtol=0, atol=1e-5)
                for table, wanted in zip(tables, want[1:], strict=True):
                    torch.testing.assert_close(table, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("world_size", WORLD_SIZES[1:])
@pytest.mark.parametrize("model", [*MODELS, *MORE_LOSSES, "hard"])
def test_every_model_and_loss_trains_to_the_same_numbers_on_any_number_of_ranks(found, model, world_size) -> None:  # type: ignore[no-untyped-def]
    want_losses, want_table, want_metrics = found[1][0]["models"][model]
    assert len(set(want_losses)) == 8
    for answers in found[world_size]:
        losses, table, metrics = answers["models"][model]
        torch.testing.assert_close(torch.tensor(losses), torch.tensor(want_losses), rtol=0, atol=1e-5)
        torch.testing.assert_close(table, want_table, rtol=0, atol=1e-6)
        for split, values in want_metrics.items():
            assert metrics[split] == pytest.approx(values, abs=1e-9)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_an_id_out_of_range_is_the_same_error_on_every_rank(found, world_size) -> None:  # type: ignore[no-untyped-def]
    """That it changes no number, test_bad_ids shows."""
    guilty = world_size - 1
    row = {1: 3, 2: 1, 4: 0}[world_size]
    for answers in found[world_size]:
        assert len(answers["bad_ids"]) == 20
        for (sharding, bad), (is_range_error, text) in answers["bad_ids"].items():
            assert is_range_error, (sharding, bad, text)
            assert text == (
                f"OutOfRangeIdError: table item, feature history: id {bad} is out of range [0, {ITEMS}) "
                f"(rank {guilty}, step 12, row {row} of the batch)"
            )


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_a_loss_that_is_no_number_on_one_rank_stops_all_before_anything_moves(found, world_size) -> None:  # type: ignore[no-untyped-def]
    for answers in found[world_size]:
        assert len(answers["no_number"]) == 8
        for case, (text, unchanged) in answers["no_number"].items():
            assert text.startswith("loss is nan at step 1; no weight has been updated; the batch is in "), case
            assert text.endswith("not-finite-step-1.pt; look at it, or lower the learning rates"), case
            assert unchanged, case


def test_evaluation_is_the_same_for_any_number_of_ranks(found) -> None:  # type: ignore[no-untyped-def]
    want_metrics, want_lists, want_table = found[1][0]["evaluated"]
    for world_size in WORLD_SIZES[1:]:
        lists: dict[int, list[int]] = {}
        for answers in found[world_size]:
            metrics, part, table = answers["evaluated"]
            assert torch.equal(table, want_table), "initial tables differ"
            for split, of_split in metrics.items():
                for name, values in of_split.items():
                    assert values == pytest.approx(want_metrics[split][name], abs=1e-12)
            assert not lists.keys() & part.keys(), "a user was listed twice"
            lists |= part
        assert lists == want_lists
    assert len(want_lists) == USERS


def test_every_rank_knows_the_ranks_of_all_users_in_the_order_of_the_split(found) -> None:  # type: ignore[no-untyped-def]
    want = found[1][0]["performed"]
    metrics = found[1][0]["evaluated"][0]["test"]
    for name in ("test", "test_unfiltered"):
        mean = (want["model"][name] <= 10).double().mean().item()
        assert mean == pytest.approx(metrics[name]["hit_rate@10"])
    for world_size in WORLD_SIZES:
        for answers in found[world_size]:
            for who, ranks in answers["performed"].items():
                for name, rank_B in ranks.items():
                    assert len(rank_B) == USERS
                    assert torch.equal(rank_B, want[who][name]), (who, name)


def test_lists_hold_neither_padding_nor_what_the_user_had(found) -> None:  # type: ignore[no-untyped-def]
    _, lists, _ = found[1][0]["evaluated"]
    for user, sequence in enumerate(sequences()):
        had = set(sequence[:-1]) - {sequence[-1]}
        assert not set(lists[user]) & (had | {0, 1})
        assert len(set(lists[user])) == 10


@pytest.mark.parametrize(
    ("saved", "loaded"), [((2, "row_wise"), (1, "table_wise")), ((1, "column_wise"), (2, "row_wise"))]
)
def test_a_checkpoint_loads_into_another_plan(folder, tmp_path, saved, loaded) -> None:  # type: ignore[no-untyped-def]
    def run(function: Any, ranks: int, sharding: str) -> Any:
        if ranks == 1:
            return on_one_rank(lambda place: function(place, folder, tmp_path, sharding))
        return run_ranks(function, ranks, folder, tmp_path, sharding)[0]

    want_table, want_metrics = run(cases.save_run, *saved)
    table, metrics = run(cases.load_run, *loaded)
    assert torch.equal(table, want_table)
    for name, values in want_metrics.items():
        assert metrics[name] == pytest.approx(values, abs=1e-12)


def test_all_ranks_take_the_checkpoint_that_the_first_finds(folder: Path, tmp_path: Path) -> None:
    assert run_ranks(cases.newest_while_it_moves, 2, folder, tmp_path) == [tmp_path / "checkpoints" / "step-0"] * 2


def test_a_signal_on_one_rank_stops_all_at_the_same_step(folder, tmp_path) -> None:  # type: ignore[no-untyped-def]
    found = run_ranks(cases.stop_on_one_rank, 2, folder, tmp_path / "run")
    assert found == [(15, 3, 0, []), (15, 3, 0, [])]
    assert (tmp_path / "run" / "checkpoints" / "last").resolve().name == "step-3"
