"""The grammar of patterns and sources: name[field=value,field=a|b]."""

from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patterns import BadInput
from patterns.grammar import build_all, near_match, parse, parse_size, spell, split_specs


@dataclass(frozen=True, kw_only=True)
class Example:
    """Every kind of field that the grammar reads."""

    causal: bool = True
    block: int | None = None
    sigma: float = 1.0
    form: Literal["one", "split"] = "one"
    path: str = ""


CLASSES = {"example": Example, "other-example": Example}


def read(text: str) -> list[Example]:
    return build_all(text, CLASSES, "pattern")


def test_fields_are_read_by_their_types() -> None:
    [found] = read(" example[ causal=false, block=4k ,sigma=0.5,form=split,path=a/b.c] ")
    assert found == Example(causal=False, block=4096, sigma=0.5, form="split", path="a/b.c")


def test_auto_asks_for_the_automatic_value() -> None:
    assert read("example[block=auto]") == [Example()]


def test_a_bar_sweeps_and_two_bars_multiply() -> None:
    found = read("example[block=32|64,form=one|split]")
    assert [(x.block, x.form) for x in found] == [
        (32, "one"),
        (32, "split"),
        (64, "one"),
        (64, "split"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "exampel",
            "unknown pattern 'exampel': did you mean 'example'?.*There are: example, other",
        ),
        ("example[blok=3]", "'example' has no parameter 'blok': did you mean 'block'?"),
        ("example[block=big]", r"example\[block=...\]: expected a whole number.*got 'big'"),
        ("example[block=1.5]", "expected a whole number such as 4096 or 4k, got '1.5'"),
        ("example[causal=maybe]", "expects one of true, false, got 'maybe'"),
        ("example[sigma=x]", "expected a number, got 'x'"),
        ("example[form=two]", "expects one of one, split, got 'two'"),
        ("example[block]", "cannot read 'block' in .*expected field=value"),
        ("example[block=1,block=2]", "sets 'block' twice"),
        ("example[block=1", "expected name or name"),
        ("", "expected name or name"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        read(text)
    assert "\n" not in str(caught.value)


@given(
    st.builds(
        Example,
        causal=st.booleans(),
        block=st.none() | st.integers(0, 10**7),
        sigma=st.floats(allow_nan=False),
        form=st.sampled_from(["one", "split"]),
    )
)
def test_what_is_spelled_is_read_back(value: Example) -> None:
    assert read(spell("example", value)) == [value]


def test_sizes_take_k_and_m() -> None:
    assert [parse_size(text) for text in ("7", "4k", "4K", " 1m ")] == [7, 4096, 4096, 1048576]
    for text in ("-1", "0x10", "4kk", "k", ""):
        with pytest.raises(BadInput):
            parse_size(text)


def test_commas_inside_brackets_do_not_split() -> None:
    assert split_specs("a[x=1,y=2], b ,c[z=3]") == ["a[x=1,y=2]", "b", "c[z=3]"]


def test_a_spec_comes_apart() -> None:
    assert parse("a-b[x=1|2]") == ("a-b", {"x": ["1", "2"]})
    assert parse("a[]") == ("a", {})


def test_nothing_near_lists_what_exists() -> None:
    assert near_match("zzz", ["b", "a"]) == "There are: a, b"
    assert near_match("zzz", []) == "There are: none"
