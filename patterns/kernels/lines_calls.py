"""Launching the kernels that work along the lines of a grid.

Letters as in `patterns.kernels.lines`; tokens are [B, H, L, D], summaries [B, H, P, D].
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from patterns.computed import count
from patterns.kernels import lines_backward, lines_forward
from patterns.kernels.launching import precision
from patterns.kernels.lines_computed import diagonal_pairs, read_pairs
from patterns.kernels.lines_tiles import Work, line_tiles
from patterns.kernels.prepared import launch
from patterns.kernels.tuned import Tiles

UPTO, APART, ALL, FROM = 0, 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The grid and the sizes that all launches of a call share; `scale` is that of the scores."""

    batch: int
    heads: int
    kv_heads: int
    length: int
    dim: int
    columns: int
    scale: float
    half: bool
    exactness: str  # of the products of float32 numbers
    device: torch.device

    @property
    def rows(self) -> int:
        """S, a last short row included."""
        return -(-self.length // self.columns)

    @property
    def lines(self) -> int:
        """Query heads of all sequences."""
        return self.batch * self.heads

    @property
    def group(self) -> int:
        """Query heads that share a head of keys and values."""
        return self.heads // self.kv_heads

    @property
    def padded(self) -> int:
        """P, the places of the grid."""
        return self.rows * self.columns

    @property
    def width(self) -> int:
        """D as a power of two that a matrix product takes."""
        return max(16, 1 << (self.dim - 1).bit_length())

    @property
    def base2(self) -> float:
        """The scale for scores in units of log 2."""
        return self.scale / math.log(2)

    def extent(self, down: bool) -> int:
        """How long a line is."""
        return self.rows if down else self.columns

    def programs(self, down: bool, tile: int) -> int:
        """How many tiles of a line there are in all lines of all heads."""
        across = self.columns if down else self.rows
        return -(-self.extent(down) // tile) * across * self.lines

    def tiles(self, work: Work, down: bool) -> Tiles:
        """Tile sizes for lines of this direction."""
        extent = self.extent(down)
        return line_tiles(work, self.width, self.half, extent, extent, self.device)

    @property
    def constants(self) -> dict[str, Any]:
        """What every kernel takes."""
        return {"DIM": self.dim, "WIDTH": self.width, "PRECISION": self.exactness}


def frame_of(q: Tensor, k: Tensor, columns: int, scale: float) -> Frame:
    """The frame of these queries and keys."""
    batch, heads, length, dim = q.shape
    return Frame(
        batch=batch,
        heads=heads,
        kv_heads=k.shape[1],
        length=length,
        dim=dim,
        columns=columns,
        scale=scale,
        half=q.element_size() == 2,
        exactness=precision(q),
        device=q.device,
    )


@dataclass(frozen=True, kw_only=True)
class Source:
    """Keys that queries read along their lines.

    key, value: [B, Hq or Hkv, L or P, D].
    bias: [B, Hq, P], added to the scores, in units of log 2.
    mask: UPTO (keys at least `shift` before the query), FROM (after it), APART (on either side)
        or ALL.
    line: how many lines on from the queries the keys lie.
    limit: tokens from here on are none.
    """

    key: Tensor
    value: Tensor
    bias: Tensor | None = None
    mask: int
    shift: int = 0
    line: int = 0
    limit: int


def read(
    frame: Frame,
    q: Tensor,
    out: Tensor,
    lse: Tensor,
    sources: list[Source],
    *,
    down: bool,
    state: tuple[Tensor, Tensor] | None,
    other: Tensor | None = None,
) -> None:
    """Write to `out` and `lse` what the queries see of one or two sources along their lines.

    Args:
        state: an output and log-sum-exps to go on from; they may be `out` and `lse`.
        other: write the mean of the result and this.
    """
    first, second = sources[0], sources[-1]
    tiles = frame.tiles("read", down)
    count(
        lambda: frame.lines * sum(
            read_pairs(
                frame, tiles, down=down, mask=source.mask, shift=source.shift, line=source.line,
                asking=frame.length, limit=source.limit,
            )
            for source in sources
        )
    )  # fmt: skip
    launch(
        lines_forward.attend_lines, frame.programs(down, tiles.queries),
        q, out, lse, *((out, lse) if state is None else state), out if other is None else other,
        first.key, first.value, _bias(first, lse),
        second.key, second.value, _bias(second, lse),
        *q.stride()[:3],
        *first.key.stride()[:3], *first.value.stride()[:3],
        *second.key.stride()[:3], *second.value.stride()[:3],
        frame.length, frame.rows, frame.columns, first.limit, second.limit,
        frame.base2, frame.heads,
        DOWN=down, STATE=state is not None, AVERAGE=other is not None, SOURCES=len(sources),
        **_constants(frame, first, "A"),
        **_constants(frame, second, "B"),
        M=tiles.queries, N=tiles.keys,
        **frame.constants,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip


def _bias(source: Source, other: Tensor) -> Tensor:
    return other if source.bias is None else source.bias


def _constants(frame: Frame, source: Source, name: str) -> dict[str, Any]:
    return {
        f"MASK_{name}": source.mask,
        f"SHIFT_{name}": source.shift,
        f"LINE_{name}": source.line,
        f"BIASED_{name}": source.bias is not None,
        f"KEY_GROUP_{name}": frame.heads // source.key.shape[1],
        f"VALUE_GROUP_{name}": frame.heads // source.value.shape[1],
    }


@dataclass(frozen=True)
class Summaries:
    """What lines tell: values [B, H, P, D], keys, biases [B, H, P] and their log-sum-exps.

    key: empty where the key is not made along with the value.
    bias: empty where there is none.
    """

    key: Tensor
    value: Tensor
    bias: Tensor
    lse: Tensor

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """All of it, for saving."""
        return self.key, self.value, self.bias, self.lse


def room_for_summaries(frame: Frame, like: Tensor, *, key: bool, bias: bool) -> Summaries:
    """Room for what `summarise` writes."""
    shape = (frame.batch, frame.heads, frame.padded)
    whole = torch.promote_types(like.dtype, torch.float32)
    return Summaries(
        key=like.new_empty((*shape, frame.dim) if key else (0, 0, 0, 0)),
        value=like.new_empty((*shape, frame.dim)),
        bias=like.new_empty(shape if bias else (0, 0, 0), dtype=whole),
        lse=like.new_empty(shape, dtype=whole),
    )


def summarise(
    frame: Frame,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    found: Summaries,
    told: tuple[Tensor, Tensor],
    *,
    down: bool,
    mask: int,
    shift: int = 0,
    weighed: bool,
    q_limit: int,
    limit: int,
    tell: int = 0,
    lift: float = 0.0,
) -> None:
    """Every token asks its line: values, log-sum-exps and (`weighed`) keys and biases of it.

    Args:
        told: output and log-sum-exps, for `tell`: 1 for what a token sees of its line up to
            itself, 2 for all of it.
        weighed: the key is the mean of keys that goes with the value; otherwise, if there is room
            for keys, it is that of the token.
        q_limit: tokens from here on ask as the last one of their line does.
        limit: tokens before it ask.
        lift: of all biases, in units of log 2.
    """
    tiles = frame.tiles("summarise", down)
    count(
        lambda: frame.lines * read_pairs(
            frame, tiles, down=down, mask=mask, shift=shift, line=0,
            asking=limit, limit=frame.length,
        )
    )  # fmt: skip
    if tell == 1:  # these tiles belong to two softmaxes
        count(lambda: frame.lines * diagonal_pairs(frame, tiles, down=down))
    launch(
        lines_forward.summarise_lines, frame.programs(down, tiles.queries),
        q, k, v, found.value, found.key, found.bias, found.lse, *told,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
        frame.length, frame.rows, frame.columns, q_limit, limit, frame.base2, lift, frame.heads,
        DOWN=down, MASK=mask, SHIFT=shift,
        WEIGHED=weighed, ENTROPY=found.bias.numel() > 0,
        COPIED=found.key.numel() > 0 and not weighed,
        TELL=tell, GROUP=frame.group,
        M=tiles.queries, N=tiles.keys,
        **frame.constants,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Queries with what the gradients of a softmax need of them; all but q, grad by place.

    q: [B, Hq, L or P, D].
    grad: of the output, or of the values of summaries; the same shape.
    lse, delta: [B, Hq, L or P]; delta is <output, grad>, less what biases take.
    grad_key, grad_bias: of the keys and biases of summaries; None where they have no part in it.
    limit: tokens from here on do not ask.
    """

    q: Tensor
    grad: Tensor
    lse: Tensor
    delta: Tensor
    grad_key: Tensor | None = None
    grad_bias: Tensor | None = None
    limit: int


def query_gradients(
    frame: Frame,
    asked: Asked,
    dq: Tensor,
    sources: list[Source],
    *,
    down: bool,
    add: bool,
    out: Tensor | None = None,
    twin: Tensor | None = None,
) -> None:
    """Gradients of the queries [B, H, L or P, D] from one or two sources along their lines.

    Args:
        add: to what `dq` holds.
        out: the output, if `asked.delta` is still to be written.
        twin: `out` is the mean of two results, and this is the delta of the other one.
    """
    first, second = sources[0], sources[-1]
    tiles = frame.tiles("queries", down)
    launch(
        lines_backward.query_gradients, frame.programs(down, tiles.queries),
        asked.q, asked.grad, asked.grad if out is None else out, asked.lse, asked.delta,
        asked.delta if twin is None else twin, *_weighed(asked), dq,
        first.key, first.value, _bias(first, asked.lse),
        second.key, second.value, _bias(second, asked.lse),
        *asked.q.stride()[:3], *asked.grad.stride()[:3],
        *first.key.stride()[:3], *first.value.stride()[:3],
        *second.key.stride()[:3], *second.value.stride()[:3],
        asked.lse.shape[2], dq.shape[2], asked.limit, frame.rows, frame.columns,
        first.limit, second.limit, frame.base2, frame.heads,
        DOWN=down, FIRST=out is not None, TWIN=twin is not None, ADD=add,
        WEIGHED=asked.grad_key is not None, ENTROPY=asked.grad_bias is not None,
        SOURCES=len(sources),
        **_constants(frame, first, "A"),
        **_constants(frame, second, "B"),
        M=tiles.queries, N=tiles.keys,
        **frame.constants,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip


def _weighed(asked: Asked) -> tuple[Tensor, Tensor]:
    return (
        asked.grad if asked.grad_key is None else asked.grad_key,
        asked.lse if asked.grad_bias is None else asked.grad_bias,
    )


def token_gradients(
    frame: Frame,
    asked: Asked,
    source: Source,
    dk: Tensor,
    dv: Tensor,
    *,
    down: bool,
    add: bool,
    more: Tensor | None = None,
) -> None:
    """Gradients of the keys and values [B, Hkv, L, D] of tokens.

    Args:
        add: to what `dk` and `dv` hold.
        more: further gradients of the keys, [B, Hq, P, D].
    """
    _key_gradients(
        frame, asked, source, dk, dv, (asked.grad, asked.grad, *[asked.lse] * 3),
        asked.grad if more is None else more,
        down=down, ADD=add, MORE=more is not None, LOOP=frame.group, TOLD=False, WEIGHED_KEY=False,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SummaryGradients:
    """Gradients of summaries: keys and values [B, H, P, D], biases and deltas [B, H, P]."""

    key: Tensor
    value: Tensor
    bias: Tensor
    delta: Tensor

    def asked(self, q: Tensor, found: Summaries, limit: int, *, weighed: bool) -> Asked:
        """What the tokens were told, as an output whose gradient is known."""
        return Asked(
            q=q,
            grad=self.value,
            lse=found.lse,
            delta=self.delta,
            grad_key=self.key if weighed else None,
            grad_bias=self.bias if weighed and self.bias.numel() else None,
            limit=limit,
        )


def summary_gradients(
    frame: Frame,
    asked: Asked,
    source: Source,
    found: Summaries,
    *,
    down: bool,
    weighed: bool,
    lift: float = 0.0,
) -> SummaryGradients:
    """Gradients of the summaries that a source is, for each query head."""
    value = torch.empty_like(found.value)
    entropy = weighed and source.bias is not None
    gradients = SummaryGradients(
        key=torch.empty_like(found.value),
        value=value,
        bias=torch.empty_like(found.lse) if entropy else found.bias.new_empty(0),
        delta=torch.empty_like(found.lse),
    )
    bias_grad = gradients.bias if entropy else found.lse
    _key_gradients(
        frame, asked, source, gradients.key, value,
        (found.value, found.key if weighed else found.value, found.lse, gradients.delta, bias_grad),
        asked.grad,
        down=down, ADD=False, MORE=False, LOOP=1, TOLD=True, WEIGHED_KEY=weighed, lift=lift,
    )  # fmt: skip
    return gradients


def _key_gradients(
    frame: Frame,
    asked: Asked,
    source: Source,
    dk: Tensor,
    dv: Tensor,
    told: tuple[Tensor, ...],
    more: Tensor,
    *,
    down: bool,
    lift: float = 0.0,
    **flags: Any,
) -> None:
    tiles = frame.tiles("keys", down)
    launch(
        lines_backward.key_gradients, frame.programs(down, tiles.keys) // flags["LOOP"],
        asked.q, asked.grad, asked.lse, asked.delta, *_weighed(asked),
        source.key, source.value, _bias(source, asked.lse), dk, dv, *told, more,
        *asked.q.stride()[:3], *asked.grad.stride()[:3],
        *source.key.stride()[:3], *source.value.stride()[:3],
        asked.lse.shape[2], dk.shape[2], asked.limit, source.limit, frame.rows, frame.columns,
        frame.base2, lift, frame.heads,
        DOWN=down, MASK=source.mask, SHIFT=source.shift, LINE=source.line,
        BIASED=source.bias is not None,
        KEY_GROUP=frame.heads // source.key.shape[1],
        VALUE_GROUP=frame.heads // source.value.shape[1],
        WEIGHED=asked.grad_key is not None, ENTROPY=asked.grad_bias is not None,
        M=tiles.queries, N=tiles.keys,
        **flags, **frame.constants,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
