"""Tiny language models with random weights, and a tokenizer of words; tests of other folders use them too."""

import json
from pathlib import Path

import torch
from conftest import ORACLE
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BEACON = ORACLE / "beacon"
SPECIAL = ("<unk>", "<s>", "</s>", "<system>", "<user>", "<assistant>")
WORDS = (*SPECIAL, *(f"w{i}" for i in range(150 - len(SPECIAL))))
TEMPLATE = (
    "<s> {% for message in messages %}{{ '<' + message['role'] + '> ' + message['content'] + ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)
LLAMA = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,
}


def save_tokenizer(folder: Path, template: str | None = TEMPLATE) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=list(SPECIAL[3:]), **tokens)
    if template is not None:
        fast.chat_template = template
    fast.save_pretrained(folder)


def words(count: int, first: int = 0) -> str:
    """Return a text of so many different tokens."""
    return " ".join(f"w{(first + 37 * i) % 140}" for i in range(count))


def save_beacon(folder: Path) -> None:
    """Save the oracle's Llama with a tokenizer and without a sink; it condenses windows of 32 tokens to 8 beacons."""
    source = BEACON / "checkpoints" / "beacon-llama"
    folder.mkdir()
    config = json.loads((source / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"beacon_ratio": [4], "beacon_sink_size": 0}))
    (folder / "model.safetensors").symlink_to(source / "model.safetensors")
    save_tokenizer(folder)


def save_plain(folder: Path) -> None:
    """Save a Llama."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**LLAMA)).save_pretrained(folder)
    save_tokenizer(folder)


def save_gpt2(folder: Path) -> None:
    """Save a GPT-2, which has no rotary embedding and here no chat template."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(WORDS), n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3)
    GPT2LMHeadModel(config).save_pretrained(folder)
    save_tokenizer(folder, template=None)
