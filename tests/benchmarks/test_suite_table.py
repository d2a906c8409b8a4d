"""The tables in Markdown, and that the documents carry those of the results that are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import table, words
from benchmarks.__main__ import main
from benchmarks.results import MODES, Row, keep
from benchmarks.run import STEP
from benchmarks.words import AS_PEERS

Make = Callable[..., Row]
NOWHERE = "On a GPU: not yet measured."


@pytest.fixture
def rows(make_row: Make) -> list[Row]:
    """Of a CPU: what was measured, what was left out and what failed, with a bar and two lines in its reason."""
    failed = {"median": None, "failed": "CompilationError: at 3:7:\n    a | b\n      ^"}
    reasons = {"fused": {"median": None, "left_out": "the kernel needs a GPU"}, "compiled": failed}
    of_the_gate = [
        make_row(case="cpu-joint", implementation=name, mode=mode, **reasons.get(name, {"median": 2.0}))
        for name in ("fused", "eager", "compiled")
        for mode in MODES
    ]
    losses = [
        make_row(operator, case, implementation, median=median)
        for operator, case in (
            ("info_nce", "cpu-n256"),
            ("info_nce", "cpu-queue"),
            ("similarity_kl", "cpu-kl-n2048"),
        )
        for implementation, median in (("chunked", 4.0), ("eager", 3.0))
    ]
    copy = make_row(case="cpu-joint", implementation="copy", mode="forward")
    del copy["errors"], copy["extra_bytes"]
    made = [copy, *of_the_gate, *losses]
    return [{**row, "device": "A CPU", "threads": 2} for row in made]


@pytest.fixture
def steps(make_row: Make) -> list[Row]:
    """Rungs of the training step."""
    made = [make_row(implementation=name, median=1e3) for name in (AS_PEERS, "ours")]
    rates = [{**row, "clips_per_second": rate} for row, rate in zip(made, (50.0, 75.0), strict=True)]
    left_out = make_row(implementation="fused", median=None, left_out="needs a | GPU")
    step = {"operator": STEP, "case": "NTU", "mode": "step", "device": "A CPU"}
    return [{**row, **step} for row in (*rates, left_out)]


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


@pytest.mark.parametrize("name", table.TABLES)
def test_lines_of_a_table_are_of_one_length(name: str, rows: list[Row], steps: list[Row]) -> None:
    text = table.TABLES[name]([*rows, *steps])
    found = lines(text)
    assert len(found) > 2
    assert len({line.count("|") for line in found}) == 1
    assert set(found[1]) == set("| -")
    rest = [line for line in text.splitlines() if line and line not in found]
    assert len(rest) == 2
    assert rest[0].startswith("**A CPU**")
    assert rest[1] == NOWHERE


def test_tables_of_few_cases(rows: list[Row], make_row: Make) -> None:
    """Those of a quick run alone."""
    found = lines(table.TABLES["quick"]([*rows, {**make_row(case="deep-joint"), "device": "A CPU"}]))[2:]
    assert [line.split(" | ")[1] for line in found] == ["cpu-joint", "cpu-n256", "cpu-kl-n2048"]


def test_headlines(rows: list[Row]) -> None:
    """Ours is what our operator comes to here, slower ones included."""
    found = [line.strip("| ").split(" | ") for line in lines(table.headlines(rows))[2:]]
    by_case = {cells[1]: cells for cells in found}
    assert list(by_case) == ["cpu-joint", "cpu-n256", "cpu-queue", "cpu-kl-n2048"]
    assert by_case["cpu-joint"][2:5] == ["32x64x64x25, float32", "`eager`", "2 (1.8-2.2)"]
    assert by_case["cpu-n256"][2:] == [
        "256 x 256, D = 256, float32", "`chunked`", "4 (3.6-4.4)", "10.0 MB", "`eager`", "3", "10.0 MB", "0.75",
    ]  # fmt: skip
    assert by_case["cpu-queue"][2].startswith("256 x 256 + 8,192, D = 256")


def test_reasons_are_shown(rows: list[Row]) -> None:
    """Once for all modes, in one line."""
    found = lines(table.everything(rows))
    (left_out,) = (line for line in found if "| fused |" in line)
    assert "| spectral_gate | cpu-joint | fused | all | left out: the kernel needs a GPU |" in left_out
    (failed,) = (line for line in found if "| compiled |" in line)
    assert "| all | FAILED: CompilationError: at 3:7:" in failed
    assert "a / b" in failed


def test_reasons_are_shown_of_whatever_mode_was_run(rows: list[Row]) -> None:
    found = lines(table.everything([row for row in rows if row["mode"] == "both"]))
    assert sum("left out: the kernel needs a GPU" in line for line in found) == 1
    assert sum("FAILED: CompilationError" in line for line in found) == 1


def test_reasons_take_one_line_of_a_terminal(rows: list[Row], steps: list[Row]) -> None:
    for row in (*rows, *steps):
        assert len(words.line(row).splitlines()) == 1
    assert all(len(line.splitlines()) <= 1 for line in words.summary(rows))


def test_the_training_step_has_a_table_of_its_own(rows: list[Row], steps: list[Row]) -> None:
    found = lines(table.training([*rows, *steps]))[2:]
    assert [line.strip("| ").split(" | ")[:3] for line in found[:2]] == [
        [AS_PEERS, "50.0", "1.00"],
        ["ours", "75.0", "1.50"],
    ]
    assert "left out: needs a / GPU" in found[2]
    assert not any("peers" in line for line in lines(table.everything([*rows, *steps])))
    assert table.training(rows) == NOWHERE


def test_a_gpu_is_not_yet_measured_until_it_is(rows: list[Row], make_row: Make) -> None:
    of_a_gpu = [make_row(mode=mode) for mode in MODES]
    for name in ("headlines", "everything"):
        make = table.TABLES[name]
        assert make(rows).count(NOWHERE) == 1
        text = make([*rows, *of_a_gpu])
        assert NOWHERE not in text
        assert text.index("**A CPU**") < text.index("**NVIDIA H200**")
        assert "benchmarks/results/nvidia-h200" in text
        assert make([]) == NOWHERE


def test_where_rows_were_made(rows: list[Row]) -> None:
    rows[0] |= {"date": "2025-12-31T23:00:00+00:00", "commit": "fedcba987654"}
    text = table.everything(rows)
    assert "commit fedcba987654, 0123456789ab, 2025-12-31 to 2026-01-02." in text
    assert text.startswith("**A CPU**, 2 threads, PyTorch ")


DOCUMENT = """# A document

<!-- table: headlines -->
old
<!-- end of table -->
between
<!-- table: training -->
<!-- end of table -->
after <!-- table: headlines --> not at the end of a line
"""


def test_tables_are_filled_in_between_their_marks_and_nowhere_else(rows: list[Row], steps: list[Row]) -> None:
    text = table.filled(DOCUMENT, [*rows, *steps])
    start, first, rest = text.partition(table.headlines(rows))
    assert first
    assert start == "# A document\n\n<!-- table: headlines -->\n\n"
    between, second, end = rest.partition(table.training([*rows, *steps]))
    assert second
    assert between == "\n\n<!-- end of table -->\nbetween\n<!-- table: training -->\n\n"
    assert end.startswith("\n\n<!-- end of table -->\nafter <!-- table: headlines --> not at")
    assert "old" not in text
    assert table.filled(text, [*rows, *steps]) == text


def test_a_table_that_there_is_not(rows: list[Row]) -> None:
    with pytest.raises(ValueError, match=r"there is no table footlines; there are .*headlines, "):
        table.filled("<!-- table: footlines -->\n<!-- end of table -->\n", rows)


@pytest.fixture
def documents(tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two documents, one without tables; the results that they are of, as arguments of the command."""
    for row in rows:
        keep(tmp_path / "results" / "a-cpu", row)
    texts = {"with.md": DOCUMENT, "without.md": "no table\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(table, "DOCUMENTS", tuple(tmp_path / name for name in texts))
    return ["table", str(tmp_path / "results")]


def test_check_and_write(
    documents: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], make_row: Make
) -> None:
    assert main([*documents, "--check"]) == 1
    assert capsys.readouterr().out == "out of date: with.md\n"
    assert (tmp_path / "with.md").read_text() == DOCUMENT, "checking writes nothing"
    assert main([*documents, "--write"]) == 0
    assert capsys.readouterr().out == "written: with.md\n"
    for option in ("--check", "--write"):
        assert main([*documents, option]) == 0
        assert capsys.readouterr().out == ""
    assert (tmp_path / "without.md").read_text() == "no table\n"
    keep(tmp_path / "results" / "h200", make_row())
    assert main([*documents, "--check"]) == 1


def test_all_tables_are_printed(documents: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(documents) == 0
    printed = capsys.readouterr().out
    assert [line[4:] for line in printed.splitlines() if line.startswith("### ")] == list(table.TABLES)


def test_a_missing_document_is_an_error(
    documents: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "with.md").unlink()
    assert main([*documents, "--check"]) == 2
    assert "with.md" in capsys.readouterr().err


def test_the_documents_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m benchmarks table --write` makes them so."""
    assert main(["table", "--check"]) == 0, capsys.readouterr()


def test_every_table_is_shown_in_a_document() -> None:
    shown = {
        match["name"] for document in table.DOCUMENTS for match in table.MARKED.finditer(document.read_text())
    }
    assert shown == {*table.TABLES, *table.FIGURES}
