"""What says that there is nothing, in the words of libraries, is nothing to what serves a model, too."""

from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from sharded_emb.component import asks_for_nothing
from sharded_emb.serving.standalone.inputs import _is_none, _number
from sharded_emb.serving.standalone.vocabulary import absent

NAN = float("nan")
NOTHING = [None, NAN, np.float32(NAN), torch.tensor(NAN), pa.scalar(None, pa.float64()), pa.scalar(NAN), Decimal("nan")]
NOTHING += [pd.NA, pd.NaT]


@pytest.mark.parametrize("value", [*NOTHING, "", " ", "nan", "NaN", "-nan", pa.scalar("")], ids=repr)
def test_no_number(value: Any) -> None:
    assert _is_none(value)


@pytest.mark.parametrize("value", [0, 0.0, False, "0", "x", np.float32(1.5), pa.scalar(2.5), Decimal(3)], ids=repr)
def test_a_number_and_what_is_wrong(value: Any) -> None:
    assert not _is_none(value)


@pytest.mark.parametrize("value", NOTHING, ids=repr)
def test_no_id(value: Any) -> None:
    assert absent(value)


@pytest.mark.parametrize("value", ["", "nan", 0, 7, np.int64(3), True], ids=repr)
def test_an_id(value: Any) -> None:
    assert not absent(value)


def test_numbers_of_libraries_are_those_of_their_text() -> None:
    given = (np.float32(0.1), pa.scalar(2.5), Decimal("1.5"))
    assert [_number("c", each, "a number") for each in given] == [0.1, 2.5, 1.5]


def test_zero_asks_for_something() -> None:
    assert all(map(asks_for_nothing, (None, False, [], {}, ())))
    assert not any(map(asks_for_nothing, (0, 0.0, True, "", [0])))
