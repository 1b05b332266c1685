"""Machine code of Hopper that reads a uniform register before anything was written to it.

The assembler of CUDA 12.8 makes such code now and then of kernels with asynchronous matrix products
(wgmma): the address of a factor in shared memory is then what the register held before. The
results are wrong, and the access may be illegal; neither the interpreter nor PTX shows it.
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_INSTRUCTION = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;")
_LABEL = re.compile(r"\s*(\.L\w+):")
_GUARD = re.compile(r"^@!?U?P\w+\s+")
_TARGET = re.compile(r"`\((\.L\w+)\)")
_WRITING = re.compile(r"(U(?!TMA|BLK|ISETP|FSETP|PLOP3)[A-Z0-9]+|S2UR|R2UR|CS2UR|REDUX)$")
_NUMBERED = 63  # the registers UR0 to UR62; UR63 is zero


def unwritten_reads(cubin: bytes) -> list[str]:
    """The instructions that read a uniform register which some way to them has not written."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(cubin)
        tool = knobs.nvidia.nvdisasm.path
        ran = subprocess.run([tool, "-c", file], capture_output=True, text=True, check=True)
    return unwritten_reads_of(ran.stdout)


def unwritten_reads_of(listing: str) -> list[str]:
    """As `unwritten_reads`, of a listing by nvdisasm."""
    code, labels = _parsed(listing)
    written: list[frozenset[int] | None] = [None] * len(code)  # on every way to an instruction
    written[0], pending = frozenset(), [0]
    while pending:
        place = pending.pop()
        before = written[place]
        assert before is not None
        after = before | code[place].writes
        for following in _following(code, labels, place):
            known = written[following]
            agreed = after if known is None else known & after
            if agreed != known:
                written[following] = agreed
                pending.append(following)
    return [
        one.text
        for one, known in zip(code, written, strict=True)
        if known is not None and one.reads - known
    ]


@dataclass(frozen=True)
class _Instruction:
    """One line, and the uniform registers that it reads and writes."""

    text: str
    reads: frozenset[int]
    writes: frozenset[int]


def _parsed(listing: str) -> tuple[list[_Instruction], dict[str, int]]:
    code: list[_Instruction] = []
    labels: dict[str, int] = {}
    for line in listing.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(code)
        elif found := _INSTRUCTION.match(line):
            code.append(_Instruction(found[2], *_effect(found[2])))
    return code, labels


def _effect(text: str) -> tuple[frozenset[int], frozenset[int]]:
    name, _, rest = _GUARD.sub("", text).partition(" ")
    operands = [x.strip() for x in re.split(r",(?![^\[]*\])", rest)]
    first, writes = 0, frozenset[int]()
    if _WRITING.match(name.split(".")[0]):
        first = next((i for i, x in enumerate(operands) if not x.startswith("UP")), 0)
        if target := re.match(r"UR(\d+)$", operands[first]):
            number = int(target[1])
            count = 2 if ".64" in name or ".WIDE" in name else 1
            writes, first = frozenset(range(number, number + count)), first + 1
    reads: set[int] = set()
    for operand in operands[first:]:
        if found := re.search(r"gdesc\[UR(\d+)\]", operand):
            number = int(found[1])  # two descriptors; one if the left factor is in registers
            alone = re.match(r"R\d+$", operands[1]) is not None
            reads |= set(range(number + 2 if alone else number, number + 4))
            continue
        for found in re.finditer(r"(desc\[)?\bUR(\d+)\b(\.64)?", operand):
            number = int(found[2])
            pair = found[1] or found[3] or (".64" in name and name.startswith("U"))
            reads |= {number, number + 1} if pair else {number}
    return frozenset(x for x in reads if x < _NUMBERED), writes


def _following(code: list[_Instruction], labels: dict[str, int], place: int) -> list[int]:
    """Where execution may go on."""
    text = code[place].text
    plain = _GUARD.sub("", text)
    following = []
    falls = plain != text or not plain.startswith(("BRA", "EXIT", "RET"))
    if plain.startswith("BRA"):
        target = _TARGET.search(plain)
        following += [labels[target[1]]] if target else []
        falls = falls or "UP" in plain or "BRA.DIV" in plain
    if falls and place + 1 < len(code):
        following.append(place + 1)
    return following
