"""The contract can fail: the promises that LlamaIndex's existing integrations break."""

import asyncio
import gc
import inspect
from importlib.metadata import version
from typing import Any, ClassVar
from unittest.mock import patch

import pytest
from conftest import BASE, RERANKER
from llama_index.core import MockEmbedding
from llama_index.core.postprocessor import SentenceTransformerRerank
from llama_index_contract import EmbeddingContract, NodePostprocessorContract
from packaging.version import Version

pytest.importorskip("sentence_transformers")
pytest.importorskip("FlagEmbedding")
hugging_face = pytest.importorskip("llama_index.embeddings.huggingface")
hugging_face_utils = pytest.importorskip("llama_index.embeddings.huggingface.utils")
flag_embedding = pytest.importorskip("llama_index.postprocessor.flag_embedding_reranker")


class HuggingFace(EmbeddingContract):
    """`HuggingFaceEmbedding`; the checkpoint has a name that it recognises as a BGE model."""

    changes: ClassVar = {
        "query_instruction": "Represent: ",
        "text_instruction": "Represent: ",
        "normalize": False,
        "max_length": 8,
        "truncate_dim": 16,
    }
    with_query_instruction: ClassVar = {}
    without_query_instruction: ClassVar = {"query_instruction": ""}
    broken: ClassVar = {
        # The constructor passes other arguments, including num_workers and embeddings_cache, to SentenceTransformer.
        "test_the_fields_of_base_embedding_are_arguments",
        "test_async_with_num_workers_equals_sync",
        "test_dict_round_trip",
        "test_dict_round_trip_with_workers_and_batch_size",
        "test_json_round_trip",
        "test_a_dict_twin_has_the_same_cache_key",
        # "" is treated as "not given", so a BGE model's own instruction comes back.
        "test_the_query_instruction_can_be_switched_off",
        # truncate_dim goes to SentenceTransformer and is not a field.
        "test_a_change_of_the_vectors_changes_the_cache_key",
        # The cache key is only the text: not the kind (query or document), the model or the settings.
        "test_cache_after_a_document_a_query_gets_its_own_vector",
        "test_cache_after_a_query_a_document_gets_its_own_vector",
        "test_cache_set_later_keeps_queries_and_documents_apart",
        "test_cache_shared_by_different_settings",
        # The cache is an ordinary field, but not serialisable as JSON.
        "test_json_round_trip_with_an_embeddings_cache",
        "test_settings_hold_no_object_repr_with_an_embeddings_cache",
        # The SentenceTransformer is pickled with its weights.
        "test_a_pickle_holds_no_weights",
        # Every failing call is tried three times, 4 s apart.
        "test_none_is_refused_at_once",
        "test_a_number_is_refused_at_once",
        "test_a_lone_surrogate_is_refused_at_once",
    }

    def make(self, **fields: Any):
        with patch.object(hugging_face_utils, "BGE_MODELS", (BASE,)):
            return hugging_face.HuggingFaceEmbedding(**{"model_name": BASE, "device": "cpu", **fields})

    def make_cached(self, store, **fields):
        model = self.make(**fields)
        model.embeddings_cache = store
        return model


class Mock(EmbeddingContract):
    """`MockEmbedding`, which shows the promises that `BaseEmbedding` itself breaks."""

    changes: ClassVar = {"embed_dim": 16}
    broken: ClassVar = {
        # Every vector is the same, and there is no model.
        "test_different_texts_have_different_vectors",
        "test_model_name_is_reported",
        # BaseEmbedding ignores unknown arguments.
        "test_an_unknown_argument_is_refused",
        # BaseEmbedding's async methods call the sync ones in the loop.
        "test_async_does_not_block_the_loop",
        # BaseEmbedding's cache: see above.
        "test_cache_shared_by_different_settings",
        "test_json_round_trip_with_an_embeddings_cache",
        "test_settings_hold_no_object_repr_with_an_embeddings_cache",
        # Nothing checks the text; only the end event rejects values that are not a str.
        "test_a_lone_surrogate_is_refused_at_once",
    }

    def make(self, **fields):
        return MockEmbedding(**{"embed_dim": 8, **fields})


class SentenceTransformers(NodePostprocessorContract):
    """`SentenceTransformerRerank`."""

    broken: ClassVar = {
        # Scores are numpy.float32.
        "test_scores_are_python_floats",
        # New scores and retrieval_score are written into the nodes passed in.
        "test_nodes_passed_in_are_not_changed",
        "test_nodes_passed_in_are_not_changed_when_the_retrieval_score_is_kept",
        # retrieval_score becomes part of the text: the LLM sees it, and the next reranking scores it.
        "test_retrieval_score_stays_out_of_the_text",
        "test_reranking_again_gives_the_same_scores",
        # It sends no instrumentation events, and no callback if there are no nodes.
        "test_events_start_and_end",
        "test_events_start_and_end_in_async_calls",
        "test_no_nodes_start_and_end_an_event",
        "test_no_nodes_start_and_end_a_callback",
        # The constructor leaves out the base class's field.
        "test_callback_manager_is_an_argument",
        # The CrossEncoder is pickled with its weights.
        "test_a_pickle_holds_no_weights",
    }

    def make(self, **fields):
        return SentenceTransformerRerank(**{"model": RERANKER, "device": "cpu", **fields})


class Flag(NodePostprocessorContract):
    """`FlagEmbeddingReranker`."""

    broken: ClassVar = {
        # New scores are written into the nodes passed in, so the start event shows them too.
        "test_nodes_passed_in_are_not_changed",
        "test_events_start_and_end",
        # It has no keep_retrieval_score.
        "test_nodes_passed_in_are_not_changed_when_the_retrieval_score_is_kept",
        "test_retrieval_score_is_kept",
        "test_retrieval_score_stays_out_of_the_text",
        "test_reranking_again_gives_the_same_scores",
        # It returns or raises between the start event and the end event; the callback comes even later.
        "test_no_nodes_start_and_end_an_event",
        "test_no_nodes_start_and_end_a_callback",
        "test_no_query_leaves_no_event_open",
        # The constructor leaves out the base class's field.
        "test_callback_manager_is_an_argument",
        # The FlagReranker is pickled with its weights.
        "test_a_pickle_holds_no_weights",
    }

    def make(self, **fields):
        return flag_embedding.FlagEmbeddingReranker(**{"model": RERANKER, **fields})


def broken_promises(contract: type) -> dict[str, str]:
    """Return {name: error} of the contract's tests that fail."""
    broken = {}
    for name in [name for name in dir(contract) if name.startswith("test_")]:
        try:
            outcome = getattr(contract(), name)()
            if inspect.iscoroutine(outcome):
                asyncio.run(outcome)
        except pytest.skip.Exception:
            continue
        except (Exception, pytest.fail.Exception) as error:
            broken[name] = f"{type(error).__name__}: {error}"
    return broken


@pytest.fixture
def quick_collections():
    """Freeze existing objects: FlagReranker runs the garbage collector each time one is deleted."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.skipif(Version(version("llama-index-core")) < Version("0.14.25"), reason="the tables are of today's parts")
@pytest.mark.usefixtures("quick_collections")
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("contract", [HuggingFace, Mock, SentenceTransformers, Flag])
def test_exactly_these_promises_are_broken(contract, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = broken_promises(contract)
    assert found.keys() == contract.broken, found
