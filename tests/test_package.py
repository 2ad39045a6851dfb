"""The package as a whole: its public names, what importing it loads, its version, and its CI workflows."""

import inspect
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from types import ModuleType

import pytest
import yaml
from conftest import TESTS

import bge_integrations
from bge_integrations.cli import main

PROJECT = TESTS.parent
WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))
#: The public names of each public module. A change here is a change for users: see docs/versioning.md.
EXPORTED = {
    "bge_integrations": (
        "Embedder Embeddings Generator MultiVectors Reranker SparseVector SparseVectors load_embedder load_generator "
        "load_reranker"
    ),
    "bge_integrations.langchain": (
        "BGEEmbeddings BGEM3Retriever BGEM3VectorStore BGEReranker BGEVisualEmbeddings RerankedRetriever"
    ),
    "bge_integrations.llama_index": (
        "BGEEmbedding BGEM3Index BGEM3Retriever BGEM3VectorStore BGERerank BGESparseEmbedding BGEVisualEmbedding"
    ),
    "bge_integrations.chroma": "BGEEmbeddingFunction BGEImageLoader BGEVisualEmbeddingFunction",
    "bge_integrations.generation": "AsyncTextStream Context Generation Generator TextStream load_generator",
    "bge_integrations.generation.needles": "NeedleDocument needle_document question",
    "bge_integrations.index": "Entry Hit M3Index StoredDocument",
    "bge_integrations.serving": "ServerSettings create_app",
    "bge_integrations.evaluation": (
        "Candidates Comparison CutoffComparison CutoffRow Dataset Report Result Run Tuned bm25 compare compare_cutoffs "
        "evaluate find_candidates measure_run rerank tune_weights"
    ),
    "bge_integrations.jobs": "BatchEmbedder BatchIndexer BatchReranker EmbeddingJob Estimate JobReport estimate",
    "bge_integrations.training": (
        "FineTuned FineTuning Gain Mined Mixed MixingWeights Statistics TokenCounter Trained TrainingData "
        "TrainingRow TrainingRows clicked_questions evaluation_data generated_questions hold_out measure_gain "
        "mine_negatives mix plan_fine_tuning pretrain read_rows read_training_data statistics_of teacher_scores "
        "train_embedder train_reranker weights_from write_rows"
    ),
    "bge_integrations.mteb": "BGECrossEncoder BGEEncoder BGEM3Search",
    "bge_integrations.scoring": (
        "HybridScores TopK hybrid_scores lexical_scores max_sim reciprocal_rank_fusion representation_scores "
        "select_best weighted_mean weights_by_name"
    ),
    "bge_integrations.reading": "PASSAGE_TOKENS SUFFIXES Passage find_files read_file read_passages",
    "bge_integrations.catalog": "Chat Checkpoint FamilyTraits Instructions Parts find",
    "bge_integrations.pipelines.langchain": (
        "ParentRetriever answer_chain dense_retriever history_aware hybrid_retriever parent_retriever read_documents "
        "standalone_question"
    ),
    "bge_integrations.pipelines.long_context": "FoundPassage LongAnswer LongContextAnswers",
    "bge_integrations.pipelines.llama_index": (
        "AnswerEngine CitedResponse CitingChatEngine EarlierQuestionsChatEngine RerankedRetriever answer_engine "
        "chat_engine dense_retriever hybrid_retriever parent_retriever read_nodes"
    ),
    "bge_integrations.embeddings_view": "View view_matches view_scores view_weights",
    "bge_integrations.errors": (
        "BGEError CheckpointError CheckpointNotFoundError ClosedError ComputationError ContextFileError "
        "DiskFullError EmptyTextWarning GenerationCancelledError IndexFormatError IndexLockedError "
        "IndexNotFoundError InstructionWarning InvalidInputError NonFiniteError NotSupportedError "
        "OutOfMemoryError OverloadedError PerformanceWarning ServerError StorageError TextTooLongError "
        "TrainingDataError TruncationWarning UnknownArgumentError UnknownModelError UnreadableFileError "
        "WrongKindError WrongModelError"
    ),
}


def public_names(module: ModuleType) -> set[str]:
    """Return `__all__`, or the public classes and functions that the module defines."""
    if hasattr(module, "__all__"):
        return set(module.__all__)
    return {
        name
        for name, value in vars(module).items()
        if (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }


@pytest.mark.parametrize("module", EXPORTED)
def test_public_names(module):
    imported = import_module(module)
    assert public_names(imported) == set(EXPORTED[module].split())
    assert all(hasattr(imported, name) for name in public_names(imported))


@pytest.mark.parametrize("name", ["BGESparseEmbeddings", "BGEMilvusSparseEmbeddings", "BGELongContextChat"])
def test_langchain_imports_some_adapters_when_they_are_used(name):
    langchain = import_module("bge_integrations.langchain")
    assert name in dir(langchain)
    assert inspect.isclass(getattr(langchain, name))


def test_importing_the_package_loads_nothing_but_itself():
    code = """
import sys
before = set(sys.modules)
import bge_integrations
loaded = set(sys.modules) - before
print(*sorted(name for name in loaded if name.split(".")[0] not in sys.stdlib_module_names))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["bge_integrations"]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="load_nothing"):
        bge_integrations.load_nothing  # noqa: B018


def test_there_is_one_version(capsys):
    pyproject = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))
    assert pyproject["project"]["dynamic"] == ["version"]
    assert pyproject["tool"]["hatch"]["version"]["path"] == "bge_integrations/__init__.py"
    assert yaml.safe_load((PROJECT / "CITATION.cff").read_text("utf-8"))["version"] == bge_integrations.__version__
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bge {bge_integrations.__version__}\n"


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_name_targets_and_files_that_exist(workflow):
    jobs = yaml.safe_load(workflow.read_text("utf-8"))["jobs"].values()
    commands = "\n".join(step.get("run", "") for job in jobs for step in job["steps"])
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text("utf-8"), re.M)
    assert set(re.findall(r"\bmake ([a-z-]+)", commands)) <= set(targets)
    for path in re.findall(r"\b(?:tests|scripts)/[\w./-]*", commands):
        assert (PROJECT / path).exists(), path
