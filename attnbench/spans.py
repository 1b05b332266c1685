"""Run a pattern on each sequence's own tokens, where a batch is padded, and one step at a time.

Letters: B batch, H heads (Hq, Hkv), L keys, Q queries (the last Q of the L positions), D width.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from attnbench.layers import Layer, PerHead, heads_of, keys_of
from patterns import PATTERNS, pattern
from patterns.base import Pattern, expand_groups
from patterns.errors import BadInput, Unsupported
from patterns.full import Full
from patterns.mask import MaskPattern

Spans = Sequence[tuple[int, int]]
"""The first token of each sequence of a batch, and the one after its last; the rest is padding."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The pattern that stands in for a model's attention, and the backend it runs on."""

    pattern: Pattern
    backend: str = "auto"

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        causal: bool,
        spans: Spans | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """Attention of the pattern, each sequence by itself; full attention all in one masked call.

        Args:
            q: queries [B, Hq, Q, D], those of the last Q positions.
            k: keys [B, Hkv, L, D].
            v: values [B, Hkv, L, D].
            causal: whether the model's attention is.
            spans: where the tokens of each sequence lie; None where nothing is padded.
            scale: factor on the scores; 1/sqrt(D) if None.

        Returns:
            [B, Hq, Q, D], zero where a query is padding.

        Raises:
            BadInput: the pattern asks for the other causality.
            Unsupported: the pattern or its backend cannot run this.
        """
        pattern = self._as_asked(causal=causal)
        if spans is None:
            return _attend(pattern, self.backend, q, k, v, scale)
        before = k.shape[2] - q.shape[2]
        groups: dict[tuple[int, int], list[int]] = {}
        for row, span in enumerate(spans):
            groups.setdefault(span, []).append(row)
        if list(groups) == [(0, k.shape[2])]:
            return _attend(pattern, self.backend, q, k, v, scale)
        if isinstance(pattern, Full) and self.backend in ("auto", "sdpa"):
            return _masked(q, k, v, spans, causal=causal, scale=scale)
        out = q.new_zeros(*q.shape[:3], v.shape[3])
        for (start, stop), rows in groups.items():
            first, last = max(start - before, 0), stop - before
            if first < last:
                keys, values = k[rows, :, start:stop], v[rows, :, start:stop]
                queries = q[rows, :, first:last]
                out[rows, :, first:last] = _attend(
                    pattern, self.backend, queries, keys, values, scale
                )
        return out

    def _as_asked(self, *, causal: bool) -> Pattern:
        if causal and not self.pattern.causal:
            raise BadInput(f"{self.pattern.spec} is bidirectional, and the model attends causally")
        same: Pattern = dataclasses.replace(self.pattern, causal=causal)  # type: ignore[type-var]
        return same


@dataclass(frozen=True, kw_only=True)
class HeadChoice:
    """Patterns that stand in for the heads of a model's attention, each on its own."""

    layer: PerHead
    backend: str = "auto"

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        causal: bool,
        spans: Spans | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """See `Choice`; one call for each distinct pattern, on its heads.

        Raises:
            BadInput: the layer does not fit so many heads.
        """
        group = q.shape[1] // k.shape[1]
        found: list[Tensor] = []
        order: list[int] = []
        for one, heads in heads_of(self.layer, q.shape[1]).items():
            keys = keys_of(heads, group)
            choice = Choice(pattern=one, backend=self.backend)
            own = q[:, list(heads)], k[:, keys], v[:, keys]
            found.append(choice.attend(*own, causal=causal, spans=spans, scale=scale))
            order += heads
        back = sorted(range(len(order)), key=order.__getitem__)
        return torch.cat(found, dim=1)[:, back]


def choose_layer(layer: Layer, backend: str) -> Choice | HeadChoice:
    """What stands in for a layer.

    Raises:
        BadInput: a pattern has no such backend.
    """
    if isinstance(layer, Pattern):
        return choose(layer, backend)
    for _, one in layer.parts:
        choose(one, backend)
    return HeadChoice(layer=layer, backend=backend)


def choose(spec: str | Pattern, backend: str) -> Choice:
    """The pattern that somebody asked for, by its spec or itself.

    Raises:
        BadInput: no such pattern, parameter or backend.
    """
    chosen = pattern(spec) if isinstance(spec, str) else spec
    if not isinstance(chosen, Pattern):
        kind = type(chosen).__name__
        raise BadInput(f"expected a pattern or its spec, such as 'local[window=128]', got {kind}")
    if backend != "auto" and backend not in chosen.backends:
        known = ", ".join(("auto", *chosen.backends))
        raise BadInput(f"pattern {chosen.name!r} has no backend {backend!r}: there are {known}")
    return Choice(pattern=chosen, backend=backend)


def spans_of(keep: Tensor) -> Spans | None:
    """Where the tokens of each sequence lie, from a bool [B, L] that is False for padding.

    Returns:
        None where nothing is padded.

    Raises:
        Unsupported: padding between two tokens of a sequence.
    """
    if bool(keep.all()):
        return None
    count = keep.sum(dim=1)
    start = keep.int().argmax(dim=1)
    stop = torch.where(count > 0, keep.shape[1] - keep.int().flip(1).argmax(dim=1), start)
    if not torch.equal(stop - start, count):
        raise Unsupported(
            "padding in the midst of a sequence: a pattern runs on tokens that lie together, "
            "so pad on the left or on the right"
        )
    return list(zip(start.tolist(), stop.tolist(), strict=True))


def _attend(
    pattern: Pattern, backend: str, q: Tensor, k: Tensor, v: Tensor, scale: float | None
) -> Tensor:
    if q.shape[2] == k.shape[2]:
        return pattern.attend(q, k, v, scale=scale, backend=backend)
    if not pattern.causal or q.shape[2] > k.shape[2]:
        raise Unsupported(
            f"{q.shape[2]} queries for {k.shape[2]} keys: a pattern attends within one sequence, "
            "and this is attention across two"
        )
    return _step(pattern, q, k, v, scale)


def _masked(
    q: Tensor, k: Tensor, v: Tensor, spans: Spans, *, causal: bool, scale: float | None
) -> Tensor:
    """Full attention on a padded batch, in one call: rounded as the model's own SDPA rounds."""
    length = k.shape[2]
    first, last = torch.tensor(spans, device=q.device).T[:, :, None]  # [B, 1]
    key = torch.arange(length, device=q.device)
    query = key[length - q.shape[2] :]
    allowed = ((key >= first) & (key < last))[:, None, None]
    if causal:
        allowed = allowed & (key <= query[:, None])
    padding = ((query < first) | (query >= last))[:, None, :, None]
    # No kernel has to do without a key at all: what such rows see is dropped again.
    out = scaled_dot_product_attention(
        q, expand_groups(k, q.shape[1]), expand_groups(v, q.shape[1]),
        attn_mask=allowed | padding, scale=scale,
    )  # fmt: skip
    return out.masked_fill(padding, 0.0)


def _step(pattern: Pattern, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """The last rows alone, the earlier keys being a cache: the keys that a mask allows."""
    length = k.shape[2]
    if not isinstance(pattern, MaskPattern) or not pattern.prefix_consistent:
        raise Unsupported(
            f"{pattern.spec} cannot go on from a key-value cache: only patterns that are masks can "
            f"({', '.join(_masks())}); generate with use_cache=False instead"
        )
    resolved = pattern.resolve(length)
    if resolved != pattern:
        raise Unsupported(
            f"{pattern.spec} has an automatic parameter, which would change while the sequence "
            f"grows: write it out, such as {resolved.spec}"
        )
    allowed = pattern.support(length, torch.arange(length - q.shape[2], length, device=q.device))
    needed = allowed.any(dim=0).nonzero().squeeze(1)
    if len(needed) < length:
        k, v, allowed = (x.index_select(-2, needed) for x in (k, v, allowed.mT))
        allowed = allowed.mT
    return scaled_dot_product_attention(
        q, k, v, attn_mask=allowed, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


def _masks() -> list[str]:
    return [name for name, kind in PATTERNS.items() if issubclass(kind, MaskPattern)]
