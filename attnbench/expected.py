"""What the files of a run folder must look like before anything in them is read."""

from collections.abc import Mapping
from typing import Any

from patterns.errors import BadInput

SCHEMA = 1
RUN, MACHINE = "run.json", "machine.json"

_NEEDED: Mapping[str, type] = {
    "schema": int, "kind": str, "case_key": str, "case": dict, "status": str,
}  # fmt: skip
_BLOCKS = (
    "time",
    "memory",
    "fidelity",
    "evaluation",
    "frontier",
    "cost",
    "implementation",
    "guards",
)
_DOCUMENT: Mapping[str, type] = {
    "matrix": list, "frontiers": list, "evaluations": list, "seeds": dict,
}  # fmt: skip


def expect_record(record: Any, where: str) -> None:
    """Refuse what is no record of this schema or an older one.

    Raises:
        BadInput: it is none, or one of a newer schema; `where` names the file and its line.
    """
    whole = isinstance(record, dict) and not _wrong(record, _NEEDED, needed=True)
    if whole and record["schema"] > SCHEMA:
        raise BadInput(
            f"{where} has schema {record['schema']} and this version reads up to {SCHEMA}: "
            "use the version that wrote it"
        )
    if not whole or _wrong(record, dict.fromkeys(_BLOCKS, dict), needed=False):
        raise BadInput(f"{where} holds no record: was it edited?")


def expect_document(document: Any, name: str, where: str) -> None:
    """Refuse a run.json or machine.json that no run has written.

    Raises:
        BadInput: it is none; `where` names the file.
    """
    if not isinstance(document, dict):
        raise BadInput(f"{where} holds no JSON object: was it edited?")
    if name == RUN:
        wrong = _wrong(document, _DOCUMENT, needed=False)
    else:
        wrong = [key for key, facts in document.items() if not _is_machine(facts)]
    if wrong:
        raise BadInput(f"{where} makes no sense of {wrong[0]!r}: was it edited?")


def _wrong(document: Mapping[str, Any], types: Mapping[str, type], *, needed: bool) -> list[str]:
    """The keys whose values are of another type; where they are not needed, null is fine too."""
    return [
        key
        for key, kind in types.items()
        if not isinstance(document.get(key), kind) and (needed or document.get(key) is not None)
    ]


def _is_machine(facts: Any) -> bool:
    if not isinstance(facts, dict):
        return False
    ceilings = facts.get("ceilings")
    if ceilings is None:
        return True
    blocks = ("matmul_flops_per_s", "notes")
    return isinstance(ceilings, dict) and all(
        isinstance(ceilings.get(name, {}), dict) for name in (*blocks, "spread")
    )
