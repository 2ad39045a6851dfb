"""The codes of multi-vectors and max-sim over them, compared with plain numpy."""

import hashlib

import numpy as np
import pytest

from bge_integrations.errors import ClosedError
from bge_integrations.index import max_sim
from bge_integrations.index.codes import codec_of
from bge_integrations.index.max_sim import MaxSim

CODES = ("float32", "float16", "int8", "binary")
#: The largest error of a product of unit vectors of 256 dimensions.
ERRORS = {"float32": 1e-6, "float16": 5e-4, "int8": 3e-3, "binary": 0.2}


class Concatenated:
    """Documents' codes in memory, as `MaxSim.scores` reads them."""

    def __init__(self, documents):
        self.codes = np.concatenate(documents)
        self.offsets = np.cumsum([0, *map(len, documents)])

    def read(self, begin, codes):
        codes[:] = self.codes[begin : begin + len(codes)]


def unit(rng, count, width):
    vectors = rng.standard_normal((count, width), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def products(code, query, vectors):
    codec = codec_of(code, query.shape[1])
    found = codec.products(query)
    return found.multiply(codec.encode(vectors)) * found.scale[:, None]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(max_sim, "_BLOCK_ROWS", 64)
    monkeypatch.setattr(max_sim, "_CORES", 2)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("width", [1, 5, 12, 64, 256, 1024])
def test_sizes_and_products(code, width):
    rng = np.random.default_rng(width)
    query, vectors = unit(rng, 7, width), unit(rng, 40, width)
    codec = codec_of(code, width)
    codes = codec.encode(vectors)
    assert codes.dtype == np.uint8
    assert codes.shape == (40, codec.row_bytes)
    expected = {"float32": 4 * width, "float16": 2 * width, "int8": width + 4, "binary": -(-width // 8) + 4}
    assert codec.row_bytes == expected[code]
    found = products(code, query, vectors)
    assert found.shape == (7, 40)
    if width >= 256:
        np.testing.assert_allclose(found, query @ vectors.T, atol=ERRORS[code])


def test_integer_products_follow_their_formula():
    rng = np.random.default_rng(0)
    query, vectors = unit(rng, 5, 64), unit(rng, 30, 64) * rng.uniform(0.1, 9, (30, 1)).astype(np.float32)
    step = np.abs(vectors).max(axis=1, keepdims=True) / 127
    np.testing.assert_allclose(products("int8", query, vectors), query @ (np.rint(vectors / step) * step).T, atol=2e-3)
    # the code of a vector has the same product with the vector as the vector itself
    own = np.array([products("binary", v[None], v[None])[0, 0] for v in vectors])
    np.testing.assert_allclose(own, (vectors**2).sum(axis=1), rtol=0.02)


def test_binary_products_are_unbiased():
    rng = np.random.default_rng(1)
    vectors = unit(rng, 4000, 64)
    query = unit(rng, 1, 64)
    true = (query @ vectors.T)[0]
    found = products("binary", query, vectors)[0]
    slope = float((found @ true) / (true @ true))
    assert slope == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("width", [1, 12, 64, 250])
def test_decoded_vectors_have_the_products_of_their_codes(code, width):
    rng = np.random.default_rng(width)
    query, vectors = unit(rng, 7, width), unit(rng, 40, width)
    codec = codec_of(code, width)
    codes = codec.encode(vectors)
    decoded = codec.decode(codes)
    assert decoded.dtype == np.float32
    assert decoded.shape == vectors.shape
    error = 0.03 if code == "binary" else 1e-3  # binary products round the query to 8 bits
    np.testing.assert_allclose(query @ decoded.T, products(code, query, vectors), atol=error)
    if code != "binary":
        np.testing.assert_allclose(decoded, vectors, atol=ERRORS[code] * 2)


@pytest.mark.parametrize("code", CODES)
def test_zeros_and_large_vectors(code):
    vectors = np.zeros((3, 64), np.float32)
    vectors[1] = 1000
    found = products(code, np.array([[0.0] * 64, [1.0] * 64], np.float32), vectors)
    assert np.isfinite(found).all()
    assert not found[0].any()
    np.testing.assert_allclose(found[1], [0, 64_000, 0], rtol=0.2 if code == "binary" else 0.01, atol=1e-6)


def test_stored_codes_stay_readable():
    """Codes of this release must mean the same in every later one."""
    vectors = np.sin(np.arange(4 * 96, dtype=np.float64) * 1.7).reshape(4, 96).astype(np.float32)
    binary = codec_of("binary", 96).encode(vectors)
    assert hashlib.sha256(binary[:, :12].tobytes()).hexdigest()[:16] == "e405ab5388e8a829"
    assert hashlib.sha256(codec_of("int8", 96).encode(vectors)[:, :96].tobytes()).hexdigest()[:16] == "09926ad6c1174e2d"


@pytest.mark.parametrize("code", CODES)
def test_max_sim_of_documents_of_any_length(code, small_blocks):
    """Documents that are shorter and longer than a block score as in numpy."""
    rng = np.random.default_rng(3)
    documents = [unit(rng, n, 256) for n in (1, 63, 64, 65, 1, 300, 2, 500, 7)]
    query = unit(rng, 9, 256)
    codec = codec_of(code, 256)
    scorer = MaxSim(codec)
    found = scorer.scores(query, Concatenated([codec.encode(d) for d in documents]))
    scorer.close()
    by_code = [products(code, query, d).max(axis=1).sum() for d in documents]
    np.testing.assert_allclose(found, by_code, rtol=1e-5, atol=1e-6)
    exact = [(query @ d.T).max(axis=1).sum() for d in documents]
    np.testing.assert_allclose(found, exact, atol=9 * ERRORS[code])


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("width", [64, 384])
def test_a_score_does_not_depend_on_the_other_candidates(code, width):
    rng = np.random.default_rng(4)
    codec = codec_of(code, width)
    documents = [codec.encode(unit(rng, n, width)) for n in rng.integers(1, 700, 20)]
    query = unit(rng, 11, width)
    scorer = MaxSim(codec)
    together = scorer.scores(query, Concatenated(documents))
    for i in (0, 7, 19):
        assert scorer.scores(query, Concatenated([documents[i]]))[0] == together[i]
        assert scorer.scores(query, Concatenated([documents[3], documents[i]]))[1] == together[i]
    scorer.close()
    with pytest.raises(ClosedError):
        scorer.scores(query, Concatenated(documents))
