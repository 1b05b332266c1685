"""Which tile sizes a kernel is launched with: measured on this card, shipped for Hopper, or safe.

Every kernel asks here, by its name and by what its sizes depend on. `python run_bench.py retune`
measures sizes and keeps them in a file (`patterns.kernels.tile_file`) that is read here.
"""

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ParamSpec, TypeVar

import torch

from patterns.errors import BadInput
from patterns.kernels.tile_file import Sizes, TileFile, file_of

T = TypeVar("T")  # a frozen dataclass whose fields are sizes
P = ParamSpec("P")
R = TypeVar("R")
Key = str | int


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a kernel asked for: the sizes that it got, and safe ones."""

    got: Sizes
    safe: Sizes


_tried: dict[str, Sizes] = {}  # in place of all others; autograd asks from threads of its own
_listeners: list[dict[str, Asked]] = []
_forgetting: list[Callable[[], None]] = []  # what `remembered` functions keep
_KEPT = 256  # answers of each of them


def choose(kernel: str, *key: Key, device: torch.device, shipped: T, safe: T) -> T:
    """The sizes to launch a kernel with.

    Args:
        kernel: its name, such as ``fixed.forward``.
        key: what its sizes depend on: head width, bits of a number, and the like.
        device: where it is launched; on a CPU, in Triton's interpreter, `shipped` are taken.
        shipped: sizes for Hopper; all fields are sizes.
        safe: sizes that should run everywhere.

    Raises:
        BadInput: a file of measured sizes cannot be used.
    """
    if _tried or _listeners:
        return _watched(kernel, key, device, shipped, safe)
    found: T = _settled(kernel, key, device, shipped, safe)
    return found


def told(device: torch.device) -> str:
    """In a word, where the sizes on this device come from: shipped, safe, or a file and its hash.

    Raises:
        BadInput: the file cannot be used.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        return "shipped"
    found = _file(_card(device).name)
    if found is not None:
        return found.told
    return "shipped" if _card(device).hopper else "safe"


@contextmanager
def trying(sizes: Mapping[str, Sizes]) -> Iterator[None]:
    """Launch kernels with these sizes, by full name, whatever is known; in this process alone."""
    before = dict(_tried)
    _tried.update(sizes)
    try:
        yield
    finally:
        _tried.clear()
        _tried.update(before)


@contextmanager
def listening() -> Iterator[dict[str, Asked]]:
    """Hear what is asked for, by full name: ``fixed.forward/64/16/128``."""
    heard: dict[str, Asked] = {}
    _listeners.append(heard)
    try:
        yield heard
    finally:
        _listeners.remove(heard)


def is_watched() -> bool:
    """Whether choices may change from call to call, so that none is to be remembered."""
    return bool(_tried or _listeners)


def remembered(make: Callable[P, R]) -> Callable[P, R]:
    """Keep what a function makes of sizes that it chose, by its arguments, until `forget`.

    While choices are watched nothing is kept, and nothing that was kept is given.
    """
    kept = functools.lru_cache(maxsize=_KEPT)(make)
    _forgetting.append(kept.cache_clear)

    @functools.wraps(make)
    def found(*args: P.args, **kwargs: P.kwargs) -> R:
        if _tried or _listeners:
            return make(*args, **kwargs)
        again: Callable[..., R] = kept
        return again(*args, **kwargs)

    return found


def forget() -> None:
    """Read the file again, and make anew what depends on it."""
    _settled.cache_clear()
    _file.cache_clear()
    for clear in _forgetting:
        clear()


@dataclass(frozen=True)
class _Card:
    name: str
    hopper: bool


@functools.cache
def _card(device: torch.device) -> _Card:
    major = torch.cuda.get_device_capability(device)[0]
    return _Card(torch.cuda.get_device_name(device), major == 9)


@functools.cache
def _file(card: str) -> TileFile | None:
    return file_of(card)


@functools.cache
def _settled(kernel: str, key: tuple[Key, ...], device: torch.device, shipped: T, safe: T) -> T:
    if device.type != "cuda" or not torch.cuda.is_available():  # interpreted, or only compiled
        return shipped
    card = _card(device)
    found = _file(card.name)
    if found is not None and (sizes := found.tiles.get(_name(kernel, key))) is not None:
        return _with(shipped, sizes, _name(kernel, key))
    if card.hopper:
        return shipped
    if found is None:
        _warn(card.name)
    return safe


@functools.cache
def _warn(card: str) -> None:
    warnings.warn(
        f"no tile sizes were measured for {card}, so kernels run with safe ones: "
        "'python run_bench.py retune' measures better ones",
        stacklevel=2,
    )


def _watched(kernel: str, key: tuple[Key, ...], device: torch.device, shipped: T, safe: T) -> T:
    name = _name(kernel, key)
    if name in _tried:
        got = _with(shipped, _tried[name], name)
    else:
        got = _settled(kernel, key, device, shipped, safe)
    for heard in _listeners:
        heard[name] = Asked(got=_sizes(got), safe=_sizes(safe))
    return got


def _name(kernel: str, key: tuple[Key, ...]) -> str:
    return "/".join([kernel, *map(str, key)])


def _sizes(tiles: Any) -> dict[str, int | None]:
    return {field: size for field, size in asdict(tiles).items() if field != "split"}


def _with(tiles: T, sizes: Sizes, name: str) -> T:
    made: Any = tiles
    if sizes.keys() - {field.name for field in fields(made)}:
        raise BadInput(
            f"{name} has no sizes {', '.join(sizes)}: expected those of "
            f"{', '.join(field.name for field in fields(made))}; measure them again with retune"
        )
    found: T = replace(made, **sizes)
    return found
