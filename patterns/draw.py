"""A pattern as text: `#` direct keys, letters for regions, `.` for keys without weight."""

import string

import torch

from patterns.base import Pattern
from patterns.combiner.base import DIRECT, CombinerPattern


def draw(pattern: Pattern, length: int = 16) -> str:
    """The map of a pattern at a small length: a line a query, a character a key."""
    drawn = pattern.resolve(length)
    rows = torch.arange(length)
    lines = [["#" if seen else "." for seen in row] for row in drawn.support(length).tolist()]
    if isinstance(drawn, CombinerPattern):
        for line, labels in zip(lines, drawn.partitions(rows, length)[0].tolist(), strict=True):
            names: dict[int, str] = {}
            for key, label in enumerate(labels):
                if label > DIRECT:
                    line[key] = names.setdefault(label, string.ascii_lowercase[len(names) % 26])
    return "\n".join("".join(line) for line in lines)
