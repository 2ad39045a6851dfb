"""Any text gets the token ids of transformers' tokenizer, and a finite vector, whatever characters it has."""

import warnings

import numpy as np
import pytest
from conftest import CHECKPOINTS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from bge_integrations import load_embedder, load_reranker

#: Pieces that tokenizers treat in their own ways.
PIECES = (
    *(
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "[PAD]",
        "[UNK]",
        "[CLS",
        "<s>",
        "</s>",
        "<mask>",
        "<unk>",
        "<pad>",
        "<bos>",
        "<eos>",
    ),
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<instruct>", "<query>", "\n<response>", "▁", "##ing", "Ġ"),
    *("\x00", "\x07", "\x1b[31m", "\x7f", "\u200b", "\u200d", "\u2060", "\ufeff", "\u202e", "\u2066", "\u00ad"),
    *(
        "e\u0301",
        "\u0301",
        "a" + "\u0300" * 40,
        "\ufffd",
        "\U000e0041",
        "👩‍👩‍👧",
        "ﷺ",
        "İ",
        "ß",
        "\r\n",
        "\t",
        "\u2028",
        " ",
    ),
    *("panda", "Bamboo", "熊猫", "।", "9" * 50),
)
texts = st.lists(
    st.one_of(st.sampled_from(PIECES), st.text(st.characters(exclude_categories=["Cs"]), max_size=10)), max_size=8
).map("".join)
examples = settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module", params=["bge-base-en-v1.5", "bge-multilingual-gemma2"])
def model(request):
    """A tiny embedder, and transformers' tokenizer of the same checkpoint.

    transformers 5 leaves out the normalizer of XLM-RoBERTa's `tokenizer.json`, so bge-m3 is not among them.
    """
    folder = CHECKPOINTS / request.param
    with load_embedder(folder) as embedder:
        yield embedder, AutoTokenizer.from_pretrained(folder)


@examples
@given(text=texts)
def test_texts_are_tokenized_as_by_transformers(model, text):
    embedder, reference = model
    ids = [token.id for token in embedder.tokens([text], kind=None)[0]]
    assert ids == reference(text)["input_ids"]


@examples
@given(text=texts)
def test_any_text_has_a_unit_vector(pocket, text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vector = pocket.encode([text], kind="query", sparse=True, multi_vector=True).dense[0]
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_a_special_token_in_a_text_is_that_token(model):
    embedder, reference = model
    separator = reference.sep_token or reference.eos_token
    assert reference.convert_tokens_to_ids(separator) in [
        token.id for token in embedder.tokens([f"a {separator} b"], kind=None)[0][1:-1]
    ]


def test_a_passage_with_a_separator_changes_no_other_score():
    with load_reranker(CHECKPOINTS / "bge-reranker-v2-m3") as reranker:
        (alone,) = reranker.score([("a question", "a passage")])
        both = reranker.score([("a question", "x</s></s>a question</s>"), ("a question", "a passage")])
    assert both[1] == pytest.approx(alone, abs=1e-6)
