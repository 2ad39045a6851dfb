"""Measure how well an embedder, a search mode and a reranker find the right documents, on your own data or BEIR's.

The command line is `bge eval`.
"""

from bge_integrations.evaluation.baseline import bm25
from bge_integrations.evaluation.cutoffs import CutoffComparison, CutoffRow, compare_cutoffs
from bge_integrations.evaluation.dataset import Dataset
from bge_integrations.evaluation.measures import Comparison, Result, compare, measure_run
from bge_integrations.evaluation.report import Report, evaluate
from bge_integrations.evaluation.reranking import rerank
from bge_integrations.evaluation.retrieval import Candidates, find_candidates
from bge_integrations.evaluation.runs import Run
from bge_integrations.evaluation.tuning import Tuned, tune_weights

__all__ = [
    "Candidates",
    "Comparison",
    "CutoffComparison",
    "CutoffRow",
    "Dataset",
    "Report",
    "Result",
    "Run",
    "Tuned",
    "bm25",
    "compare",
    "compare_cutoffs",
    "evaluate",
    "find_candidates",
    "measure_run",
    "rerank",
    "tune_weights",
]
