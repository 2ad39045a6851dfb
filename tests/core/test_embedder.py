"""The contract of `encode`: bad input, truncation, duplicates, shapes, options."""

import json
import shutil
import threading
import warnings

import numpy as np
import pytest
from conftest import BASE, CHECKPOINTS, M3, MODEL_FILES, TESTS, assert_close

from bge_integrations import load_embedder, load_reranker
from bge_integrations.core import embedder as embedder_module
from bge_integrations.errors import (
    ClosedError,
    InstructionWarning,
    InvalidInputError,
    NotSupportedError,
    TextTooLongError,
    TruncationWarning,
    UnknownModelError,
)
from bge_integrations.reporting import TruncatedTexts

LONG = "long " * 2000


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one text", r"wrap it: \[text\]"),
        (b"bytes", "list of texts, got one bytes"),
        (None, "list of texts, got NoneType"),
        (7, "list of texts, got int"),
        ({"id": "a text"}, r"got a dict; did you mean list\(texts\.values\(\)\)\?"),
        (["fine", None], r"texts\[1\] must be a str, got NoneType"),
        ([1.5], r"texts\[0\] must be a str, got float"),
        ([b"bytes"], r"texts\[0\] must be a str, got bytes"),
        ([["nested"]], r"texts\[0\] must be a str, got list"),
        (["fine", "fine", "lone \ud800 surrogate"], r"texts\[2\] .*lone surrogate at character 5.*replace"),
    ],
)
def test_bad_texts_are_named(base, texts, message):
    with pytest.raises(InvalidInputError, match=message):
        base.encode(texts)


async def test_bad_texts_are_named_by_aencode_too(base):
    with pytest.raises(InvalidInputError, match=r"texts\[1\]"):
        await base.aencode(["fine", None])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "document"}, "kind='document'"),
        ({"max_length": 0}, "max_length=0.*1.*512"),
        ({"max_length": 513}, "max_length=513.*1.*512"),
        ({"max_length": 2}, "max_length=2.*3"),
        ({"max_length": 8.0}, r"max_length=8\.0"),
        ({"max_length": True}, "max_length=True"),
        ({"on_truncate": "maybe"}, "on_truncate='maybe'"),
        ({"dense": False}, "no representation"),
        ({"sparse": True}, "no sparse and multi-vector heads"),
        ({"multi_vector": True}, "no sparse and multi-vector heads"),
    ],
)
def test_bad_options(base, options, message):
    with pytest.raises(InvalidInputError, match=message):
        base.encode(["text"], **options)


@pytest.mark.parametrize(
    "options",
    [
        {"device": "tpu9"},
        {"device": "meta"},
        {"dtype": "int3"},
        {"dtype": "float16", "device": "cpu"},
        {"max_length": 4096},
        {"truncate_dim": 65},
        {"truncate_dim": 0},
        {"pooling": "max"},
        {"family": "bert"},
        {"task": "qa"},
    ],
)
def test_bad_arguments_of_load(options):
    with pytest.raises(InvalidInputError) as caught:
        load_embedder(BASE, **options)
    assert caught.value.argument == next(iter(options))


def test_nul_empty_and_blank_texts_are_embedded_as_the_tokenizer_reads_them(base, m3):
    found = base.encode(["", " \t\n", "a\0b", "ab"]).dense
    assert np.isfinite(found).all()
    assert_close(found[0], found[1])
    out = m3.encode([""], sparse=True, multi_vector=True)
    assert len(out.sparse[0].indices) == 0
    assert out.multi_vector[0].shape == (1, 64)  # the end token has a vector


def test_no_texts_return_empty_arrays_of_the_right_shape(m3):
    out = m3.encode([], sparse=True, multi_vector=True)
    assert out.dense.shape == (0, 64)
    assert out.dense.dtype == np.float32
    assert len(out.sparse) == 0
    assert out.sparse.to_scipy().shape == (0, out.sparse.size)
    assert out.sparse.to_dicts() == []
    assert len(out.multi_vector) == 0
    assert out.multi_vector.vectors.shape == (0, 64)
    with load_embedder(M3, truncate_dim=8) as narrow:
        out = narrow.encode([], multi_vector=True)
        assert out.dense.shape == (0, 8)
        assert out.multi_vector.vectors.shape == (0, 8)


def test_a_text_of_a_megabyte_is_cut_with_a_warning(base):
    with pytest.warns(TruncationWarning, match=r"\b1 of 3\b"):
        found = base.encode(["short", "x y " * 262_144, "also short"]).dense
    assert found.shape == (3, 64)
    assert np.isfinite(found).all()


def test_truncation_is_counted_once_per_call(base):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        base.encode([LONG, LONG + "x", "short", LONG])
    (warning,) = [w.message for w in caught]
    assert (warning.count, warning.total, warning.positions, warning.ids) == (3, 4, (0, 1, 3), ())
    assert (warning.longest, warning.limit) == (max(base.count_tokens([LONG, LONG + "x"])), base.max_length)


@pytest.mark.parametrize("kind", ["query", "passage", None])
async def test_a_long_call_names_its_truncated_texts(base, kind):
    """They are in several chunks, and some occur twice."""
    texts = [f"text {i} " + "word " * 40 * (i % 70 == 69) for i in range(700)] + ["text 69 " + "word " * 40]
    lengths = base.count_tokens(texts, kind=kind)
    limit = max(lengths) - 20
    with pytest.warns(TruncationWarning) as caught:
        base.encode(texts, kind=kind, max_length=limit)
    with pytest.warns(TruncationWarning) as caught_later:
        await base.aencode(texts, kind=kind, max_length=limit)
    for warning in (each.message for each in (*caught, *caught_later)):
        too_long = tuple(i for i, length in enumerate(lengths) if length > limit)
        assert len(too_long) == 11
        assert warning.positions == too_long
        assert (warning.count, warning.total, warning.longest) == (11, 701, max(lengths))


@pytest.fixture
def fresh_hint(monkeypatch):
    monkeypatch.setattr("bge_integrations.models.instructions._hinted", False)


async def test_a_call_without_a_kind_is_hinted_at_once(base, fresh_hint, recwarn):
    base.encode(["a"], kind=None)
    base.encode_dense(["a"], kind="query")
    assert not recwarn
    found = base.encode(["a"]).dense
    (warning,) = recwarn
    assert warning.category is InstructionWarning
    assert warning.filename == __file__
    assert_close(found, base.encode(["a"], kind=None).dense, 0)
    base.encode_dense(["a"])
    await base.aencode(["a"])
    await base.aencode_dense(["a"])
    assert len(recwarn) == 1


async def test_the_hint_of_an_async_call_names_the_callers_line(base, fresh_hint):
    with pytest.warns(InstructionWarning) as caught:
        await base.aencode_dense(["a"] * 1000)
    assert caught[0].filename == __file__


def test_a_model_without_instructions_gives_no_hint(m3, fresh_hint, recwarn):
    m3.encode(["a"])
    assert not recwarn


async def test_the_texts_of_a_large_async_call_are_checked_outside_the_loop(base, monkeypatch):
    threads = []
    check = embedder_module.check_texts
    monkeypatch.setattr(
        embedder_module, "check_texts", lambda *given: threads.append(threading.current_thread()) or check(*given)
    )
    await base.aencode(["a"] * 5000, kind=None)
    await base.aencode_dense(["a"] * 5000, kind=None)
    assert threading.main_thread() not in threads
    with pytest.raises(InvalidInputError, match=r"texts\[4999\]"):
        await base.aencode(["a"] * 4999 + [None], kind=None)


@pytest.mark.parametrize("key", [0, "dense", "dense_vecs", slice(1)])
def test_embeddings_are_not_a_list(base, key):
    with pytest.raises(TypeError, match=r"\.dense"):
        base.encode(["a"], kind=None)[key]


def test_flagembeddings_keys_name_our_attributes(m3):
    out = m3.encode(["a"], sparse=True, multi_vector=True)
    for key, name in (("dense_vecs", "dense"), ("lexical_weights", "sparse"), ("colbert_vecs", "multi_vector")):
        with pytest.raises(TypeError, match=rf"\.{name}$"):
            out[key]


@pytest.mark.parametrize("max_length", [1, 2])
def test_a_max_length_without_room_is_refused_at_load(max_length):
    with pytest.raises(InvalidInputError) as caught:
        load_embedder(BASE, max_length=max_length)
    assert caught.value.argument == "max_length"


@pytest.mark.parametrize(
    ("argument", "value"), [("revision", 3), ("revision", ""), ("cache_folder", 3), ("cache_folder", "")]
)
def test_a_source_of_the_wrong_type(argument, value):
    for load in (load_embedder, load_reranker):
        with pytest.raises(InvalidInputError) as caught:
            load("pocket", **{argument: value})
        assert caught.value.argument == argument


def test_a_warning_names_at_most_a_hundred_texts(base):
    with pytest.warns(TruncationWarning) as caught:
        base.encode([f"{i} b c d e f" for i in range(300)], max_length=4)
    assert caught[0].message.count == 300
    assert caught[0].message.positions == tuple(range(100))
    assert len(str(caught[0].message)) < 300


def test_calls_in_a_block_share_one_warning(base):
    def encode_parts():
        with TruncatedTexts(first=10):
            base.encode(["short", LONG])
            base.encode(["short"])
            base.encode([LONG])

    with pytest.warns(TruncationWarning) as caught:
        encode_parts()
    (warning,) = [each.message for each in caught]
    assert (warning.count, warning.total, warning.positions) == (2, 4, (11, 13))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with TruncatedTexts():
            base.encode(["short"])
    with pytest.warns(TruncationWarning):
        base.encode([LONG])  # the block is over


def test_the_truncation_warning_points_at_the_caller(base):
    with pytest.warns(TruncationWarning) as caught:
        base.encode([LONG])
    assert caught[0].filename == __file__


async def test_the_warning_of_a_long_async_call_names_the_callers_line_too(base):
    """The texts of a long call are tokenised in another thread."""
    with pytest.warns(TruncationWarning) as caught:
        await base.aencode(["word " * 600, "word " * 700], max_length=8)
    assert caught[0].filename == __file__


def test_truncation_can_be_refused_or_ignored(base):
    with pytest.raises(TextTooLongError, match=r"\b1 of 2\b"):
        base.encode([LONG, "short"], on_truncate="error")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        base.encode([LONG], on_truncate="ignore")
        base.encode(["short"], on_truncate="error")


def test_a_truncated_text_is_its_beginning(base):
    whole = base.encode(["a b c d e f g h"], max_length=6, on_truncate="ignore").dense
    assert_close(whole, base.encode(["a b c d e f g h i j"], max_length=6, on_truncate="ignore").dense)
    with pytest.warns(TruncationWarning):
        base.encode(["a b c d e f g h"], max_length=6)


def test_duplicates_are_computed_once(base, lengths):
    found = base.encode(["a", "b", "a", "a", "b"]).dense
    assert len(lengths()) == 2
    assert np.array_equal(found[0], found[2])
    assert np.array_equal(found[1], found[4])


def test_any_iterable_of_texts_is_accepted(base):
    expected = base.encode(["a", "b"]).dense
    assert np.array_equal(base.encode(text for text in ("a", "b")).dense, expected)
    assert np.array_equal(base.encode(np.array(["a", "b"])).dense, expected)
    assert np.array_equal(base.encode(dict.fromkeys(["a", "b"]).keys()).dense, expected)


def test_dense_rows_are_unit_vectors_by_default(base):
    assert_close(np.linalg.norm(base.encode(["a", "b c"]).dense, axis=1), [1, 1])
    raw = base.encode(["a"], normalize=False).dense
    assert abs(np.linalg.norm(raw) - 1) > 0.1
    assert_close(raw / np.linalg.norm(raw), base.encode(["a"]).dense)


def test_truncate_dim_cuts_before_normalising(base):
    with load_embedder(BASE, truncate_dim=16) as narrow:
        assert narrow.dimension == 16
        raw = base.encode(["text"], normalize=False).dense[:, :16]
        assert_close(narrow.encode(["text"]).dense, raw / np.linalg.norm(raw))


def test_instructions_automatic_off_and_replaced(base):
    instruction = "Represent this sentence for searching relevant passages: "
    assert base.query_instruction == instruction
    expected = base.encode([instruction + "text"]).dense
    assert_close(base.encode(["text"], kind="query").dense, expected)
    plain = base.encode(["text"]).dense
    assert_close(base.encode(["text"], kind="passage").dense, plain)
    with load_embedder(BASE, query_instruction="") as off, load_embedder(BASE, query_instruction="find: ") as own:
        assert_close(off.encode(["text"], kind="query").dense, plain)
        assert_close(own.encode(["text"], kind="query").dense, base.encode(["find: text"]).dense)


def test_bfloat16_on_the_cpu_is_close(base):
    with load_embedder(BASE, dtype="bfloat16") as half:
        assert half.dtype == "bfloat16"
        found = half.encode(["what is a panda?", "hi"]).dense
    assert found.dtype == np.float32
    assert_close(found, base.encode(["what is a panda?", "hi"]).dense, tolerance=0.05)


def test_representations_not_requested_are_none(m3):
    out = m3.encode(["a"], dense=False, sparse=True)
    assert out.dense is None
    assert out.multi_vector is None
    assert out.sparse is not None


def test_sparse_vectors_are_sorted_positive_and_consistent(m3, texts):
    sparse = m3.encode(texts, sparse=True, on_truncate="ignore").sparse
    matrix = sparse.to_scipy()
    assert matrix.shape == (len(texts), 161)
    for i, row in enumerate(sparse):
        assert row.indices.dtype == np.int32
        assert row.values.dtype == np.float32
        assert (np.diff(row.indices) > 0).all()
        assert (row.values > 0).all()
        assert np.array_equal(matrix[[i]].toarray()[0, row.indices], row.values)
    assert sparse[-1].indices.tolist() == sparse[len(texts) - 1].indices.tolist()
    with pytest.raises(IndexError):
        sparse[len(texts)]


def test_int8_is_close_to_float32(pocket, pocket_reranker, texts):
    """This holds for dense, sparse and multi-vectors, and for the order of passages."""
    everything = {"sparse": True, "multi_vector": True, "on_truncate": "ignore"}
    with load_embedder("pocket", dtype="int8") as small:
        assert small.dtype == "int8"
        exact, found = (embedder.encode(texts, **everything) for embedder in (pocket, small))
        assert_close(small.encode([texts[3]]).dense[0], found.dense[3])  # regardless of the rest of the batch
    assert 0.995 < (exact.dense * found.dense).sum(1).min() < 0.999999
    for a, b in zip(exact.multi_vector, found.multi_vector, strict=True):
        assert len(a) == 0 or (a * b).sum(1).mean() > 0.99
    for a, b in zip(exact.sparse.to_dicts(), found.sparse.to_dicts(), strict=True):
        assert sum(abs(a[token] - b.get(token, 0)) for token in a) <= 0.05 * sum(a.values()) + 1e-6
    pairs = [("What do pandas eat?", passage) for passage in ("Pandas eat bamboo.", "Rome lies on the Tiber.")]
    with load_reranker("pocket", dtype="int8") as small:
        assert np.abs(small.score(pairs) - pocket_reranker.score(pairs)).max() < 0.5
        assert small.score(pairs)[0] > small.score(pairs)[1]


def test_progress_bar_only_on_request(base, capfd):
    base.encode(["a"])
    assert capfd.readouterr().err == ""
    base.encode(["a", "b"], show_progress=True)
    assert "2/2" in capfd.readouterr().err


def test_closed_embedders_raise_and_closing_twice_is_fine():
    embedder = load_embedder(BASE)
    embedder.close()
    embedder.close()
    with pytest.raises(ClosedError):
        embedder.encode(["a"])


def test_an_unknown_checkpoint_needs_arguments(tmp_path):
    folder = shutil.copytree(CHECKPOINTS / "bge-base-en-v1.5", tmp_path / "my-finetune")
    with pytest.raises(UnknownModelError, match=r"family='encoder'.*cls, mean, last_token.*family='m3'"):
        load_embedder(folder)
    with load_embedder(folder, pooling="mean") as embedder:
        assert embedder.query_instruction == ""
    with load_embedder(folder, family="encoder", pooling="cls", query_instruction="q: ") as embedder:
        assert embedder.query_instruction == "q: "


def finetune(tmp_path, files):
    """Copy the tiny base model to my-finetune and add sentence-transformers files."""
    import json
    import shutil

    folder = shutil.copytree(BASE, tmp_path / "my-finetune")
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


@pytest.mark.parametrize(
    "pooling",
    [
        {"word_embedding_dimension": 64, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True},
        {"embedding_dimension": 64, "pooling_mode": "mean", "include_prompt": True},
    ],
)
def test_sentence_transformers_files_are_followed(tmp_path, base, pooling):
    folder = finetune(
        tmp_path,
        {
            "modules.json": MODULES,
            "1_Pooling/config.json": pooling,
            "sentence_bert_config.json": {"max_seq_length": 128, "do_lower_case": False},
            "config_sentence_transformers.json": {"prompts": {"query": "ask: ", "document": "doc: "}},
        },
    )
    with load_embedder(folder) as embedder, load_embedder(BASE, pooling="mean") as mean:
        assert embedder.max_length == 128
        assert_close(embedder.encode(["x"], kind="query").dense, mean.encode(["ask: x"]).dense)
        assert_close(embedder.encode(["x"], kind="passage").dense, mean.encode(["doc: x"]).dense)


def test_a_saved_sentence_transformer_returns_the_same_vectors(tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    modules = [Transformer(BASE), Pooling(64, pooling_mode="mean"), Normalize()]
    saved = SentenceTransformer(modules=modules, device="cpu")
    saved.save(str(tmp_path / "finetune"))
    texts = ["what is a panda?", "hi", "BM25 is a bag-of-words retrieval function"]
    with load_embedder(tmp_path / "finetune") as embedder:
        assert embedder.pooling == "mean"
        assert_close(embedder.encode(texts).dense, saved.encode(texts))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "mean", "include_prompt": False}),
        ("tokenizer_config.json", {"truncation_side": "left"}),
        ("sentence_bert_config.json", {"do_lower_case": True}),
    ],
)
def test_settings_that_would_be_ignored_are_refused(tmp_path, file, content):
    prompts = {"prompts": {"query": "ask: "}}
    files = {"modules.json": MODULES, "1_Pooling/config.json": {"pooling_mode": "mean"}}
    folder = finetune(tmp_path, files | {"config_sentence_transformers.json": prompts, file: content})
    if file != "1_Pooling/config.json":
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"do_lower_case": False}))
    with pytest.raises(NotSupportedError):
        load_embedder(folder)


def test_an_instruction_that_would_be_pooled_is_refused(tmp_path):
    pooling = {"pooling_mode": "mean", "include_prompt": False}
    folder = finetune(tmp_path, {"modules.json": MODULES, "1_Pooling/config.json": pooling})
    load_embedder(folder).close()
    with pytest.raises(NotSupportedError, match="include_prompt"):
        load_embedder(folder, query_instruction="ask: ")


def test_a_default_prompt_is_for_neither_queries_nor_documents_as_in_sentence_transformers(tmp_path):
    from sentence_transformers import SentenceTransformer

    settings = {"prompts": {"retrieval": "find: ", "document": "doc: "}, "default_prompt_name": "retrieval"}
    files = {"modules.json": MODULES, "1_Pooling/config.json": {"pooling_mode": "mean", "embedding_dimension": 64}}
    folder = finetune(tmp_path, files | {"config_sentence_transformers.json": settings})
    theirs = SentenceTransformer(str(folder), device="cpu")
    with load_embedder(folder) as embedder:
        for kind, encode in (("query", theirs.encode_query), ("passage", theirs.encode_document)):
            expected = encode(["what is a panda?"], normalize_embeddings=True)
            assert_close(embedder.encode(["what is a panda?"], kind=kind).dense, expected)


def test_a_folder_called_snapshots_is_not_the_hubs_cache(tmp_path):
    folder = shutil.copytree(BASE, tmp_path / "snapshots" / "bge-base-en-v1.5")
    with load_embedder(folder) as embedder:
        assert embedder.revision is None
        assert embedder.source == str(folder)


def test_length_dimensions_and_casing_of_a_finetune_are_followed(tmp_path):
    from sentence_transformers import SentenceTransformer

    files = {
        "modules.json": MODULES,
        "1_Pooling/config.json": {"embedding_dimension": 64, "pooling_mode": "mean"},
        "sentence_roberta_config.json": {"max_seq_length": 8},
        "config_sentence_transformers.json": {"prompts": {"document": "", "passage": "pp: "}, "truncate_dim": 8},
    }
    folder = finetune(tmp_path, files)
    texts = ["A short TEXT", "a text that is longer than eight tokens, surely"]
    with load_embedder(folder) as embedder:
        assert embedder.max_length == 8
        assert embedder.passage_instruction == ""
        found = embedder.encode(texts, normalize=False, on_truncate="ignore").dense
        assert_close(found, SentenceTransformer(str(folder), device="cpu").encode(texts))


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("setting", ["do_lower_case", "strip_accents"])
def test_the_tokenizer_config_wins_as_in_transformers(tmp_path, setting, wanted):
    import json

    from transformers import AutoTokenizer

    from bge_integrations.models.tokenizer import TextTokenizer

    folder = finetune(tmp_path, {})
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {setting: wanted}))
    text = "Capital LETTERS and caf\u00e9s"
    expected = AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]
    assert TextTokenizer(folder).ids([text])[0].tolist() == expected


async def test_a_long_text_does_not_block_the_loop(base):
    import asyncio
    import time

    longest, last = 0.0, time.perf_counter()

    async def watch():
        nonlocal longest, last
        while True:
            await asyncio.sleep(0.005)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now

    watcher = asyncio.create_task(watch())
    started = time.perf_counter()
    await base.aencode(["x y z " * 170_000], on_truncate="ignore")
    spent = time.perf_counter() - started
    watcher.cancel()
    assert longest < spent / 2


@pytest.mark.parametrize("instruction", [5, False, "\ud800"])
def test_bad_instructions(instruction):
    with pytest.raises(InvalidInputError, match="query_instruction"):
        load_embedder(BASE, query_instruction=instruction)


def test_embedders_are_not_pickled(base):
    import pickle

    with pytest.raises(TypeError, match="Embedder"):
        pickle.dumps(base)


def test_layers_that_would_be_ignored_are_refused(tmp_path):
    dense = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    pooling = {"pooling_mode_mean_tokens": True}
    folder = finetune(tmp_path, {"modules.json": [*MODULES, dense], "1_Pooling/config.json": pooling})
    with pytest.raises(NotSupportedError, match=r"modules\.json.*Dense"):
        load_embedder(folder)


def test_several_poolings_at_once_are_refused(tmp_path):
    pooling = {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}
    folder = finetune(tmp_path, {"modules.json": MODULES, "1_Pooling/config.json": pooling})
    with pytest.raises(NotSupportedError, match="pooling_mode_max_tokens"):
        load_embedder(folder)


def test_a_known_name_whose_files_set_another_pooling_is_refused(tmp_path):
    folder = finetune(tmp_path, {"modules.json": MODULES, "1_Pooling/config.json": {"pooling_mode": "mean"}})
    renamed = folder.rename(tmp_path / "bge-base-en-v1.5")
    with pytest.raises(UnknownModelError, match=r"pooling='cls'.*pooling='mean'"):
        load_embedder(renamed)
    with load_embedder(renamed, pooling="mean") as embedder:
        assert embedder.pooling == "mean"


@pytest.mark.parametrize("name", ["bge-small-en-v1.5-tokenizer", "bge-small-zh-v1.5-tokenizer"])
def test_real_tokenizers_agree_with_transformers(name, texts):
    from transformers import AutoTokenizer

    from bge_integrations.core.inputs import tokenize_pairs, tokenize_texts
    from bge_integrations.models.tokenizer import TextTokenizer

    ours, theirs = TextTokenizer(MODEL_FILES / name), AutoTokenizer.from_pretrained(MODEL_FILES / name)
    samples = [
        *texts,
        "ÀÉÎ ﬁ ½ 🤗 \u200b\u0301x",
        "a\0b\r\n\tc",
        "[CLS] [SEP] [MASK] [UNK]",
        "한국어 और हिन्दी",
        "x" * 300,
    ]
    expected = [theirs(text, truncation=True, max_length=512)["input_ids"] for text in samples]
    assert [sequence.ids.tolist() for sequence in tokenize_texts(ours, samples, "", 512)[0]] == expected
    pairs = list(zip(samples, reversed(samples), strict=True))
    for (query, passage), found in zip(pairs, tokenize_pairs(ours, pairs, 512, 384)[0], strict=True):
        if len(query) < 400:
            pair = theirs([query], [passage], truncation="only_second", max_length=512)
            assert found.ids.tolist() == pair["input_ids"][0]
            types = np.zeros(len(found.ids)) if found.types is None else found.types
            assert types.tolist() == pair["token_type_ids"][0]


def test_published_token_ids():
    import json

    from bge_integrations.models.tokenizer import TextTokenizer

    tokenizer = TextTokenizer(MODEL_FILES / "bge-small-en-v1.5-tokenizer")
    entries = json.loads((TESTS / "published_values.json").read_text("utf-8"))["entries"]
    checked = 0
    for entry in entries:
        if entry["kind"] == "token_ids" and entry["model"] == "BAAI/bge-small-en-v1.5":
            assert not entry["add_special_tokens"]
            assert tokenizer.ids([entry["text"]])[0].tolist() == entry["expected"]
            checked += 1
    assert checked == 7


def test_a_tokenizer_without_tokenizer_json_is_made_from_its_vocabulary(tmp_path):
    import shutil

    from bge_integrations.models.tokenizer import TextTokenizer

    folder = tmp_path / "tokenizer"
    source = MODEL_FILES / "bge-small-en-v1.5-tokenizer"
    shutil.copytree(source, folder, ignore=lambda _, names: [n for n in names if n == "tokenizer.json"])
    text = ["What is a DENSE retriever? naïve"]
    assert TextTokenizer(folder).ids(text)[0].tolist() == TextTokenizer(source).ids(text)[0].tolist()


def test_real_configs_are_read():
    import json

    from bge_integrations.models.encoder_config import EncoderConfig
    from bge_integrations.models.profile import embedder_profile

    folder = MODEL_FILES / "bge-m3-config"
    config = EncoderConfig.read(json.loads((folder / "config.json").read_text()))
    assert (config.max_length, config.layers, config.hidden_size) == (8192, 24, 1024)
    assert embedder_profile("BAAI/bge-m3", folder).family == "m3"
    for name in ("bge-small-en-v1.5", "bge-small-zh-v1.5"):
        profile = embedder_profile(name, MODEL_FILES / f"{name}-tokenizer")
        assert (profile.pooling, profile.max_length) == ("cls", 512)


def test_real_m3_heads_are_read():
    import torch

    from bge_integrations.models.heads import M3Heads

    heads = M3Heads(MODEL_FILES / "bge-m3-heads", 1024, torch.device("cpu"), torch.float32)
    assert heads.multi_vector_size == 1024


def test_a_real_small_size_model_agrees_with_transformers(tmp_path, texts):
    """It has the published config and tokenizer and 12 layers of random weights."""
    import shutil

    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    folder = shutil.copytree(MODEL_FILES / "bge-small-en-v1.5-tokenizer", tmp_path / "bge-small-en-v1.5")
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.from_pretrained(folder)).eval()
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with load_embedder(folder) as embedder, torch.inference_mode():
        inputs = tokenizer(texts[:-1], return_tensors="pt", padding=True)
        reference = torch.nn.functional.normalize(model(**inputs).last_hidden_state[:, 0], dim=-1)
        assert np.abs(embedder.encode(texts[:-1]).dense - reference.numpy()).max() < 1e-5
