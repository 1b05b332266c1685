"""A fast form as a few dense pieces: each covers some of a query's keys, one softmax joins them.

Letters: B batch, H heads, L length, E head width; N = B * H; see `patterns.dense` for M, Q, K.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from patterns import dense
from patterns.dense import EVERYTHING, Visibility


class Layout(Protocol):
    """How the rows of [B, H, L, E] lie in a piece [N, M, Q, E]."""

    def arrange(self, x: Tensor) -> Tensor:
        """[B, H, L, E] to [N, M, Q, E]."""
        ...

    def restore(self, x: Tensor, batch: int, fill: float) -> Tensor:
        """[N, M, Q, E] to [B, H, L, E]; rows that the piece does not have get `fill`."""
        ...


@dataclass(frozen=True)
class Blocks:
    """Blocks of consecutive rows: M blocks of Q rows; the last one is padded with zeros.

    Without the first `skip` blocks and the last `drop` ones.
    """

    length: int
    block: int
    skip: int = 0
    drop: int = 0

    @property
    def count(self) -> int:
        """How many blocks there are, a last short one included."""
        return -(-self.length // self.block)

    def arrange(self, x: Tensor) -> Tensor:
        x = pad_rows(x, self.count * self.block)
        x = x.reshape(-1, self.count, self.block, x.shape[-1])
        return x[:, self.skip : self.count - self.drop]

    def restore(self, x: Tensor, batch: int, fill: float) -> Tensor:
        x = pad(x, (0, 0, 0, 0, self.skip, self.drop), value=fill)
        x = x.reshape(batch, -1, self.count * self.block, x.shape[-1])
        return x[:, :, : self.length]


@dataclass(frozen=True)
class Columns:
    """The rows as a grid of `width` columns: M columns of Q grid rows.

    Without the first `skip` grid rows, `before` columns at the left and `after` at the right.
    """

    length: int
    width: int
    skip: int = 0
    before: int = 0
    after: int = 0

    @property
    def grid_rows(self) -> int:
        """How many rows the grid has, a last short one included."""
        return -(-self.length // self.width)

    def arrange(self, x: Tensor) -> Tensor:
        grid = Blocks(self.length, self.width).arrange(x)
        return grid[:, self.skip :, self.before : self.width - self.after].transpose(1, 2)

    def restore(self, x: Tensor, batch: int, fill: float) -> Tensor:
        missing = (0, 0, self.before, self.after, self.skip, 0)
        grid = pad(x.transpose(1, 2), missing, value=fill)
        return Blocks(self.length, self.width).restore(grid, batch, fill)


@dataclass(frozen=True)
class Whole:
    """All rows from `start` on, in order."""

    length: int
    start: int = 0

    def arrange(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 1, self.length, x.shape[-1])[:, :, self.start :]

    def restore(self, x: Tensor, batch: int, fill: float) -> Tensor:
        x = pad(x, (0, 0, self.start, 0), value=fill)
        return x.reshape(batch, -1, self.length, x.shape[-1])


@dataclass(frozen=True)
class Given:
    """Rows that lie as the piece wants them, [N, M, Q, E] from the start."""

    def arrange(self, x: Tensor) -> Tensor:
        return x

    def restore(self, x: Tensor, batch: int, fill: float) -> Tensor:
        return x


@dataclass(frozen=True)
class Reversed:
    """Another layout of the rows in reverse order: what looks back there looks ahead here."""

    inner: Layout

    def arrange(self, x: Tensor) -> Tensor:
        return self.inner.arrange(x.flip(2))

    def restore(self, x: Tensor, batch: int, fill: float) -> Tensor:
        return self.inner.restore(x, batch, fill).flip(2)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some keys for some queries: k, v are [N, M or 1, K, E] beside `layout.arrange(q)`.

    bias: one number a key to add to its scores, [N, M or 1, K].
    """

    layout: Layout
    k: Tensor
    v: Tensor
    visible: Visibility = EVERYTHING
    bias: Tensor | None = None


def attend_pieces(q: Tensor, pieces: list[Piece], scale: float, backend: str) -> Tensor:
    """One softmax over the keys of all pieces: [B, H, L, E] to [B, H, L, Ev].

    The first piece must show every row at least one key: the others are merged into it.
    """
    return attend_pieces_lse(q, pieces, scale, backend)[0]


def attend_pieces_lse(
    q: Tensor, pieces: list[Piece], scale: float, backend: str
) -> tuple[Tensor, Tensor]:
    """The same with the log-sum-exp of each row, [B, H, L, 1]; both have gradients."""
    tensors: list[Tensor] = []
    for piece in pieces:
        queries, keys = piece.layout.arrange(q), piece.k
        if piece.bias is not None:
            queries, keys = _with_bias(queries, keys, piece.bias, scale)
        tensors += [queries, keys, piece.v]
    plan = [(piece.layout, piece.visible) for piece in pieces]
    merged: tuple[Tensor, Tensor] = _Merged.apply(plan, scale, backend, q.shape[0], *tensors)  # type: ignore[no-untyped-call]
    return merged


class _Merged(torch.autograd.Function):
    """Forward: the pieces, merged by their log-sum-exps. Backward: see `patterns.dense`."""

    @staticmethod
    def forward(
        ctx: Any,
        plan: list[tuple[Layout, Visibility]],
        scale: float,
        backend: str,
        batch: int,
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        out = lse = torch.empty(0)
        for index, (layout, visible) in enumerate(plan):
            q, k, v = tensors[3 * index : 3 * index + 3]
            piece_out, piece_lse = dense.forward(backend, q, k, v, visible, scale)
            piece_out = layout.restore(piece_out, batch, 0.0)
            piece_lse = layout.restore(piece_lse, batch, -torch.inf)
            if index == 0:
                out, lse = piece_out, piece_lse
            else:
                # From the difference: a share near 1 is then right to the last bit, where
                # exp(piece_lse - total) would carry the rounding of two large numbers.
                share = (piece_lse - lse).sigmoid()
                out = torch.lerp(out.to(share.dtype), piece_out.to(share.dtype), share)
                lse = torch.logaddexp(lse, piece_lse)
        out = out.to(tensors[0].dtype)
        ctx.save_for_backward(out, lse, *tensors)
        ctx.plan, ctx.scale, ctx.backend = plan, scale, backend
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, lse_grad: Tensor | None) -> tuple[Any, ...]:
        out, lse, *tensors = ctx.saved_tensors
        grad = torch.zeros_like(out) if grad is None else grad
        found: list[Tensor] = []
        for index, (layout, visible) in enumerate(ctx.plan):
            q, k, v = tensors[3 * index : 3 * index + 3]
            grad_, out_, lse_ = (layout.arrange(x) for x in (grad, out, lse))
            of_lse = None if lse_grad is None else layout.arrange(lse_grad)
            found += dense.backward(
                ctx.backend, grad_, q, k, v, out_, lse_, visible, ctx.scale, of_lse
            )
        return None, None, None, None, *found


def _with_bias(q: Tensor, k: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Carry a bias a key as extra coordinates: <[q, 1, 1], [k, high, low]> = <q, k> + bias / scale.

    Two coordinates, so that a 16-bit dtype holds the bias to twice its precision; the rest of
    eight are zeros, for the alignment that fused kernels want.
    """
    wanted = bias / scale
    high = wanted.to(k.dtype)
    low = (wanted.detach() - high.detach()).to(k.dtype)  # a constant: its gradient is in `high`
    keys = torch.cat([k, torch.stack([high, low], dim=-1), k.new_zeros(*k.shape[:-1], 6)], dim=-1)
    ones = q.new_ones(*q.shape[:-1], 2)
    return torch.cat([q, ones, q.new_zeros(*q.shape[:-1], 6)], dim=-1), keys


def pad_rows(x: Tensor, length: int) -> Tensor:
    """Append zero rows until [B, H, L, E] has this length."""
    return pad(x, (0, 0, 0, length - x.shape[2])) if x.shape[2] < length else x


class _Unused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor, *unused: Tensor) -> Tensor:
        ctx.save_for_backward(*unused)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return grads[0], *(torch.zeros_like(x) for x in ctx.saved_tensors)


def with_unused(out: Tensor, *unused: Tensor) -> Tensor:
    """The same output, whose gradient with respect to these inputs is zero instead of absent."""
    result: Tensor = _Unused.apply(out, *unused)  # type: ignore[no-untyped-call]
    return result
