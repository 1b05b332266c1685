"""The registry: what each attention pattern is, how it is run, and what it costs.

Every module below this folder that defines one `Pattern` is a pattern; the others are helpers.
"""

from patterns.base import Aim, Cost, Implementation, Paper, Pattern, Shape
from patterns.errors import BadInput, Unsupported
from patterns.registry import PATTERNS, pattern, patterns

__all__ = [
    "PATTERNS",
    "Aim",
    "BadInput",
    "Cost",
    "Implementation",
    "Paper",
    "Pattern",
    "Shape",
    "Unsupported",
    "pattern",
    "patterns",
]
