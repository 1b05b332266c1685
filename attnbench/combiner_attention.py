"""A layer whose attention is a Combiner: projections, the pattern, and what its regions learn.

Letters: B batch, L tokens, E model width, H heads (Hq, Hkv), D head width.
"""

from torch import Tensor, nn

from attnbench.learned_summary import Learned, summary_network
from attnbench.spans import choose
from patterns import PATTERNS
from patterns.base import Pattern
from patterns.combiner.base import CombinerPattern
from patterns.errors import BadInput


class CombinerAttention(nn.Module):
    """Self-attention by a Combiner: ``[B, L, E]`` to ``[B, L, E]``.

    Its projections are called q_proj, k_proj, v_proj and o_proj, so that the weights of a layer
    with full attention of the same names load with ``strict=False``; what regions learn is below
    `summary`. Positions are told by the input: queries and keys are not rotated. No dropout.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        spec: str | Pattern = "combiner-fixed",
        *,
        kv_heads: int | None = None,
        head_width: int | None = None,
        learned: Learned = "none",
        bias: bool = False,
        backend: str = "auto",
    ) -> None:
        """Make a layer with new weights.

        Args:
            width: E, of the model.
            heads: Hq, of the queries.
            spec: a Combiner, such as ``"combiner-fixed[block=64,summary=mean+size]"``; whether it
                is causal is up to it (``causal=false``).
            kv_heads: Hkv, of keys and values; `heads` if None.
            head_width: D; E / Hq if None.
            learned: "none", or how regions learn their summary: "deepsets" or "residual", for
                combiner-axial-rowmajor "proj" or "wsum_proj".
            bias: whether the four projections have one.
            backend: what the pattern runs on.

        Raises:
            BadInput: numbers that do not fit together, no such pattern, backend or summary, or a
                pattern that is no Combiner.
        """
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        for name, value in (("width", width), ("heads", heads), ("kv_heads", kv_heads)):
            if value < 1:
                raise BadInput(f"{name} must be at least 1, got {value}")
        if heads % kv_heads:
            raise BadInput(f"heads must be a multiple of kv_heads, got {heads} and {kv_heads}")
        if head_width is None and width % heads:
            raise BadInput(f"width must be a multiple of heads, got {width} and {heads}")
        head_width = width // heads if head_width is None else head_width
        if head_width < 1:
            raise BadInput(f"head_width must be at least 1, got {head_width}")
        self.pattern = _combiner(spec, backend)
        self.backend = backend
        self.width, self.heads, self.kv_heads = width, heads, kv_heads
        self.q_proj = nn.Linear(width, heads * head_width, bias=bias)
        self.k_proj = nn.Linear(width, kv_heads * head_width, bias=bias)
        self.v_proj = nn.Linear(width, kv_heads * head_width, bias=bias)
        self.o_proj = nn.Linear(heads * head_width, width, bias=bias)
        self.summary = summary_network(learned, self.pattern, width, heads, kv_heads, head_width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each sequence ``[B, L, E]``; all its tokens count, none is padding.

        Raises:
            BadInput: another shape.
            Unsupported: the backend cannot run it.
        """
        if x.ndim != 3 or x.shape[2] != self.width:
            raise BadInput(f"expected [batch, length, {self.width}], got {[*x.shape]}")
        q = _split(self.q_proj(x), self.heads)
        k, v = (_split(proj(x), self.kv_heads) for proj in (self.k_proj, self.v_proj))
        if self.summary is None:
            out = self.pattern.attend(q, k, v, backend=self.backend)
        else:
            told = self.summary(x, q, k, v, self.backend)
            out = self.pattern.attend_told(q, k, v, told, backend=self.backend)
        joined: Tensor = self.o_proj(out.transpose(1, 2).flatten(2))
        return joined

    def extra_repr(self) -> str:
        """What its `repr` says beside the layers in it."""
        grouped = "" if self.kv_heads == self.heads else f"/{self.kv_heads}"
        return f"{self.pattern.spec}, heads={self.heads}{grouped}, backend={self.backend}"


def _split(x: Tensor, heads: int) -> Tensor:
    """[B, L, H * D] to [B, H, L, D]."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def _combiner(spec: str | Pattern, backend: str) -> CombinerPattern:
    chosen = choose(spec, backend).pattern
    if not isinstance(chosen, CombinerPattern):
        known = [name for name, kind in PATTERNS.items() if issubclass(kind, CombinerPattern)]
        raise BadInput(f"{chosen.spec} is no Combiner: there are {', '.join(known)}")
    return chosen
