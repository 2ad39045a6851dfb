"""Commands print any text: UTF-8 into files and pipes, and replacements on a terminal that can't show it."""

import json
import os
import subprocess
import sys

import pytest

TEXT = "The giant panda 大熊猫 🐼 eats Bambusröhren – ไผ่."
#: Encodings of western and Chinese Windows, of Linux without a locale, and of a UTF-16 pipe.
ENCODINGS = ["cp1252", "cp936", "ascii", "cp437", "utf-16-le"]


@pytest.fixture(scope="module")
def docs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    (folder / "pandas-大熊猫.md").write_text(TEXT, encoding="utf-8")
    (folder / "broken-🐼.md").write_bytes(b"\xff\xfe\xff")
    return folder


@pytest.fixture(scope="module")
def index(docs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "i"
    run("bge_integrations", "index", docs, "--index", folder, "--model", "pocket", encoding="ascii", status=3)
    return folder


def environment(encoding):
    return {**os.environ, "PYTHONIOENCODING": encoding, "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}


def run(module, *arguments, encoding, status=0, stdin=None):
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=environment(encoding),
        capture_output=True,
        input=stdin,
        timeout=200,
    )
    assert done.returncode == status, done.stderr
    return done.stdout.decode("utf-8"), done.stderr.decode("utf-8")


def run_on_terminal(module, *arguments, encoding):
    """Return the exit status and the bytes that the command shows on a terminal."""
    ours, theirs = pytest.importorskip("pty").openpty()
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with subprocess.Popen(command, env=environment(encoding), stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # the command ended
            pass
        finally:
            os.close(ours)
    return process.returncode, shown


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_pipe_gets_utf8(index, encoding):
    out, _ = run("bge_integrations", "search", "panda", "--index", index, "--json", encoding=encoding)
    assert TEXT in json.loads(out.splitlines()[0])["text"]


def test_every_command_writes_utf8(index, docs):
    question = "What does the 大熊猫 panda eat?"
    shared = ("--index", index)
    for arguments in (["search", question, *shared], ["ask", "What eats the panda?", *shared, "--rerank", "pocket"]):
        out, _ = run("bge_integrations", *arguments, encoding="cp1252")
        assert "大熊猫 🐼" in out
    lines = (TEXT + "\n").encode()
    out, _ = run("bge_integrations", "rerank", question, "-", "--model", "pocket", encoding="ascii", stdin=lines)
    assert TEXT in out
    _, err = run("bge_integrations", "search", "x", "--index", "大熊猫", encoding="cp1252", status=1)
    assert "大熊猫" in err
    _, err = run("bge_integrations", "index", docs, "--index", index, "--model", "pocket", encoding="cp1252", status=3)
    assert "broken-🐼.md" in err
    out, _ = run("bge_integrations", "models", "--json", encoding="ascii")
    assert "为这个句子" in out
    run("bge_integrations", "--help", encoding="ascii")


def test_the_demo_and_the_other_modules_write_utf8(docs):
    for module, options in (
        ("bge_integrations.demo", ["--docs", docs, "--question", "大熊猫 panda?"]),
        ("bge_integrations.pipelines.langchain", [docs, "大熊猫 panda?"]),
    ):
        out, err = run(module, *options, encoding="cp1252")
        assert "大熊猫 🐼" in out
        assert "broken-🐼.md" in out + err
    _, err = run("bge_integrations.evaluation", "大熊猫", "--model", "pocket", encoding="cp1252", status=1)
    assert "大熊猫" in err


@pytest.mark.parametrize("encoding", ["cp1252", "cp936", "ascii"])
def test_a_terminal_replaces_what_it_cannot_show(index, docs, encoding):
    for arguments in (["search", "panda", "--index", index], ["search", "panda", "--index", index, "--json"]):
        status, shown = run_on_terminal("bge_integrations", *arguments, encoding=encoding)
        assert status == 0, shown
        text = shown.decode(encoding)
        assert "Traceback" not in text
        assert "The giant panda" in text
        assert ("大熊猫" in text) is (encoding == "cp936")
        assert "?" in text


def test_half_a_surrogate_pair_is_escaped():
    code = (
        "import json; from bge_integrations.terminal import prepare_output; prepare_output(); "
        "print(json.dumps('\\udcff', ensure_ascii=False))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment("utf-8"))
    assert json.loads(done.stdout) == "\udcff"
