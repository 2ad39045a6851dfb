"""The repr of a result shows its sizes, not its numbers."""

from bge_integrations.outputs import Embeddings, MultiVectors, SparseVectors


def test_results_have_a_compact_repr(m3):
    out = m3.encode(["a text", "another one"], sparse=True, multi_vector=True)
    assert repr(out).startswith("Embeddings(dense=float32 (2, 64), sparse=SparseVectors(2 texts, ")
    assert repr(out.sparse[0]) == f"SparseVector({len(out.sparse[0].indices)} weights)"
    assert repr(out.multi_vector) == f"MultiVectors(2 texts, {len(out.multi_vector.vectors)} vectors of 64)"
    assert repr(m3.encode(["a"])) == "Embeddings(dense=float32 (1, 64))"


def test_empty_results_have_a_repr_too():
    empty = Embeddings(sparse=SparseVectors.from_rows([], 10), multi_vector=MultiVectors.from_rows([], 4))
    assert repr(empty) == (
        "Embeddings(sparse=SparseVectors(0 texts, 0 weights), multi_vector=MultiVectors(0 texts, 0 vectors of 4))"
    )
