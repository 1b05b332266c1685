"""From a group of cases to its records; what the engine calls unless it is given something else."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from attnbench import fidelity, maps
from attnbench.case import AnyCase, CostCase, FidelityCase, Group, as_dict, case_key
from attnbench.findings import restored
from attnbench.guards import FIRED
from attnbench.matrix import too_long
from attnbench.measure_cost import CostMeasurer, Protocol
from attnbench.outcome import CannotWrite, Ended, Origin, confirm_device, ending, record
from attnbench.reference import Reference, reference
from attnbench.sources import Inputs, load, settings
from attnbench.steps import Announce, Step, silent
from patterns import pattern as one_pattern

MAPS = "maps"  # the folder of map files, in a run folder
_MAP_HEADS = 3  # of a layer, spread over all

Record = dict[str, Any]


class Measurer:
    """Measures one group after the other in this process."""

    def __init__(
        self, origin: Origin, protocol: Protocol, run: Path, announce: Announce = silent
    ) -> None:
        """Keep what all groups share; maps are written below the run folder."""
        self._origin, self._run, self._announce = origin, run, announce
        self._cost = CostMeasurer(origin, protocol, announce)

    def __call__(
        self,
        group: Group,
        todo: Sequence[AnyCase],
        budget_s: float,
        lost: Mapping[str, Ended] = MappingProxyType({}),
    ) -> Iterator[Record]:
        """The records of the cases of `todo`, as they are known; what `lost` names is not run.

        Raises:
            DeviceLost: a case broke the GPU's context; its record has come out before.
        """
        if group.kind == "cost":
            costs = [case for case in todo if isinstance(case, CostCase)]
            yield from self._cost.measure(group, costs, budget_s, lost)
        else:
            judged = [case for case in todo if isinstance(case, FidelityCase)]
            yield from self._fidelity(group, judged, budget_s, lost)

    def _fidelity(
        self,
        group: Group,
        todo: Sequence[FidelityCase],
        budget_s: float,
        lost: Mapping[str, Ended],
    ) -> Iterator[Record]:
        """Layer by layer, because all patterns on a layer share the reference."""
        layer: _Layer | None = None
        end = time.perf_counter() + budget_s
        # Stable, so that layers stay in the order of their source.
        order = list(dict.fromkeys(case.layer for case in todo))
        for case in sorted(todo, key=lambda case: order.index(case.layer)):
            key, name = case_key(case), f"{case.pattern}@{case.backend}"
            try:
                if name in lost:
                    raise Ended(
                        "skipped",
                        f"on another layer it ended as {lost[name].status}, with its process: "
                        f"--retry {lost[name].status},skipped does both again",
                    )
                if time.perf_counter() > end:
                    raise Ended(
                        "skipped",
                        f"the group's {budget_s:.0f} s were over before its turn: "
                        "--retry skipped with a larger --budget does it",
                    )
                if layer is None or layer.case.layer != case.layer:
                    layer = None  # frees the memory of the last one first
                    self._announce(Step(what="inputs"))
                    layer = _Layer.load(case)
                self._announce(Step(what="fidelity", name=name, case_key=key))
                with layer.guarded():
                    found = self._judged(case, layer, group.map_bins.get(key, 0))
            except CannotWrite:  # no fault of the pattern
                raise
            except Exception as error:  # whatever a pattern raises is its own ending
                found = record(case, self._origin, role="asked", ended=ending(error))
                error.__traceback__ = None  # its frames hold tensors
            yield found
            if found["status"] in ("oom", "crashed"):
                confirm_device(torch.device(case.device))

    def _judged(self, case: FidelityCase, layer: "_Layer", bins: int) -> Record:
        pattern = one_pattern(case.pattern)
        if reason := too_long(pattern, case.length):
            raise Ended("unsupported", reason)
        dtype = getattr(torch, case.dtype)
        shared = layer.shared
        implementation = pattern.implementation(shared.q, shared.k, shared.v, case.backend)
        try:
            found = fidelity.measure(
                pattern,
                layer.inputs,
                backend=case.backend,
                dtype=dtype,
                seed=case.seed,
                shared=shared,
            )
            if bins and pattern.linear_in_values:
                self._keep_map(case, layer.inputs, bins)
        except CannotWrite:
            raise
        except Exception as error:
            ended = ending(error)
            ended.implementation = implementation
            error.__traceback__ = None
            raise ended from None
        return record(
            case, self._origin, role="asked", implementation=implementation, fidelity=found
        )

    def _keep_map(self, case: FidelityCase, inputs: Inputs, bins: int) -> None:
        count = inputs.q.shape[1]
        heads = sorted({head * count // _MAP_HEADS for head in range(_MAP_HEADS)})
        made = maps.make(
            one_pattern(case.pattern),
            inputs,
            bins=bins,
            heads=heads,
            backend=case.backend,
            dtype=getattr(torch, case.dtype),
            case=as_dict(case),
        )
        path = self._run / MAPS / f"{case_key(case)}.npz"
        kept(path, lambda part: maps.save_map(part, made))


def kept(path: Path, write: Callable[[Path], object]) -> None:
    """Have a map file written, whole or not at all: a kill leaves no torn one.

    Raises:
        CannotWrite: the run folder takes no more.
    """
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(exist_ok=True)
        write(part)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from None


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """The inputs of one layer, and full attention on them."""

    case: FidelityCase  # the first one that needed them
    inputs: Inputs
    shared: Reference
    kept: tuple[tuple[Tensor, ...], ...]  # what all patterns read, as it was

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Put back what a pattern writes to what all share.

        Raises:
            Ended: as `wrong`, where it wrote something, whatever it raised thereafter.
        """
        try:
            yield
        except CannotWrite:
            raise
        except Exception:
            self._put_back()
            raise
        self._put_back()

    def _put_back(self) -> None:
        found = [restored(x, before) for x, before in zip(self._read(), self.kept, strict=True)]
        for wrong in filter(None, found):
            raise Ended("wrong", wrong.reason, {FIRED: {wrong.guard: wrong.reason}}) from None

    def _read(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        one, shared, precise = self.inputs, self.shared, self.shared.precise
        return [
            (one.q, one.k, one.v),
            (shared.q, shared.k, shared.v),
            (precise.q, precise.k, precise.v),
        ]

    @classmethod
    def load(cls, case: FidelityCase) -> "_Layer":
        found = settings(case.source, causal=case.causal)
        setting = next(one for one in found if one.layer == case.layer)
        inputs = load(
            setting,
            length=case.length,
            seed=case.seed,
            device=case.device,
            dtype=torch.float32,
            heads=case.heads,
            kv_heads=case.kv_heads,
            dim=case.dim,
        )
        dtype = getattr(torch, case.dtype)
        shared = reference(inputs, causal=case.causal, dtype=dtype, seed=case.seed)
        kept = tuple(
            tuple(one.detach().clone() for one in (x.q, x.k, x.v))
            for x in (inputs, shared, shared.precise)
        )
        return cls(case=case, inputs=inputs, shared=shared, kept=kept)
