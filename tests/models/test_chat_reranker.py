"""Rerankers like Qwen3-Reranker, which answer yes or no in a chat, agree with transformers and the published code."""

import numpy as np
import pytest
import torch
from conftest import assert_close
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from bge_integrations import load_reranker
from bge_integrations.errors import InvalidInputError, TextTooLongError, TruncationWarning, WrongKindError

BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
TASK = "Given a web search query, retrieve relevant passages that answer the query"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PAIRS = [
    ("What do pandas eat?", "The giant panda eats bamboo."),
    ("What do pandas eat?", "Rome lies on the Tiber.\n\nIt is old."),
    ("What do pandas eat?", ""),
    ("", "  two spaces, then {query} and {0}"),
    ("a query with its end: <|im_end|>\n", "<think> a passage </think>"),
    ("大熊猫吃什么？", "\n大熊猫吃竹子。"),
]


@pytest.fixture(scope="module", params=["tied", "untied"])
def checkpoint(request, tmp_path_factory):
    """Random weights, with a byte-level tokenizer whose words are split as Qwen's are."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(
        [BEFORE, AFTER, TASK, "yes no", "?\n", *(text for pair in PAIRS for text in pair)], trainer
    )
    tokenizer.add_tokens(["<think>", "</think>"])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=SPECIAL[0], eos_token=SPECIAL[2]).save_pretrained(
        folder
    )
    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=20,
        max_position_embeddings=1024,
        initializer_range=0.3,
        tie_word_embeddings=request.param == "tied",
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def published_scores(folder, pairs, max_length=8192, task=TASK):
    """Return the probability of "yes" as in the model card of Qwen3-Reranker, and its log-odds."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    before, after = (tokenizer.encode(text, add_special_tokens=False) for text in (BEFORE, AFTER))
    answers = tokenizer.convert_tokens_to_ids(["no", "yes"])
    assert tokenizer.unk_token_id not in answers
    odds = []
    for query, passage in pairs:
        text = f"<Instruct>: {task}\n<Query>: {query}\n<Document>: {passage}"
        room = max_length - len(before) - len(after)
        ids = before + tokenizer(text, truncation="longest_first", max_length=room)["input_ids"] + after
        with torch.inference_mode():
            odds.append(model(torch.tensor([ids])).logits[0, -1, answers].float())
    logits = torch.stack(odds)
    return logits.softmax(1)[:, 1].numpy(), (logits[:, 1] - logits[:, 0]).numpy()


def test_scores_are_the_published_codes(checkpoint):
    probabilities, odds = published_scores(checkpoint, PAIRS)
    with load_reranker(checkpoint, family="chat_reranker") as reranker:
        assert reranker.prompt == TASK
        assert_close(reranker.score(PAIRS), odds)
        assert_close(reranker.score(PAIRS, normalize=True), probabilities)
        assert_close(np.concatenate([reranker.score([pair]) for pair in PAIRS]), odds)


def test_truncated_pairs_score_as_in_the_published_code(checkpoint):
    pairs = [*PAIRS, (PAIRS[0][0], "bamboo and more " * 40), ("what do pandas eat " * 40, "bamboo")]
    _, odds = published_scores(checkpoint, pairs, max_length=200)
    with load_reranker(checkpoint, family="chat_reranker", max_length=200, query_max_length=200) as reranker:
        with pytest.warns(TruncationWarning) as caught:
            assert_close(reranker.score(pairs), odds)
        (warning,) = (each.message for each in caught)
        assert (warning.positions, warning.limit) == ((6, 7), 200)


def test_a_long_query_leaves_room_for_the_passage(checkpoint):
    query = "what do pandas eat " * 40
    with load_reranker(checkpoint, family="chat_reranker", max_length=200, query_max_length=20) as reranker:
        with pytest.warns(TruncationWarning):
            one, other = reranker.score([(query, "bamboo"), (query, "Rome")])
        assert abs(one - other) > 1e-3
        with pytest.raises(TextTooLongError):
            reranker.score([(query, "bamboo")], on_truncate="error")


def test_the_prompt_is_the_instruction(checkpoint):
    task = "Find {what} contradicts the query."
    _, odds = published_scores(checkpoint, PAIRS, task=task)
    with load_reranker(checkpoint, family="chat_reranker", prompt=task) as reranker:
        assert_close(reranker.score(PAIRS), odds)


def test_lengths_without_room_for_a_pair_are_refused(checkpoint):
    with pytest.raises(InvalidInputError) as caught:
        load_reranker(checkpoint, family="chat_reranker", max_length=60)
    assert caught.value.argument == "max_length"
    with load_reranker(checkpoint, family="chat_reranker") as reranker, pytest.raises(InvalidInputError):
        reranker.score(PAIRS, max_length=60)


def test_a_model_of_unknown_name_needs_its_family(checkpoint):
    with pytest.raises(WrongKindError):
        load_reranker(checkpoint)
