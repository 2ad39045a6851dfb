"""Train the pocket generator: a tiny Activation Beacon model that finds a fact in documents of `generation/needles.py`.

    python scripts/train_needle.py --folder bge_integrations/pocket/generator

All of the model is trained at once, on windows that are condensed at random ratios; the published models instead add
beacons to a finished language model. It takes a few minutes on one core. The same machine gives the same weights.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bge_integrations.generation.beacon_config import BeaconConfig
from bge_integrations.generation.beacon_model import BeaconModel, with_beacons
from bge_integrations.generation.needles import (
    ADJECTIVES,
    CITIES,
    NAMES,
    THINGS,
    VERBS,
    needle_document,
    question,
)

SPECIAL = ("<unk>", "<user>", "<assistant>", "<eos>")
WORDS = (
    *SPECIAL,
    *("The", "lives", "in", ".", "Where", "does", "live", "?"),
    *ADJECTIVES,
    *THINGS,
    *VERBS,
    *NAMES,
    *CITIES,
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<' + message['role'] + '> ' + message['content'] + ' ' }}"
    "{% if message['role'] == 'assistant' %}{{ '<eos> ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)
WINDOW = 32
RATIOS = (0, 2, 4, 8, 16)
TEXTS, QUESTIONS = 32, 2
SETTINGS: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "initializer_range": 0.1,
    "tie_word_embeddings": True,
    "bos_token_id": WORDS.index("<user>"),
    "eos_token_id": WORDS.index("<eos>"),
    "beacon_window": WINDOW,
    "beacon_stride": WINDOW,
    "beacon_attn": "full-coverage",
    "beacon_attend_prev": True,
    "beacon_pos": "interleave",
    "beacon_param": ["q", "k", "v"],
    "beacon_sink_size": 0,
    "beacon_ratio": [4],
    "beacon_ratio_mix": "step-random",
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of words and punctuation."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    kind: Any = PreTrainedTokenizerFast
    made: PreTrainedTokenizerFast = kind(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="<eos>",
        additional_special_tokens=["<user>", "<assistant>"],
    )
    made.chat_template = CHAT_TEMPLATE
    return made


def make_batch(tokenizer: PreTrainedTokenizerFast, sentences: int, seed: int) -> torch.Tensor:
    """Return ids (TEXTS, tokens) of conversations: a document, and questions with their answers."""
    chosen = random.Random(f"facts {seed}")
    facts, rows = chosen.choice((1, 1, 2, 4)), []
    for i in range(TEXTS):
        document = needle_document(sentences, facts, seed * TEXTS + i)
        asked = chosen.choices(sorted(document.facts), k=QUESTIONS)
        turns = (f"{question(name)} <assistant> {document.facts[name]} <eos>" for name in asked)
        text = f"<user> {document.text} " + " <user> ".join(turns)
        rows.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    return torch.tensor(rows)


def answer_loss(model: BeaconModel, ids: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return the mean loss of the answers and of the tokens that end them, and how many answers are right."""
    states = torch.cat(list(model.steps(ids, model.start(ids.shape[1]))), 1)[:, :-1]
    begins = ids[:, :-1] == WORDS.index("<assistant>")
    answers = begins | begins.roll(1, 1)
    logits = model.logits(states[answers])
    targets = ids[:, 1:][answers]
    right = (logits.argmax(-1) == targets)[begins[answers]].float().mean().item()
    return F.cross_entropy(logits, targets), right


def train(steps: int, rate: float) -> tuple[Any, PreTrainedTokenizerFast]:
    """Return the trained network and its tokenizer."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    settings = {**SETTINGS}
    network = with_beacons(LlamaForCausalLM, BeaconConfig.read(settings))(LlamaConfig(**settings))
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    by_ratio = {ratio: BeaconModel(network, BeaconConfig.read(settings, ratio), {}) for ratio in RATIOS}
    began, shown = time.monotonic(), dict.fromkeys(RATIOS, 0.0)
    for step in range(steps):
        chosen = random.Random(step)
        # first to find facts at all, then to condense them
        ratio = 0 if step < steps // 6 else chosen.choice(RATIOS)
        sentences = chosen.randint(4, 8 if step < steps // 3 else 16 if step < 2 * steps // 3 else 32)
        loss, right = answer_loss(by_ratio[ratio], make_batch(tokenizer, sentences, step))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        shown[ratio] += 0.1 * (right - shown[ratio])
        if step % 100 == 99:
            accuracy = " ".join(f"{ratio}:{right:.2f}" for ratio, right in shown.items())
            print(
                f"step {step + 1}  loss {loss.item():.3f}  right by ratio {accuracy}  {time.monotonic() - began:.0f} s"
            )
    return network, tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where the model is written")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--rate", type=float, default=3e-3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    network, tokenizer = train(given.steps, given.rate)
    network.half().save_pretrained(given.folder)
    tokenizer.save_pretrained(given.folder)


if __name__ == "__main__":
    main()
