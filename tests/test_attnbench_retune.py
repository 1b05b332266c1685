"""The search for tile sizes, with a timer that knows how fast each is."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from attnbench import machine, retune, retune_run
from attnbench.retune import Trial, Tuned, neighbours, retuned, same
from attnbench.retune_run import USUAL, Retune, _trials, harder, told
from patterns import patterns
from patterns.kernels import tile_choice
from patterns.kernels.tile_choice import choose

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Tiles:
    queries: int
    warps: int


SHIPPED, SAFE = Tiles(queries=32, warps=4), Tiles(queries=16, warps=1)


class Kernels:
    """A call of two kernels, the sizes of which decide what happens."""

    def __init__(self, *names: str) -> None:
        self.names, self.calls = names or ("first", "second"), 0
        self.fails: Callable[[str, Tiles], str | None] = lambda *_: None
        self.changes: Callable[[Tiles], bool] = lambda _: False
        self.wrong: Callable[[dict[str, Tiles]], str | None] = lambda _: None

    def tiles(self) -> dict[str, Tiles]:
        return {
            name: choose(name, 64, device=CPU, shipped=SHIPPED, safe=SAFE) for name in self.names
        }

    def __call__(self, _copy: int) -> Tensor:
        self.calls += 1
        out = torch.ones(8)
        for name in self.names:
            tiles = choose(name, 64, device=CPU, shipped=SHIPPED, safe=SAFE)
            if why := self.fails(name, tiles):
                raise RuntimeError(why)
            out = out + 0.5 if self.changes(tiles) else out
        return out

    def trial(self) -> Trial:
        return Trial(
            name="toy fwd",
            call=self,
            wrong=lambda: self.wrong(self.tiles()),
            alone=contextlib.nullcontext,
        )


def timed(kernels: Kernels) -> Callable[[Mapping[str, Callable[[int], object]]], dict[str, float]]:
    """10 ms and more, the further each kernel is from 128 queries and 8 warps."""

    def ms(call: Callable[[int], object]) -> float:
        with tile_choice.listening() as heard:
            call(0)
        return sum(
            10
            + abs(7 - (one.got["queries"] or 0).bit_length() + 1)
            + abs(4 - (one.got["warps"] or 0).bit_length())
            for one in heard.values()
        )

    return lambda calls: {name: ms(call) for name, call in calls.items()}


def tune(kernels: Kernels, over: Callable[[], bool] | None = None) -> dict[str, Tuned]:
    return {one.kernel: one for one in retuned([kernels.trial()], timed(kernels), over or never)}


def never() -> bool:
    return False


def test_the_search_climbs_to_the_fastest_sizes_of_every_kernel():
    found = tune(Kernels())
    assert {name: dict(one.sizes) for name, one in found.items()} == {
        "first/64": {"queries": 128, "warps": 8},
        "second/64": {"queries": 128, "warps": 8},
    }
    first, second = found.values()
    assert (first.before_ms, first.ms, second.ms) == (26, 23, 20)
    assert dict(first.before) == {"queries": 32, "warps": 4}
    assert not tile_choice.is_watched()


def test_sizes_that_do_not_compile_are_left_out_with_the_reason():
    kernels = Kernels("one")
    kernels.fails = lambda _, tiles: "out of resource" if tiles.queries > 64 else None
    (one,) = tune(kernels).values()
    assert dict(one.sizes) == {"queries": 64, "warps": 8}
    assert any("queries=128" in text and "out of resource" in text for text in one.left_out)


def test_sizes_that_change_the_result_are_left_out():
    kernels = Kernels("one")
    kernels.changes = lambda tiles: tiles.warps == 8
    (one,) = tune(kernels).values()
    assert dict(one.sizes)["warps"] == 4
    assert any("another result" in text for text in one.left_out)


def test_sizes_that_fail_in_a_harder_form_give_way_to_the_next_fastest():
    kernels = Kernels("one")
    kernels.wrong = lambda tiles: "it is off" if tiles["one"].queries == 128 else None
    (one,) = tune(kernels).values()
    assert dict(one.sizes) == {"queries": 64, "warps": 8}
    assert "queries=128,warps=8: it is off" in one.left_out


def test_a_kernel_whose_shipped_sizes_do_not_run_starts_from_the_safe_ones():
    kernels = Kernels()
    kernels.fails = lambda name, tiles: "no" if tiles.warps > 1 and name == "first" else None
    found = tune(kernels)
    assert found.keys() == {"first/64", "second/64"}  # though the second was not launched at first
    assert found["first/64"].sizes == {"queries": 128, "warps": 1}


def test_a_kernel_that_runs_with_no_sizes_is_left_alone():
    kernels = Kernels("one")
    kernels.fails = lambda *_: "no"
    assert tune(kernels) == {}


def test_no_more_is_begun_when_the_budget_is_spent():
    kernels = Kernels()
    found = tune(kernels, over=lambda: kernels.calls > 9)
    assert found.keys() == {"first/64"}
    begun = kernels.calls
    kernels = Kernels("first")
    tune(kernels, over=lambda: kernels.calls > 9)
    assert begun == kernels.calls <= 20  # what had been begun is timed; the second is never tried


def test_neighbours_differ_in_one_size_and_stay_within_reason():
    sizes = {"queries": 128, "keys": 128, "warps": 16, "stages": 1, "registers": 168}
    found = list(neighbours(sizes))
    assert {"queries": 64, "keys": 128, "warps": 16, "stages": 1, "registers": 168} in found
    assert all(sum(one[name] != sizes[name] for name in sizes) == 1 for one in found)
    assert all(one["queries"] <= 128 and one["keys"] <= 128 for one in found)
    assert {one["registers"] for one in found} == {168, None}
    assert {one["stages"] for one in found} == {1, 2}
    assert list(neighbours({"registers": None})) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_only_roundings_are_the_same_result(dtype: torch.dtype):
    wanted = torch.randn(64, 64).to(dtype)
    noise = torch.randn(64, 64) * wanted.double().abs().float()
    near = (wanted.float() + 0.5 * torch.finfo(dtype).eps * noise).to(dtype)
    assert same([near], [wanted])
    assert not same([wanted + 0.05 * wanted], [wanted])
    assert not same([wanted.index_fill(0, torch.tensor([3]), torch.nan)], [wanted])
    assert not same([wanted.index_fill(0, torch.tensor([3]), 0.0)], [wanted])
    many, least = torch.ones(4096, 64, dtype=dtype), 1e-3 if dtype == torch.float32 else 10.0
    assert not same(
        [many + least * (torch.arange(64) == 3) * (torch.arange(4096) == 5)[:, None]], [many]
    )
    assert not same([wanted], [wanted, wanted])
    assert not same([wanted[:1]], [wanted])


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize(
    ("spec", "form"),
    [
        ("combiner-fixed", "combiner-fixed[causal=false,summary=variational,sink=4,near=1]"),
        ("combiner-axial-vertical", "causal=false,summary=variational"),
        ("sinks[window=8]", "causal=false"),
    ],
)
def test_a_harder_form_is_the_hardest_that_can_run(spec: str, form: str):
    pytest.importorskip("triton")
    (pattern,) = patterns(spec)
    easy, hard = harder(pattern, torch.zeros(1, 2, 16, 16))
    assert easy == pattern
    assert {*form.removeprefix("combiner-fixed[").removesuffix("]").split(",")} <= {
        *hard.spec.partition("[")[2].removesuffix("]").split(",")
    }


def test_the_usual_patterns_launch_every_family_of_kernels():
    assert {one.name for spec in USUAL for one in patterns(spec)} == {
        "combiner-fixed",
        "combiner-axial-vertical",
        "combiner-logsparse",
        "sinks",
        "logsparse",
    }


@pytest.mark.usefixtures("interpreter")
def test_the_kernels_of_a_pattern_are_tuned_on_their_own_call(monkeypatch: pytest.MonkeyPatch):
    """Those of a forward pass, in Triton's interpreter; the timer likes few keys."""
    pytest.importorskip("triton")
    monkeypatch.setattr(retune_run, "_HARD_LENGTH", 20)
    monkeypatch.setattr(retune_run, "_PASSES", ("fwd",))
    monkeypatch.setattr(retune, "neighbours", lambda sizes: [{**sizes, "keys": 16}])
    (pattern,) = patterns("combiner-fixed[block=16]")
    asked = Retune(
        patterns=(pattern,), length=40, heads=2, kv_heads=1, dim=16, dtype="float32",
        budget_s=60.0, out=None,
    )  # fmt: skip

    def few_keys(calls: Mapping[str, Callable[[int], object]]) -> dict[str, float]:
        return {name: 1 + ("keys=16" not in name) for name in calls}

    said: list[str] = []
    trials = list(_trials(asked, CPU, said.append))
    found = {one.kernel: one for one in retuned(trials, few_keys, never)}
    assert said == []
    assert found.keys() == {"fixed.forward/16/32/16", "fixed.summaries/16/32/16/plain"}
    assert found["fixed.forward/16/32/16"].sizes["keys"] == 16
    assert found["fixed.forward/16/32/16"].trial == "combiner-fixed[block=16] fwd"


def test_what_was_found_is_told_as_a_table():
    text = told(tune(Kernels("one")).values())
    assert "queries=32 warps=4" in text
    assert "queries=128 warps=8" in text


def test_measured_sizes_make_another_machine_and_shipped_ones_do_not():
    facts = {"gpu": "NVIDIA H100", "driver": "1"}
    shipped = machine.machine_id(facts | {"tiles": "shipped"})
    assert shipped == machine.machine_id(facts)
    one, other = (machine.machine_id(facts | {"tiles": f"t.json ({n})"}) for n in "ab")
    assert len({shipped, one, other}) == 3
