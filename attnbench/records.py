"""The run folder: records appended one by one, so that a kill loses at most what is in flight.

docs/records.md says what a record holds. A line that a kill tore is set aside in records.torn;
the last record of a key wins.
"""

import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench import expected
from attnbench.lock import NAME as LOCK
from attnbench.lock import locked
from patterns.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

SCHEMA, RUN, MACHINE = expected.SCHEMA, expected.RUN, expected.MACHINE
RECORDS, TORN = "records.jsonl", "records.torn"
FIGURE_KINDS = ("png", "svg", "pdf")

Record = dict[str, Any]


class Journal:
    """Appends records to a run folder; made by `journal`, which holds the folder's lock."""

    def __init__(self, run: Path, handle: int, known: Iterable[Record], said: list[str]) -> None:
        """Take over an open file; `known` are the records that are there already."""
        self.run, self.said = run, said
        self._handle = handle
        self.records = {record["case_key"]: record for record in known}

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record, whole or not at all.

        Raises:
            BadInput: the disk is full, or the file cannot be written.
        """
        cleaned = finite({"schema": SCHEMA, **record})
        text = json.dumps(cleaned, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        _write_whole(self._handle, text.encode() + b"\n", self.run / RECORDS)
        self.records[cleaned["case_key"]] = cleaned


@contextmanager
def journal(run: Path) -> Iterator[Journal]:
    """Open the records of a run folder for appending, alone.

    Raises:
        BadInput: another process is writing there, or the folder cannot be written.
    """
    with ExitStack() as stack:
        try:
            run.mkdir(parents=True, exist_ok=True)
            died = stack.enter_context(locked(run))
            said = [] if died is None else [f"process {died} died while it wrote {run}: going on"]
            said += _set_torn_line_aside(run)
            handle = os.open(run / RECORDS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise BadInput(f"cannot write {run}: {error.strerror or error}") from None
        stack.callback(os.close, handle)
        yield Journal(run, handle, read(run), said)


def read(run: Path) -> list[Record]:
    """The records of a run, the last one of each key, in the order they were first written.

    A torn last line is left out. This only reads.

    Raises:
        BadInput: no run folder, a line that is no record, or one of a newer schema.
    """
    path = run / RECORDS
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise BadInput(f"{run} is not a run folder: {error.strerror or error}") from None
    found: dict[str, Record] = {}
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is torn
        record = _parsed(line, f"{path}:{number}")
        found[record["case_key"]] = record
    return list(found.values())


def load(run: str | Path) -> "pd.DataFrame":
    """The records as a table: a row a case, columns such as `case.asked`, `time.cold_ms.median`.

    Raises:
        BadInput: no run folder, or one that a newer version wrote.
    """
    import pandas as pd

    return pd.json_normalize(read(Path(run)))


def write_document(run: Path, name: str, document: Mapping[str, Any]) -> None:
    """Write run.json or machine.json, whole or not at all.

    Raises:
        BadInput: the folder cannot be written.
    """
    part = run / f".{name}.part"
    try:
        text = json.dumps(finite(document), indent=2, allow_nan=False, ensure_ascii=False)
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(run / name)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise BadInput(f"cannot write {run / name}: {error.strerror or error}") from None


def read_document(run: Path, name: str) -> dict[str, Any] | None:
    """run.json or machine.json; None where there is none.

    Raises:
        BadInput: it is there, and not as a run writes it.
    """
    try:
        document = json.loads((run / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"cannot read {run / name}: {error}") from None
    expected.expect_document(document, name, str(run / name))
    found: dict[str, Any] = document
    return found


def export(run: Path, out: Path, *, figures: tuple[str, ...] = FIGURE_KINDS) -> Path:
    """Write a copy of a run without the single samples of its timings, and say where it is.

    Map files stay behind, for their size; a report, its figures and tables come along.

    Args:
        run: the run folder.
        out: where the copy goes.
        figures: which kinds of files of the figures come along.

    Raises:
        BadInput: no run folder, or `out` holds records already.
    """
    found = read(run)
    if (out / RECORDS).exists():
        raise BadInput(f"{out} holds records already: choose another folder")
    with journal(out) as copy:
        for record in found:
            for timing in (record.get("time") or {}).values():
                if isinstance(timing, dict) and "samples" in timing:
                    timing["samples"] = None
            copy.append(record)
        for name in (RUN, MACHINE):
            if (document := read_document(run, name)) is not None:
                write_document(out, name, document)
        others = [f"*.{kind}" for kind in FIGURE_KINDS if kind not in figures]
        left = shutil.ignore_patterns(*others)
        for folder in ("figures", "tables"):
            if (run / folder).is_dir():
                shutil.copytree(run / folder, out / folder, dirs_exist_ok=True, ignore=left)
        if (run / "report.html").is_file():
            shutil.copy(run / "report.html", out)
    (out / LOCK).unlink(missing_ok=True)  # nobody goes on with a copy
    return out


def finite(value: Any) -> Any:
    """The same document with null for NaN and infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _parsed(line: bytes, where: str) -> Record:
    try:
        record: Record = json.loads(line)
    except (ValueError, RecursionError):
        record = {}
    expected.expect_record(record, where)
    return record


def _set_torn_line_aside(run: Path) -> list[str]:
    path = run / RECORDS
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole == len(content):
        return []
    with (run / TORN).open("ab") as torn:
        torn.write(content[whole:] + b"\n")
    os.truncate(path, whole)
    return [f"the last line of {path} was torn: it is now in {TORN}, and its case is done again"]


def _write_whole(handle: int, line: bytes, path: Path) -> None:
    size = os.fstat(handle).st_size
    try:
        written = os.write(handle, line)
        reason = None if written == len(line) else "no space left on device"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason is not None:
        os.ftruncate(handle, size)
        raise BadInput(f"cannot write {path}: {reason}. What was measured before is kept")
