"""Combiner-Axial row-major on the GPU: two launches forward, six backward.

Along the rows every token asks its row for a summary, and attends to it up to itself: one pass
over the same scores. Down the columns it goes on over what the tokens above it have been told.
Letters as in `patterns.kernels.lines`.
"""

import torch
from torch import Tensor

from patterns.kernels.axial_form import Axial
from patterns.kernels.lines_calls import (
    ALL,
    APART,
    UPTO,
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


def empty_results(q: Tensor, k: Tensor, v: Tensor, form: Axial) -> tuple[Tensor, ...]:
    """Room for the output, its log-sum-exps, and the summaries with theirs."""
    frame = frame_of(q, k, form.columns, form.scale)
    found = room_for_summaries(
        frame,
        q,
        key=form.kind != "none" or _stands_in(frame, form),
        bias=form.kind == "variational",
    )
    whole = torch.promote_types(q.dtype, torch.float32)
    return q.new_empty(q.shape), q.new_empty(q.shape[:3], dtype=whole), *found.parts


def forward(q: Tensor, k: Tensor, v: Tensor, results: tuple[Tensor, ...], form: Axial) -> None:
    """Write what `empty_results` made room for."""
    frame = frame_of(q, k, form.columns, form.scale)
    out, lse, *parts = results
    found = Summaries(*parts)
    summarise(
        frame, q, k, v, found, (out, lse),
        down=False, mask=ALL, weighed=form.kind != "none",
        q_limit=frame.length, limit=_limit(frame, form), tell=1 if form.causal else 2,
    )  # fmt: skip
    if frame.rows > 1:
        read(frame, q, out, lse, [_far(frame, k, found, form)], down=True, state=(out, lse))


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
    out, lse, *parts = kept
    found = Summaries(*parts)
    dq, dk, dv = gradients
    weighed = form.kind != "none"
    asked = Asked(q=q, grad=grad, lse=lse, delta=torch.empty_like(lse), limit=frame.length)
    own = Source(key=k, value=v, mask=UPTO if form.causal else ALL, limit=frame.length)
    if frame.rows == 1:
        query_gradients(frame, asked, dq, [own], down=False, add=False, out=out)
        token_gradients(frame, asked, own, dk, dv, down=False, add=False)
        return
    far = _far(frame, k, found, form)
    query_gradients(frame, asked, dq, [far], down=True, add=False, out=out)
    of_found = summary_gradients(frame, asked, far, found, down=True, weighed=weighed)
    if _limit(frame, form) > frame.length:
        _gather_stand_ins(of_found, frame.length)
    told = of_found.asked(q, found, frame.length, weighed=weighed)
    line = Source(key=k, value=v, mask=ALL, limit=frame.length)
    query_gradients(frame, asked, dq, [own], down=False, add=True)
    query_gradients(frame, told, dq, [line], down=False, add=True)
    more = None if weighed else of_found.key
    token_gradients(frame, asked, own, dk, dv, down=False, add=False, more=more)
    token_gradients(frame, told, line, dk, dv, down=False, add=True)


def _far(frame: Frame, k: Tensor, found: Summaries, form: Axial) -> Source:
    """What the queries read down their columns."""
    return Source(
        key=found.key if found.key.numel() else k,
        value=found.value,
        bias=found.bias if found.bias.numel() else None,
        mask=UPTO if form.causal else APART,
        shift=1,
        limit=_limit(frame, form),
    )


def _stands_in(frame: Frame, form: Axial) -> bool:
    """Whether places of the grid are read that have no token: their row's last one stands in."""
    return not form.causal and frame.padded > frame.length


def _limit(frame: Frame, form: Axial) -> int:
    """Places before it have a summary that may be read."""
    return frame.padded if _stands_in(frame, form) else frame.length


def _gather_stand_ins(of_found: SummaryGradients, length: int) -> None:
    """Give the last token the gradients of the places that it stands in for."""
    for x in (of_found.key, of_found.value, of_found.bias, of_found.delta):
        if x.numel():
            x[:, :, length - 1] = x[:, :, length - 1 :].sum(dim=2)
