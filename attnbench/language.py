"""What a language model makes of tokens: the loss of each, and how far it is from another reading.

Letters: L tokens, E model width, N words of the vocabulary. The logits [L, N] are made in slices.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnbench.interface import layer_numbers
from patterns.base import Shape
from patterns.errors import BadInput, Unsupported

_ROWS = 256  # whose logits are there at once
_SAME = 1e-3  # relative: the model's own logits against ours, in float32
_SAME_HALF = 2e-2  # and in 16 bits, where two kernels may round differently


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The attention of a model: its layers, heads and positions; None where there is no limit."""

    layers: int
    heads: int
    kv_heads: int
    dim: int
    positions: int | None

    def shape(self, length: int, element_bytes: int) -> Shape:
        """Of one layer, for a batch of one."""
        return Shape(
            batch=1, heads=self.heads, kv_heads=self.kv_heads, length=length, dim=self.dim,
            element_bytes=element_bytes,
        )  # fmt: skip


class Reader:
    """A causal language model, taken apart into its layers and its output embedding."""

    def __init__(self, model: Any) -> None:
        """Take a transformers model with a language-model head.

        Raises:
            BadInput: it does not predict the next token.
            Unsupported: its logits are more than a product with its last hidden state.
        """
        self.layers = model.base_model  # what attnbench.use is for
        self._head = model.get_output_embeddings()
        self.device = next(model.parameters()).device
        modules = layer_numbers(self.layers)
        if self._head is None or not all(module.is_causal for module in modules):
            raise BadInput(
                f"{type(model).__name__} does not predict the next token: perplexity needs a "
                "causal language model"
            )
        self.sizes = _sizes(model.config, len(set(modules.values())))
        self._expect_plain_logits(model)

    @torch.no_grad()
    def read(self, tokens: Sequence[int]) -> tuple[Tensor, float]:
        """The last hidden state [L, E], and the milliseconds that it took."""
        ids = torch.tensor([list(tokens)], device=self.device)
        self._wait()
        start = time.perf_counter()
        hidden: Tensor = self.layers(input_ids=ids, use_cache=False).last_hidden_state[0]
        self._wait()
        return hidden, 1e3 * (time.perf_counter() - start)

    @torch.no_grad()
    def losses(self, hidden: Tensor, tokens: Sequence[int]) -> Tensor:
        """Minus the log-probability of each token after the first, in nats: float32 [L - 1]."""
        ids = torch.tensor(list(tokens), device=self.device)
        found = [
            -logs.gather(1, ids[start + 1 : start + 1 + len(logs), None]).squeeze(1)
            for start, logs in self._logs(hidden[:-1])
        ]
        return torch.cat(found).cpu()

    @torch.no_grad()
    def compared(self, hidden: Tensor, full: Tensor) -> tuple[Tensor, Tensor]:
        """KL(full || other) in nats and whether the likeliest token is the same, by position.

        The last position, which predicts nothing that is in the text, is left out.
        """
        divergence, same = [], []
        pairs = zip(self._logs(hidden[:-1]), self._logs(full[:-1]), strict=True)
        for (_, ours), (_, theirs) in pairs:
            divergence.append((theirs.exp() * (theirs - ours)).sum(dim=1))
            same.append(ours.argmax(dim=1) == theirs.argmax(dim=1))
        return torch.cat(divergence).cpu(), torch.cat(same).float().cpu()

    def _logs(self, hidden: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Slices of the log-probabilities, with the position of their first row."""
        for start in range(0, len(hidden), _ROWS):
            yield start, self._head(hidden[start : start + _ROWS]).float().log_softmax(dim=-1)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @torch.no_grad()
    def _expect_plain_logits(self, model: Any) -> None:
        ids = torch.arange(1, 9, device=self.device)[None]
        expected = model(input_ids=ids, use_cache=False).logits[0].float()
        found = self._head(self.read(ids[0].tolist())[0]).float()
        off = float((found - expected).abs().max())
        limit = _SAME_HALF if model.dtype in (torch.bfloat16, torch.float16) else _SAME
        if not off <= limit * float(expected.abs().max()):
            raise Unsupported(
                f"the logits of {type(model).__name__} are more than its output embedding times "
                "its last hidden state (a soft cap or a factor): perplexities would be wrong"
            )


def _sizes(config: Any, layers: int) -> Sizes:
    heads = config.num_attention_heads
    positions = getattr(config, "max_position_embeddings", None) or None
    return Sizes(
        layers=layers,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        positions=positions if positions is None or positions > 0 else None,
    )
