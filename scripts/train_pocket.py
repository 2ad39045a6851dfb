"""Train the bundled pocket embedder and reranker from the open corpus, on a CPU.

    python scripts/train_pocket.py --corpus DIR --work DIR --teacher FOLDER

The teacher is all-MiniLM-L6-v2: FOLDER is its checkpoint. Its vectors are targets; none of its weights are copied.

Progress is saved in the work folder: repeat the command to resume an interrupted run, or delete the folder to start
again. The finished checkpoints are written to the package (or to --out).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from pocket_training.bag import Bag, principal_directions, train_bag
from pocket_training.batches import make_pairs
from pocket_training.checkpoints import write_checkpoint, write_linear
from pocket_training.data import (
    encode,
    inverse_frequency,
    read_corpus,
    save_tokenizer,
    tokenize,
    train_tokenizer,
)
from pocket_training.embedder import PocketM3, start_from_bag, start_heads, train_embedder
from pocket_training.mining import mine, mine_by
from pocket_training.reranker import train_reranker
from pocket_training.reranker_start import fit_match, start_reranker
from pocket_training.teacher import lessons_of, teach
from pocket_training.validation import balance, ndcg, rerank, score_all, validation_set
from pocket_training.work_files import made_once
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import Tokenizer

PACKAGE = Path(__file__).resolve().parent.parent / "bge_integrations"
LISTED = 30


def write_embedder(folder: Path, model: PocketM3, tokenizer: Tokenizer) -> None:
    """Write the folder in the layout of BAAI/bge-m3."""
    write_checkpoint(folder, model.trunk, model.trunk.config, "XLMRobertaModel")
    write_linear(folder / "colbert_linear.pt", model.colbert_linear)
    write_linear(folder / "sparse_linear.pt", model.sparse_linear)
    save_tokenizer(tokenizer, folder, ["input_ids", "attention_mask"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with passages.jsonl.gz and pairs.jsonl.gz")
    parser.add_argument("--work", type=Path, required=True, help="folder for the training state")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
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

        lessons = lessons_of(corpus, arguments.teacher, arguments.seed)
        rows = encode(tokenizer, lessons.texts)
        taught = teach(arguments.teacher, lessons.texts, work / "teacher", progress)
        directions = principal_directions(taught, arguments.seed)
        pairs = make_pairs(corpus, lessons, arguments.seed)

        bag = Bag()
        kept = made_once(
            work / "bag.pt",
            lambda out: torch.save(
                train_bag(rows, taught, directions, pairs, idf, arguments.seed, progress).state_dict(), out
            ),
        )
        bag.load_state_dict(torch.load(kept, weights_only=True))
        kept = made_once(
            work / "negatives.npy",
            lambda out: np.save(out, mine(corpus, lessons, rows, taught, pairs, idf, arguments.seed, progress)),
        )
        negatives = np.load(kept)

        torch.manual_seed(arguments.seed)
        model = PocketM3()
        start_from_bag(model, bag)
        start_heads(model, tokens.texts, idf, arguments.seed)
        state = work / "embedder_state.pt"
        train_embedder(lessons, rows, taught, directions, pairs, negatives, idf, model, state, arguments.seed, progress)
        check = validation_set(corpus, arguments.seed)
        scores = balance(model, score_all(model, tokens, check, progress), check, progress)
        write_embedder(arguments.out / "embedder", model, tokenizer)

        kept = made_once(
            work / "lists.npy",
            lambda out: np.save(out, mine_by(model, corpus, lessons, rows, pairs, LISTED, arguments.seed, progress)),
        )
        lists = np.load(kept)
        reranker = start_reranker(model, tokens.texts, arguments.seed)
        state = work / "reranker_state.pt"
        if not state.exists():
            fit_match(reranker, model, rows, pairs, lists, lessons.documents, arguments.seed, progress)
        train_reranker(rows, taught, pairs, lists, model, reranker, state, arguments.seed, progress)
        folder = arguments.out / "reranker"
        write_checkpoint(folder, reranker, reranker.config, "XLMRobertaForSequenceClassification")
        save_tokenizer(tokenizer, folder, ["input_ids", "token_type_ids", "attention_mask"])
        scores["reranked"] = rerank(reranker, tokens, check, scores["sum"], progress)
        for name, score in scores.items():
            print(f"held-out nDCG@10, {name}: {ndcg(score, check.relevant).mean():.3f}")


if __name__ == "__main__":
    main()
