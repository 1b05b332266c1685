"""Files of a run folder that no run has written are one clear line, whatever reads them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import run_bench
from attnbench.records import MACHINE, RECORDS, RUN, read, read_document
from patterns import BadInput

RECORD = {"schema": 1, "kind": "cost", "case_key": "a", "status": "ok",
          "case": {"asked": "full", "length": 16}}  # fmt: skip
GOOD = json.dumps(RECORD).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "9"}, {"schema": None}, {"kind": None}, {"kind": 1}, {"case_key": [1]},
        {"case": "x"}, {"case": []}, {"status": None}, {"time": "x"}, {"time": [1]},
        {"memory": 1}, {"fidelity": "x"}, {"guards": []}, {"cost": 5},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_a_line_that_is_no_record_is_named(tmp_path: Path, changes: dict[str, Any]):
    line = json.dumps(RECORD | changes).encode()
    (tmp_path / RECORDS).write_bytes(GOOD + b"\n" + line + b"\n")
    with pytest.raises(BadInput, match=r"records.jsonl:2 holds no record: was it edited\?"):
        read(tmp_path)


@pytest.mark.parametrize(
    "line", [b"[]", b"null", b"7", b"", b"{", b"[" * 100_000, GOOD.replace(b"full", b"f\xffl")]
)
def test_a_line_that_is_no_json_object_is_named(tmp_path: Path, line: bytes):
    (tmp_path / RECORDS).write_bytes(line + b"\n")
    with pytest.raises(BadInput, match=r"records.jsonl:1 holds no record"):
        read(tmp_path)


def test_a_newer_schema_is_called_newer_whatever_else_it_changed(tmp_path: Path):
    (tmp_path / RECORDS).write_text(json.dumps(RECORD | {"schema": 2, "time": []}) + "\n")
    with pytest.raises(BadInput, match="has schema 2 and this version reads up to 1"):
        read(tmp_path)


@pytest.mark.parametrize("blocks", [{}, {"time": None, "guards": {}, "later": [1]}])
def test_blocks_may_be_missing_null_or_new(tmp_path: Path, blocks: dict[str, Any]):
    (tmp_path / RECORDS).write_text(json.dumps(RECORD | blocks) + "\n")
    assert read(tmp_path) == [RECORD | blocks]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (RUN, "[]", "holds no JSON object"),
        (RUN, "7", "holds no JSON object"),
        (RUN, '{"matrix": 5}', "makes no sense of 'matrix'"),
        (RUN, '{"seeds": []}', "makes no sense of 'seeds'"),
        (RUN, "[" * 100_000, "cannot read"),
        (MACHINE, '{"m": 5}', "makes no sense of 'm'"),
        (MACHINE, '{"m": {"ceilings": "x"}}', "makes no sense of 'm'"),
        (MACHINE, '{"m": {"ceilings": {"matmul_flops_per_s": 5}}}', "makes no sense of 'm'"),
        (MACHINE, '{"m": {"ceilings": {"spread": 5}}}', "makes no sense of 'm'"),
    ],
)
def test_a_document_that_no_run_has_written_is_named(
    tmp_path: Path, name: str, text: str, said: str
):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=said):
        read_document(tmp_path, name)


@pytest.mark.parametrize(
    ("name", "document"),
    [(RUN, {}), (RUN, {"matrix": None, "more": 1}), (MACHINE, {}),
     (MACHINE, {"m": {"ceilings": None}}), (MACHINE, {"m": {"ceilings": {}}})],
)  # fmt: skip
def test_what_older_runs_lack_is_no_mistake(tmp_path: Path, name: str, document: dict[str, Any]):
    (tmp_path / name).write_text(json.dumps(document))
    assert read_document(tmp_path, name) == document


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "good"
    assert run_bench.main([*TINY, "--out", str(run)]) == 0
    return run


TINY = ["run", "--pattern", "uniform", "--length", "16", "--heads", "1", "--dim", "8", "--device",
        "cpu", "--no-baselines", "--engine", "inline"]  # fmt: skip


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[str], str]:
    """Change a document, or the last one of several lines."""

    def applied(text: str) -> str:
        lines = text.splitlines() if text.startswith('{"schema":1,') else [text]
        document = json.loads(lines[-1])
        change(document)
        return "\n".join([*lines[:-1], json.dumps(document)]) + "\n"

    return applied


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (RECORDS, edited(lambda x: x.update(schema="9")), "holds no record"),
        (RECORDS, edited(lambda x: x.update(time="x")), "holds no record"),
        (RUN, edited(lambda x: x.clear()), "names no version and machine"),
        (RUN, edited(lambda x: x.update(version=7)), "names no version and machine"),
        (MACHINE, edited(lambda x: x.update(dict.fromkeys(x, 5))), "makes no sense of"),
        (RUN, lambda text: text[:20], "cannot read"),
        (MACHINE, lambda text: "\udcff", "cannot read"),
    ],
)
def test_a_run_does_not_go_on_in_a_folder_that_was_spoilt(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    name: str, change: Callable[[str], str], said: str,
):  # fmt: skip
    run = tmp_path / "run"
    run.mkdir()
    for file in (RECORDS, RUN, MACHINE):
        text = (measured / file).read_text(encoding="utf-8")
        text = change(text) if file == name else text
        (run / file).write_bytes(text.encode(errors="surrogateescape"))
    before = (run / RECORDS).read_bytes()
    assert run_bench.main([*TINY, "--out", str(run)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert (run / RECORDS).read_bytes() == before


@pytest.mark.parametrize("command", ["report", "advise"])
def test_a_record_without_a_pattern_is_said_before_anything_is_drawn(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
):
    bad = RECORD | {"case_key": "b", "case": {}}
    (tmp_path / RECORDS).write_text("".join(json.dumps(one) + "\n" for one in (RECORD, bad)))
    more = ["--length", "16"] if command == "advise" else []
    assert run_bench.main([command, str(tmp_path), *more]) == 2
    assert "lack case.asked, case.length" in capsys.readouterr().err


def test_export_and_compare_and_merge_read_the_same_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / RECORDS).write_text(json.dumps(RECORD | {"case_key": [1]}) + "\n")
        (tmp_path / name / RUN).write_text('{"version": "v", "machine": "m"}')
    a, b, out = (str(tmp_path / name) for name in ("a", "b", "out"))
    for typed in (["export", a, "--out", out], ["compare", a, b], ["merge", a, b, "--out", out]):
        assert run_bench.main(typed) == 2
        err = capsys.readouterr().err
        assert "holds no record" in err
        assert err.count("\n") == 1
