"""The catalogue knows the family by name, by folder and by cache path, and refuses what can't run yet."""

import pickle

import pytest
from conftest import CHECKPOINTS

from bge_integrations import catalog, load_embedder, load_reranker
from bge_integrations.errors import InvalidInputError, NotSupportedError, WrongKindError

ENGLISH = "Represent this sentence for searching relevant passages: "
CHINESE = "为这个句子生成表示以用于检索相关文章："
INSTRUCT = "Instruct: Given a web search query, retrieve relevant passages that answer the query.\nQuery: "
QWEN3 = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


@pytest.mark.parametrize(
    ("name", "instruction", "dimension"),
    [
        *[(f"BAAI/bge-small-en{v}", ENGLISH, 384) for v in ("", "-v1.5")],
        *[(f"BAAI/bge-base-en{v}", ENGLISH, 768) for v in ("", "-v1.5")],
        *[(f"BAAI/bge-large-en{v}", ENGLISH, 1024) for v in ("", "-v1.5")],
        *[(f"BAAI/bge-small-zh{v}", CHINESE, 512) for v in ("", "-v1.5")],
        *[(f"BAAI/bge-base-zh{v}", CHINESE, 768) for v in ("", "-v1.5")],
        *[(f"BAAI/bge-large-zh{v}", CHINESE, 1024) for v in ("", "-v1.5", "-noinstruct")][:2],
        ("BAAI/bge-large-zh-noinstruct", "", 1024),
        ("BAAI/baai-general-embedding-large-en-instruction", ENGLISH, 1024),
        ("BAAI/baai-general-embedding-large-zh-instruction", CHINESE, 1024),
        ("BAAI/baai-general-embedding-large-zh", "", 1024),
        ("BAAI/bge-m3", "", 1024),
        ("BAAI/bge-m3-unsupervised", "", 1024),
        ("BAAI/bge-m3-retromae", "", 1024),
    ],
)
def test_dense_rows(name, instruction, dimension):
    row = catalog.find(name)
    assert row is not None
    assert row.name == name
    assert row.instructions.query == instruction
    assert row.instructions.passage == ""
    assert row.dimension == dimension
    assert row.pooling == "cls"
    assert row.max_length == (8192 if "m3" in name else 512)


@pytest.mark.parametrize(
    ("name", "query", "dimension", "max_length"),
    [
        ("Qwen/Qwen3-Embedding-0.6B", QWEN3, 1024, 32768),
        ("Qwen/Qwen3-Embedding-4B", QWEN3, 2560, 32768),
        ("Qwen/Qwen3-Embedding-8B", QWEN3, 4096, 32768),
        ("BAAI/bge-reasoner-embed-qwen3-8b-0923", INSTRUCT, 4096, 8192),
        ("hanhainebula/reason-embed-qwen3-8b-0928", INSTRUCT, 4096, 8192),
        ("intfloat/e5-mistral-7b-instruct", INSTRUCT, 4096, 4096),
        ("BAAI/bge-multilingual-gemma2", f"<instruct>{catalog.WEB_SEARCH}\n<query>", 3584, 8192),
        (
            "BAAI/bge-code-v1",
            "<instruct>Given a web search query, retrieve relevant code that can help answer the query.\n<query>",
            1536,
            4096,
        ),
    ],
)
def test_instruct_decoder_rows(name, query, dimension, max_length):
    row = catalog.find(name)
    assert row is not None
    assert (row.name, row.pooling) == (name, "last_token")
    assert row.instructions == catalog.Instructions(query)
    assert (row.dimension, row.max_length) == (dimension, max_length)


@pytest.mark.parametrize(
    ("name", "family", "dimension", "max_length"),
    [
        ("BAAI/bge-visualized-base-en-v1.5", "visualized", 768, 512),
        ("BAAI/bge-visualized-m3", "visualized", 1024, 8192),
        ("BAAI/BGE-VL-base", "clip", 512, 77),
        ("BAAI/BGE-VL-large", "clip", 768, 77),
    ],
)
def test_image_model_rows(name, family, dimension, max_length):
    row = catalog.find(name)
    assert row is not None
    assert (row.name, row.family, row.dimension, row.max_length) == (name, family, dimension, max_length)
    assert row.instructions == catalog.Instructions()
    assert not row.takes_tasks


@pytest.mark.parametrize("size", ["0.6B", "4B", "8B"])
def test_chat_reranker_rows(size):
    row = catalog.find(f"models--Qwen--Qwen3-Reranker-{size}/snapshots/x")
    assert row is not None
    assert (row.name, row.family, row.max_length) == (f"Qwen/Qwen3-Reranker-{size}", "chat_reranker", 32768)


def test_names_are_unique():
    names = [row.name for row in catalog.CHECKPOINTS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "path",
    [
        "/models/bge-m3",
        "models/BGE-M3/",
        "/models/BAAI_bge-m3",
        "/x/models--BAAI--bge-m3",
        "/cache/models--BAAI--bge-m3/snapshots/5617a9f61b028005a4858fdac845db406aefb181",
    ],
)
def test_a_folder_with_a_known_name_is_that_model(path):
    row = catalog.find(path)
    assert row is not None
    assert row.name == "BAAI/bge-m3"


@pytest.mark.parametrize(
    "path",
    [
        "bge-base-en-v1___5",  # ModelScope's cache
        "/root/.cache/modelscope/hub/models/BAAI/bge-base-en-v1___5/",
        "/cache/models--AI-ModelScope--bge-base-en-v1.5/snapshots/master",
        "/cache/models--BAAI--bge-base-en-v1___5/snapshots/v1.0.0",
        "/models/Xorbits_bge-base-en-v1.5",
        "/models/BGE-Base-EN-v1.5-main",  # archives
        "/models/bge-base-en-v1.5-master",
        "/models/bge-base-en-v1.5-main/bge-base-en-v1.5-main (1)",
        "/models/bge-base-en-v1.5-a5beb1e3e68b9ab74eb54cfd186867f64f240e1a",
        "/models/bge-base-en-v1.5-a5beb1e",
        "/models/bge-base-en-v1.5@a5beb1e",
        "/models/bge-base-en-v1.5.git",
        "/models/bge-base-en-v1.5.tar.gz",
        "/models/bge-base-en-v1.5/main",
        "/models/bge-base-en-v1.5/a5beb1e3e68b9ab74eb54cfd186867f64f240e1a",
        "/models/bge-base-en-v1.5 - Copy",
        "/models/bge-base-en-v1.5 2",  # a copy on macOS
        "/models/bge-base-en-v1.5 - Kopie (2)",
        "/models/bge-base-en-v1.5 - 副本",
        "/models/bge_base_en_v1_5",  # names without dots
        "/models/baai-bge-base-en-v1-5",
        "/models/BAAI%2Fbge-base-en-v1.5",
        "/models/BAAI__bge-base-en-v1.5-main",
        "/kaggle/input/bge-base-en-v15/transformers/default/1",
        "/root/.cache/kagglehub/datasets/x/bge-base-en-v1-5/versions/3",
    ],
)
def test_other_platforms_names_of_a_model(path):
    row = catalog.find(path)
    assert row is not None
    assert row.name == "BAAI/bge-base-en-v1.5"


@pytest.mark.parametrize("row", catalog.CHECKPOINTS, ids=lambda row: row.name)
@pytest.mark.parametrize("spell", ["{}", "{}-main", "{owner}--{}", "x/{}/snapshots/master"])
def test_every_published_model_is_found_under_modelscopes_spelling(row, spell):
    owner = row.name.split("/")[0]
    assert catalog.find(spell.format(row.short_name.replace(".", "___"), owner=owner)) is row


@pytest.mark.parametrize(
    "path",
    [
        "/runs/bge-base-en-v1.5-finetuned",
        "/runs/bge-base-en-v1.5-20240601",  # a date
        "/runs/bge-base-en-v1.5-defaced",  # a word of hex letters
        "/runs/bge-base-en-v1.5/checkpoint-500",
        "/runs/bge-base-en-v1.5/snapshots/step5",
        "/runs/bge-base-en-v1.5/1",
        "/runs/bge-base-en-v2",
        "/runs/\u5927\u718abge-m3",
        "/runs/me-bge-m3-main",
        "/main",
        "/snapshots/main",
        ".",
    ],
)
def test_a_name_made_from_a_published_one_is_another_model(path):
    assert catalog.find(path) is None


@pytest.mark.parametrize("path", ["/models/my-bge-m3", "/models/bge-m3-c16", "/models/other_bge-m3", "x/y", ""])
def test_other_folders_are_unknown(path):
    assert catalog.find(path) is None


def test_llm_embedder_has_six_tasks_ending_alike():
    row = catalog.find("BAAI/llm-embedder")
    assert row is not None
    assert sorted(row.tasks) == ["chat", "convsearch", "icl", "lrlm", "qa", "tool"]
    assert all(text.endswith(": ") for task in row.tasks.values() for text in (task.query, task.passage))


def test_a_family_that_this_release_does_not_run_is_refused(monkeypatch):
    monkeypatch.setattr(catalog, "SUPPORTED_FAMILIES", catalog.SUPPORTED_FAMILIES - {"clip"})
    with pytest.raises(NotSupportedError, match="clip"):
        load_embedder("BAAI/BGE-VL-base")


@pytest.mark.parametrize(
    ("load", "name", "wanted"),
    [
        (load_embedder, "bge-reranker-v2-m3", "embedder"),
        (load_embedder, "bert-reranker", "embedder"),
        (load_reranker, "bge-m3", "reranker"),
        (load_reranker, "bge-m3-c16", "reranker"),
    ],
)
def test_rerankers_and_embedders_are_not_mistaken_for_each_other(load, name, wanted):
    with pytest.raises(WrongKindError) as caught:
        load(CHECKPOINTS / name)
    assert caught.value.wanted == wanted
    assert ("load_reranker" if wanted == "embedder" else "load_embedder") in caught.value.advice


def test_an_error_about_the_kind_survives_another_process():
    with pytest.raises(InvalidInputError) as caught:
        load_embedder("bge-reranker-base")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is WrongKindError
    assert (str(copy), copy.wanted) == (str(caught.value), "embedder")
    assert str(copy) == "bge-reranker-base is a reranker; load it with load_reranker('bge-reranker-base')"
