"""Train the bundled pocket embedder and reranker from the open corpus, on a CPU.

    python scripts/train_pocket.py --corpus DIR --work DIR

Progress is saved in the work folder: repeat the command to resume an interrupted run, or delete the folder to start
again. The finished checkpoints are written to the package (or to --out).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from pocket_training.bag import Bag, train_bag
from pocket_training.checkpoints import write_checkpoint, write_linear
from pocket_training.data import (
    Corpus,
    Tokens,
    inverse_frequency,
    read_corpus,
    save_tokenizer,
    tokenize,
    train_tokenizer,
)
from pocket_training.embedder import PocketM3, start_from_bag, start_heads, train_embedder
from pocket_training.mining import mine, mine_by
from pocket_training.reranker import PAIRS, train_reranker
from pocket_training.reranker_start import fit_match, start_reranker
from pocket_training.validation import ndcg, rerank, score_all, validation_set
from pocket_training.work_files import made_once
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from torch import nn

PACKAGE = Path(__file__).resolve().parent.parent / "bge_integrations"
NEGATIVES = 8
LISTED = 14


def write_embedder(folder: Path, model: PocketM3, tokenizer: Tokenizer) -> None:
    """Write the folder in the layout of BAAI/bge-m3."""
    write_checkpoint(folder, model.trunk, model.trunk.config, "XLMRobertaModel")
    write_linear(folder / "colbert_linear.pt", model.colbert_linear)
    write_linear(folder / "sparse_linear.pt", model.sparse_linear)
    save_tokenizer(tokenizer, folder, ["input_ids", "attention_mask"])


def report(
    model: PocketM3,
    corpus: Corpus,
    tokens: Tokens,
    seed: int,
    reranker: nn.Module,
    progress: Progress,
) -> None:
    """Print nDCG@10 on the held-out pairs for each score, and for the reranked top passages by their mean."""
    check = validation_set(corpus, seed)
    scores = score_all(model, tokens, check.queries, check.passages, progress)
    scores["reranked"] = rerank(reranker, tokens, check, scores["sum"], progress)
    for name, score in scores.items():
        progress.console.print(f"held-out nDCG@10, {name}: {ndcg(score, check.relevant).mean():.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with passages.jsonl.gz and pairs.jsonl.gz")
    parser.add_argument("--work", type=Path, required=True, help="folder for the training state")
    parser.add_argument("--out", type=Path, default=PACKAGE / "pocket")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        corpus = read_corpus(arguments.corpus, PACKAGE / "demo_documents")
        kept = made_once(work / "tokenizer.json", lambda out: out.write(train_tokenizer(corpus).to_str().encode()))
        tokenizer = Tokenizer.from_file(str(kept))
        tokens = tokenize(tokenizer, corpus)
        idf = inverse_frequency(tokens)

        bag = Bag()
        kept = made_once(
            work / "bag.pt",
            lambda out: torch.save(train_bag(corpus, tokens, idf, arguments.seed, progress).state_dict(), out),
        )
        bag.load_state_dict(torch.load(kept, weights_only=True))
        kept = made_once(
            work / "negatives.npy",
            lambda out: np.save(out, mine(corpus, tokens, bag, idf, NEGATIVES, arguments.seed, progress)),
        )
        negatives = np.load(kept)

        torch.manual_seed(arguments.seed)
        model = PocketM3()
        start_from_bag(model, bag)
        start_heads(model, tokens, idf, arguments.seed)
        state = work / "embedder_state.pt"
        train_embedder(corpus, tokens, negatives, model, state, arguments.seed, progress)
        write_embedder(arguments.out / "embedder", model, tokenizer)

        pairs = corpus.pairs[np.random.default_rng([arguments.seed, 10]).permutation(len(corpus.pairs))]
        pairs = pairs[:PAIRS]
        kept = made_once(
            work / "lists.npy",
            lambda out: np.save(out, mine_by(model, corpus, tokens, pairs, LISTED, arguments.seed, progress)),
        )
        lists = np.load(kept)
        reranker = start_reranker(model, tokens, arguments.seed)
        state = work / "reranker_state.pt"
        if not state.exists():
            fit_match(reranker, model, pairs, lists, tokens, arguments.seed, progress)
        train_reranker(corpus, tokens, pairs, lists, model, reranker, state, arguments.seed, progress)
        folder = arguments.out / "reranker"
        write_checkpoint(folder, reranker, reranker.config, "XLMRobertaForSequenceClassification")
        save_tokenizer(tokenizer, folder, ["input_ids", "token_type_ids", "attention_mask"])
        report(model, corpus, tokens, arguments.seed, reranker, progress)


if __name__ == "__main__":
    main()
