"""Tile sizes: which ones a kernel gets on which card, and files of measured ones."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from patterns.errors import BadInput
from patterns.kernels import (
    lines_tiles,
    logsparse_tiles,
    tile_choice,
    tile_file,
    tuned,
    window_tiles,
)

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
HOPPER, OTHER = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB"
NAME = "fixed.forward/64/16/128"


@dataclass(frozen=True, kw_only=True)
class Tiles:
    queries: int
    warps: int


SHIPPED, SAFE = Tiles(queries=64, warps=8), Tiles(queries=32, warps=4)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Pretend to be this card, whose measured sizes would be kept in a folder of the test."""
    monkeypatch.delenv(tile_file.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def pretend(name: str) -> Path:
        major = 9 if name == HOPPER else 8
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (major, 0))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
        forget()
        return tile_file.default_path(name)

    yield pretend
    forget()


def forget() -> None:
    tile_choice.forget()
    tile_choice._card.cache_clear()
    tile_choice._warn.cache_clear()


def chosen(device: torch.device = CUDA) -> Tiles:
    return tile_choice.choose("toy", 64, device=device, shipped=SHIPPED, safe=SAFE)


def tables() -> dict[str, Any]:
    """Sizes of one kernel of each table on a GPU."""
    return {
        "fixed.forward": tuned.forward_tiles(64, True, 128, CUDA),
        "fixed.queries": tuned.query_tiles(64, True, CUDA),
        "fixed.tokens": tuned.token_tiles(64, True, 128, CUDA),
        "fixed.far": tuned.far_tiles(64, True, CUDA),
        "fixed.summaries": tuned.summary_tiles(64, True, 128, False, True, CUDA),
        "fixed.summary_gradients": tuned.summary_gradient_tiles(64, 128, CUDA),
        "lines.read": lines_tiles.line_tiles("read", 64, True, 128, 128, CUDA),
        "window.forward": window_tiles.tiles("forward", 64, torch.bfloat16, CUDA),
        "logsparse.attend": logsparse_tiles.tiles(64, torch.bfloat16, CUDA).attend,
    }


def test_hopper_has_the_shipped_sizes_without_a_word(card: Callable[[str], Path]):
    card(HOPPER)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chosen() == SHIPPED
        assert tables()["fixed.forward"] == tuned.Tiles(queries=64, keys=32, warps=4, stages=3)
    assert tile_choice.told(CUDA) == "shipped"


def test_another_card_has_safe_sizes_and_is_warned_once(card: Callable[[str], Path]):
    card(OTHER)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert chosen() == SAFE
        found = tables()
    assert len(caught) == 1
    assert "'python run_bench.py retune'" in str(caught[0].message)
    assert OTHER in str(caught[0].message)
    assert "\n" not in str(caught[0].message)
    assert found["fixed.forward"] == found["lines.read"] == tuned.SAFE
    assert found["window.forward"] == window_tiles._SAFE[2][64]
    assert found["logsparse.attend"] == logsparse_tiles._SAFE
    assert tile_choice.told(CUDA) == "safe"


@pytest.mark.parametrize("name", [HOPPER, OTHER])
def test_measured_sizes_come_first_on_every_card(card: Callable[[str], Path], name: str):
    path = card(name)
    tile_file.write(path, name, {"toy/64": {"queries": 128}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chosen() == Tiles(queries=128, warps=8)
        other = tile_choice.choose("toy", 128, device=CUDA, shipped=SHIPPED, safe=SAFE)
    assert other == (SHIPPED if name == HOPPER else SAFE)
    told = tile_choice.told(CUDA)
    assert told.startswith(path.name)
    tile_file.write(path, name, {"toy/64": {"queries": 64}})
    tile_choice.forget()
    assert tile_choice.told(CUDA) != told


def test_a_cpu_takes_what_is_shipped(card: Callable[[str], Path]):
    tile_file.write(card(OTHER), OTHER, {"toy/64": {"queries": 128}})
    assert chosen(CPU) == SHIPPED
    assert tile_choice.told(CPU) == "shipped"


def test_every_table_takes_measured_sizes(card: Callable[[str], Path]):
    path = card(HOPPER)
    with tile_choice.listening() as heard:
        before = tables()
    assert {name.partition("/")[0] for name in heard} >= before.keys()
    tile_file.write(path, HOPPER, {name: {"warps": 16} for name in heard})
    forget()
    after = tables()
    assert {name: one.warps for name, one in after.items()} == dict.fromkeys(before, 16)


def test_sizes_on_trial_are_taken_in_place_of_all_others():
    with tile_choice.listening() as heard, tile_choice.trying({"toy/64": {"warps": 2}}):
        assert chosen(CPU) == Tiles(queries=64, warps=2)
        with tile_choice.trying({"toy/64": {"warps": 1}}):
            assert chosen(CPU).warps == 1
        assert chosen(CPU).warps == 2
    assert heard["toy/64"].safe == {"queries": 32, "warps": 4}
    assert chosen(CPU) == SHIPPED
    assert not tile_choice.is_watched()


def test_what_is_made_of_sizes_is_kept_until_they_may_change():
    made = []

    @tile_choice.remembered
    def make(name: str) -> tuple[str, Tiles]:
        made.append(name)
        return name, chosen(CPU)

    assert make("a") is make("a")
    assert make("b") == ("b", SHIPPED)
    assert made == ["a", "b"]
    with tile_choice.trying({"toy/64": {"warps": 2}}):
        assert make("a")[1].warps == 2
    with tile_choice.listening() as heard:
        assert make("a") == ("a", SHIPPED)
    assert heard.keys() == {"toy/64"}
    made.clear()
    make("a")
    assert made == []
    tile_choice.forget()
    make("a")
    assert made == ["a"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "no JSON with tile sizes"),
        ("[1]", "no JSON with tile sizes"),
        ("[" * 100_000, "no JSON with tile sizes"),
        ({"more": "x" * (1 << 20)}, "no JSON with tile sizes"),
        ({"schema": 2}, "expected schema 1, got 2"),
        ({"card": OTHER}, f"measured on '{OTHER}', and this is {HOPPER}"),
        ({"tiles": {NAME: 3}}, "expects sizes, got 3"),
        ({"tiles": {NAME: {}}}, "expects sizes"),
        ({"tiles": {NAME: {"queries": 48}}}, "cannot have queries 48"),
        ({"tiles": {NAME: {"queries": 1 << 20}}}, "cannot have queries 1048576"),
        ({"tiles": {NAME: {"warps": True}}}, "cannot have warps True"),
        ({"tiles": {NAME: {"stages": 1.5}}}, "cannot have stages 1.5"),
        ({"tiles": {NAME: {"stages": None}}}, "cannot have stages None"),
        ({"tiles": {NAME: {"__class__": 16}}}, "cannot have __class__ 16"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_in_one_line(
    tmp_path: Path, content: str | dict[str, Any], said: str
):
    path = tmp_path / "tiles.json"
    document = {"schema": 1, "card": HOPPER, "tiles": {}}
    text = content if isinstance(content, str) else json.dumps(document | content)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        tile_file.read(path, HOPPER)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


def test_sizes_that_a_kernel_does_not_have_are_refused(card: Callable[[str], Path]):
    tile_file.write(card(HOPPER), HOPPER, {"toy/64": {"rows": 64}})
    with pytest.raises(
        BadInput, match="toy/64 has no sizes rows: expected those of queries, warps"
    ):
        chosen()


def test_a_file_that_was_named_has_to_be_there(
    card: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    card(HOPPER)
    monkeypatch.setenv(tile_file.VARIABLE, str(tmp_path / "mine.json"))
    with pytest.raises(BadInput, match=r"mine\.json: No such file"):
        tile_choice.told(CUDA)
    tile_file.write(tmp_path / "mine.json", HOPPER, {"toy/64": {"warps": 4}})
    assert chosen().warps == 4


def test_files_are_named_by_the_card(card: Callable[[str], Path], tmp_path: Path):
    found = card(OTHER)
    assert found == tmp_path / "attnbench" / "tiles-nvidia-a100-sxm4-40gb.json"
