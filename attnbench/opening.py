"""What a run folder says it is: written when it is new, and held to when it goes on."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnbench.measure_cost import Protocol
from attnbench.outcome import Origin
from attnbench.presets import Plan
from attnbench.records import MACHINE, RUN, SCHEMA, Journal, read_document, write_document
from attnbench.version import same_code
from patterns.errors import BadInput


def open_run(
    book: Journal,
    plan: Plan,
    origin: Origin,
    found: Mapping[str, Any],
    *,
    command: Sequence[str],
    protocol: Protocol,
    extend: bool,
) -> None:
    """Refuse a folder of something else; else write down what this run is."""
    folder, parts, known = book.run, plan.document(), known_run(book)
    if known is not None:
        expect_same_origin(folder, known, origin)
        before = known.get("matrix") or []
        new = [part for part in parts if part not in before]
        if new and not extend:
            raise BadInput(
                f"{folder} holds another matrix: --extend adds this one to it, "
                "or choose another --out"
            )
        write_document(folder, RUN, known | {"matrix": [*before, *new]})
        return
    seeds = {"inputs": sorted({part.seed for part in plan.parts}), "order": protocol.order_seed}
    document = opening(origin, command=command) | {
        "preset": plan.preset,
        "matrix": parts,
        "seeds": seeds,
        "order": "groups by length; contenders of a group shuffled every round",
        "budget_s": plan.budget_s,
    }
    write_document(folder, MACHINE, {origin.machine: found})
    write_document(folder, RUN, document)


def known_run(book: Journal) -> dict[str, Any] | None:
    """The run.json of a folder; None where it is new.

    Raises:
        BadInput: it has records and nothing that says what they are of.
    """
    known = read_document(book.run, RUN)
    if known is None and book.records:
        raise BadInput(f"{book.run} has records and no {RUN}: choose another --out")
    return known


def opened(
    book: Journal, origin: Origin, found: Mapping[str, Any], *, command: Sequence[str]
) -> dict[str, Any]:
    """The run.json of a folder that other things than a matrix go into; one is made if it is new.

    Raises:
        BadInput: the folder holds what another code or machine measured.
    """
    known = known_run(book)
    if known is None:
        known = opening(origin, command=command) | {"matrix": []}
        write_document(book.run, MACHINE, {origin.machine: found})
    expect_same_origin(book.run, known, origin)
    return known


def opening(origin: Origin, *, command: Sequence[str]) -> dict[str, Any]:
    """What run.json says of every run."""
    return {
        "schema": SCHEMA,
        "command": list(command),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "version": origin.version,
        "machine": origin.machine,
    }


def expect_same_origin(folder: Path, known: Mapping[str, Any], origin: Origin) -> None:
    """Refuse to add to what another code or machine measured.

    Raises:
        BadInput: it did; `known` is the folder's run.json.
    """
    if not isinstance(known.get("version"), str) or not isinstance(known.get("machine"), str):
        raise BadInput(f"{folder / RUN} names no version and machine: choose another --out")
    if not same_code(known["version"], origin.version):
        raise BadInput(
            f"{folder} was measured by code {known['version']}, and this is "
            f"{origin.version}: choose another --out"
        )
    if known["machine"] != origin.machine:
        raise BadInput(
            f"{folder} was measured on {known['machine']}, and this is {origin.machine}: "
            "choose another --out"
        )
