"""Runs joined into one: what is kept, and what is refused."""

import json
from pathlib import Path

import pytest
from report_run import make

import run_bench
from attnbench.merge import merge
from attnbench.records import read, read_document, write_document
from patterns import BadInput


def made(
    path: Path, lengths: tuple[int, ...], *, version: str = "abc+1", machine: str = "m1"
) -> Path:
    make(path, lengths=lengths, captured=(), failures=False, maps=0, passes=("fwd",))
    rewrite(path, machine=machine, version=version)
    document = read_document(path, "run.json") or {}
    mine = {"version": version, "machine": machine, "matrix": [{"lengths": list(lengths)}]}
    write_document(path, "run.json", document | mine | {"seeds": {"inputs": [len(lengths)]}})
    write_document(path, "machine.json", {machine: {"gpu": machine}})
    return path


def rewrite(path: Path, **changes: object) -> None:
    lines = [
        json.loads(line) | changes for line in (path / "records.jsonl").read_text().splitlines()
    ]
    (path / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_all_cases_maps_machines_and_matrices_are_there(tmp_path: Path):
    a, b = (
        made(tmp_path / "a", (1024,)),
        made(tmp_path / "b", (2048,), machine="m2", version="abc+2"),
    )
    key = read(b)[0]["case_key"]
    (b / "maps").mkdir()
    (b / "maps" / f"{key}.npz").write_bytes(b"map")
    told = merge([a, b], tmp_path / "out")
    records = {record["case_key"]: record for record in read(tmp_path / "out")}
    assert records == {record["case_key"]: record for record in [*read(a), *read(b)]}
    assert told == {"records": len(records), "double": 0}
    assert (tmp_path / "out" / "maps" / f"{key}.npz").read_bytes() == b"map"
    assert set(read_document(tmp_path / "out", "machine.json") or {}) == {"m1", "m2"}
    document = read_document(tmp_path / "out", "run.json") or {}
    assert document["matrix"] == [{"lengths": [1024]}, {"lengths": [2048]}]
    assert [one["machine"] for one in document["merged"]] == ["m1", "m2"]


def test_of_a_case_in_both_the_last_that_is_ok_counts(tmp_path: Path):
    a, b, c = (made(tmp_path / name, (1024,)) for name in "abc")
    rewrite(b, group="of b")
    rewrite(c, status="crashed", reason="it was so")
    told = merge([a, b, c], tmp_path / "out")
    assert {record["group"] for record in read(tmp_path / "out")} == {"of b"}
    assert told["double"] == told["records"]
    merge([c, a], tmp_path / "other")
    assert {record["status"] for record in read(tmp_path / "other")} == {"ok"}


def test_other_versions_and_a_case_on_two_machines_are_refused(tmp_path: Path):
    a = made(tmp_path / "a", (1024,))
    other = made(tmp_path / "b", (2048,), version="def+1")
    with pytest.raises(BadInput, match=r"code abc\+1 and .* by def\+1"):
        merge([a, other], tmp_path / "out")
    twice = made(tmp_path / "c", (1024,), machine="m2")
    with pytest.raises(BadInput, match="two machines"):
        merge([a, twice], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(BadInput, match="holds records already"):
        merge([a, made(tmp_path / "d", (2048,))], other)


def test_the_command_merges_or_says_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    a, b = made(tmp_path / "a", (1024,)), made(tmp_path / "b", (2048,))
    out = tmp_path / "out"
    assert run_bench.main(["merge", str(a), str(b), "--out", str(out)]) == 0
    assert f"{out}: {len(read(out))} records of 2 runs" in capsys.readouterr().out
    for typed in ([str(a)], [str(a), str(a)], [str(a), str(tmp_path / "none")]):
        assert run_bench.main(["merge", *typed, "--out", str(tmp_path / "x")]) == 2
        assert capsys.readouterr().err.count("\n") == 1
