"""What a run folder holds, read once: its records, its maps, its machines, how it was asked for."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from attnbench import BadInput, load
from attnbench.records import MACHINE, RUN, read_document
from reports.frame.tidy import cost_frame, fidelity_frame, window_frame


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder in memory; `cost`, `windows` and `fidelity` have one row a case, ok or not."""

    folder: Path
    info: dict[str, Any]
    machines: dict[str, dict[str, Any]]
    cost: pd.DataFrame
    windows: pd.DataFrame
    fidelity: pd.DataFrame
    maps: tuple[Path, ...]
    versions: tuple[str, ...]

    @property
    def failures(self) -> pd.DataFrame:
        """Every case without a result, with its reason."""
        parts = [
            frame[frame.status != "ok"].assign(kind=kind)
            for kind, frame in (
                ("cost", self.cost),
                ("cost", self.windows),
                ("fidelity", self.fidelity),
            )
        ]
        return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)

    @property
    def marked(self) -> pd.DataFrame:
        """Every case with a result of which a guard fired."""
        parts = [one for one in (self.cost, self.windows, self.fidelity) if len(one)]
        parts = [one[one.fired != ""] for one in parts]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def only(self, **changes: Any) -> "Run":
        """The same run with some of its parts replaced."""
        return dataclasses.replace(self, **changes)


def read(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        BadInput: there is no run in it, or a file of it cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"no run folder at {str(folder)!r}: expected one that `run` has written")
    if not (folder / "records.jsonl").is_file():
        raise BadInput(f"{str(folder)!r} holds no records.jsonl: expected a folder made by `run`")
    records = _records(folder)
    versions = _texts(records, "version", "version.code", "version.commit")
    return Run(
        folder=folder,
        info=read_document(folder, RUN) or {},
        machines=read_document(folder, MACHINE) or {},
        cost=cost_frame(records),
        windows=window_frame(records),
        fidelity=fidelity_frame(records),
        maps=tuple(sorted((folder / "maps").glob("*.npz"))),
        versions=versions,
    )


def _records(folder: Path) -> pd.DataFrame:
    records = load(folder)
    if len(records) == 0:
        return pd.DataFrame({"kind": pd.Series(dtype=str)})
    needed = ("case.asked", "case.length")
    missing = [name for name in needed if name not in records or records[name].isna().any()]
    if missing:
        named = ", ".join(missing)
        raise BadInput(f"records in {str(folder)!r} lack {named}: expected records of schema 1")
    return records


def _texts(records: pd.DataFrame, *columns: str) -> tuple[str, ...]:
    found = {
        str(value) for column in columns if column in records for value in records[column].dropna()
    }
    return tuple(sorted(found))
