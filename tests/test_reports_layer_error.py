"""What the error at a layer tells of a model: by ranks, of whom, and when nothing is said."""

import math
from typing import Any

import pandas as pd
import pytest

from reports.sections.layer_error import layer_error_text, rank_correlation

# asked, role, perplexity, second copy, error at a layer
ROWS: list[tuple[str, str, float, float, float]] = [
    ("full", "asked", 10.0, 0.3, math.nan),
    ("sinks[window=1]", "asked", 12.0, 2.9, 0.5),
    ("sinks[window=2]", "asked", 13.0, 2.1, 0.4),
    ("sinks[window=3]", "asked", 14.0, 2.2, 0.3),
    ("sinks[window=4]", "asked", 15.0, 2.3, 0.2),
    ("sinks[window=5]", "asked", 20.0, 2.4, 0.1),
    ("local[window=1]", "asked", 50.0, 5.0, 0.9),
    ("strided[stride=64]", "asked", 60.0, 0.1, 1.0),
    ("sinks[window=9]", "comparison", 11.0, 9.0, 9.0),
]


def frame(rows: list[tuple[str, str, float, float, float]]) -> pd.DataFrame:
    columns: Any = ["asked", "role", "perplexity", "second_copy", "layer_error"]
    found = pd.DataFrame(rows, columns=columns)
    return found.assign(name=found.asked.str.partition("[")[0])


def test_ranks_are_those_of_spearman():
    # Ranks 1 2.5 2.5 4 against 1 2 3 4: covariance 4.5 over the root of 4.5 * 5.
    tied = rank_correlation(pd.Series([1.0, 2.0, 2.0, 9.0]), pd.Series([0.0, 1.0, 5.0, 6.0]))
    assert tied == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_all_schedules_and_the_close_ones_are_said_apart():
    (said,) = layer_error_text(frame(ROWS))
    # All: errors rank 5 4 3 2 1 6 7 against 1 ... 7, squared differences 40; 1 - 6 * 40 / 336.
    assert "0.29 with perplexity (7 patterns and schedules)" in said
    # The stride of 64 divides the distance of the copies: 5 4 3 2 1 6 against 5 1 2 3 4 6.
    assert "0.43 with the loss on the second copy (6)" in said
    close = said.partition("at most 2 times the perplexity of full: ")[2]
    assert close.startswith("-1.00 with perplexity (5 patterns and schedules)")
    assert "0.00 with the loss on the second copy (5)" in close


def test_nothing_is_said_of_few_or_of_records_without_errors():
    assert layer_error_text(frame(ROWS[:5])) == []
    assert layer_error_text(frame(ROWS).assign(layer_error=math.nan)) == []


def test_what_has_no_perplexity_is_neither_counted_nor_ranked():
    extra = ("local[window=9]", "asked", math.nan, 3.0, 0.25)
    (said,) = layer_error_text(frame([*ROWS, extra]))
    assert "0.29 with perplexity (7 patterns and schedules)" in said
    assert "the loss on the second copy (7)" in said
    few = frame([ROWS[0], *ROWS[3:7], extra])
    assert not any("with perplexity" in one for one in layer_error_text(few))
    # All that have a perplexity are close: there is nothing to say of them apart.
    assert "Among those" not in layer_error_text(frame([*ROWS[:6], extra]))[0]


def test_without_full_attention_none_are_close():
    (said,) = layer_error_text(frame(ROWS[1:]))
    assert "0.29 with perplexity" in said
    assert "Among those" not in said
