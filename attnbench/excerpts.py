"""Which tokens a model is evaluated on: excerpts of a text, and copies of some with filler between.

The same text, counts and seed give the same tokens everywhere.
"""

from collections.abc import Sequence
from pydoc_data.topics import topics

import numpy as np

from patterns.errors import BadInput

COPIED, FILLER = 384, 256  # tokens: some text, other text, and the first again
MOST_COPIES = 8  # excerpts on which the second copy is judged


def python_help() -> str:
    """The topics of Python's own help, 460 kB of English; it differs from version to version."""
    return "\n".join(topics[name] for name in sorted(topics))


def excerpt_count(length: int) -> int:
    """How many excerpts of a length are read where nobody says: 16, and 4 from 4096 tokens on."""
    return 16 if length < 4096 else 4


def excerpts(
    tokens: Sequence[int], length: int, count: int, seed: int, *, prefix: Sequence[int] = ()
) -> list[list[int]]:
    """Excerpts that do not overlap: one from each of `count` equal parts of the text.

    Args:
        tokens: of the whole text, without special ones.
        length: of each excerpt, the prefix included.
        count: how many.
        seed: of where in its part each one starts.
        prefix: special tokens that the model expects at the start.

    Raises:
        BadInput: the text is too short for so many.
    """
    if length <= len(prefix) + 1:
        raise BadInput(f"expected a length of at least {len(prefix) + 2} tokens, got {length}")
    own = length - len(prefix)
    part = len(tokens) // count
    if part < own:
        raise BadInput(
            f"the text has {len(tokens)} tokens, and {count} excerpts of {own} need "
            f"{count * own}: give a longer text, or --excerpts {len(tokens) // own}"
            if len(tokens) >= own
            else f"the text has {len(tokens)} tokens, expected {own} or more"
        )
    generator = np.random.default_rng(seed)
    starts = [number * part + int(generator.integers(part - own + 1)) for number in range(count)]
    return [[*prefix, *tokens[start : start + own]] for start in starts]


def copies(
    tokens: Sequence[int], count: int, seed: int, *, prefix: Sequence[int] = ()
) -> list[list[int]]:
    """Texts whose last `COPIED` tokens were there before, behind `FILLER` others."""
    found = excerpts(tokens, COPIED + FILLER + len(prefix), count, seed, prefix=prefix)
    return [[*one, *one[len(prefix) : len(prefix) + COPIED]] for one in found]
