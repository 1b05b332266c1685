"""Second copies that say nothing of retrieval."""

import re

from attnbench.excerpts import COPIED, FILLER


def in_step(asked: str) -> bool:
    """Whether the columns or the stride of a pattern divide the distance between the copies.

    Then the token to be copied lies straight above every query, which says nothing of retrieval.
    """
    steps = re.findall(r"(?:columns|stride)=(\d+)", asked)
    return any((COPIED + FILLER) % int(step) == 0 for step in steps)
