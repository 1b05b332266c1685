"""Which first calls were made before, by the same code on such a machine: they compile nothing.

A list lies in the cache of what compiles, so that whoever empties the cache empties the list.
"""

import hashlib
from contextlib import suppress
from pathlib import Path

_NAME = "attnbench-called-before.txt"


class CalledBefore:
    """The calls in a list, a line each; one that cannot be kept is made again."""

    def __init__(self, path: Path, code: str, machine: str) -> None:
        """Read the list.

        Args:
            path: of the list, which need not be there.
            code: the sources of what is called.
            machine: its key, which other compilers and cards change.
        """
        self._path, self._prefix = path, f"{code}\0{machine}\0"
        self._marks: set[str] = set()
        with suppress(OSError, UnicodeDecodeError):
            self._marks.update(path.read_text(encoding="ascii").split())

    def __contains__(self, call: object) -> bool:
        """Whether this call was made."""
        return self._mark(call) in self._marks

    def add(self, call: object) -> None:
        """This call was made."""
        mark = self._mark(call)
        self._marks.add(mark)
        with suppress(OSError), self._path.open("a", encoding="ascii") as file:
            file.write(mark + "\n")

    def _mark(self, call: object) -> str:
        return hashlib.sha256((self._prefix + repr(call)).encode()).hexdigest()[:16]


def beside_triton() -> Path | None:
    """The list in the cache of our own kernels; None where there is no Triton."""
    try:
        import triton

        return Path(triton.knobs.cache.dir) / _NAME
    except (ImportError, AttributeError, RuntimeError):
        return None


def beside_inductor() -> Path | None:
    """The list in the cache of what torch.compile makes, FlexAttention for one."""
    try:
        from torch._inductor.runtime.cache_dir_utils import cache_dir

        return Path(cache_dir()) / _NAME
    except (ImportError, OSError):
        return None
