"""How many query-key pairs an implementation's products compute, counted without running them.

The fast form is traced on fake tensors of the same shape, dtype and device: every matrix product
and every fused kernel that it calls is counted, with padding and with what a mask hides.
Elementwise products and kernels of our own are not seen; where they do the work there is no number.
Letters: B batch, H heads (Hq/Hkv), L length, D head width, Q queries, K keys, E any width.
"""

import functools
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from attnbench.case import CostCase
from patterns import pattern as one_pattern
from patterns.base import Shape

TILE = 128
"""Tokens a side of the tiles in which fused kernels are taken to skip what nobody sees."""

_COUNTED_BACKENDS = ("eager", "sdpa")
_MOST_CALLS = 5000  # of PyTorch's operations that are looked at: a few seconds at most
_aten = torch.ops.aten


def computed_pairs(case: CostCase, backend: str) -> tuple[int | None, str | None]:
    """(pairs of one forward call over all heads, None), or (None, why there is no number).

    A pair is two products of the head's width; products of another width count by their FLOPs.

    Args:
        case: what was measured.
        backend: of the implementation that ran.
    """
    shape = (case.batch, case.heads, case.kv_heads, case.length, case.dim)
    return _counted(case.pattern, backend, shape, case.dtype, case.device)


def tiled_pairs(queries: int, keys: int, *, causal: bool, window: int | None = None) -> int:
    """The pairs of the tiles that hold a visible one.

    Args:
        queries: Q.
        keys: K.
        causal: whether keys after the query are not seen.
        window: how many keys before the query are seen at most; all if None.
    """
    if not causal and window is None:
        return queries * keys
    pairs = 0
    for first in range(0, queries, TILE):
        last = min(first + TILE, queries) - 1
        end = min(keys, (last // TILE + 1) * TILE) if causal else keys
        start = 0 if window is None else max(0, first - window) // TILE * TILE
        pairs += (last - first + 1) * max(0, end - start)
    return pairs


@functools.lru_cache(maxsize=4096)
def _counted(
    spec: str, backend: str, shape: tuple[int, int, int, int, int], dtype: str, device: str
) -> tuple[int | None, str | None]:
    batch, heads, kv_heads, length, dim = shape
    if backend.partition(":")[0] not in _COUNTED_BACKENDS:
        return None, f"the tiles of backend {backend} are not counted"
    kind = getattr(torch, dtype)
    counter = _Counter()
    try:
        pattern = one_pattern(spec)
        with FakeTensorMode(), torch.no_grad(), counter, _WholeCalls(counter):
            q = torch.empty(batch, heads, length, dim, dtype=kind, device=device)
            k, v = (torch.empty_like(q[:, :kv_heads]) for _ in range(2))
            pattern.attend(q, k, v, backend=backend)
    except _TooManyCalls:
        return None, f"more than {_MOST_CALLS} operations: its products were not counted"
    except Exception as error:  # whatever a pattern does that a fake tensor cannot
        return None, f"its products could not be traced: {type(error).__name__}"
    needed = pattern.cost(
        Shape(
            batch=batch, heads=heads, kv_heads=kv_heads, length=length, dim=dim,
            element_bytes=kind.itemsize,
        )
    )  # fmt: skip
    if counter.flops < needed.flops:
        return None, "not all of its products are matrix products"
    return round(counter.flops / (4 * dim)), None


class _TooManyCalls(RuntimeError):
    """More operations than are worth counting."""


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the FLOPs of matrix products and fused kernels."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self._calls = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self._calls += 1
        if self._calls > _MOST_CALLS:
            raise _TooManyCalls
        rule = _RULES.get(func._overloadpacket)
        if rule is not None:
            self.flops += rule(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class _WholeCalls(TorchFunctionMode):
    """Counts PyTorch's own attention as one call, before it chooses a kernel."""

    def __init__(self, counter: _Counter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention:
            self._counter.flops += _attention(*args, **kwargs)
            return torch.empty_like(args[0])
        return func(*args, **kwargs)


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *_: Any,
    is_causal: bool = False,
    window: int | None = None,
    **__: Any,
) -> int:
    """Two products in tiles of q [..., Q, E] with k, v [..., K, E]."""
    pairs = tiled_pairs(q.shape[-2], k.shape[-2], causal=is_causal, window=window)
    return 2 * prod(q.shape[:-2]) * pairs * (q.shape[-1] + v.shape[-1])


def _fused(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **_: Any) -> int:
    """(q, k, v, dropout, causal, ...), as most fused kernels take them."""
    return _attention(q, k, v, is_causal=len(rest) > 1 and rest[1] is True)


def _efficient(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **_: Any) -> int:
    """(q, k, v, bias, with log-sum-exp, dropout, causal)."""
    return _attention(q, k, v, is_causal=len(rest) > 3 and rest[3] is True)


def _window(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **settings: Any) -> int:
    """FlashAttention with a window, of [N, Q, M, E]; it ends at the query where causal."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    left, right = settings.get("window_size_left"), settings.get("window_size_right")
    causal = right == 0 or (len(rest) > 5 and rest[5] is True)
    return _attention(q, k, v, is_causal=causal, window=left)


def _product(a: Tensor, b: Tensor, **_: Any) -> int:
    """[..., Q, E] times [..., E, K]."""
    return 2 * prod(a.shape) * b.shape[-1]


def _added_product(_: Tensor, a: Tensor, b: Tensor, **settings: Any) -> int:
    return _product(a, b)


_RULES: Mapping[Any, Callable[..., int]] = {
    _aten.mm: _product,
    _aten.bmm: _product,
    _aten.addmm: _added_product,
    _aten.baddbmm: _added_product,
    _aten._scaled_dot_product_flash_attention_for_cpu: _fused,
    _aten._scaled_dot_product_flash_attention: _fused,
    _aten._scaled_dot_product_efficient_attention: _efficient,
    _aten._flash_attention_forward: _window,
}
