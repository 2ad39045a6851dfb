"""The sample pipelines of both frameworks answer the same questions about the same files."""

import importlib
import re
import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext

import chromadb
import pytest
from conftest import BASE
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from llama_index.core.llms import ChatMessage, CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

from bge_integrations import catalog
from bge_integrations.errors import (
    InvalidInputError,
    NotSupportedError,
    UnreadableFileError,
    WrongModelError,
)
from bge_integrations.pipelines import langchain, llama_index
from bge_integrations.pipelines.answers import NOTHING_FOUND, Source, cited_answer
from bge_integrations.pipelines.command import run
from bge_integrations.pipelines.extractive_answers import EmbedderScorer, Quote, cited, extract, sentences
from bge_integrations.pipelines.rerankers import reranker_for
from bge_integrations.pipelines.stores import ChromaStore, open_chroma

FILES = {
    "pandas.md": "# The giant panda {Ailuropoda}\n\n"
    "The giant panda eats bamboo. It needs up to 38 kilograms of it each day.\n\n"
    "It lives in the mountains of China. Cubs are born blind and stay with their mother for two years.\n",
    "rome.txt": "Rome lies on the river Tiber. Legend says that Romulus founded the city in 753 BC.\n",
    "bm25.md": "# Ranking\n\nBM25 ranks documents by the words that they share with the query.\n",
    "walrus.html": "<html><head><title>Python</title></head><body><h1>The walrus operator</h1><p>The operator := is "
    "called walrus operator, since it looks like the eyes and tusks of a walrus.</p></body></html>",
    "iceland.txt": "Iceland has no army. The volcano Eyjafjallajokull stopped flights across Europe in 2010.\n",
    "sub/backup.md": "# Backups\n\nThe database is copied every night at two. Copies are kept for thirty days.\n",
}
QUESTIONS = {
    "What does the giant panda eat?": "pandas.md",
    "When did Romulus found the city?": "rome.txt",
    "How does BM25 rank documents?": "bm25.md",
    "Why is it called the walrus operator?": "walrus.html",
    "Which volcano stopped flights across Europe?": "iceland.txt",
    "How long are copies of the database kept?": "sub/backup.md",
}
PANDAS, FOLLOW_UP = "What does the giant panda eat?", "How many kilograms each day?"
POCKET = {"model": "pocket", "reranker": "pocket"}
both = pytest.mark.parametrize("framework", [langchain, llama_index], ids=["langchain", "llama_index"])
every = pytest.mark.parametrize("pipeline", ["dense", "hybrid", "parent"])


def write(folder, files=FILES):
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module")
def docs(tmp_path_factory):
    return write(tmp_path_factory.mktemp("docs"))


@pytest.fixture(scope="module")
def retriever_of(docs, tmp_path_factory, pocket, pocket_reranker):
    """Return a function that returns the retriever of a framework's pipeline over the files, built once."""
    made, folder = {}, tmp_path_factory.mktemp("indexes")
    with ExitStack() as stack:

        def of(framework, pipeline="dense"):
            if (framework, pipeline) not in made:
                opened = build(framework, pipeline, read(framework, docs), folder)
                made[framework, pipeline] = stack.enter_context(opened)
            return made[framework, pipeline]

        yield of


def read(framework, path, **settings):
    return (framework.read_documents if framework is langchain else framework.read_nodes)(path, "pocket", **settings)


def build(framework, pipeline, documents, folder, **settings):
    made = getattr(framework, f"{pipeline}_retriever")(documents, folder, **POCKET, **settings)
    return made if pipeline == "hybrid" else nullcontext(made)


def filter_of(framework, source):
    if framework is langchain:
        return {"filter": {"source": source}}
    return {"filters": MetadataFilters(filters=[MetadataFilter(key="source", value=source)])}


def retrieve(retriever, question):
    """Return (source, text) pairs."""
    if hasattr(retriever, "invoke"):
        return [(found.metadata["source"], found.page_content) for found in retriever.invoke(question)]
    return [(found.metadata["source"], found.text) for found in retriever.retrieve(question)]


def answer(framework, retriever, question, llm=None):
    """Return the text of the answer and its sources."""
    if framework is langchain:
        found = langchain.answer_chain(retriever, llm, reranker="pocket").invoke({"question": question})
        return found.text, found.sources
    response = llama_index.answer_engine(retriever, llm, reranker="pocket").query(question)
    assert [node.text for node in response.source_nodes] == [source.text for source in response.sources]
    return str(response), response.sources


def chat_model(framework, *replies):
    """Return a chat model or LLM with these replies, and the list of the prompts it receives."""
    asked = []
    if framework is langchain:

        class Recorder(BaseCallbackHandler):
            def on_chat_model_start(self, serialized, messages, **kwargs):
                asked.append("\n".join(message.text for message in messages[0]))

        return FakeListChatModel(responses=list(replies), callbacks=[Recorder()]), asked

    class Replies(CustomLLM):
        @property
        def metadata(self):
            return LLMMetadata()

        def complete(self, prompt, formatted=False, **kwargs):
            asked.append(prompt)
            return CompletionResponse(text=replies[len(asked) - 1])

        def stream_complete(self, prompt, formatted=False, **kwargs):
            raise AssertionError("not asked for")

    return Replies(), asked


@every
def test_both_frameworks_find_the_same_and_the_right_file_is_on_top(retriever_of, pipeline):
    for question, source in QUESTIONS.items():
        found = retrieve(retriever_of(langchain, pipeline), question)
        assert found == retrieve(retriever_of(llama_index, pipeline), question)
        assert found[0][0] == source


@both
@every
def test_answers_are_quotes_with_sources(retriever_of, framework, pipeline):
    text, sources = answer(framework, retriever_of(framework, pipeline), "When did Romulus found the city?")
    assert text.startswith("Legend says that Romulus founded the city in 753 BC. [1] ")
    assert sources[0].number == 1
    assert sources[0].metadata["source"] == "rome.txt"
    assert [source.number for source in sources] == sorted({source.number for source in sources})
    assert all(f"[{source.number}]" in text for source in sources)


@both
@every
def test_filters(docs, tmp_path, framework, pipeline):
    documents = read(framework, docs)
    with build(framework, pipeline, documents, tmp_path, **filter_of(framework, "bm25.md")) as retriever:
        assert [source for source, _ in retrieve(retriever, PANDAS)] == ["bm25.md"]


def test_a_filter_for_one_question(retriever_of):
    for pipeline in ("dense", "hybrid", "parent"):
        found = retriever_of(langchain, pipeline).invoke(PANDAS, filter={"source": "rome.txt"})
        assert [document.metadata["source"] for document in found] == ["rome.txt"]


@both
def test_parents_are_returned_whole_and_once(docs, retriever_of, framework):
    found = retrieve(retriever_of(framework, "parent"), PANDAS)
    assert len(found) == len(set(found)) == 5
    assert found[0] == ("pandas.md", FILES["pandas.md"].strip())


@both
@every
def test_a_second_run_brings_the_index_up_to_date(tmp_path, framework, pipeline):
    docs, folder = tmp_path / "docs", tmp_path / "index"
    docs.mkdir()
    write(docs)
    for _ in range(2):
        with build(framework, pipeline, read(framework, docs), folder, top_n=30) as retriever:
            found = retrieve(retriever, PANDAS)
            assert len(found) == len(set(found)) == len(FILES)
    (docs / "rome.txt").unlink()
    (docs / "bm25.md").write_text("The giant panda climbs trees.")
    with build(framework, pipeline, read(framework, docs), folder, top_n=30) as retriever:
        found = retrieve(retriever, "Does the giant panda climb trees?")
    assert found[0] == ("bm25.md", "The giant panda climbs trees.")
    assert {source for source, _ in found} == FILES.keys() - {"rome.txt"}


@both
@pytest.mark.parametrize("pipeline", ["dense", "parent"])
def test_unchanged_passages_are_not_embedded_again(tmp_path, framework, pipeline):
    """The vector of another text is stored for a passage, and stays there until the passage changes."""
    docs, folder = tmp_path / "docs", tmp_path / "index"
    docs.mkdir()
    write(docs, {"rome.txt": "Rome lies on the Tiber.", "bm25.md": "BM25 ranks by words."})
    name = f"{framework.__name__.rpartition('.')[2].replace('_', '-')}-"
    name += "passages" if pipeline == "dense" else "sentences"

    def vectors():
        with build(framework, pipeline, read(framework, docs), folder):
            found = open_chroma(folder, name, "pocket")[1].get(include=["embeddings"])
        return {
            i.partition("#")[0]: vector.tolist() for i, vector in zip(found["ids"], found["embeddings"], strict=True)
        }

    first = vectors()
    _, collection = open_chroma(folder, name, "pocket")
    (rome,) = (i for i in collection.get()["ids"] if i.startswith("rome.txt"))
    collection.update(ids=[rome], embeddings=[first["bm25.md"]])
    assert vectors()["rome.txt"] == first["bm25.md"]
    (docs / "rome.txt").write_text("Rome lies on the river Tiber.")
    assert vectors()["rome.txt"] not in (first["bm25.md"], first["rome.txt"])


@both
def test_an_interrupted_update_loses_nothing(tmp_path, monkeypatch, framework):
    docs, folder = tmp_path / "docs", tmp_path / "index"
    docs.mkdir()
    write(docs, {"rome.txt": "Rome lies on the Tiber.", "bm25.md": "BM25 ranks by words."})
    with build(framework, "dense", read(framework, docs), folder):
        pass
    (docs / "rome.txt").unlink()
    write(docs, {"iceland.txt": "Iceland has no army."})

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ChromaStore, "put", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build(framework, "dense", read(framework, docs), folder)
    name = f"{framework.__name__.rpartition('.')[2].replace('_', '-')}-passages"
    assert sorted(open_chroma(folder, name, "pocket")[1].get()["ids"]) == ["bm25.md#0", "rome.txt#0"]
    with build(framework, "dense", read(framework, docs), folder):
        assert sorted(open_chroma(folder, name, "pocket")[1].get()["ids"]) == ["bm25.md#0", "iceland.txt#0"]


@both
def test_another_model_is_refused(docs, tmp_path, framework):
    documents = read(framework, docs)
    framework.dense_retriever(documents, tmp_path, **POCKET)
    with pytest.raises(WrongModelError, match="pocket"):
        framework.dense_retriever(documents, tmp_path, model=BASE, reranker="pocket")


@both
def test_the_hybrid_index_is_closed_on_exit(docs, tmp_path, framework):
    documents = read(framework, docs)
    with build(framework, "hybrid", documents, tmp_path), build(framework, "hybrid", documents, tmp_path) as shared:
        assert retrieve(shared, PANDAS)
    with build(framework, "hybrid", documents, tmp_path) as retriever:
        assert retrieve(retriever, PANDAS)


def test_history_without_a_chat_model(retriever_of):
    retriever = retriever_of(langchain)
    history = [HumanMessage(PANDAS), AIMessage("Who founded Rome, and how does BM25 rank?")]
    asked = {"question": FOLLOW_UP, "chat_history": history}
    assert langchain.standalone_question().invoke(asked) == f"{PANDAS} {FOLLOW_UP}"
    assert langchain.history_aware(retriever).invoke(asked)[0].metadata["source"] == "pandas.md"
    assert "38 kilograms" in langchain.answer_chain(retriever, reranker="pocket").invoke(asked).text
    history = [("human", f"Question {i}?") for i in range(5)]
    standalone = langchain.standalone_question().invoke({"question": "Why?", "chat_history": history})
    assert standalone == "Question 2? Question 3? Question 4? Why?"


def test_chat_without_an_llm(retriever_of):
    engine = llama_index.chat_engine(retriever_of(llama_index), reranker="pocket")
    assert "bamboo" in str(engine.chat(PANDAS))
    second = engine.chat(FOLLOW_UP)
    assert second.sources[0].raw_input == {"query": f"{PANDAS} {FOLLOW_UP}"}
    assert "38 kilograms" in str(second)
    assert "pandas.md" in {node.metadata["source"] for node in second.source_nodes}
    engine.reset()
    assert engine.chat(FOLLOW_UP).sources[0].raw_input == {"query": FOLLOW_UP}
    with pytest.raises(InvalidInputError, match="question="):
        engine.chat(" ")


async def test_chat_engines_say_that_they_do_not_stream(retriever_of):
    for llm in (None, chat_model(llama_index, "Bamboo [1].")[0]):
        engine = llama_index.chat_engine(retriever_of(llama_index), llm, reranker="pocket")
        with pytest.raises(NotSupportedError, match="use chat"):
            engine.stream_chat(PANDAS)
        with pytest.raises(NotSupportedError, match="use achat"):
            await engine.astream_chat(PANDAS)


@both
def test_a_chat_model_answers_from_the_passages(retriever_of, framework):
    llm, asked = chat_model(framework, "Bamboo [1], and {more} [2, 1]. Not [17].")
    retriever = retriever_of(framework)
    text, sources = answer(framework, retriever, PANDAS, llm)
    found = retrieve(retriever, PANDAS)
    assert text == "Bamboo [1], and {more} [2, 1]. Not [17]."
    assert [(source.number, source.metadata["source"]) for source in sources] == [(1, found[0][0]), (2, found[1][0])]
    assert len(asked) == 1
    assert all(f"[{number}] {passage}" in asked[0] for number, (_, passage) in enumerate(found, start=1))
    assert f"Question: {PANDAS}" in asked[0]
    assert "like [1] or [1][2]" in asked[0]


def test_a_chat_model_rewrites_the_question(retriever_of):
    llm, asked = chat_model(langchain, "When did Romulus found the city?", "Romulus [1].")
    history = [("human", "Tell me of Rome."), ("ai", "It lies on the Tiber.")]
    found = langchain.answer_chain(retriever_of(langchain), llm).invoke({"question": "Who?", "chat_history": history})
    assert found.sources[0].metadata["source"] == "rome.txt"
    assert "It lies on the Tiber." in asked[0]
    assert "Question: When did Romulus found the city?" in asked[1]


def test_an_llm_rewrites_the_question(retriever_of):
    llm, asked = chat_model(llama_index, "When did Romulus found the city?", "Romulus [1].")
    history = [
        ChatMessage(role="user", content="Tell me of Rome."),
        ChatMessage(role="assistant", content="On the Tiber."),
    ]
    found = llama_index.chat_engine(retriever_of(llama_index), llm).chat("Who?", chat_history=history)
    assert [node.metadata["source"] for node in found.source_nodes] == ["rome.txt"]
    assert "On the Tiber." in asked[0]
    assert "Question: When did Romulus found the city?" in asked[1]


@both
def test_an_empty_search_is_reported_without_asking_the_chat_model(docs, tmp_path, framework):
    with build(framework, "dense", read(framework, docs), tmp_path, **filter_of(framework, "nowhere.md")) as retriever:
        llm, asked = chat_model(framework, "never")
        assert answer(framework, retriever, PANDAS, llm) == (NOTHING_FOUND, [])
        assert answer(framework, retriever, PANDAS) == (NOTHING_FOUND, [])
        assert asked == []


@both
def test_mistakes(retriever_of, tmp_path, framework):
    for question in ("", " \n", None):
        with pytest.raises(InvalidInputError, match="question="):
            answer(framework, retriever_of(framework), question)
    for pipeline in ("dense", "hybrid", "parent"):
        with pytest.raises(InvalidInputError, match="there are no documents"), build(framework, pipeline, [], tmp_path):
            pass
        twice = [Document("a", id="1")] * 2 if framework is langchain else [TextNode(text="a", id_="1")] * 2
        with (
            pytest.raises(InvalidInputError, match="ids are missing or not unique"),
            build(framework, pipeline, twice, tmp_path),
        ):
            pass
    assert not any(tmp_path.iterdir())


def test_a_chain_called_with_a_bare_question_says_what_it_takes(retriever_of):
    with pytest.raises(InvalidInputError, match='"question"'):
        langchain.answer_chain(retriever_of(langchain), reranker="pocket").invoke(PANDAS)


@both
def test_files_that_cannot_be_read(tmp_path, framework):
    write(tmp_path, {"rome.txt": FILES["rome.txt"], "empty.md": " "})
    with pytest.raises(UnreadableFileError, match=r"empty\.md"):
        read(framework, tmp_path)
    left_out = []
    assert len(read(framework, tmp_path, on_unreadable=left_out.append)) == 1
    assert len(left_out) == 1
    (tmp_path / "rome.txt").unlink()
    with pytest.raises(InvalidInputError, match=re.escape(str(tmp_path))):
        read(framework, tmp_path, on_unreadable=left_out.append)


@every
async def test_async_gives_the_same(retriever_of, pipeline):
    chain = langchain.answer_chain(retriever_of(langchain, pipeline), reranker="pocket")
    engine = llama_index.answer_engine(retriever_of(llama_index, pipeline), reranker="pocket")
    asked = {"question": PANDAS}
    assert await chain.ainvoke(asked) == chain.invoke(asked) == next(chain.stream(asked))
    response, expected = await engine.aquery(PANDAS), engine.query(PANDAS)
    assert (response.response, response.sources) == (expected.response, expected.sources)


async def test_async_with_a_chat_model(retriever_of):
    llm, _ = chat_model(langchain, "Bamboo [1].")
    found = await langchain.answer_chain(retriever_of(langchain), llm).ainvoke({"question": PANDAS})
    assert found.sources[0].metadata["source"] == "pandas.md"
    llm, _ = chat_model(llama_index, "Bamboo [1].", FOLLOW_UP, "38 [1].")
    engine = llama_index.chat_engine(retriever_of(llama_index), llm)
    assert str(await engine.achat(PANDAS)) == "Bamboo [1]."
    second = await engine.achat("How much?")
    assert str(second) == "38 [1]."
    assert len(second.source_nodes) == 1


@pytest.mark.parametrize("pipeline", ["dense", "hybrid"])
def test_sixteen_threads(retriever_of, pipeline):
    chain = langchain.answer_chain(retriever_of(langchain, pipeline), reranker="pocket")
    engine = llama_index.answer_engine(retriever_of(llama_index, pipeline), reranker="pocket")
    questions = list(QUESTIONS) * 3
    expected = {question: chain.invoke({"question": question}).text for question in QUESTIONS}
    with ThreadPoolExecutor(16) as threads:
        answers = threads.map(lambda question: str(engine.query(question)), questions)
        batched = chain.batch([{"question": question} for question in questions], {"max_concurrency": 16})
        assert list(answers) == [found.text for found in batched] == [expected[question] for question in questions]


def test_sentences():
    assert sentences("One. Two!  Three?\n\n# Four\nv1.5 is 3.14。五。六！") == [
        "One.",
        "Two!",
        "Three?",
        "# Four",
        "v1.5 is 3.14。",
        "五。",
        "六！",
    ]


def test_quotes(pocket_reranker):
    passages = ["# Pandas eat bamboo\nPandas eat bamboo. Rome lies on the Tiber.", "Pandas eat bamboo."]
    first, second = extract("What do pandas eat?", passages, pocket_reranker)
    assert (first.text, first.passage) == ("Pandas eat bamboo.", 1)
    assert (second.text, second.passage) == ("Rome lies on the Tiber.", 1)
    assert first.score > second.score
    assert len(extract("What do pandas eat?", passages, pocket_reranker, top_n=1)) == 1
    assert extract("What do pandas eat?", [], pocket_reranker) == []
    with pytest.raises(InvalidInputError, match="top_n=0"):
        extract("What do pandas eat?", passages, pocket_reranker, top_n=0)
    assert cited([Quote("One.", 2, 1.0), Quote("Two.", 1, 0.5)]) == "One. [2] Two. [1]"


def test_only_numbers_of_passages_become_sources():
    sources = [Source(number, "text", {}) for number in (1, 2, 3)]
    for text, numbers in (("a [3] b [1]", [1, 3]), ("a [2,3].", [2, 3]), ("a [0] [4] [x] 1", []), ("", [])):
        assert [source.number for source in cited_answer(text, sources).sources] == numbers


@both
def test_the_command(docs, tmp_path, monkeypatch, capsys, framework):
    for _ in range(2):
        arguments = [str(docs), "--pipeline", "dense", "When did Romulus found the city?", "--index", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["pipelines", *arguments])
        monkeypatch.delitem(sys.modules, framework.__name__, raising=False)  # runpy would warn
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(framework.__name__, run_name="__main__", alter_sys=True)
        assert ended.value.code == 0
        printed = capsys.readouterr()
        assert printed.out.startswith("Legend says that Romulus founded the city in 753 BC. [1]")
        assert "[1] rome.txt\n" in printed.out
        assert "'pocket' is the small English model" in printed.err
    collections = chromadb.PersistentClient(
        str(tmp_path), chromadb.Settings(anonymized_telemetry=False)
    ).list_collections()
    assert [collection.count() for collection in collections] == [len(FILES)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "q"], "nowhere does not exist"),
        ([".", "q"], "contains no supported files"),
        (["  "], "question='  '"),
        (["q", "--model", "bge-nonsense"], "unknown model 'bge-nonsense'"),
        (["q", "--reranker", "./nowhere"], "there is no folder ./nowhere"),
        (["q", "--reranker", "./nowhere", "--pipeline", "hybrid"], "there is no folder ./nowhere"),
        (["q", "--model", "bge-reranker-base"], "pass an embedding model as --model"),
        (["q", "--reranker", "bge-m3"], "pass an embedding model as --model"),
        (["q", "--index", "file.parquet"], "file.parquet is a file"),
        (["q", "--index", "."], "is not an index and not empty (it contains file.parquet)"),
        (["q", "--index", ".", "--pipeline", "hybrid"], "is not an index and not empty (it contains file.parquet)"),
    ],
)
@both
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, framework, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.parquet").write_text("a,b")
    assert run("pipelines", framework._ask, arguments) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file.parquet"]
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_ctrl_c_is_one_line(capsys):
    def ask(_):
        raise KeyboardInterrupt

    assert run("pipelines", ask, ["q", "--model", "m", "--reranker", "r"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


@pytest.mark.parametrize("arguments", [[], ["a", "b", "c"], ["q", "--model", ""], ["q", "--pipeline", "sparse"]])
def test_the_command_says_what_it_takes(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        run("pipelines", langchain._ask, arguments)
    assert ended.value.code == 2
    assert "usage: python -m pipelines" in capsys.readouterr().err


@pytest.mark.parametrize(("framework", "other"), [("langchain", "llama_index"), ("llama_index", "langchain_core")])
def test_a_framework_works_without_the_other_and_without_a_network(run_as_user, docs, framework, other):
    run_as_user(
        """
import runpy, socket, sys
def refuse(*arguments):
    raise AssertionError(f"a connection to {arguments}")
socket.socket.connect = refuse
name, other, docs = sys.argv[1:]
sys.argv[1:] = [docs, "When did Romulus found the city?", "--pipeline", "hybrid"]
sys.modules[other] = None
try:
    runpy.run_module(f"bge_integrations.pipelines.{name}", run_name="__main__", alter_sys=True)
except SystemExit as ended:
    assert ended.code == 0
""",
        framework,
        other,
        str(docs),
    )


@pytest.mark.parametrize(
    ("framework", "package"),
    [("langchain", "langchain_chroma"), ("llama_index", "llama_index.vector_stores.chroma")],
)
def test_missing_packages_are_named_with_the_extra(monkeypatch, framework, package):
    name = f"bge_integrations.pipelines.{framework}"
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package}: pip install -e '\.\[pipelines\]' in a clone"):
        importlib.import_module(name)
    with pytest.raises(SystemExit, match=rf"{package}: pip install -e '\.\[pipelines\]' in a clone"):
        runpy.run_module(name, run_name="__main__", alter_sys=True)


@pytest.mark.parametrize(
    ("model", "reranker"),
    [
        ("pocket", None),
        ("/models/our-own", None),
        ("BAAI/bge-m3", "BAAI/bge-reranker-v2-m3"),
        ("/models/bge-m3", "BAAI/bge-reranker-v2-m3"),
        ("BAAI/bge-multilingual-gemma2", "BAAI/bge-reranker-v2-m3"),
        ("BAAI/bge-small-en-v1.5", "BAAI/bge-reranker-base"),
        ("BAAI/bge-base-zh-v1.5", "BAAI/bge-reranker-base"),
        ("BAAI/bge-large-en-v1.5", "BAAI/bge-reranker-large"),
    ],
)
def test_a_reranker_goes_with_each_model(model, reranker):
    assert reranker_for(model) == reranker


def test_every_embedding_model_of_the_catalogue_has_a_reranker_of_the_catalogue():
    for row in catalog.CHECKPOINTS:
        if row.kind == "embedder":
            reranker = catalog.find(reranker_for(row.name) or "")
            assert reranker is not None
            assert reranker.kind == "reranker"


def test_an_embedder_alone_scores_sentences(pocket, base):
    pairs = [("What do pandas eat?", "Rome is old."), ("What do pandas eat?", "Pandas eat bamboo."), ("Rome?", "Rome.")]
    for embedder in (pocket, base):
        scores = EmbedderScorer(embedder).score(pairs)
        alone = [EmbedderScorer(embedder).score([pair])[0] for pair in pairs]
        assert scores.tolist() == pytest.approx([float(score) for score in alone], abs=1e-5)
    first, *_ = extract(pairs[0][0], [text for _, text in pairs], EmbedderScorer(pocket))
    assert first.text == "Pandas eat bamboo."
