"""attnbench: what attention patterns cost, how far they are from full softmax, what they attend to.

    >>> import attnbench
    >>> attnbench.pattern("local[window=32]").spec
    'local[window=32]'

Everything heavy is imported when it is first asked for.
"""

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnbench.combiner_attention import CombinerAttention
    from attnbench.dropin import use
    from attnbench.multihead import swap
    from attnbench.override import override_sdpa
    from attnbench.qkv import save_qkv
    from attnbench.records import load
    from attnbench.sources import SOURCES
    from patterns import PATTERNS, BadInput, Pattern, Unsupported, pattern, patterns

__all__ = [
    "PATTERNS",
    "SOURCES",
    "BadInput",
    "CombinerAttention",
    "Pattern",
    "Unsupported",
    "load",
    "override_sdpa",
    "pattern",
    "patterns",
    "save_qkv",
    "swap",
    "use",
]

_HOMES = {
    "CombinerAttention": "attnbench.combiner_attention",
    "SOURCES": "attnbench.sources",
    "load": "attnbench.records",
    "override_sdpa": "attnbench.override",
    "save_qkv": "attnbench.qkv",
    "swap": "attnbench.multihead",
    "use": "attnbench.dropin",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for from where it lives."""
    if name not in __all__:
        raise AttributeError(f"module 'attnbench' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "patterns")), name)


def _expect_own(name: str) -> None:
    """Refuse somebody else's package of the same name, and name it.

    Raises:
        ImportError: the package that Python would import does not lie beside this one.
    """
    found = importlib.util.find_spec(name)
    places = [] if found is None else [*(found.submodule_search_locations or ()), found.origin]
    folders = [place for place in places if place]
    ours = Path(__file__).resolve().parents[1] / name
    if not any(Path(folder).resolve() == ours for folder in folders):
        where = folders[0] if folders else "nowhere"
        raise ImportError(
            f"attnbench needs its own package {name!r} in {ours.parent}, and Python finds {where}: "
            "uninstall or rename that one, or put this folder first on the path",
            name=name,
        )


for _name in ("patterns", "reports"):
    _expect_own(_name)
