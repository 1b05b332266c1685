"""What candidates do to each head of a model while it reads a text, for `attnbench.head_choice`."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attnbench.baselines import keys_per_query
from attnbench.evaluate import Loaded
from attnbench.excerpts import COPIED, copies, excerpts
from attnbench.head_choice import Candidate
from attnbench.language import Sizes
from attnbench.layer_error import head_harms
from attnbench.layers import heads_of
from attnbench.matching import wanted_keys
from attnbench.matrix import asked_name
from attnbench.schedule import Explicit, Same, schedules
from patterns.base import Pattern
from patterns.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What one call of `choose` asks for.

    excerpts: of the text, whose harms are judged on all tokens.
    copies: texts of 384 tokens, 256 others and the same again, judged on the second copy.
    keys: a number of keys a query, or the pattern that has as many; None for any number.
    """

    model: str
    patterns: tuple[str, ...]
    length: int = 1024
    excerpts: int = 4
    copies: int = 4
    seed: int = 0
    keys: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    backend: str = "auto"


def expect_choice(asked: Calibration) -> list[Pattern]:
    """The patterns to choose from.

    Raises:
        BadInput: one that cannot be read, fewer than two, or numbers out of range.
    """
    found = [one for text in asked.patterns for one in schedules(text)]
    patterns = list(dict.fromkeys(one.pattern for one in found if isinstance(one, Same)))
    if len(patterns) < len(found):
        raise BadInput("heads choose among different patterns: got a schedule, or one twice")
    if len(patterns) < 2:
        raise BadInput("a choice needs two patterns or more: repeat --pattern")
    if asked.excerpts < 0 or asked.copies < 0 or asked.excerpts + asked.copies == 0:
        raise BadInput("expected at least one excerpt or copy to judge on")
    if asked.keys is not None:
        wanted_keys(asked.keys, asked.length)
    return patterns


def calibrated(asked: Calibration, loaded: Loaded) -> list[Candidate]:
    """Every pattern with its keys, and its harm in each head: the mean over texts.

    Excerpts and copies count alike, however many there are of each.

    Raises:
        BadInput: the text is too short, or the model has fewer positions.
        Unsupported: a pattern cannot run in this model.
    """
    texts = list(_texts(asked, loaded))
    most = loaded.reader.sizes.positions
    if most is not None and any(len(tokens) > most for tokens, _, _ in texts):
        raise BadInput(f"the model has {most} positions, and the texts need more")
    found = []
    for one in expect_choice(asked):
        sums: list[list[float]] = []
        for tokens, last, weight in texts:
            harms = head_harms(loaded.reader, Same(pattern=one), tokens, asked.backend, last=last)
            before = sums or [[0.0] * len(row) for row in harms]
            sums = [
                [total + weight * harm for total, harm in zip(*rows, strict=True)]
                for rows in zip(before, harms, strict=True)
            ]
        found.append(Candidate(pattern=one, keys=keys_per_query(one, asked.length), harms=sums))
    return found


def _texts(asked: Calibration, loaded: Loaded) -> Iterator[tuple[list[int], int, float]]:
    """Tokens, how many of the last ones are judged, and the share of the judgement."""
    kinds = bool(asked.excerpts) + bool(asked.copies)
    if asked.excerpts:
        for one in excerpts(
            loaded.tokens, asked.length, asked.excerpts, asked.seed, prefix=loaded.prefix
        ):
            yield one, len(one), 1 / (kinds * asked.excerpts)
    if asked.copies:
        for one in copies(loaded.tokens, asked.copies, asked.seed, prefix=loaded.prefix):
            yield one, COPIED, 1 / (kinds * asked.copies)


def told(candidates: Sequence[Candidate], found: Explicit, sizes: Sizes) -> str:
    """A line for each candidate: how many heads have it, its keys, and its harm if all had it."""
    layers = found.patterns(sizes.layers)
    counts = Counter(
        one for layer in layers for one, own in heads_of(layer, sizes.heads).items() for _ in own
    )
    heads = sizes.layers * sizes.heads
    keys = sum(counts[one.pattern] * one.keys for one in candidates) / heads
    lines = [
        f"{counts[one.pattern]:5d} heads: {asked_name(one.pattern)}, {one.keys:.1f} keys, "
        f"harm {sum(map(sum, one.harms)) / sizes.layers:.4f} a layer if all had it"
        for one in candidates
    ]
    return "\n".join([*lines, f"{heads:5d} heads in all, {keys:.1f} keys a query"])
