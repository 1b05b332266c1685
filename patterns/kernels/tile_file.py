"""A file of tile sizes that were measured on a card: JSON, checked as it is read.

It is the one that the environment variable ATTNBENCH_TILES names, else
``~/.cache/attnbench/tiles-CARD.json`` (below XDG_CACHE_HOME, if that is set), where there is one.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patterns.errors import BadInput

VARIABLE = "ATTNBENCH_TILES"
SCHEMA = 1
_MOST_BYTES = 1 << 20
_POWERS = {"rows": (16, 256), "queries": (16, 256), "keys": (16, 256), "warps": (1, 16)}
_NUMBERS = {"stages": (1, 8), "registers": (24, 255)}

Sizes = Mapping[str, int | None]


@dataclass(frozen=True, kw_only=True)
class TileFile:
    """Sizes by the full names of kernels; `told` is the file's name with a hash of its content."""

    tiles: Mapping[str, Sizes]
    told: str


def default_path(card: str) -> Path:
    """Where the sizes of this card are kept, unless somebody says otherwise."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME")
    short = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")
    return (Path(cache) if cache else Path.home() / ".cache") / "attnbench" / f"tiles-{short}.json"


def file_of(card: str) -> TileFile | None:
    """The sizes that were measured on this card, or None.

    Raises:
        BadInput: there is a file and it cannot be used, or the one that was named is not there.
    """
    path = default_path(card)
    if not path.exists() and not os.environ.get(VARIABLE):
        return None
    return read(path, card)


def read(path: Path, card: str) -> TileFile:
    """Read and check a file.

    Raises:
        BadInput: it cannot be read, is of another card, or holds what is no size.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES)  # more than that is torn, and no JSON
    except OSError as error:
        raise BadInput(f"cannot read tile sizes from {path}: {error.strerror}") from None
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    tiles = document.get("tiles") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(tiles, dict):
        raise _unusable(path, "it is no JSON with tile sizes")
    if document.get("schema") != SCHEMA:
        raise _unusable(path, f"expected schema {SCHEMA}, got {document.get('schema')!r:.40}")
    if document.get("card") != card:
        raise _unusable(
            path, f"it was measured on {document.get('card')!r:.80}, and this is {card}"
        )
    for name, sizes in tiles.items():
        if not isinstance(sizes, dict) or not sizes:
            raise _unusable(path, f"{name:.60} expects sizes, got {sizes!r:.40}")
        for field, size in sizes.items():
            if not _is_size(field, size):
                raise _unusable(path, f"{name:.60} cannot have {field:.20} {size!r:.40}")
    digest = hashlib.sha256(content).hexdigest()[:8]
    return TileFile(tiles=tiles, told=f"{path.name} ({digest})")


def write(path: Path, card: str, tiles: Mapping[str, Sizes], **more: Any) -> None:
    """Keep sizes, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    document = {"schema": SCHEMA, "card": card, **more, "tiles": dict(sorted(tiles.items()))}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def is_allowed(sizes: Sizes) -> bool:
    """Whether a file may hold these sizes."""
    return all(_is_size(field, size) for field, size in sizes.items())


def _is_size(field: str, size: Any) -> bool:
    if field == "registers" and size is None:
        return True
    if type(size) is not int:
        return False
    if field in _POWERS:
        least, most = _POWERS[field]
        return least <= size <= most and size & (size - 1) == 0
    least, most = _NUMBERS.get(field, (1, 0))
    return least <= size <= most


def _unusable(path: Path, why: str) -> BadInput:
    return BadInput(
        f"cannot use tile sizes from {path}: {why}; remove it, and 'retune' makes a new one"
    )
