"""How a table becomes markup: what stays in one line, what may wrap, and when it scrolls."""

import re

import pandas as pd

from reports.chart import Table
from reports.html import MOST_ROWS, table


def markup(frame: pd.DataFrame) -> str:
    return table(Table(key="k", title="T", frame=frame))


def test_names_may_wrap_numbers_and_words_do_not_and_sentences_have_room():
    frame = pd.DataFrame(
        {"pattern": ["combiner-axial-horizontal"], "ms": [1.5], "from": ["before 4k"],
         "reason": ["it needs at least 384 GiB above the inputs, and 76 GiB are free"]}
    )  # fmt: skip
    cells = re.findall(r"<t[dh](?: scope=row)?( class=.)?(?: data-v[^>]*)?>", markup(frame))
    assert cells[-4:] == [" class=w", " class=n", " class=s", " class=l"]


def test_short_names_need_no_room_to_wrap():
    frame = pd.DataFrame({"status": ["ok"], "n": [3]})
    assert "<th scope=row>ok</th>" in markup(frame)


def test_only_a_long_table_scrolls_and_says_how_many_rows_it_has():
    def rows(count: int) -> str:
        return markup(pd.DataFrame({"a": range(count)}))

    assert 'class="scroll"' in rows(MOST_ROWS)
    long = rows(MOST_ROWS + 1)
    assert 'class="scroll long"' in long
    assert f"<small>{MOST_ROWS + 1} rows</small>" in long


def test_a_table_without_columns_is_empty():
    assert "<tbody></tbody>" in markup(pd.DataFrame())
