"""The run folder: nothing that was written is lost, and nothing torn is read."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from attnbench.records import export, journal, load, read, read_document, write_document
from patterns import BadInput


def record(key: str, **more) -> dict:
    return {
        "kind": "cost",
        "case_key": key,
        "case": {"asked": "local", "length": 1024},
        "status": "ok",
        "time": {"cold_ms": {"median": 1.5, "samples": [1.0, 1.5, 2.0]}, "rounds": 5},
        **more,
    }


def write(run: Path, *found: dict) -> None:
    with journal(run) as book:
        for one in found:
            book.append(one)


def test_what_is_appended_is_read_back(tmp_path: Path):
    write(tmp_path / "run", record("a"), record("b"))
    found = read(tmp_path / "run")
    assert [one["case_key"] for one in found] == ["a", "b"]
    assert found[0] == {"schema": 1, **record("a")}


def test_a_record_is_there_before_the_next_one_is_measured(tmp_path: Path):
    with journal(tmp_path) as book:
        book.append(record("a"))
        assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 1


def test_the_last_record_of_a_key_wins(tmp_path: Path):
    write(tmp_path, record("a", status="oom"), record("b"))
    write(tmp_path, record("a"))
    assert [one["case_key"] for one in read(tmp_path)] == ["a", "b"]
    assert [one["status"] for one in read(tmp_path)] == ["ok", "ok"]
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 3


def test_nan_and_infinity_are_null(tmp_path: Path):
    write(tmp_path, record("a", fidelity={"kl": math.nan, "list": [1.0, -math.inf]}))
    assert read(tmp_path)[0]["fidelity"] == {"kl": None, "list": [1.0, None]}


def test_a_torn_line_is_set_aside_and_said(tmp_path: Path):
    write(tmp_path, record("a"))
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write('{"schema":1,"case_key":"b","ca')
    assert [one["case_key"] for one in read(tmp_path)] == ["a"]
    with journal(tmp_path) as book:
        assert "torn" in book.said[0]
        book.append(record("c"))
    assert [one["case_key"] for one in read(tmp_path)] == ["a", "c"]
    assert (tmp_path / "records.torn").read_text() == '{"schema":1,"case_key":"b","ca\n'


def test_a_line_that_is_no_record_is_refused_with_its_number(tmp_path: Path):
    write(tmp_path, record("a"))
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write('{"other":1}\n')
    with pytest.raises(BadInput, match=r"records.jsonl:2 holds no record"):
        read(tmp_path)


def test_a_newer_schema_is_refused(tmp_path: Path):
    (tmp_path / "records.jsonl").write_text(json.dumps(record("a") | {"schema": 2}) + "\n")
    with pytest.raises(BadInput, match="schema 2 and this version reads up to 1"):
        read(tmp_path)


def test_a_full_disk_leaves_what_was_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_all = os.write
    with journal(tmp_path) as book:
        book.append(record("a"))
        monkeypatch.setattr(os, "write", lambda fd, line: write_all(fd, line[: len(line) // 2]))
        with pytest.raises(BadInput, match="no space left"):
            book.append(record("b"))
        monkeypatch.undo()
        book.append(record("c"))
    assert [one["case_key"] for one in read(tmp_path)] == ["a", "c"]


def test_a_file_limit_is_one_clear_line(tmp_path: Path):
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from attnbench.records import journal\n"
        "from patterns import BadInput\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "record = {'kind': 'cost', 'case_key': 'a', 'case': {}, 'status': 'ok'}\n"
        "record['text'] = 'x' * 600\n"
        "with journal(Path(sys.argv[1])) as book:\n"
        "    book.append(record)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "    try:\n"
        "        book.append(record | {'case_key': 'b'})\n"
        "    except BadInput as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "cannot write" in done.stdout
    assert [one["case_key"] for one in read(tmp_path)] == ["a"]


def test_a_run_has_one_writer(tmp_path: Path):
    with (
        journal(tmp_path),
        pytest.raises(BadInput, match=f"being written by process {os.getpid()}"),
        journal(tmp_path),
    ):
        pass


def test_a_lock_of_a_process_that_died_is_taken_over_and_said(tmp_path: Path):
    (tmp_path / ".lock").write_text("4194000")
    with journal(tmp_path) as book:
        assert "process 4194000 died" in book.said[0]
    with journal(tmp_path) as book:
        assert book.said == []


def test_an_error_while_measuring_releases_the_lock(tmp_path: Path):
    with pytest.raises(KeyError), journal(tmp_path):
        raise KeyError
    with journal(tmp_path) as book:
        assert book.said == []


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write"), journal(tmp_path / "file" / "run"):
        pass


def test_records_are_a_table(tmp_path: Path):
    write(tmp_path, record("a"), record("b", status="oom", time=None))
    table = load(tmp_path)
    assert list(table["case.asked"]) == ["local", "local"]
    assert table["time.cold_ms.median"].dropna().tolist() == [1.5]


def test_no_run_folder_is_one_clear_line(tmp_path: Path):
    with pytest.raises(BadInput, match="is not a run folder"):
        load(tmp_path / "none")


def test_an_export_has_no_samples_and_all_the_rest(tmp_path: Path):
    run, out = tmp_path / "run", tmp_path / "out"
    write(run, record("a"), record("b", time=None))
    write_document(run, "run.json", {"matrix": []})
    assert export(run, out) == out
    found = read(out)
    assert found[0]["time"]["cold_ms"] == {"median": 1.5, "samples": None}
    assert found[1]["time"] is None
    assert read_document(out, "run.json") == {"matrix": []}
    assert sorted(one.name for one in out.iterdir()) == ["records.jsonl", "run.json"]
    with pytest.raises(BadInput, match="holds records already"):
        export(run, out)


def test_an_export_takes_the_kinds_of_figures_that_it_is_told(tmp_path: Path):
    write(tmp_path / "run", record("a"))
    (tmp_path / "run" / "figures").mkdir()
    for kind in ("png", "svg", "pdf"):
        (tmp_path / "run" / "figures" / f"latency.{kind}").touch()
    found = export(tmp_path / "run", tmp_path / "out", figures=("png",)) / "figures"
    assert [one.name for one in found.iterdir()] == ["latency.png"]


def test_a_document_is_written_whole_and_absent_is_none(tmp_path: Path):
    assert read_document(tmp_path, "run.json") is None
    write_document(tmp_path, "run.json", {"a": math.nan})
    assert read_document(tmp_path, "run.json") == {"a": None}
    (tmp_path / "run.json").write_text("[1")
    with pytest.raises(BadInput, match="cannot read"):
        read_document(tmp_path, "run.json")
