"""What the tests of communication run on every rank: the parity model, and what is handed to torch's exchanges."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from sharded_emb.distributed.communication import Communication
from sharded_emb.distributed.process_group import Place
from sharded_emb.distributed.sums import SumsOfParts
from sharded_emb.initializers import Normal
from tests.distributed import parity_cases, random_cases
from tests.distributed.parity_cases import Exchange

SHARDINGS = ("table_wise", "row_wise", "column_wise", "data_parallel", "mixed")
IN_BOTH = "int8 and fp16"
DISTINCT = "distinct"
EXCHANGES = {
    "exact": Exchange(),
    "forward": Exchange(Communication(forward="fp16")),
    "backward": Exchange(Communication(backward="fp16")),
    "both": Exchange(Communication(forward="fp16", backward="fp16")),
    "bf16": Exchange(Communication(forward="bf16", backward="bf16")),
    "fp8": Exchange(Communication(forward="fp8", backward="fp8")),
    "int8": Exchange(Communication(forward="int8", backward="int8")),
    IN_BOTH: Exchange(Communication(forward="int8", backward="fp16")),
    DISTINCT: Exchange(distinct_ids=True),
    "distinct, int8": Exchange(Communication(forward="int8", backward="int8"), distinct_ids=True),
    # of the pooled tables one, so that ranks with and without it meet in one exchange
    "output of one table": Exchange(output_dtypes={"pool": "fp16"}),
    "output of all tables": Exchange(output_dtypes={"big": "fp16", "pool": "fp16", "seq": "fp16"}),
    "output and communication": Exchange(Communication(backward="fp16"), {"big": "fp16", "seq": "bf16"}),
}
CASES = [
    *((sharding, name) for sharding in SHARDINGS for name in EXCHANGES if name != IN_BOTH),
    *(
        (sharding, name)
        for sharding in ("table_row_wise", "grid")
        for name in ("exact", "fp8", IN_BOTH, "output of all tables")
    ),
]
_COLLECTIVES = (
    "all_to_all_single",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "all_gather",
    "all_gather_into_tensor",
)


@contextmanager
def watched() -> Iterator[set[torch.dtype]]:
    """The dtypes of all tensors of vectors or gradients that this rank sends meanwhile: those that hold no integers,
    and gradients that travel with their rows, as bytes of which an exchange does not tell.

    A reduce-scatter is an error: gloo sends twice the bytes that it needs.
    """
    seen: set[torch.dtype] = set()

    def watch(collective: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            assert not collective.__name__.startswith("reduce_scatter"), collective.__name__
            values = [*arguments, *named.values()]
            seen.update(
                each.dtype
                for each in values
                if isinstance(each, Tensor) and (each.is_floating_point() or each.dtype == torch.uint8)
            )
            return collective(*arguments, **named)

        return call

    def with_rows(self: Communication, gradient_RD: Tensor) -> Tensor:
        found = as_sent(self, gradient_RD)
        seen.add(found.dtype)
        return found

    as_sent = Communication.sent
    with (
        mock.patch.multiple(dist, **{name: watch(getattr(dist, name)) for name in _COLLECTIVES}),
        mock.patch.object(Communication, "sent", with_rows),
    ):
        yield seen


def all_cases(place: Place) -> dict[tuple[str, str], tuple[set[torch.dtype], dict[str, Tensor]]]:
    """By sharding and exchange: what was sent, and the tables afterwards."""
    found = {}
    for sharding, name in CASES:
        with watched() as seen:
            _, tables = parity_cases.train_sharded(place, sharding, "adagrad", EXCHANGES[name])
        found[sharding, name] = (seen, tables)
    return found


ON_HOSTS = [("hosts", "exact"), ("hosts", "fp8"), ("hosts", IN_BOTH), ("table_row_wise", "int8")]


def cases_on_hosts(place: Place) -> dict[tuple[str, str], dict[str, Tensor]]:
    """By sharding and exchange the tables afterwards."""
    with watched():
        return {
            (sharding, name): parity_cases.train_sharded(place, sharding, "adagrad", EXCHANGES[name])[1]
            for sharding, name in ON_HOSTS
        }


def summed(place: Place) -> dict[str, tuple[Tensor, Tensor | None, int, int]]:
    """By exchange the sums (1, 8) of 2,048 of the first rank and 1 of the second, and the gradient of the parts (2, 8),
    where that of a sum is the number of its rank, from 1 on; the bytes of vectors and of gradients that are sent.
    """
    assert dist.group.WORLD is not None
    found = {}
    for name in ("exact", "both", "bf16"):
        parts = torch.full((2, 8), 1.0 if place.rank else 2048.0, requires_grad=True)
        codecs = EXCHANGES[name].communication.codecs(8)
        with (
            mock.patch.object(dist, "all_to_all_single", wraps=dist.all_to_all_single) as there,
            mock.patch.object(dist, "all_gather", wraps=dist.all_gather) as back,
        ):
            sums = SumsOfParts(dist.group.WORLD, codecs)(parts).wait()
            (sums * (place.rank + 1)).sum().backward()
        sent = (call.call_args.args[1].nbytes for call in (there, back))
        found[name] = sums.detach(), parts.grad, *sent
    return found


STEEP = 4e4  # slopes of up to this, which the world size of two takes beyond what fp16 holds


def steep(sharding: str, pooling: str) -> random_cases.Case:
    """One table of which each of two ranks reads a row of its own, once."""
    table = {"rows": 8, "dim": 8, "init": Normal(std=0.3), "ids": "rows", "padding_row": None, "sharding": sharding}
    feature = {"table": "t", "column": "t", "pooling": pooling, "unknown": "error"}
    return random_cases.Case({"t": table}, {"t": feature}, {"t": [[2], [3]]})


def steep_steps(place: Place) -> dict[tuple[str, str], Tensor]:
    """By sharding and pooling how far a step moves both rows (2, 8), with gradients in fp16."""
    communication, found = Communication(backward="fp16"), {}
    for sharding in ("table_wise", "row_wise", "column_wise", "data_parallel"):
        for pooling in ("sum", "max"):  # before what travels, and after it
            _, moved = random_cases.step_sharded(place, steep(sharding, pooling), communication, STEEP)
            initial = random_cases.initial("t", 8, 8, padding_row=None).detach()
            found[sharding, pooling] = (initial - moved["t"])[2:4]
    return found
