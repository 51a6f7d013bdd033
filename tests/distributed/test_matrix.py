"""A sample of the matrix of `benchmarks/matrix.py`: sharded training is plain PyTorch however a table is updated."""

import random
from typing import Any

import pytest
import torch

from tests.distributed import matrix_cases
from tests.distributed.matrix_cases import Case
from tests.distributed.ranks import on_one_rank, run_ranks

SAMPLED = random.Random(20261124).sample(list(matrix_cases.all_cases()), 30)
# what a sample of this size may miss
ALWAYS = [
    Case("mean", "adam", "table_wise", values=matrix_cases.DECAYS[1], step={"clip_norm": 0.05, "accumulation": 2}),
    Case("attention", "rowwise_adagrad", "row_wise"),
    Case("position_weighted", "partial_rowwise_adam", "data_parallel", table={"max_norm": 0.8}),
    Case("time_decay", "adagrad", "column_wise", values=matrix_cases.DECAYS[2]),
    Case("none", "lamb", "row_wise", table={"scale_grad_by_freq": True}),
    Case("mean", "adagrad", "column_wise", table={"output_dtype": "fp16"}),
    Case("none", "rowwise_adagrad", "row_wise", wire={"forward": "fp16", "backward": "fp16"}),
    Case("sqrtn", "adam", "grid", values=matrix_cases.DECAYS[1]),
    Case("max", "sgd momentum", "row_wise", table={"dtype": "bf16", "update": "dense"}),
    *(
        Case(pooling, "rowwise_adagrad", sharding, table=options)
        for pooling, sharding, options in zip(
            ("none", "mean", "attention"),
            ("table_wise", "row_wise", "row_wise"),
            matrix_cases.TABLE_OPTIONS[-3:],
            strict=True,
        )
    ),
]
CASES = list(dict.fromkeys(map(str, [*ALWAYS, *SAMPLED])))
BY_NAME = {str(case): case for case in [*ALWAYS, *SAMPLED]}


@pytest.fixture(scope="module")
def answers() -> dict[tuple[int, str], list[Any]]:
    """By world size and case the results of every rank; one process group a world size."""
    found = {}
    for world_size in matrix_cases.WORLD_SIZES:
        cases = [case for case in BY_NAME.values() if not case.refusals(world_size)]
        by_rank = (
            [on_one_rank(lambda place, cases=cases: matrix_cases.run_cases(place, cases))]  # type: ignore[misc]
            if world_size == 1
            else run_ranks(matrix_cases.run_cases, world_size, cases, per_host=matrix_cases.PER_HOST[world_size])
        )
        found |= {(world_size, str(case)): [each[i] for each in by_rank] for i, case in enumerate(cases)}
    return found


@pytest.mark.parametrize("name", CASES)
def test_sharded_training_is_plain_training(answers: dict[tuple[int, str], list[Any]], name: str) -> None:
    case, want = BY_NAME[name], matrix_cases.train_plain(BY_NAME[name])
    assert len(want[0]) == matrix_cases.STEPS
    compared = [(w, of_rank) for w in matrix_cases.WORLD_SIZES for of_rank in answers.get((w, name), [])]
    for world_size, found in compared:
        far = matrix_cases.deviation(found, want)
        assert far <= case.tolerance(), f"{world_size} ranks: {far}"
    refused = [case.refusals(world_size) for world_size in matrix_cases.WORLD_SIZES]
    assert len(compared) == sum(w for w, lines in zip(matrix_cases.WORLD_SIZES, refused, strict=True) if not lines)
    if not case.table.get("freeze"):
        assert (want[1] - matrix_cases.plain_table(case).trained()).abs().max() > 1e-3, "nothing was trained"


def test_what_poolings_learn_is_bitwise_the_same_on_every_rank(answers: dict[tuple[int, str], list[Any]]) -> None:
    learning = [each for (_, name), each in answers.items() if name.startswith(("attention", "position_weighted"))]
    assert len(learning) >= 4
    for of_ranks in learning:
        for _, _, weights in of_ranks:
            assert weights
            assert all(torch.equal(a, b) for a, b in zip(weights, of_ranks[0][2], strict=True))


@pytest.mark.parametrize(
    ("case", "line"),
    [
        (
            Case("sum", "adam", "row_wise", table={"update": "fused"}),
            "tables.t.update: want auto or sparse, since FBGEMM has no kernel of Adam on cpu, got fused",
        ),
        (
            Case("sum", "sgd", "row_wise", table={"update": "fused"}, step={"clip_norm": 1.0}),
            "tables.t.update: want auto or sparse, since clip_norm needs the gradients of the whole step before any "
            "row moves, got fused",
        ),
        (
            Case("sum", "sgd", "row_wise", table={"update": "fused", "max_norm": 1.0}),
            "tables.t.update: want auto or sparse, since no kernel knows max_norm, got fused",
        ),
        (
            Case("sum", "sgd", "data_parallel", table={"update": "fused"}),
            "tables.t.update: want auto or sparse, since a data-parallel table is whole on every rank, and no kernel "
            "exchanges its gradients, got fused",
        ),
        (
            Case("sum", "lamb", "column_wise"),
            "tables.t.sharding: column_wise with LAMB, which reads whole rows, would give the numbers of no other "
            "plan; use table_wise, row_wise or data_parallel, or an optimizer such as adagrad",
        ),
        (
            Case("sum", "sgd", "row_wise", values=matrix_cases.DECAYS[2], table={"dtype": "fp16"}),
            "tables.t.dtype: want fp32 with weight_decay_mode=all_decoupled, whose factor of nearly 1 would be rounded "
            "away, got fp16",
        ),
    ],
    ids=str,
)
def test_a_refusal_says_what_to_do(case: Case, line: str) -> None:
    assert case.refusals(2) == [line]
