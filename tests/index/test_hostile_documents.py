"""Any ids, metadata and filters: they are kept as they are and found again, or refused, and nothing else changes."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bge_integrations.errors import InvalidInputError
from bge_integrations.index import M3Index

words = st.text(max_size=12)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), words)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=6
)
keys = st.one_of(
    words, st.sampled_from(["a", "a.b", '"a.b"', "$and", "$or", "$not", "$in", "$gt", "$contains", "$ids"])
)
conditions = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=2), max_leaves=6
)
examples = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def index(pocket, tmp_path_factory):
    with M3Index.open(tmp_path_factory.mktemp("hostile") / "index", pocket) as index:
        index.add(["A panda.", "A heron."], ["panda", "heron"], [{"a": 1, "b": ["x"]}, {"a": {"b": "x"}}])
        yield index


@examples
@given(identifier=words, metadata=st.dictionaries(words, values, max_size=3))
def test_documents_are_kept_as_they_are(index, identifier, metadata):
    kept = len(index)
    try:
        (added,) = index.add(["A bear."], [identifier], [metadata])
    except InvalidInputError:
        assert len(index) == kept
        return
    assert added == identifier
    (document,) = index.get([identifier])
    assert (document.id, document.text, document.metadata) == (identifier, "A bear.", metadata)
    assert [each.id for each in index.scan({"$ids": [identifier]})] == [identifier]
    assert index.delete([identifier]) == 1
    assert len(index) == kept


@examples
@given(filter=st.dictionaries(keys, conditions, max_size=2))
def test_filters_are_answered_or_refused(index, filter):
    try:
        found = {hit.id for hit in index.search("panda", filter=filter)}
    except InvalidInputError:
        return
    assert found == {document.id for document in index.scan(filter)}
    assert index.count(filter) == len(found)
    assert {document.id for document in index.scan({"$not": filter})} == {"panda", "heron"} - found
