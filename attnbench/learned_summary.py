"""Learned summaries of a Combiner's regions, as small networks beside the attention they serve.

Letters: B batch, H heads (Hq, Hkv), L tokens, D head width, E model width.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import relu

from patterns.combiner.axial_rowmajor import CombinerAxialRowmajor
from patterns.combiner.base import CombinerPattern
from patterns.combiner.summary import Told
from patterns.errors import BadInput

Learned = Literal["none", "deepsets", "residual", "proj", "wsum_proj"]
"""How the summary of a region is learned; docs/fine-tuning.md has the formulas."""

POOLED = ("deepsets", "residual")
PROJECTED = ("proj", "wsum_proj")


class DeepSets(nn.Module):
    """Pool phi(q) and phi(k) instead of q and k, phi(x) = relu(x W), as the released code does.

    One W for queries and one for keys, both shared by all heads. A variational summary pools no
    keys and has none for them.
    """

    def __init__(self, pattern: CombinerPattern, head_width: int) -> None:
        super().__init__()
        self.queries = nn.Linear(head_width, head_width, bias=False)
        self.keys = (
            None
            if pattern.summary == "variational"
            else nn.Linear(head_width, head_width, bias=False)
        )

    def forward(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, backend: str) -> Told:
        """What regions are pooled from; x [B, L, E] and v are not asked."""
        return Told(relu(self.queries(q)), None if self.keys is None else relu(self.keys(k)))


class ResidualDeepSets(nn.Module):
    """The same with phi(x) = x + relu(x W) U, U being zero at first: training starts from pooling.

    Ours: what is put into a trained model should change it as little as it can.
    """

    def __init__(self, pattern: CombinerPattern, head_width: int) -> None:
        super().__init__()
        self.queries = _Residual(head_width)
        self.keys = None if pattern.summary == "variational" else _Residual(head_width)

    def forward(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, backend: str) -> Told:
        """What regions are pooled from; x [B, L, E] and v are not asked."""
        return Told(self.queries(q), None if self.keys is None else self.keys(k))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width, bias=False)
        self.outer = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.outer.weight)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.outer(relu(self.inner(x)))
        return found


class RowKeys(nn.Module):
    """The key that a token gives its row: W2 LayerNorm(x + W1 h), as in the released rowmajor.

    h: what the token makes of its row, by in-row attention, all heads side by side: of the values
    (proj), or of the keys (wsum_proj).
    """

    def __init__(
        self,
        pattern: CombinerAxialRowmajor,
        width: int,
        heads: int,
        kv_heads: int,
        head_width: int,
        *,
        of_keys: bool,
    ) -> None:
        super().__init__()
        self.pattern = pattern
        self.of_keys = of_keys
        self.kv_heads = kv_heads
        self.inner = nn.Linear(heads * head_width, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.outer = nn.Linear(width, kv_heads * head_width, bias=False)

    def forward(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, backend: str) -> Told:
        """The keys of all tokens [B, Hkv, L, D], from the layer's input x [B, L, E]."""
        local = self.pattern.tell(q, k, k if self.of_keys else v, backend=backend)
        keys = self.outer(self.norm(x + self.inner(local.transpose(1, 2).flatten(2))))
        return Told(None, keys.view(*x.shape[:2], self.kv_heads, -1).transpose(1, 2))


def summary_network(
    learned: str, pattern: CombinerPattern, width: int, heads: int, kv_heads: int, head_width: int
) -> DeepSets | ResidualDeepSets | RowKeys | None:
    """The network that was asked for; None for summaries without weights.

    Raises:
        BadInput: no such network, or it does not go with the pattern.
    """
    rowmajor = isinstance(pattern, CombinerAxialRowmajor)
    if learned not in ("none", *POOLED, *PROJECTED):
        known = ", ".join(("none", *POOLED, *PROJECTED))
        raise BadInput(f"learned must be one of {known}, got {learned!r}")
    if learned in POOLED and rowmajor:
        raise BadInput(
            f"{pattern.name} pools nothing: learned={learned!r} goes with the other Combiners, "
            "and 'proj' or 'wsum_proj' with this one"
        )
    if learned in PROJECTED and not (rowmajor and pattern.summary == "none"):
        raise BadInput(
            f"learned={learned!r} gives the rows of combiner-axial-rowmajor[summary=none] their "
            f"keys, and {pattern.spec} is not that one"
        )
    if learned == "deepsets":
        return DeepSets(pattern, head_width)
    if learned == "residual":
        return ResidualDeepSets(pattern, head_width)
    if isinstance(pattern, CombinerAxialRowmajor) and learned in PROJECTED:
        of_keys = learned == "wsum_proj"
        return RowKeys(pattern, width, heads, kv_heads, head_width, of_keys=of_keys)
    return None
