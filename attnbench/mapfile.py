"""The file that holds the pooled maps of one case: npz, read without executing anything in it."""

import json
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbench import preview
from patterns.errors import BadInput

_LARGEST_BYTES = 1 << 32  # of a file that `load_map` would unpack
_LEVEL = 1

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Maps:
    """What a map file holds: [heads, N, N] unless said otherwise, means over visible pairs.

    Bins without a visible pair hold zeros. `meta` has the bin size, the heads, the checks and
    what the caller said of the case.
    """

    full: Array
    effective: Array
    difference: Array  # mean of effective - full
    absolute: Array  # mean of |effective - full|
    full_max: Array
    effective_max: Array
    visible: Array  # [N, N], visible pairs of a bin
    crop_full: Array  # [heads, 2, side, side]: the first tokens, the last ones; more where asked
    crop_effective: Array
    meta: dict[str, Any]

    def _repr_png_(self) -> bytes:
        """What a notebook shows: the first heads, small."""
        return preview.png(self)

    def _repr_html_(self) -> str:
        """The same with a line that says what it is."""
        return preview.html(self)


def save_map(path: str | Path, maps: Maps) -> None:
    """Write a map file: compressed arrays and `meta` as JSON, nothing that would be executed.

    Numbers are rounded to 12 significant bits, which halves the file.
    """
    named: dict[str, npt.NDArray[Any]] = {
        "meta": np.array(json.dumps(maps.meta, allow_nan=False, sort_keys=True)),
        **{name: _rounded(getattr(maps, name)) for name in _ARRAYS},
    }
    # numpy's own writer has one level of compression, which takes longer than making the map.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as packed:
        for name, array in named.items():
            with packed.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)  # type: ignore[no-untyped-call]


def load_map(path: str | Path) -> Maps:
    """Read a map file.

    Raises:
        BadInput: it cannot be read, holds pickled objects, or is not a map.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(member.file_size for member in packed.infolist())
        if size > _LARGEST_BYTES:
            raise BadInput(f"{path} would unpack to {size} bytes; {_LARGEST_BYTES} are allowed")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in (*_ARRAYS, "meta")}
        meta = json.loads(str(arrays.pop("meta")))
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from None
    except (
        ValueError,
        KeyError,
        EOFError,
        MemoryError,
        RecursionError,
        zipfile.BadZipFile,
    ) as error:
        raise BadInput(f"{path} is not a map file: {error}") from None
    heads, bins, _ = shape = arrays["full"].shape if arrays["full"].ndim == 3 else (0, 0, 0)
    crops, side = arrays["crop_full"].shape[1:3] if arrays["crop_full"].ndim == 4 else (0, 0)
    for name, array in arrays.items():
        square = (
            (heads, max(2, crops), side, side) if name.startswith("crop") else (heads, bins, bins)
        )
        expected = (bins, bins) if name == "visible" else square
        if array.dtype != np.float32 or array.shape != expected or shape[1] != shape[2]:
            raise BadInput(
                f"{path} is not a map file: expected {name} as float32 {list(expected)}, "
                f"got {array.dtype} {list(array.shape)}"
            )
    if not isinstance(meta, dict):
        raise BadInput(f"{path} is not a map file: expected an object as meta, got {meta!r:.40}")
    return Maps(**arrays, meta=meta)


def _rounded(x: Array) -> Array:
    """Float32 whose last 12 of 24 significant bits are zero."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + np.uint32(1 << 11)) & np.uint32(0xFFFFF000)).view(np.float32)


_ARRAYS = tuple(field.name for field in fields(Maps) if field.name != "meta")
