"""A compiler that gives up is seen: in the record, for each group, whatever went before."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from attnbench import ceilings, engine, guards, matrix
from attnbench.compiled import NOTHING, Compiled, forget, seen_so_far
from attnbench.matrix import Matrix
from attnbench.measure_cost import Protocol
from attnbench.presets import Plan
from attnbench.records import read
from attnbench.timing import Call
from attnbench.watch import CpuWatch
from patterns import PATTERNS, registry
from patterns.full import Full

pytestmark = pytest.mark.filterwarnings("ignore:Dynamo detected a call:UserWarning")


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    import torch._dynamo

    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=2):
        yield
    torch._dynamo.reset()


def compiled(function: Callable[..., Tensor], **options: Any) -> Callable[..., Tensor]:
    found: Any = torch.compile(function, backend="eager", dynamic=False, **options)
    return found


def broken(x: Tensor) -> Tensor:
    x = x + 1
    torch._dynamo.graph_break()
    return x - 1


def doubled(x: Tensor) -> Tensor:
    return x + x


def seen_of(function: Callable[[Tensor], Tensor], *lengths: int) -> Compiled:
    before = seen_so_far()
    for length in lengths:
        function(torch.ones(length))
    return seen_so_far().since(before)


def test_what_compiles_whole_fires_nothing():
    found = seen_of(compiled(doubled), 3, 4)
    assert (found.graphs, found.breaks, found.limits, found.fired) == (2, {}, {}, {})
    assert found.document == {"graphs": 2, "breaks": {}, "limits": {}}


def test_what_compiles_nothing_leaves_nothing_in_the_record():
    found = seen_of(doubled, 3)
    assert found == NOTHING
    assert found.document is None


def test_a_graph_break_fires_with_its_reason():
    found = seen_of(compiled(broken), 3)
    assert list(found.fired) == ["graph_break"]
    assert "torch._dynamo.graph_break()" in found.fired["graph_break"]
    assert list(found.breaks.values()) == [1]


def test_the_recompile_limit_fires_and_only_until_the_compiler_forgets():
    function = compiled(doubled)
    found = seen_of(function, 3, 4, 5, 6)
    assert list(found.fired) == ["recompiles"]
    assert found.graphs == 2
    # What runs now is not compiled, and nobody says so.
    assert seen_of(function, 7) == NOTHING
    forget()
    assert list(seen_of(function, 3, 4, 5).fired) == ["recompiles"]


def test_several_reasons_are_counted():
    seen = Compiled(graphs=1, breaks={"one": 2, "two": 1}, limits={})
    assert seen.fired["graph_break"].endswith("one (and 1 more)")
    assert seen.since(Compiled(graphs=0, breaks={"one": 2}, limits={})).breaks == {"two": 1}


class Compiling(Full):
    """Full attention whose output passes through something compiled."""

    backends: ClassVar = ("eager",)
    through: ClassVar[Callable[[Tensor], Tensor]]

    def _run(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        out = super()._run(q, k, v, scale, "eager")
        return type(self).through(out)


_doubled, _broken, _whole = compiled(doubled), compiled(broken), compiled(doubled, fullgraph=True)


def _at_many_sizes(function: Callable[[Tensor], Tensor], out: Tensor) -> Tensor:
    for width in range(1, 6):
        function(out[..., :width])
    return out


@dataclass(frozen=True, kw_only=True)
class Breaking(Compiling):
    name: ClassVar = "breaking"
    through: ClassVar = staticmethod(_broken)


@dataclass(frozen=True, kw_only=True)
class Recompiling(Compiling):
    name: ClassVar = "recompiling"
    through: ClassVar = staticmethod(lambda out: _at_many_sizes(_doubled, out))


@dataclass(frozen=True, kw_only=True)
class Strict(Compiling):
    name: ClassVar = "strict"
    through: ClassVar = staticmethod(lambda out: _at_many_sizes(_whole, out))


@dataclass(frozen=True, kw_only=True)
class Late(Compiling):
    """Hits the limit only while it is timed."""

    name: ClassVar = "late"
    calls: ClassVar[list[int]] = []
    later: ClassVar = compiled(doubled)

    @staticmethod
    def through(out: Tensor) -> Tensor:
        Late.calls.append(1)
        Late.later(out)
        return _at_many_sizes(Late.later, out) if len(Late.calls) > 8 else out


class Steady(CpuWatch):
    """Calls, and says that it took a millisecond, so that no busy machine decides."""

    def cold(self, name: str, call: Call) -> float:
        call(0)
        return 1.0


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    fakes = {cls.name: cls for cls in (Breaking, Recompiling, Strict, Late)}
    both = MappingProxyType(dict(PATTERNS) | fakes)
    monkeypatch.setattr(registry, "PATTERNS", both)
    monkeypatch.setattr(matrix, "PATTERNS", both)

    monkeypatch.setattr(ceilings, "measured", lambda *_: None)

    def measured(*names: str, lengths: tuple[int, ...] = (16,)) -> dict[str, Any]:
        part = Matrix(
            patterns=names, lengths=lengths, heads=1, kv_heads=1, dim=8, dtype="float32",
            device="cpu", baselines=False,
        )  # fmt: skip
        plan = Plan(preset="test", parts=(part,), budget_s=600)
        engine.run(plan, tmp_path, protocol=Protocol(make_watch=lambda *_, **__: Steady()))
        return {f"{x['case']['asked']}@{x['case']['length']}": x for x in read(tmp_path)}

    return measured


def test_records_say_who_hit_the_limit_in_every_group(run: Callable[..., dict[str, Any]]):
    found = run("recompiling", "breaking", "uniform", lengths=(16, 24))
    for length in (16, 24):  # what was hit in the first group is hit in the second again
        assert set(guards.fired(found[f"recompiling@{length}"])) == {"recompiles"}
        assert set(guards.fired(found[f"breaking@{length}"])) == {"graph_break"}
        assert "compiled" not in found[f"uniform@{length}"]["guards"]
        assert found[f"recompiling@{length}"]["guards"]["compiled"]["graphs"] == 2


def test_a_limit_that_is_an_error_has_its_reason(run: Callable[..., dict[str, Any]]):
    (record,) = run("strict").values()
    assert record["status"] == "crashed"
    assert "because Dynamo recompile limit exceeded" in record["reason"]
    assert set(guards.fired(record)) == {"recompiles"}


def test_a_limit_that_is_hit_during_the_timing_is_seen(run: Callable[..., dict[str, Any]]):
    found = run("late", "uniform")
    assert set(guards.fired(found["late@16"])) == {"recompiles"}
    assert guards.fired(found["uniform@16"]) == {}
