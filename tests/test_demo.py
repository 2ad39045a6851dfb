"""`make demo`, as a user runs it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TESTS

from bge_integrations.demo import main


def test_make_passes_quotes_and_dollars_untouched(tmp_path):
    """`make demo Q=…` must neither run nor change what the user types."""
    docs = tmp_path / 'it\'s a $HOME "folder"'
    docs.mkdir()
    (docs / ".hidden.md").write_text("nothing to see")
    (docs / "note.txt").write_text("\ufeffThe ticket costs $100.", encoding="utf-8")
    question = 'What\'s "the" price; is it $100? `touch x`'
    project = TESTS.parent
    environment = {**os.environ, "COLUMNS": "200"}
    command = [
        "make",
        "-o",
        ".venv/.demo-ready",
        "demo",
        f"BIN={Path(sys.executable).parent}",
        f"DOCS={docs}",
        f"Q={question}",
    ]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert question in done.stdout
    assert "note.txt" in done.stdout
    assert ".hidden" not in done.stdout
    assert "make demo MODEL=BAAI/bge-m3 RERANKER=BAAI/bge-reranker-v2-m3" in done.stdout


def run_demo(folder, *arguments):
    environment = {**os.environ, "COLUMNS": "120", "HF_ENDPOINT": "http://127.0.0.1:9"}
    return subprocess.run(
        [sys.executable, "-m", "bge_integrations.demo", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_bundled_documents(tmp_path):
    done = run_demo(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Embedding model pocket" in done.stdout
    command = "python -m bge_integrations.demo --model BAAI/bge-m3 --reranker BAAI/bge-reranker-v2-m3"
    assert command in " ".join(done.stdout.split())
    assert done.stdout.count("Retrieved: best 3") >= 6
    assert "Reranked" not in done.stdout
    assert "in an M3Index on disk" in " ".join(done.stdout.split())
    first = done.stdout[done.stdout.index("1/") : done.stdout.index("2/")]
    assert "f3167" in " ".join(first.splitlines()[:6])
    assert done.stderr == ""


def test_a_reranker_if_one_is_given(tmp_path):
    done = run_demo(tmp_path, "--reranker", "pocket", "--question", "What does the giant panda eat?")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Retrieved: best 3") == done.stdout.count("Reranked: best 3 of 20") == 1


def test_the_users_documents_in_two_runs(tmp_path):
    docs = tmp_path / "docs"
    (docs / "sub").mkdir(parents=True)
    (docs / "pandas.md").write_text("# Pandas\n\nThe giant panda eats bamboo in the mountains of China.\n" * 3)
    (docs / "sub" / "rome.txt").write_text("Rome was founded, legend says, by Romulus in 753 BC.")
    (docs / "ignored.parquet").write_text("a,b")
    (docs / "empty.txt").write_text("")
    for question, source in (("What does the giant panda eat?", "pandas.md"), ("Who founded Rome?", "sub/rome.txt")):
        done = run_demo(tmp_path, "--docs", str(docs), "--question", question)
        assert done.returncode == 0, done.stderr
        assert question in done.stdout
        assert done.stdout.index(source) > done.stdout.index("Retrieved")
        assert "skipped" in done.stdout
        assert "empty.txt has no text" in " ".join(done.stdout.split())
        assert "ignored.parquet" not in done.stdout


def test_ctrl_c_is_one_line(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("bge_integrations.demo._questions", interrupted)
    assert main([]) == 130
    assert capsys.readouterr() == ("", "demo: interrupted\n")


def test_a_closed_pipe_ends_it_quietly(tmp_path):
    command = f"{shlex.quote(sys.executable)} -m bge_integrations.demo | true"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--docs", "nowhere", "--question", "q"], "nowhere does not exist"),
        (["--docs", "."], '--question "your question"'),
        (["--docs", ".", "--question", "q"], "contains no supported files"),
        (["--question", "  "], "the question is empty"),
        (["--model", "bge-nonsense"], "unknown model 'bge-nonsense'"),
        (["--model", "./nowhere"], "there is no folder ./nowhere"),
        (["--model", "bge-reranker-base"], "pass an embedding model as --model"),
        (["--reranker", "bge-m3"], "pass an embedding model as --model"),
    ],
)
def test_mistakes_are_one_line_without_traceback(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("demo: ")
    assert message in error
    assert "Traceback" not in error


def test_files_that_cannot_be_read_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.md").write_text("  \n")
    (tmp_path / "cut.pdf").write_bytes(b"%PDF-1.7\n")
    assert main(["--docs", ".", "--question", "q"]) == 1
    done = capsys.readouterr()
    assert "empty.md has no text" in done.out
    assert "cut.pdf can't be read" in done.out
    assert "no file in . could be read" in done.err


@pytest.mark.parametrize("package", ["langchain_core", "qdrant_edge", "rich"])
def test_a_missing_package_is_one_line(tmp_path, package):
    """Someone who has installed the package without the extra is told which extra it is."""
    code = f"import sys; sys.modules[{package!r}] = None; from bge_integrations.demo import main; sys.exit(main([]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("demo: ")
    assert done.stderr.count("\n") == 1
    assert "[demo]" in done.stderr
