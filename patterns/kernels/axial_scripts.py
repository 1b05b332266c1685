"""Running the script of a pattern along the lines of a grid, forward and backward.

Letters as in `patterns.kernels.lines`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from patterns.kernels.axial_form import Axial
from patterns.kernels.axial_regions import Reading, Script, Sight, Telling, script_of
from patterns.kernels.line_pools_calls import log_sizes, pool, unpool
from patterns.kernels.lines_calls import (
    Asked,
    Frame,
    Source,
    Summaries,
    SummaryGradients,
    frame_of,
    query_gradients,
    read,
    room_for_summaries,
    summarise,
    summary_gradients,
    token_gradients,
)

_HEAD = 4  # results before those of the tellings
_EACH = 6  # results of a telling


@dataclass(frozen=True)
class _Told:
    """A telling with its pools, [B, Hq, P, D] and [B, Hkv, P, D], and its summaries.

    key: empty if the keys of the summaries are weighed.
    """

    telling: Telling
    query: Tensor
    key: Tensor
    found: Summaries


def empty_results(q: Tensor, k: Tensor, v: Tensor, form: Axial) -> tuple[Tensor, ...]:
    """Room for the output, log-sum-exps, those of a first softmax of two, and the tellings."""
    frame = frame_of(q, k, form.columns, form.scale)
    script = script_of(frame, form)
    whole = torch.promote_types(q.dtype, torch.float32)
    twice = len(script.softmaxes) == 2
    results = [
        q.new_empty(q.shape),
        q.new_empty(q.shape[:3], dtype=whole),
        q.new_empty(q.shape if twice else (0, 0, 0, 0)),
        q.new_empty(q.shape[:3] if twice else (0, 0, 0), dtype=whole),
    ]
    weighed = form.kind == "variational"
    for _ in script.tellings:
        found = room_for_summaries(
            frame, q, key=weighed, bias=form.kind in ("mean+size", "variational")
        )
        heads = (frame.batch, 0 if weighed else frame.kv_heads, frame.padded, frame.dim)
        results += [q.new_empty(found.value.shape), k.new_empty(heads), *found.parts]
    return tuple(results)


def forward(q: Tensor, k: Tensor, v: Tensor, results: tuple[Tensor, ...], form: Axial) -> None:
    """Write what `empty_results` made room for."""
    frame = frame_of(q, k, form.columns, form.scale)
    script = script_of(frame, form)
    out, lse, first_out, first_lse = results[:_HEAD]
    told = list(_tellings(script, results))
    for each in told:
        _tell(frame, q, k, v, each, form)

    def see(
        reading: Reading,
        target: tuple[Tensor, Tensor],
        state: tuple[Tensor, Tensor] | None,
        other: Tensor | None = None,
    ) -> None:
        sources = [_source(frame, k, v, told, sight) for sight in reading.sights]
        read(frame, q, *target, sources, down=reading.down, state=state, other=other)

    state = None
    for reading in script.shared:
        see(reading, (out, lse), state)
        state = out, lse
    *early, last = script.softmaxes
    for readings in early:
        state_of_first = state
        for reading in readings:
            see(reading, (first_out, first_lse), state_of_first)
            state_of_first = first_out, first_lse
    for number, reading in enumerate(last, start=1):
        averaged = first_out if early and number == len(last) else None
        see(reading, (out, lse), state, averaged)
        state = out, lse


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kept: tuple[Tensor, ...],
    gradients: tuple[Tensor, ...],
    form: Axial,
) -> None:
    """Write the gradients of q, k, v."""
    frame = frame_of(q, k, form.columns, form.scale)
    script = script_of(frame, form)
    out, lse, first_out, first_lse = kept[:_HEAD]
    told = list(_tellings(script, kept))
    dq, dk, dv = gradients
    weighed = form.kind == "variational"
    of_told: dict[int, SummaryGradients] = {}
    twin: Tensor | None = None
    started = False
    if len(script.softmaxes) == 2:
        grad = grad * 0.5
    for number, readings in enumerate(script.softmaxes, start=1):
        final = number == len(script.softmaxes)
        asked = Asked(
            q=q,
            grad=grad,
            lse=lse if final else first_lse,
            delta=torch.empty_like(lse),
            limit=frame.length,
        )
        result: Tensor | None = out if final else first_out
        for reading in (*script.shared, *readings):
            sources = [_source(frame, k, v, told, sight) for sight in reading.sights]
            query_gradients(
                frame, asked, dq, sources, down=reading.down, add=started, out=result,
                twin=twin if result is not None else None,
            )  # fmt: skip
            result = None
            for sight, source in zip(reading.sights, sources, strict=True):
                if sight.told is None:
                    token_gradients(frame, asked, source, dk, dv, down=reading.down, add=started)
                    started = True
                else:
                    of_told[sight.told] = summary_gradients(
                        frame, asked, source, told[sight.told].found, down=reading.down,
                        weighed=weighed, lift=_lift(form),
                    )  # fmt: skip
        twin = asked.delta
    for index, each in enumerate(told):
        _tell_back(frame, q, k, v, each, of_told[index], gradients, form)


def _tellings(script: Script, results: tuple[Tensor, ...]) -> Iterator[_Told]:
    for index, telling in enumerate(script.tellings):
        query, key, *parts = results[_HEAD + _EACH * index : _HEAD + _EACH * (index + 1)]
        yield _Told(telling, query, key, Summaries(*parts))


def _lift(form: Axial) -> float:
    """Of variational biases, in units of log 2: two regions of one softmax share a token's mass."""
    return -1.0 if form.plan == "joint" and form.kind == "variational" else 0.0


def _source(frame: Frame, k: Tensor, v: Tensor, told: list[_Told], sight: Sight) -> Source:
    if sight.told is None:
        return Source(
            key=k,
            value=v,
            mask=sight.mask,
            shift=sight.shift,
            line=sight.line,
            limit=frame.length,
        )
    each = told[sight.told]
    return Source(
        key=each.key if each.key.numel() else each.found.key,
        value=each.found.value,
        bias=each.found.bias if each.found.bias.numel() else None,
        mask=sight.mask,
        shift=sight.shift,
        line=sight.line,
        limit=each.telling.limit,
    )


def _tell(frame: Frame, q: Tensor, k: Tensor, v: Tensor, each: _Told, form: Axial) -> None:
    """Write the pools and the summaries of a telling."""
    telling, largest = each.telling, form.kind == "max"
    region, down, limit = telling.region, telling.down, telling.limit
    pool(frame, q, each.query, region, limit, down=down, largest=largest)
    if each.key.numel():
        pool(frame, k, each.key, region, limit, down=down, largest=largest)
    if form.kind == "mean+size":
        each.found.bias.copy_(log_sizes(frame, region, limit, down, each.found.bias))
    summarise(
        frame, each.query, k, v, each.found, (each.query, each.found.lse),
        down=down, mask=telling.mask, shift=telling.shift, weighed=form.kind == "variational",
        q_limit=limit, limit=limit, lift=_lift(form),
    )  # fmt: skip


def _tell_back(
    frame: Frame,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    each: _Told,
    change: SummaryGradients,
    gradients: tuple[Tensor, ...],
    form: Axial,
) -> None:
    """Add to the gradients of q, k, v what those of the summaries of a telling give."""
    dq, dk, dv = gradients
    telling, largest = each.telling, form.kind == "max"
    region, down, limit = telling.region, telling.down, telling.limit
    asked = change.asked(each.query, each.found, limit, weighed=form.kind == "variational")
    line = Source(key=k, value=v, mask=telling.mask, shift=telling.shift, limit=frame.length)
    of_query = torch.empty_like(each.query)
    query_gradients(frame, asked, of_query, [line], down=down, add=False)
    token_gradients(frame, asked, line, dk, dv, down=down, add=True)
    unpool(frame, q, each.query, of_query, dq, region, limit, down=down, largest=largest)
    if each.key.numel():
        unpool(frame, k, each.key, change.key, dk, region, limit, down=down, largest=largest)
