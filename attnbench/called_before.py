"""Which first calls were made before, by the same code on such a machine: they compile nothing.

A list lies in the cache of what compiles, so that whoever empties the cache empties the list:
Triton's, and for FlexAttention that of torch.compile.
"""

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from attnbench.first_calls import FLEX, FirstCall

_NAME = "attnbench-called-before.txt"


class CalledBefore:
    """The calls in both lists, a line each; one that cannot be kept is made again."""

    def __init__(self, triton: Path, inductor: Path | None, code: str, machine: str) -> None:
        """Read the lists.

        Args:
            triton: the list of our own kernels, which need not be there.
            inductor: that of FlexAttention; None where nobody asks for it.
            code: the sources of what is called.
            machine: its key, which other compilers and cards change.
        """
        self._triton, self._inductor = triton, inductor
        self._prefix = f"{code}\0{machine}\0"
        self._marks: set[str] = set()
        for path in filter(None, (triton, inductor)):
            with suppress(OSError, UnicodeDecodeError):
                self._marks.update(path.read_text(encoding="ascii").split())

    def __contains__(self, call: FirstCall) -> bool:
        """Whether this call was made."""
        return self._mark(call) in self._marks

    def add(self, call: FirstCall) -> None:
        """This call was made."""
        mark = self._mark(call)
        self._marks.add(mark)
        path = self._inductor if call.backend == FLEX else self._triton
        if path is None:
            return
        with suppress(OSError), path.open("a", encoding="ascii") as file:
            file.write(mark + "\n")

    def _mark(self, call: FirstCall) -> str:
        return hashlib.sha256((self._prefix + repr(call)).encode()).hexdigest()[:16]


def called_before(calls: Iterable[FirstCall], code: str, machine: str) -> CalledBefore | None:
    """What of these calls was called before; None where nothing can be compiled, or kept."""
    try:
        import triton

        ours = Path(triton.knobs.cache.dir)
        theirs = _inductor_cache() if any(call.backend == FLEX for call in calls) else None
    except (ImportError, AttributeError, RuntimeError, OSError):
        return None
    return CalledBefore(ours / _NAME, theirs and theirs / _NAME, code, machine)


def _inductor_cache() -> Path:
    """Where torch.compile keeps what it compiled; it takes seconds to say so."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return Path(cache_dir())
