"""The `bge` command: every subcommand, one-line error messages, and interrupted runs."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import BASE, M3, PUBLISHED, TESTS

from bge_integrations import load_embedder, load_reranker
from bge_integrations.catalog import CHECKPOINTS
from bge_integrations.cli import embed as embed_command
from bge_integrations.cli import main, output, partial
from bge_integrations.core import loading
from bge_integrations.errors import InvalidInputError
from bge_integrations.index import M3Index
from bge_integrations.index.writing import Writer
from bge_integrations.task_instructions import benchmarks

FILES = {
    "pandas.md": "# Pandas\n\nThe giant panda eats bamboo. It sleeps in trees.",
    "sub/rome.txt": "Rome lies on the river Tiber. It was founded in 753 BC.",
    "heron.html": "<title>Heron</title><p>The heron eats fish and stands in shallow water.</p>",
}
LAYERWISE = TESTS / "oracle/checkpoints/bge-reranker-v2-minicpm-layerwise"
LIGHTWEIGHT = TESTS / "oracle/checkpoints/bge-reranker-v2.5-gemma2-lightweight"
QUESTION = "What does the giant panda eat?"
OFFLINE = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}


@pytest.fixture(scope="module", autouse=True)
def loaded(pocket, pocket_reranker):
    """Keep both models in memory, so that all calls in this process share them."""


@pytest.fixture(autouse=True)
def interrupts(ctrl_c):
    """Enable Ctrl-C in all tests of this file."""


def in_a_process(*arguments, code="", **options):
    start = [sys.executable, "-m", "bge_integrations"]
    if code:
        start = [sys.executable, "-c", f"import sys\n{code}\nfrom bge_integrations.cli import main\nsys.exit(main())"]
    return subprocess.run(
        [*start, *map(str, arguments)], env=OFFLINE, capture_output=True, text=True, timeout=120, **options
    )


def interrupt_at(call, function):
    """Wrap the function: Ctrl-C arrives when it has returned for the `call`-th time."""
    calls = []

    def interrupted(*arguments, **named):
        found = function(*arguments, **named)
        calls.append(found)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGINT)
        return found

    return interrupted


def write_files(folder, files=FILES):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder


@pytest.fixture
def docs(tmp_path):
    return write_files(tmp_path / "docs")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An index of the sample files."""
    folder = tmp_path_factory.mktemp("made")
    assert (
        main(["index", str(write_files(folder / "docs")), "--index", str(folder / "index"), "--model", "pocket"]) == 0
    )
    return folder / "index"


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def contents(index):
    with M3Index.open(index, create=False) as opened:
        return {entry.id: (entry.text, entry.metadata) for entry in opened}


def rows_file(path, count=40):
    path.write_text("".join(json.dumps({"id": i, "text": f"Panda {i} ate {i} kilos."}) + "\n" for i in range(count)))
    return path


# the command itself


def test_help_loads_nothing_large():
    large = {"numpy", "pyarrow", "torch", "transformers", "bge_integrations.documents"}
    code = f"import atexit; atexit.register(lambda: print('loaded', bool({large} & set(sys.modules))))"
    for arguments in (["--help"], ["embed", "--help"], ["index", "--help"], ["eval", "--help"], ["serve", "--help"]):
        done = in_a_process(*arguments, code=code)
        assert done.returncode == 0
        assert "usage: bge" in done.stdout.lower()
        assert done.stdout.endswith("loaded False\n")


def test_wrong_usage_exits_with_status_2(bge, tmp_path):
    for arguments in (
        ["nonsense"],
        ["search", "q"],
        ["search", "q", "--index", "x", "--top-n", "0"],
        ["search", "q", "--index", "x", "--filter", "page"],
        ["search", "q", "--index", "x", "--filter", "title=\udce9"],
        ["embed", "in.csv", "out.jsonl"],
    ):
        status, out, err = bge(*arguments)
        assert status == 2, arguments
        assert out == ""
        assert err.startswith("Usage: bge")
    assert bge("--version")[0] == 0


def test_empty_arguments_are_refused(bge, docs, monkeypatch):
    monkeypatch.chdir(docs)
    for arguments, name in (
        (["index", "", "--index", "new", "--model", "pocket"], "FOLDER"),
        (["index", ".", "--index", "", "--model", "pocket"], "--index"),
        (["index", ".", "--index", "new", "--model", ""], "--model"),
        (["search", "q", "--index", "new", "--rerank="], "--rerank"),
        (["rerank", "q", "", "--model", "pocket"], "FILE"),
        (["download", "bge-m3", ""], "NAME"),
        (["eval", "", "--model", "pocket"], "FOLDER"),
        (["eval", ".", "--model", "pocket", "--reranker", ""], "--reranker"),
        (["embed", "", "out.jsonl"], "INPUT"),
    ):
        status, out, err = bge(*arguments)
        assert (status, out) == (1, "")
        assert err.startswith(f"bge: {name} is empty; ")
    assert sorted(path.name for path in docs.iterdir()) == ["heron.html", "pandas.md", "sub"]


def test_without_the_extra_it_says_what_to_install():
    done = in_a_process("models", code="sys.modules['typer'] = None")
    assert done.returncode == 1
    assert done.stderr.startswith("bge: the command needs typer: pip install -e '.[cli]' in a clone")


def test_ctrl_c_while_the_command_is_imported():
    code = """
class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
"""
    done = in_a_process("models", code=code)
    assert (done.returncode, done.stderr) == (130, "bge: interrupted\n")


def test_a_closed_pipe_ends_it_quietly(tmp_path):
    rows = rows_file(tmp_path / "in.jsonl", 600)
    command = [sys.executable, "-m", "bge_integrations", "embed", str(rows), "-", "--model", "pocket"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=OFFLINE) as process:
        assert json.loads(process.stdout.readline())["id"] == 0
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


@pytest.mark.parametrize(
    ("arguments", "closed", "message"),
    [
        ("rerank q --model pocket", "<&-", "bge: standard input is closed; pass a file\n"),
        ("models", ">&-", "bge: standard output is closed; redirect it to a file or a terminal\n"),
        ("models nowhere", "2>&-", ""),
    ],
)
def test_closed_streams(arguments, closed, message):
    shell = f"{shlex.quote(sys.executable)} -m bge_integrations {arguments} {closed}"
    done = subprocess.run(["bash", "-c", shell], env=OFFLINE, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (1, message)


def test_bash_completes_commands_and_options():
    for words, number, found in (("bge mo", 1, "models"), ("bge embed --mu", 2, "--multi-vector")):
        asked = {**OFFLINE, "_BGE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(number)}
        done = subprocess.run(
            [sys.executable, "-m", "bge_integrations"], env=asked, capture_output=True, text=True, timeout=120
        )
        assert done.stdout.split() == [found]


def test_a_table_is_cut_to_the_terminal_and_whole_in_a_pipe(monkeypatch, capsys):
    rows = [("0.5", "a.md#0", "bamboo " * 30), ("0.4", "b.md#0", "[bold] Rome")]
    output.print_table(rows, ("score", "passage", "text"), cut=True)
    assert capsys.readouterr().out == f"0.5\ta.md#0\t{('bamboo ' * 30).strip()}\n0.4\tb.md#0\t[bold] Rome\n"
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    output.print_table(rows, ("score", "passage", "text"), cut=True)
    shown = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 60 for line in shown[1:])  # the first line also has escape codes for bold
    assert shown[2].startswith("0.5")
    assert shown[2].endswith("…")
    assert "[bold] Rome" in shown[3]


# index


def test_index_follows_the_folder(bge, docs, tmp_path, monkeypatch):
    where = ("--index", tmp_path / "index", "--json")
    status, out, err = bge("index", docs, *where, "--model", "pocket")
    assert (status, err) == (0, "")
    assert json.loads(out) | {"seconds": 0} == {
        "files": 3, "passages": 3, "added": 3, "unchanged": 0, "removed": 0, "left_out": 0, "seconds": 0,
    }  # fmt: skip

    for name in ("contract.doc", "prices.ods", "other.ods", ".env"):
        (docs / name).write_text("not read")
    status, out, err = bge("index", docs, *where)
    assert (status, err) == (0, "bge: not read: 2 .ods, 1 .doc, 1 hidden\n")
    assert json.loads(out)["passed_over"] == {".ods": 2, ".doc": 1, "hidden": 1}
    for name in ("contract.doc", "prices.ods", "other.ods", ".env"):
        (docs / name).unlink()

    encoded = []
    store = Writer.store
    monkeypatch.setattr(Writer, "store", lambda self, plan, e: encoded.extend(plan.new) or store(self, plan, e))
    assert json.loads(bge("index", docs, *where)[1])["unchanged"] == 3
    assert encoded == []

    (docs / "pandas.md").write_text("The red panda eats bamboo, too.")
    (docs / "heron.html").unlink()
    (docs / "empty.txt").write_text("")
    status, out, err = bge("index", docs, *where)
    assert status == 3
    assert err == f"bge: skipped: {docs / 'empty.txt'} has no text\n"
    assert json.loads(out).items() >= {"added": 1, "unchanged": 1, "removed": 1, "left_out": 1}.items()
    assert [entry.text for entry in encoded] == ["The red panda eats bamboo, too."]
    found = contents(tmp_path / "index")
    assert sorted(found) == ["pandas.md#0", "sub/rome.txt#0"]
    assert found["sub/rome.txt#0"][1] == {"source": "sub/rome.txt", "title": "rome", "start": 0}


def test_documents_from_elsewhere_stay_in_the_index(bge, docs, tmp_path):
    with M3Index.open(tmp_path / "index", "pocket") as opened:
        opened.add(["Added by hand."], ids=["mine"])
    assert bge("index", docs, "--index", tmp_path / "index")[0] == 0
    assert "mine" in contents(tmp_path / "index")


@pytest.mark.parametrize(
    ("folder", "index", "model", "message"),
    [
        ("nowhere", "new", "pocket", "nowhere does not exist"),
        ("docs", "docs", "pocket", "is not an index and not empty"),
        ("docs", "made", M3, "the index was made with pocket"),
        ("other", "made", "pocket", "docs, and indexing other would remove passages from it"),
        ("docs/pandas.md", "made", "pocket", "docs, and indexing docs/pandas.md would remove passages from it"),
        ("other", "by_hand", "pocket", "is the index of another folder (with theirs.md)"),
        ("docs", ":memory:", "pocket", "--index :memory:"),
        ("docs", "new", "bge-nonsense", "unknown model 'bge-nonsense'"),
        ("docs", "new", "bge-reranker-base", "is a reranker; rerankers are for `bge rerank`"),
    ],
)
def test_errors_of_index(bge, docs, made, tmp_path, monkeypatch, folder, index, model, message):
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path, {"other/owls.md": "Owls hunt at night."})
    before = contents(made)
    with M3Index.open("by_hand", "pocket") as opened:
        opened.add(["Made in Python."], metadatas=[{"source": "theirs.md"}])
    status, out, err = bge("index", folder, "--index", made if index == "made" else index, "--model", model)
    assert (status, out) == (1, "")
    assert err.startswith("bge: ")
    assert message in err
    assert err.count("\n") == 1
    assert contents(made) == before


def test_no_index_is_made_if_no_file_can_be_read(bge, tmp_path):
    write_files(tmp_path, {"docs/a.md": " ", "docs/b.pdf": "no"})
    status, out, err = bge("index", tmp_path / "docs", "--index", tmp_path / "index", "--model", "pocket")
    assert (status, out) == (1, "")
    first, second, last = err.splitlines()
    assert first.endswith("a.md has no text")
    assert "b.pdf can't be read as a PDF" in second
    assert last.startswith("bge: none of the files can be read")
    assert [path.name for path in tmp_path.iterdir()] == ["docs"]


def test_a_file_whose_name_is_not_utf_8_is_skipped(bge, docs, tmp_path):
    try:
        (docs / os.fsdecode(b"caf\xe9.md")).write_text("The café opens at nine.", "utf-8")
    except OSError:
        pytest.skip("this file system refuses such names")
    status, out, err = bge("index", docs, "--index", tmp_path / "index", "--model", "pocket", "--json")
    assert (status, json.loads(out)["added"]) == (3, 3)
    assert "caf\\udce9.md has a name that is not UTF-8; rename it" in err


def test_a_folder_can_be_moved_without_encoding_again(bge, docs, tmp_path):
    index = tmp_path / "index"
    assert bge("index", docs, "--index", index, "--model", "pocket")[0] == 0
    moved = docs.rename(tmp_path / "moved")
    status, _, err = bge("index", moved, "--index", index)
    assert status == 1
    record = index / ".made_from"
    assert f"delete {record}" in err
    record.unlink()
    for _ in range(2):
        status, out, _ = bge("index", moved, "--index", index, "--json")
        assert (status, json.loads(out)["unchanged"]) == (0, 3)


def test_an_interrupted_index_is_finished_by_the_next_run(bge, docs, tmp_path, monkeypatch):
    write_files(docs, {f"n{i}.txt": f"Note {i} is about badgers." for i in range(12)})
    index, undisturbed = tmp_path / "index", tmp_path / "undisturbed"
    assert bge("index", docs, "--index", undisturbed, "--model", "pocket")[0] == 0
    with monkeypatch.context() as patched:
        patched.setattr("bge_integrations.documents.sync._BATCH", 4)
        patched.setattr(M3Index, "add", interrupt_at(2, M3Index.add))
        status, out, err = bge("index", docs, "--index", index, "--model", "pocket")
    assert (status, out) == (130, "")
    assert f"interrupted; {index} contains 8 passages" in err
    status, out, _ = bge("index", docs, "--index", index, "--json")
    assert (status, json.loads(out)["unchanged"]) == (0, 8)
    assert contents(index) == contents(undisturbed)


# search, ask, rerank


def test_search(bge, made):
    status, out, err = bge("search", QUESTION, "--index", made, "--top-n", 2)
    assert (status, err) == (0, "")
    first, second = (line.split("\t") for line in out.splitlines())
    assert first[1:] == ["pandas.md#0", "# Pandas The giant panda eats bamboo. It sleeps in trees."]
    assert float(first[0]) > float(second[0])
    with M3Index.open(made) as opened:
        expected = opened.search(QUESTION, 2, mode="dense")
    found = lines(bge("search", QUESTION, "--index", made, "--top-n", 2, "--mode", "dense", "--json")[1])
    assert [(row["rank"], row["id"]) for row in found] == [(i, hit.id) for i, hit in enumerate(expected, start=1)]
    assert found[0]["score"] == pytest.approx(expected[0].score, abs=1e-5)
    assert found[0]["metadata"]["source"] == expected[0].metadata["source"]


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_a_filter_finds_a_name_in_any_unicode_form(bge, tmp_path, on_disk):
    for name in ("résumé.md", "ガイド.md"):
        (tmp_path / unicodedata.normalize(on_disk, name)).write_text("Pandas eat bamboo.")
    index = str(tmp_path / "index")
    assert bge("index", str(tmp_path), "--index", index, "--model", "pocket")[0] == 0
    for form in ("NFC", "NFD"):
        source = unicodedata.normalize(form, "résumé.md")
        status, out, _ = bge("search", "panda", "--index", index, "--filter", f"source={source}", "--json")
        assert status == 0
        assert [json.loads(line)["metadata"]["source"] for line in out.splitlines()] == ["résumé.md"]


def test_search_with_filters_and_a_reranker(bge, made, pocket_reranker):
    asked = ("search", QUESTION, "--index", made, "--json")
    both = ("--filter", "source=sub/rome.txt", "--filter", "start=0")
    assert [row["id"] for row in lines(bge(*asked, *both)[1])] == ["sub/rome.txt#0"]
    for text in ("[" * 60_000, '"\\ud800"'):  # not a JSON value: compared as plain text
        assert bge(*asked, "--filter", f"title={text}")[:2] == (0, "")
    status, out, err = bge(*asked, "--filter", "source=nowhere.md")
    assert (status, out) == (0, "")
    assert "no passage found" in err
    found = lines(bge(*asked, "--rerank", "pocket", "--top-n", 1)[1])
    texts = [text for text, _ in contents(made).values()]
    best = max(pocket_reranker.score([(QUESTION, text) for text in texts]).tolist())
    assert [row["score"] for row in found] == [pytest.approx(best, abs=1e-4)]


def test_search_reads_queries_from_standard_input(bge, made):
    status, out, _ = bge("search", "-", "--index", made, "--top-n", 1, "--json", stdin=b"giant panda\n\nriver Tiber\n")
    assert status == 0
    assert [(row["query"], row["id"]) for row in lines(out)] == [
        ("giant panda", "pandas.md#0"),
        ("river Tiber", "sub/rome.txt#0"),
    ]
    assert bge("search", "-", "--index", made, stdin=b"\n")[::2] == (1, "bge: standard input is empty\n")


def test_searches_use_the_defaults_of_the_index(bge, docs, tmp_path):
    index = tmp_path / "index"
    assert bge("index", docs, "--index", index, "--model", "pocket")[0] == 0
    asked = ("search", QUESTION, "--index", index, "--json")
    status, out, err = bge(*asked)
    assert (status, err) == (0, "")
    usual = {"mode": "hybrid", "weights": [1, 1, 1], "fusion": "weighted", "candidates": 200}
    assert [row["search"] for row in lines(out)] == [usual] * 3
    with M3Index.open(index) as opened:
        opened.set_defaults(weights=(0, 1, 0), candidates=7)
    status, out, err = bge(*asked)
    assert status == 0
    assert err.startswith("bge: ")
    assert "weights 0,1,0" in err
    assert "candidates 7" in err
    assert {tuple(row["search"]["weights"]) for row in lines(out)} == {(0, 1, 0)}
    with M3Index.open(index) as opened:
        assert [row["score"] for row in lines(out)] == [hit.score for hit in opened.search(QUESTION)]
    status, out, err = bge(*asked, "--weights", "1,0,0", "--candidates", 9)
    assert (status, err) == (0, "")
    assert lines(out)[0]["search"] == {**usual, "weights": [1, 0, 0], "candidates": 9}
    answer = lines(bge("ask", QUESTION, "--index", index, "--json", "--weights", "1,1,0")[1])[0]
    assert answer["search"] == {**usual, "weights": [1, 1, 0], "candidates": 7}


def test_a_model_with_dense_vectors_only(bge, docs, tmp_path):
    index = tmp_path / "index"
    assert bge("index", docs, "--index", index, "--model", BASE)[0] == 0
    status, out, err = bge("search", QUESTION, "--index", index, "--json")
    assert (status, err) == (0, "")
    assert [set(row["scores"]) for row in lines(out)] == [{"dense"}] * 3
    assert lines(out)[0]["search"] == {"mode": "dense"}
    for options in (("--mode", "hybrid"), ("--weights", "1,0,0"), ("--mode", "multi_vector")):
        status, out, err = bge("search", QUESTION, "--index", index, *options)
        assert (status, out) == (1, "")
        assert err.startswith("bge: --mode: ")
    status, out, _ = bge("ask", QUESTION, "--index", index, "--rerank", "none", "--json")
    assert status == 0
    assert len(lines(out)[0]["answer"]) == 3


@pytest.fixture
def searching(made):
    """Another process that searches the index until its standard input ends."""
    command = [sys.executable, "-m", "bge_integrations", "search", "-", "--index", str(made), "--json"]
    with subprocess.Popen(command, env=OFFLINE, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        other.stdin.write(b"panda\n" * 64)  # enough for an answer before the end of its input
        other.stdin.flush()
        assert other.stdout is not None
        other.stdout.readline()  # its index is open
        yield other
        if other.returncode is None:
            other.communicate()
        assert other.returncode == 0


def test_a_search_waits_for_another_one(bge, made, searching, monkeypatch):
    notes = []

    def end_the_other(note):
        notes.append(note)
        searching.communicate()

    monkeypatch.setattr("bge_integrations.cli.search.say", end_the_other)
    status, out, err = bge("search", QUESTION, "--index", made, "--json")
    assert (status, err) == (0, "")
    assert lines(out)[0]["id"] == "pandas.md#0"
    assert len(notes) == 1


def test_a_search_says_which_process_has_the_index_open(bge, made, searching, monkeypatch):
    monkeypatch.setattr("bge_integrations.cli.search._PATIENCE", 0)
    for command in ("search", "ask"):
        status, out, err = bge(command, QUESTION, "--index", made)
        assert (status, out) == (1, "")
        if sys.platform == "linux":
            assert str(searching.pid) in err.splitlines()[-1]


def test_an_index_that_cannot_be_written_is_searched_in_a_copy(bge, made, tmp_path, monkeypatch):
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    try:
        subprocess.run(["mount", "--bind", str(made), str(mounted)], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(mounted)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):  # no right to mount
        subprocess.run(["umount", "--lazy", str(mounted)], capture_output=True, check=False)
        pytest.skip("a folder can't be mounted here")
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    try:
        for command in ("search", "ask"):
            status, out, err = bge(command, QUESTION, "--index", mounted)
            assert status == 0
            assert "bamboo" in out
            assert re.search(r"copy of \d+\.\d MB", err)
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


@pytest.mark.parametrize("given", [(), ("--reranker", "none")])
def test_ask_without_a_reranker(bge, made, given, monkeypatch):
    """An index of the pocket model needs no download: the model itself chooses the sentences."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    status, out, err = bge("ask", QUESTION, "--index", made, "--top-n", 1, *given)
    assert status == 0
    assert out == "The giant panda eats bamboo. [1]\n\n[1] pandas.md#0\n"
    assert err.count("pocket") == (0 if given else 1)
    answer = lines(bge("ask", QUESTION, "--index", made, "--top-n", 1, "--json", *given)[1])[0]
    assert answer["reranker"] is None
    assert answer["answer"][0]["text"] == "The giant panda eats bamboo."


def test_ask_quotes_sentences_with_their_sources(bge, made):
    status, out, err = bge("ask", QUESTION, "--index", made, "--rerank", "pocket", "--top-n", 1)
    assert (status, err) == (0, "")
    assert out == "The giant panda eats bamboo. [1]\n\n[1] pandas.md#0\n"
    answer = lines(bge("ask", QUESTION, "--index", made, "--rerank", "pocket", "--json")[1])[0]["answer"]
    assert answer[0]["text"] == "The giant panda eats bamboo."
    assert answer[0]["passage"]["metadata"]["source"] == "pandas.md"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "q", "--index", "nowhere"], "there is no index in"),
        (["search", "q", "--index", "docs"], "there is no index in"),
        (["search", "q", "--index", "made", "--mode", "dense", "--weights", "1,1,1"], "no effect with --mode dense"),
        (["search", "q", "--index", "made", "--mode", "sparse", "--candidates", "9"], "no effect with --mode sparse"),
        (["search", "q", "--index", "made", "--weights", "1,1"], "--weights 1,1 must be three"),
        (["ask", "q", "--index", "made", "--weights", "0,0,0", "--rerank", "pocket"], "--weights 0,0,0 must be three"),
        (["search", " ", "--index", "made"], "the question is empty"),
        (
            ["search", "q", "--index", "made", "--rerank", BASE],
            "is an embedder; embedding models are for `bge index`",
        ),
        (["search", "q", "--index", "made", "--device", "cuda:99"], "device='cuda:99'"),
        (["search", "q", "--index", "made", *["--device", "cpu"] * 2], "several devices must be CUDA devices"),
        (["search", "q", "--index", "made", "--device", ""], "--device is empty"),
        (["ask", " ", "--index", "made"], "the question is empty"),
        (["ask", "q", "--index", "made", "--rerank", "nowhere/at/all"], "there is no folder nowhere/at/all"),
        (["rerank", "q", "nowhere.txt", "--model", "pocket"], "nowhere.txt: No such file or directory"),
        (["rerank", "q", "bad.jsonl", "--model", "pocket"], "bad.jsonl, line 2 is not JSON"),
        (["rerank", "q", "latin.txt", "--model", "pocket"], "latin.txt, line 1 is not UTF-8"),
        (["rerank", "q", "lone.jsonl", "--model", "pocket", "--json"], "lone.jsonl, line 1 contains a lone surrogate"),
        (["rerank", "q", "nan.jsonl", "--model", "pocket", "--json"], "row 2 of nan.jsonl can't be written as JSON"),
    ],
)
def test_errors_of_search_ask_and_rerank(bge, docs, made, monkeypatch, arguments, message):
    monkeypatch.chdir(docs.parent)
    (docs.parent / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (docs.parent / "lone.jsonl").write_text('{"text": "a", "n": "\\ud800"}\n')
    (docs.parent / "nan.jsonl").write_text('{"text": "a"}\n\n{"text": "b", "n": NaN}\n')
    (docs.parent / "latin.txt").write_bytes("naïve".encode("latin-1"))
    status, out, err = bge(*[made if argument == "made" else argument for argument in arguments])
    assert (status, out) == (1, "")
    assert err.startswith("bge: ")
    assert message in err


def test_rerank(bge, tmp_path, pocket_reranker):
    candidates = ["Rome lies on the Tiber.", "The giant panda eats bamboo."]
    scores = pocket_reranker.score([(QUESTION, text) for text in candidates])
    stdin = "\n".join(candidates).encode()
    found = lines(bge("rerank", QUESTION, "--model", "pocket", "--json", stdin=stdin)[1])
    assert [row["text"] for row in found] == candidates[::-1]
    assert [row["score"] for row in found] == pytest.approx(scores[::-1].tolist(), abs=1e-4)
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"text": t, "n": i}) + "\n" for i, t in enumerate(candidates)))
    found = lines(bge("rerank", QUESTION, tmp_path / "c.jsonl", "--model", "pocket", "--top-n", 1, "--json")[1])
    assert [(row["n"], row["rank"]) for row in found] == [(1, 1)]
    plain = bge("rerank", QUESTION, "-", "--model", "pocket", stdin=stdin)[1].splitlines()
    assert plain[0].split("\t")[1] == candidates[1]


def test_rerank_with_cutoff_layers(bge):
    candidates = ["Rome lies on the Tiber.", "The giant panda eats bamboo."]
    stdin = "\n".join(candidates).encode()
    with load_reranker(LAYERWISE, cutoff_layers=3) as loaded:
        scores = dict(zip(candidates, loaded.score([(QUESTION, text) for text in candidates]).tolist(), strict=True))
    found = lines(bge("rerank", QUESTION, "--model", LAYERWISE, "--cutoff-layers", 3, "--json", stdin=stdin)[1])
    assert {row["text"]: row["score"] for row in found} == pytest.approx(scores)
    for arguments, message in (
        ((LAYERWISE, "--cutoff-layers", 1), "has scores after 2, 3, 4, 5, 6 layers"),
        ((LAYERWISE, "--compress-ratio", 2), "compress_ratio="),
        ((LIGHTWEIGHT, "--compress-ratio", 3), "compress_ratio=3"),
        (("pocket", "--cutoff-layers", 2), "has scores after its last layer only"),
    ):
        status, out, err = bge("rerank", QUESTION, "--model", *arguments, stdin=stdin)
        assert (status, out) == (1, "")
        assert message in err


# embed


def read_output(path):
    return pq.read_table(path).to_pylist() if path.suffix == ".parquet" else lines(path.read_text())


def assert_same_rows(found, expected):
    plain = ("dense", "sparse", "multi_vector")
    assert [{k: v for k, v in row.items() if k not in plain} for row in found] == [
        {k: v for k, v in row.items() if k not in plain} for row in expected
    ]
    assert [row["sparse"]["indices"] for row in found] == [row["sparse"]["indices"] for row in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one["dense"], other["dense"], atol=1e-6)
        np.testing.assert_allclose(one["sparse"]["values"], other["sparse"]["values"], atol=1e-6)
        np.testing.assert_allclose(one["multi_vector"], other["multi_vector"], atol=1e-6)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr("bge_integrations.cli.embed._CHUNK_WITH_MULTI_VECTORS", 8)


ALL = ("--model", "pocket", "--sparse", "--multi-vector")


@pytest.mark.parametrize("out_suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("in_suffix", [".jsonl", ".parquet"])
def test_embed_keeps_columns_and_adds_vectors(bge, tmp_path, pocket, small_chunks, in_suffix, out_suffix):
    source, target = tmp_path / f"in{in_suffix}", tmp_path / f"out{out_suffix}"
    rows = [{"n": i, "body": f"Panda {i} eats bamboo.", "tags": ["a", "b"]} for i in range(20)]
    if in_suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), source, row_group_size=7)
    else:
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, _, err = bge("embed", source, target, *ALL, "--field", "body", "--kind", "query")
    assert (status, err) == (0, "")
    expected = pocket.encode([row["body"] for row in rows], kind="query", sparse=True, multi_vector=True)
    found = read_output(target)
    vectors = [
        {"dense": dense, "sparse": {"indices": indices.tolist(), "values": values}, "multi_vector": multi_vector}
        for dense, (indices, values), multi_vector in zip(
            expected.dense, expected.sparse, expected.multi_vector, strict=True
        )
    ]
    assert_same_rows(found, [row | vector for row, vector in zip(rows, vectors, strict=True)])
    assert set(tmp_path.iterdir()) == {source, target}
    if out_suffix == ".parquet":
        assert pq.read_schema(target).field("dense").type == pa.list_(pa.float32())


def test_embed_from_and_to_a_pipe(bge, pocket):
    status, out, err = bge("embed", "-", "-", "--model", "pocket", stdin=b'{"text": "a"}\n{"text": "b", "n": 1}\n')
    assert (status, err) == (0, "")
    assert [row.get("n") for row in lines(out)] == [None, 1]
    np.testing.assert_allclose([row["dense"] for row in lines(out)], pocket.encode(["a", "b"]).dense, atol=1e-6)


def test_a_foreign_folder_at_the_path_of_the_rows_is_kept(bge, tmp_path):
    thesis = tmp_path / "o.jsonl.partial" / "thesis.txt"
    write_files(tmp_path, {"o.jsonl.partial/thesis.txt": "mine"})
    embed = "embed", rows_file(tmp_path / "in.jsonl"), tmp_path / "o.jsonl", "--model", "pocket"
    status, _, err = bge(*embed)
    assert status == 1
    assert "contains thesis.txt" in err
    assert thesis.read_text() == "mine"
    assert [path.name for path in thesis.parent.iterdir()] == ["thesis.txt"]
    thesis.rename(thesis.with_name("rows.jsonl"))  # the state after a kill while the folder was being removed
    status, _, err = bge(*embed)
    assert status == 1
    assert "--overwrite" in err
    assert bge(*embed, "--overwrite")[0] == 0
    assert not thesis.parent.exists()


def test_index_chooses_files_and_sizes(bge, tmp_path):
    data = "".join(f"{i * 7919:08x}" for i in range(300))
    files = {"a.md": "Owls hunt at night. " * 60, "drafts/b.md": "Bees.", "c.txt": "Ants.", "d.md": f"Data.\n\n{data}"}
    docs = write_files(tmp_path / "docs", files)
    chosen = ("--include", "*.md", "--exclude", "drafts/", "--follow-links", "--index", tmp_path / "index")
    sizes = ("--passage-tokens", 64, "--min-passage-tokens", 16, "--overlap", 8)
    status, out, err = bge("index", docs, *chosen, *sizes, "--model", "pocket", "--json")
    assert status == 0
    found = json.loads(out)
    assert found.items() >= {"files": 2, "passed_over": {"excluded": 2}}.items()
    assert 0 < found["encoded_data"] < found["passages"]
    assert "not text" in err
    assert max(len(text.split()) for text, _ in contents(tmp_path / "index").values()) < 64
    assert bge("index", docs, *chosen, "--overlap", 900)[0] == 1


def test_an_index_inside_its_folder_does_not_index_itself(bge, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path, {"a.txt": "Owls hunt at night."})
    for _ in range(2):
        assert bge("index", ".", "--index", "idx", "--model", "pocket")[1].startswith("1 files, 1 passages")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_an_interrupted_embedding_resumes(bge, tmp_path, small_chunks, monkeypatch, suffix):
    source, target, undisturbed = rows_file(tmp_path / "in.jsonl"), tmp_path / f"o{suffix}", tmp_path / f"u{suffix}"
    assert bge("embed", source, undisturbed, *ALL)[0] == 0
    writer = partial.LinesWriter if suffix == ".jsonl" else partial.PartsWriter
    with monkeypatch.context() as patched:
        patched.setattr(writer, "write", interrupt_at(2, writer.write))
        status, _, err = bge("embed", source, target, *ALL)
    assert status == 130
    assert f"interrupted; run the same command again to resume from {target}.partial" in err
    assert not target.exists()
    if suffix == ".jsonl":
        with (tmp_path / "o.jsonl.partial" / "rows.jsonl").open("a") as file:
            file.write('{"id": 16, "text": "Pan')  # the state after a kill in the middle of a line
    status, _, err = bge("embed", source, target, *ALL)
    assert (status, err) == (0, "bge: resuming after 16 rows\n")
    assert_same_rows(read_output(target), read_output(undisturbed))
    assert not (tmp_path / f"o{suffix}.partial").exists()


def test_a_killed_embedding_resumes(bge, tmp_path, small_chunks):
    source, target, undisturbed = rows_file(tmp_path / "in.jsonl"), tmp_path / "out.jsonl", tmp_path / "u.jsonl"
    code = """
import os, signal
from bge_integrations.cli import embed, partial
embed._CHUNK_WITH_MULTI_VECTORS = 8
write, calls = partial.LinesWriter.write, []
def killed(*arguments):
    write(*arguments)
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
partial.LinesWriter.write = killed
"""
    assert in_a_process("embed", source, target, *ALL, code=code).returncode == -signal.SIGKILL
    assert not target.exists()
    status, _, err = bge("embed", source, target, *ALL)
    assert (status, err) == (0, "bge: resuming after 24 rows\n")
    assert bge("embed", source, undisturbed, *ALL)[0] == 0
    assert_same_rows(read_output(target), read_output(undisturbed))


def test_embed_refuses_to_resume_with_other_settings(bge, tmp_path, small_chunks, monkeypatch):
    source, target = rows_file(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    with monkeypatch.context() as patched:
        patched.setattr(partial.LinesWriter, "write", interrupt_at(2, partial.LinesWriter.write))
        assert bge("embed", source, target, *ALL)[0] == 130
    kept = (tmp_path / "out.jsonl.partial" / "rows.jsonl").read_bytes()
    for arguments, name in (
        ([source, target, "--model", "pocket"], "columns"),
        ([source, target, *ALL, "--max-length", 100], "max_length"),
        ([source, target, *ALL[2:], "--model", M3], "model, weights"),
        ([rows_file(tmp_path / "other.jsonl", 41), target, *ALL], "input"),
    ):
        status, _, err = bge("embed", *arguments)
        assert status == 1
        assert f"with another {name}" in err
    assert (tmp_path / "out.jsonl.partial" / "rows.jsonl").read_bytes() == kept
    assert bge("embed", source, target, "--model", "pocket", "--overwrite")[0] == 0
    assert list(lines(target.read_text())[39]) == ["id", "text", "dense"]


def test_embed_into_a_folder(bge, tmp_path):
    (tmp_path / "rows").mkdir()
    for name in ("a", "b"):
        rows_file(tmp_path / "rows" / f"{name}.jsonl")
    command = ["embed", tmp_path / "rows", f"{tmp_path}/out/", "--model", "pocket", "--rows-per-file", "30"]
    status, out, _ = bge(*command, "--dry-run", "--json", "--price", "2")
    assert (status, lines(out)[0]["rows"], lines(out)[0]["files"]) == (0, 80, 4)
    status, out, _ = bge(*command, "--part", "1/2", "--json")
    assert (status, lines(out)[0]["rows"]) == (0, 60)
    status, out, _ = bge(*command)
    assert (status, out.split()[0]) == (0, "20")
    assert len(pq.read_table(tmp_path / "out")) == 80


@pytest.mark.parametrize(
    "arguments",
    [
        ["rows", "out.jsonl"],
        ["*.jsonl", "out.jsonl"],
        ["in.jsonl", "out.jsonl", "--part", "1/2"],
        ["in.jsonl", "out.jsonl", "--dry-run"],
        ["in.jsonl", "out/", "--part", "one"],
        ["in.jsonl", "out/", "--part", "3/2"],
        ["in.jsonl", "out/", "--overwrite"],
        ["-", "out/"],
    ],
)
def test_embed_refuses_what_needs_a_folder_or_a_file(bge, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    rows_file(tmp_path / "in.jsonl", 3)
    (tmp_path / "rows").mkdir()
    assert bge("embed", *arguments, "--model", "pocket")[0] in (1, 2)
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize("when", ["load_embedder", "_remaining"])
def test_an_output_created_meanwhile_is_kept(bge, tmp_path, monkeypatch, when):
    """It appears before the first row is written, or just before the rows become the output."""
    source, target = rows_file(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    module = loading if when == "load_embedder" else embed_command
    function = getattr(module, when)

    def meanwhile(*arguments, **named):
        target.write_text("another's")
        return function(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(module, when, meanwhile)
        status, _, err = bge("embed", source, target, "--model", "pocket")
    assert status == 1
    assert "out.jsonl was created by another process in the meantime" in err
    assert target.read_text() == "another's"
    kept = tmp_path / "out.jsonl.partial"
    assert kept.exists() == (f"these rows are in {kept}" in err) == (when == "_remaining")
    assert bge("embed", source, target, "--model", "pocket", "--overwrite")[0] == 0
    assert len(read_output(target)) == 40
    assert set(tmp_path.iterdir()) == {source, target}


def test_nulls_are_carried_through_and_so_is_nan_if_the_format_allows_it(bge, tmp_path):
    source = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": ["a", "b"], "n": [None, 1.5]}), source)
    assert bge("embed", source, tmp_path / "out.jsonl", "--model", "pocket")[0] == 0
    assert [row["n"] for row in read_output(tmp_path / "out.jsonl")] == [None, 1.5]
    pq.write_table(pa.table({"text": ["a", "b"], "n": pa.array([None, float("nan")])}), source)
    assert bge("embed", source, tmp_path / "out.parquet", "--model", "pocket")[0] == 0
    first, second = (row["n"] for row in read_output(tmp_path / "out.parquet"))
    assert first is None
    assert np.isnan(second)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jsonl", "out.jsonl"], "nowhere.jsonl: No such file or directory"),
        (["nowhere.parquet", "out.jsonl"], "nowhere.parquet: No such file or directory"),
        (["bad.jsonl", "out.jsonl"], "bad.jsonl, line 2 is not JSON"),
        (["list.jsonl", "out.jsonl"], "list.jsonl, line 1 is not a JSON object"),
        (
            ["in.jsonl", "out.jsonl", "--field", "body"],
            "in.jsonl, line 1 has no text in 'body', only 'id', 'text'",
        ),
        (["bad.parquet", "out.jsonl"], "bad.parquet is not a readable Parquet file"),
        (["in.parquet", "out.jsonl"], "in.parquet has no column 'text'; pass another with --field: n, null"),
        (["in.parquet", "out.jsonl", "--field", "n"], "int64"),
        (["in.parquet", "out.jsonl", "--field", "null"], "row 2"),
        (["nan.parquet", "out.jsonl"], "row 2 of nan.parquet can't be written as JSON"),
        (["nan.parquet", "-"], "row 2 of nan.parquet can't be written as JSON"),
        (["nan.jsonl", "out.jsonl"], "row 1 of nan.jsonl can't be written as JSON"),
        (["empty.jsonl", "out.jsonl"], "empty.jsonl is empty"),
        (["taken.jsonl", "out.jsonl"], "the rows already have dense"),
        (["lone.jsonl", "out.jsonl"], "lone.jsonl, line 2 contains a lone surrogate"),
        (["lone.jsonl", "out.parquet"], "lone.jsonl, line 2 contains a lone surrogate"),
        (["twice.parquet", "out.parquet"], "twice.parquet has more than one column 'n'"),
        (["bytes.parquet", "out.jsonl"], "bytes.parquet, from row 1"),
        (["mixed.jsonl", "out.parquet"], "mixed.jsonl has a column with values of different types"),
        (["in.jsonl", "in.jsonl", "--overwrite"], "the same file"),
        (["in.jsonl", "there.jsonl"], "there.jsonl exists"),
        (["in.jsonl", "folder.jsonl", "--overwrite"], "folder.jsonl is a folder; pass a file"),
        (["in.jsonl", "out.jsonl", "--max-length", "1"], "max_length=1 leaves no room"),
        (["-", "out.jsonl"], "standard input is empty"),
        (["in.jsonl", "no/out.jsonl"], "the folder no does not exist"),
        (["in.jsonl", "out.jsonl", "--sparse", "--model", BASE], "has no sparse"),
        (["in.jsonl", "out.jsonl", "--dtype", "float8"], "dtype='float8' is not supported"),
    ],
)
def test_errors_of_embed(bge, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    rows_file(tmp_path / "in.jsonl", 3)
    write_files(
        tmp_path,
        {
            "bad.jsonl": '{"text": "a"}\n{"text"\n',
            "list.jsonl": "[1]\n",
            "bad.parquet": "no",
            "empty.jsonl": "",
            "nan.jsonl": '{"text": "a", "n": NaN}\n',
            "lone.jsonl": '{"text": "a"}\n{"text": "a", "n": "\\ud800"}\n',
            "taken.jsonl": '{"text": "a", "dense": [1]}\n',
            "mixed.jsonl": '{"text": "a", "n": 1}\n{"text": "a", "n": "one"}\n',
            "there.jsonl": "kept",
        },
    )
    pq.write_table(pa.table({"n": [1, 2], "null": ["a", None]}), "in.parquet")
    pq.write_table(pa.table({"text": ["a", "b"], "n": [1.0, float("nan")]}), "nan.parquet")
    pq.write_table(pa.table([["a"], [1], [2]], names=["text", "n", "n"]), "twice.parquet")
    pq.write_table(pa.table({"text": ["a"], "n": pa.array([b"\xff"]).view(pa.string())}), "bytes.parquet")
    (tmp_path / "folder.jsonl").mkdir()
    before = sorted(tmp_path.iterdir())
    model = [] if "--model" in arguments else ["--model", "pocket"]
    status, out, err = bge("embed", *arguments, *model, stdin=b"")
    assert (status, out) == (1, "")
    assert err.startswith("bge: ")
    assert message in err
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "there.jsonl").read_text() == "kept"


def test_truncated_texts_are_reported_once(tmp_path):
    rows_file(tmp_path / "in.jsonl", 300)
    done = in_a_process("embed", tmp_path / "in.jsonl", "-", "--model", "pocket", "--max-length", "4")
    assert done.returncode == 0
    assert done.stderr.startswith("bge: 300 of 300 texts were longer")
    assert "numbers 1, 2, 3, 4, 5, …" in done.stderr  # of the file's rows, although they are encoded in chunks
    assert done.stderr.count("\n") == 1


def test_an_error_about_an_argument_names_the_option(bge, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise InvalidInputError("max_length=9 is odd", argument="max_length", advice="use 8")

    def refuse_another(*_, **__):
        raise InvalidInputError("pooling='max' is not supported", argument="pooling")

    source = rows_file(tmp_path / "in.jsonl", 1)
    monkeypatch.setattr(loading, "load_embedder", refuse)
    assert bge("embed", source, "-")[::2] == (1, "bge: --max-length: max_length=9 is odd; use 8\n")
    monkeypatch.setattr(loading, "load_embedder", refuse_another)
    assert bge("embed", source, "-")[::2] == (1, "bge: pooling='max' is not supported\n")


# eval, models, download, doctor


def test_eval_is_the_evaluation(bge, tmp_path):
    write_files(
        tmp_path / "data",
        {
            "corpus.jsonl": '{"_id": "d1", "text": "The panda eats bamboo."}\n{"_id": "d2", "text": "Rome is old."}\n',
            "queries.jsonl": '{"_id": "q1", "text": "What does the panda eat?"}\n',
            "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq1\td1\t1\n",
        },
    )
    status, out, _ = bge("eval", tmp_path / "data", "--model", "pocket", "--no-baseline", "--json", "-")
    assert status == 0
    assert json.loads(out)[0]["data"]["name"] == "data"
    status, _, err = bge("eval", tmp_path / "nowhere", "--model", "pocket")
    assert status == 1
    assert err.startswith("bge: ")
    assert bge("eval", tmp_path)[0] == 2
    status, out, _ = bge("eval", "--help")
    assert status == 0
    assert out.split()[:3] == ["Usage:", "bge", "eval"]
    assert "--rerank-depth" in out


def test_eval_saves_tuned_weights_in_an_index(bge, tmp_path):
    animals = [f"animal{i} eats food{i}" for i in range(20)]
    write_files(
        tmp_path / "data",
        {
            "corpus.jsonl": "".join(
                json.dumps({"_id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(animals)
            ),
            "queries.jsonl": "".join(json.dumps({"_id": f"q{i}", "text": f"food{i}"}) + "\n" for i in range(20)),
            "qrels/test.tsv": "query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\td{i}\t1\n" for i in range(20)),
        },
    )
    index = tmp_path / "index"
    M3Index.open(index, "pocket").close()
    run = ("eval", tmp_path / "data", "--model", "pocket", "--no-baseline", "--json", "-")
    status, out, err = bge(*run, "--tune", "--save-to", index)
    assert status == 0, err
    with M3Index.open(index) as opened:
        assert list(opened.defaults.weights) == json.loads(out)[0]["tuned"]["weights"]
        opened.set_defaults(weights=(1, 0, 0))
    M3Index.open(tmp_path / "other", M3).close()
    for wrong in (
        ["--save-to", index],
        ["--tune", "--save-to", tmp_path / "nowhere"],
        ["--tune", "--save-to", tmp_path / "other"],
    ):
        status, out, err = bge(*run, *wrong)
        assert (status, out) == (1, "")
        assert err.startswith("bge: ")
    with M3Index.open(index) as opened:
        assert opened.defaults.weights == (1, 0, 0)
    assert not (tmp_path / "nowhere").exists()


def test_models_shows_what_is_cached(hub_environment, bge):
    done = subprocess.run(
        [sys.executable, "-m", "bge_integrations", "models", "--json"],
        env=hub_environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    rows = lines(done.stdout)
    assert [row["name"] for row in rows] == [row.name for row in CHECKPOINTS]
    assert {row["name"] for row in rows if row["cached"] == "yes"} == {f"BAAI/{name}" for name in PUBLISHED}
    assert {row["name"]: row["supported"] for row in rows}.items() >= {
        "BAAI/bge-m3": True,
        "BAAI/bge-en-icl": True,
        "BAAI/bge-reranker-v2-gemma": True,
        "BAAI/bge-visualized-m3": True,
    }.items()
    shown = dict(line.split("\t") for line in bge("models", "bge-base-en-v1.5")[1].splitlines())
    assert shown["query_instruction"].startswith("Represent this sentence")
    assert shown["pooling"] == "cls"
    shown = json.loads(bge("models", "bge-en-icl", "--json")[1])
    assert shown["tasks"]["sts"] == {"query": "Retrieve semantically similar text.", "passage": ""}
    status, _, err = bge("models", "bge-m4")
    assert (status, "BAAI/bge-m3" in err, "visualized" in err) == (1, True, False)
    assert bge("models", "nonsense")[::2] == (
        1,
        "bge: nonsense is not in the catalogue; list its models with `bge models`\n",
    )


def test_the_pocket_models_are_described(bge):
    embedder, reranker = lines(bge("models", "pocket", "--json")[1])
    assert (embedder["name"], embedder["kind"], embedder["family"], embedder["pooling"]) == (
        "pocket",
        "embedder",
        "m3",
        "cls",
    )
    with load_embedder("pocket") as loaded:
        assert (embedder["dimension"], embedder["max_length"]) == (loaded.dimension, loaded.max_length)
    assert (reranker["kind"], reranker["family"], reranker["dimension"]) == ("reranker", "cross_encoder", None)
    assert all(row["cached"] == "bundled" and row["size"] > 0 and row["supported"] for row in (embedder, reranker))
    assert "bundled" in bge("models", "pocket")[1]


def test_models_lists_the_tasks(bge):
    rows = lines(bge("models", "--tasks", "--json")[1])
    assert {row["benchmark"] for row in rows} == set(benchmarks())
    assert {"benchmark": "MTEB", "task": "NFCorpus", "instruction": benchmarks()["MTEB"]["NFCorpus"]} in rows
    assert lines(bge("models", "bge-code-v1", "--tasks", "--json")[1]) == rows
    of_one = [line.split("\t") for line in bge("models", "llm-embedder", "--tasks")[1].splitlines()]
    assert [cells[0] for cells in of_one] == ["qa", "icl", "chat", "lrlm", "tool", "convsearch"]
    assert bge("models", "bge-m3", "--tasks")[:2] == (1, "")


def test_download(bge, hub_environment):
    def download(*names):
        command = [sys.executable, "-m", "bge_integrations", "download", *names]
        return subprocess.run(command, env=hub_environment, capture_output=True, text=True, timeout=120)

    done = download("bge-m3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(f"models--BAAI--bge-m3/snapshots/{'0' * 40}")
    done = download("BAAI/bge-large-en")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("bge: BAAI/bge-large-en: it is not in the cache, and downloading it failed")
    assert done.stderr.count("\n") == 1


def test_doctor(bge):
    status, out, err = bge("doctor", "--json")
    found = json.loads(out)
    assert (status, err) == (0, "")
    assert found["passed"] is True
    assert ": " in found["device"]
    assert found["extra cli"] == "installed"
    assert found["cpu kernels"] in ("onednn", "torch")
    assert bge("doctor", "--dtype", "float8")[0] == 1
    assert "bfloat16: as requested" in bge("doctor", "--dtype", "bfloat16")[1]


def test_the_page_runs_as_written(bge, tmp_path, monkeypatch):
    """Run each line of its bash blocks: `bge` in this process, everything else in a shell."""
    monkeypatch.chdir(tmp_path)
    page = (TESTS.parent / "docs" / "cli.md").read_text("utf-8")
    commands = "".join(re.findall(r"^```bash\n(.*?)^```", page, re.M | re.S)).splitlines()
    assert len(commands) > 10
    for command in commands:
        before, found, arguments = command.rpartition("bge ")
        shell = subprocess.run(["bash", "-c", before.rstrip(" |") if found else command], capture_output=True)
        assert shell.returncode == 0
        if found:
            status, out, err = bge(*shlex.split(arguments), stdin=shell.stdout)
            assert status == 0, command
            assert all(line.startswith("bge: not read: ") for line in err.splitlines()), command
            assert out or "embed" in command
