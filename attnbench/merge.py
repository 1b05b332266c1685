"""Several runs of one version of the code joined into one."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnbench.records import (
    MACHINE,
    RECORDS,
    RUN,
    SCHEMA,
    Record,
    journal,
    read,
    read_document,
    write_document,
)
from attnbench.version import same_code
from patterns.errors import BadInput

_MAPS = "maps"


def merge(runs: Sequence[Path], out: Path) -> dict[str, int]:
    """Write the records, maps and machines of several runs into a new run folder.

    A case that several runs have is taken from the last one where it is ok, or else from the last.

    Args:
        runs: two run folders or more.
        out: a folder without records, made where there is none.

    Returns:
        How many `records` there are now, and how many cases were in more than one run (`double`).

    Raises:
        BadInput: fewer than two runs, different versions, one case measured on two machines, or
            `out` holds records.
    """
    if len(runs) < 2:
        raise BadInput(f"merge needs two runs or more, got {len(runs)}")
    if len({run.resolve() for run in runs}) < len(runs):
        raise BadInput("merge was given one run twice")
    if (out / RECORDS).exists():
        raise BadInput(f"{out} holds records already: choose another folder")
    documents = [_document(run) for run in runs]
    for run, document in zip(runs, documents, strict=True):
        if not same_code(str(document["version"]), str(documents[0]["version"])):
            raise BadInput(
                f"{runs[0]} was measured by code {documents[0]['version']} and {run} by "
                f"{document['version']}: only runs of one version can be merged, and compare "
                "says what changed between two"
            )
    found, double = _joined([(run, read(run)) for run in runs])
    with journal(out) as book:
        for record in found.values():
            book.append(record)
        machines: dict[str, Any] = {}
        for run in runs:
            machines |= read_document(run, MACHINE) or {}
        write_document(out, MACHINE, machines)
        write_document(out, RUN, _merged(documents))
        _copy_maps(runs, out, set(found))
    return {"records": len(found), "double": double}


def _document(run: Path) -> dict[str, Any]:
    document = read_document(run, RUN)
    if document is None or "version" not in document:
        raise BadInput(f"{run} has no {RUN} that names its version: expected a folder of `run`")
    return document


def _joined(runs: Sequence[tuple[Path, list[Record]]]) -> tuple[dict[str, Record], int]:
    found: dict[str, Record] = {}
    double: set[str] = set()
    for run, records in runs:
        for record in records:
            key = record["case_key"]
            before = found.get(key)
            if before is None:
                found[key] = record
                continue
            double.add(key)
            both = before["status"] == record["status"] == "ok"
            if both and before["machine"] != record["machine"]:
                raise BadInput(
                    f"{record['case']['asked']} in {record['group']} was measured on "
                    f"{before['machine']} and, in {run}, on {record['machine']}: runs of two "
                    "machines can be merged only where no case is in both; compare can read them"
                )
            if record["status"] == "ok" or before["status"] != "ok":
                found[key] = record
    return found, len(double)


def _merged(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first run's document, with the matrices and seeds of all."""
    matrix: list[Any] = []
    for document in documents:
        matrix += [part for part in document.get("matrix") or [] if part not in matrix]
    seeds = [document.get("seeds") or {} for document in documents]
    inputs = sorted({seed for one in seeds for seed in one.get("inputs", [])})
    return documents[0] | {
        "schema": SCHEMA,
        "matrix": matrix,
        "seeds": (documents[0].get("seeds") or {}) | {"inputs": inputs},
        "merged": [
            {
                key: document.get(key)
                for key in ("command", "created", "version", "machine", "seeds")
            }
            for document in documents
        ],
    }


def _copy_maps(runs: Sequence[Path], out: Path, keys: set[str]) -> None:
    for run in runs:
        for path in sorted((run / _MAPS).glob("*.npz")):
            if path.stem in keys:
                (out / _MAPS).mkdir(exist_ok=True)
                shutil.copy(path, out / _MAPS)
