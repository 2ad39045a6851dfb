"""Every family has a row in the table, and every supported family's row runs its oracle checkpoint."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from conftest import CHECKPOINTS

from bge_integrations.catalog import FAMILIES, SUPPORTED_FAMILIES, Family
from bge_integrations.models.interface import OutputSpec, TokenSequence
from bge_integrations.models.loading import load_model

#: A checkpoint of each supported family, and the requested output.
ORACLES = {
    "encoder": ("bge-base-en-v1.5", OutputSpec(pooling="cls")),
    "m3": ("bge-m3", OutputSpec(pooling="cls", sparse=True, multi_vector=True)),
    "decoder": ("bge-multilingual-gemma2", OutputSpec(pooling="last_token")),
    "bidirectional_decoder": ("bge-reranker-v2-gemma", OutputSpec(pooling="last_token")),
    "visualized": ("../vision/checkpoints/visualized-m3", OutputSpec(pooling="cls")),
    "clip": ("../vision/checkpoints/bge-vl-clip", OutputSpec(pooling="last_token")),
    "icl": ("bge-en-icl", OutputSpec(pooling="last_token")),
    "cross_encoder": ("bge-reranker-v2-m3", OutputSpec(logit=True)),
    "llm_reranker": ("bge-reranker-v2-gemma", OutputSpec(logit=True)),
    "chat_reranker": ("bge-reranker-v2-gemma", OutputSpec(logit=True)),
    "layerwise_reranker": ("bge-reranker-v2-minicpm-layerwise", OutputSpec(logit=True, cutoff_layers=(3, 6))),
    "lightweight_reranker": ("bge-reranker-v2.5-gemma2-lightweight", OutputSpec(logit=True, cutoff_layers=(5,))),
}


def sequence(*ids: int) -> TokenSequence:
    return TokenSequence(np.array(ids, np.int32))


def test_every_family_has_a_row():
    assert set(FAMILIES) == set(get_args(Family))
    assert set(ORACLES) == SUPPORTED_FAMILIES


def test_rows_are_consistent():
    for family, traits in FAMILIES.items():
        scores = traits.head in ("classification", "yes", "yes_no", "layerwise")
        assert scores == (traits.kind == "reranker"), family
        assert bool(traits.prompt) == (scores and traits.backbone == "decoder"), family
        assert (traits.chat is not None) == (traits.head == "yes_no"), family
        assert traits.has_cutoffs == (traits.head == "layerwise"), family


@pytest.mark.parametrize("family", sorted(SUPPORTED_FAMILIES))
def test_a_model_implements_the_interface(family):
    """It returns one output per sequence, in order, for any lengths, and the same as for each sequence alone."""
    folder, spec = ORACLES[family]
    model = load_model(CHECKPOINTS / folder, family, "cpu", "float32", None, "torch")
    assert model.max_length > 8
    assert model.vocabulary_size >= model.tokenizer.vocabulary_size
    assert (model.multi_vector_size > 0) == spec.multi_vector
    assert model.is_causal == FAMILIES[family].is_causal
    given = [sequence(5, 6), sequence(5, 7, 8, 9, 10, 11), sequence(6, 9, 7), sequence(8, 7), sequence(9, 5, 6, 7, 8)]
    if images := model.image_format:
        pixels = np.random.default_rng(0).integers(0, 256, (2, 3, images.size, images.size), np.uint8)
        given += [replace(sequence(5, 7, 6), pixels=each, image_tokens=images.tokens) for each in pixels]
    passed = []
    outputs = model.run(given, spec, lambda: passed.append(1))
    assert passed
    for each, together in zip(given, outputs, strict=True):
        (alone,) = model.run([each], spec, lambda: None)
        assert together.is_finite()
        for name in ("dense", "multi_vector", "logit"):
            one, other = getattr(alone, name), getattr(together, name)
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
        if spec.pooling:
            assert together.dense.shape == (model.hidden_size,)
        if spec.multi_vector:
            assert together.multi_vector.shape == (len(each) - 1, model.multi_vector_size)
            assert set(together.sparse.indices) <= set(each.ids)


def test_an_exception_between_layers_ends_the_run():
    model = load_model(CHECKPOINTS / "bge-base-en-v1.5", "encoder", "cpu", "float32", None, "torch")

    def stop():
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        model.run([sequence(5, 6)], OutputSpec(pooling="cls"), stop)
