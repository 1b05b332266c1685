"""What the sparse mask patterns share: which tiles they see, and the kernels they can run on."""

import abc

from torch import Tensor

from patterns import dense
from patterns.errors import Unsupported
from patterns.fused import NARROWEST_TILE, flex_refusal, triton_refusal
from patterns.mask import MaskPattern
from patterns.sparse.tiles import Cover, TilePair


class SparsePattern(MaskPattern):
    """A mask whose visible tiles have a closed form.

    Backends: `triton`, where there is a fused kernel; `flex`, FlexAttention compiled for the mask;
    the others run the dense pieces of `_attend`.
    """

    @abc.abstractmethod
    def _tiles(self, pair: TilePair) -> Cover:
        """What the mask shows of these tiles; causality and the own key are seen to elsewhere."""

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """The fused kernel, if `triton` is one of the backends; k, v have their own heads."""
        raise Unsupported(f"{self.name} has no fused kernel; use backend sdpa")

    def _refusal(self, backend: str, q: Tensor) -> str | None:
        if backend == "triton":
            return triton_refusal(q, narrowest=NARROWEST_TILE)
        if backend == "flex":
            return flex_refusal(q)
        return dense.refusal(backend, q)

    def _run(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        if backend == "triton":
            return self._fused(q, k, v, scale)
        if backend == "flex":
            from patterns.kernels.flex import attend_flex

            return attend_flex(self, q, k, v, scale)
        return super()._run(q, k, v, scale, backend)
