"""A tiny model that learns to recall with full attention, gets a Combiner, and learns on.

Run as ``python -m attnbench.fine_tuning``; docs/fine-tuning.md tells what came of it. What it reads
is made up: among noise each of `NAMES` names is given one of `VALUES` values, once, by one token;
the last `ASKED` tokens ask for names, and the answer to each is its value. With blocks no longer
than `ASKED` / 2 most answers lie in regions. Letters: B batch, L tokens, E model width.
"""

import argparse
import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from attnbench.combiner_attention import CombinerAttention
from attnbench.learned_summary import Learned
from patterns.errors import BadInput

NAMES, VALUES, NOISE = 4, 8, 28
WORDS = NAMES * VALUES + NAMES + NOISE  # of the vocabulary: who has what, who is asked for, noise
ASKED = 32  # tokens at the end of every sequence
_EVALUATED = 256  # sequences that no training step sees


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is trained, on what and for how long."""

    spec: str = "combiner-fixed[block=16]"  # causal
    learned: Learned = "none"
    steps: int = 600  # with full attention
    tuning_steps: int = 200  # after the swap
    length: int = 128
    batch: int = 16
    width: int = 64
    heads: int = 4
    layers: int = 2
    rate: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "tuning_steps", "length", "batch", "width", "heads", "layers"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.length < ASKED + NAMES:
            raise BadInput(f"length must be at least {ASKED + NAMES}, got {self.length}")


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Mean loss of an answer, in nats; guessing has log VALUES, 2.08."""

    full: float  # after training with full attention
    swapped: float  # with the Combiner in its place, as it is
    tuned: float  # after the tuning steps with the Combiner
    longer: float  # full attention, trained for as many steps more

    @property
    def recovered(self) -> float:
        """How much of what the swap lost came back."""
        return (self.swapped - self.tuned) / (self.swapped - self.full)


class FullAttention(nn.Module):
    """Causal attention to everything: ``[B, L, E]`` to ``[B, L, E]``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each sequence."""
        q, k, v = (
            part(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = scaled_dot_product_attention(q, k, v, is_causal=True)
        joined: Tensor = self.o_proj(out.transpose(1, 2).flatten(2))
        return joined


class Layer(nn.Module):
    """Attention and a feed-forward network, each added to what it reads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention: nn.Module = FullAttention(width, heads)
        self.before_attention, self.before_network = nn.LayerNorm(width), nn.LayerNorm(width)
        self.network = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, L, E]`` to ``[B, L, E]``."""
        x = x + self.attention(self.before_attention(x))
        out: Tensor = x + self.network(self.before_network(x))
        return out


class RecallModel(nn.Module):
    """Tokens [B, L] to the logits of the values at each of them, [B, L, VALUES]."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, plan.width)
        self.positions = nn.Embedding(plan.length, plan.width)
        self.layers = nn.ModuleList([Layer(plan.width, plan.heads) for _ in range(plan.layers)])
        self.before_head = nn.LayerNorm(plan.width)
        self.head = nn.Linear(plan.width, VALUES, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Which value each token is answered by."""
        x = self.words(tokens) + self.positions.weight[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(self.before_head(x))
        return logits


def with_combiner(model: RecallModel, plan: Plan) -> RecallModel:
    """A copy of a model whose attention is a Combiner, with the weights that it had."""
    swapped = copy.deepcopy(model)
    for layer in swapped.layers:
        combiner = CombinerAttention(plan.width, plan.heads, plan.spec, learned=plan.learned)
        assert isinstance(layer, Layer)
        # What regions learn was not there before: all the rest has to fit.
        left = combiner.load_state_dict(layer.attention.state_dict(), strict=False)
        assert not left.unexpected_keys
        assert all(name.startswith("summary.") for name in left.missing_keys)
        layer.attention = combiner
    return swapped


def sequences(count: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens [count, L] to read, and the answers [count, ASKED] to the last of them."""
    before = length - ASKED
    tokens = torch.randint(WORDS - NOISE, WORDS, (count, length), generator=generator)
    values = torch.randint(VALUES, (count, NAMES), generator=generator)
    places = torch.rand(count, before, generator=generator).argsort(dim=1)[:, :NAMES]
    tokens.scatter_(1, places, torch.arange(NAMES) * VALUES + values)
    asked = torch.randint(NAMES, (count, ASKED), generator=generator)
    tokens[:, before:] = NAMES * VALUES + asked
    return tokens, values.gather(1, asked)


def train(model: RecallModel, plan: Plan, steps: int, seed: int) -> None:
    """Take so many steps, each on new sequences, with a rate that rises and falls to zero."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, plan.rate, total_steps=steps + 1, pct_start=0.1
    )
    for _ in range(steps):
        loss = _loss(model, *sequences(plan.batch, plan.length, generator))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def unseen_loss(model: RecallModel, plan: Plan) -> float:
    """The mean loss over sequences that no training step sees."""
    generator = torch.Generator().manual_seed(plan.seed + 1000)
    return float(_loss(model, *sequences(_EVALUATED, plan.length, generator)))


def run(plan: Plan) -> Losses:
    """Train, swap, and train on: with the Combiner, and beside it with full attention.

    Raises:
        BadInput: the plan's Combiner cannot be built.
    """
    torch.manual_seed(plan.seed)
    model = RecallModel(plan)
    with_combiner(model, plan)  # before any training: a wrong plan is said at once
    train(model, plan, plan.steps, plan.seed)
    full = unseen_loss(model, plan)
    swapped = with_combiner(model, plan)
    jumped = unseen_loss(swapped, plan)
    for one in (swapped, model):
        train(one, plan, plan.tuning_steps, plan.seed + 1)
    return Losses(
        full=full,
        swapped=jumped,
        tuned=unseen_loss(swapped, plan),
        longer=unseen_loss(model, plan),
    )


def _loss(model: RecallModel, tokens: Tensor, answers: Tensor) -> Tensor:
    return cross_entropy(model(tokens)[:, -ASKED:].flatten(0, 1), answers.flatten())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the losses of one run; 2 where the input is bad."""
    parser = argparse.ArgumentParser(prog="python -m attnbench.fine_tuning", description=__doc__)
    default = Plan()
    parser.add_argument("--pattern", default=default.spec, help="a causal Combiner")
    parser.add_argument("--learned", default=default.learned, help="what its regions learn")
    parser.add_argument("--steps", type=int, default=default.steps, help="with full attention")
    parser.add_argument("--tuning-steps", type=int, default=default.tuning_steps, help="after")
    parser.add_argument("--seed", type=int, default=default.seed)
    asked = parser.parse_args(arguments)
    try:
        plan = Plan(
            spec=asked.pattern,
            learned=asked.learned,
            steps=asked.steps,
            tuning_steps=asked.tuning_steps,
            seed=asked.seed,
        )
        losses = run(plan)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    lines = {
        f"full attention, {plan.steps} steps": losses.full,
        f"{plan.spec} in its place": losses.swapped,
        f"{plan.tuning_steps} steps with it": losses.tuned,
        f"{plan.tuning_steps} more steps with full attention": losses.longer,
    }
    width = max(map(len, lines))
    print("\n".join(f"{name:{width}}  {loss:.3f} nats an answer" for name, loss in lines.items()))
    print(f"recovered: {losses.recovered:.0%} of what the swap lost")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
