"""Pictures for notebooks: the numbers are the model's, and no text becomes markup."""

from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import BASE

from bge_integrations import load_embedder
from bge_integrations.embeddings_view import view_matches, view_scores, view_weights
from bge_integrations.errors import InvalidInputError, TruncationWarning
from bge_integrations.scoring import hybrid_scores

ATTACK = "<script>alert(1)</script> & \"quotes\" 'single' bamboo 竹子 🐼"


class Reader(HTMLParser):
    """Collects the tags, the text, and the titles of a picture."""

    def __init__(self, view):
        super().__init__()
        self.tags, self.text, self.titles = [], "", []
        self.feed(view._repr_html_())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        assert {name for name, _ in attributes} <= {"style", "title", "scope"}
        self.titles += [value for name, value in attributes if name == "title"]

    def handle_data(self, data):
        self.text += data


def test_words_have_the_models_weights(pocket):
    shown = Reader(view_weights(pocket, "pandas eat bamboo"))
    weights = pocket.encode(["pandas eat bamboo"], kind="passage", sparse=True).sparse[0].values
    assert shown.text == "pandas eat bamboo"
    assert sorted(map(float, shown.titles)) == pytest.approx(sorted(weights.tolist()), abs=6e-4)


def test_matches_are_the_similarities_of_the_tokens(pocket):
    shown = Reader(view_matches(pocket, "panda food", "pandas eat bamboo"))
    query = pocket.encode(["panda food"], kind="query", multi_vector=True).multi_vector[0][:-1]
    passage = pocket.encode(["pandas eat bamboo"], kind="passage", multi_vector=True).multi_vector[0][:-1]
    found = [float(title.rpartition(": ")[2]) for title in shown.titles]
    assert found == pytest.approx((query @ passage.T).ravel().tolist(), abs=6e-4)


def test_passages_are_in_the_order_of_their_scores(pocket):
    passages = ["Rome is in Italy.", "Pandas eat bamboo.", "A panda sleeps."]
    shown = Reader(view_scores(pocket, "What do pandas eat?", passages, weights=(0, 1, 0)))
    query, encoded = (
        pocket.encode(texts, kind=kind, sparse=True, multi_vector=True)
        for texts, kind in ((["What do pandas eat?"], "query"), (passages, "passage"))
    )
    order = np.argsort(-hybrid_scores(query, encoded).sparse[0], kind="stable")
    places = [shown.text.index(passages[i]) for i in order]
    assert places == sorted(places)


def test_no_text_becomes_markup(pocket):
    views = [view_weights(pocket, ATTACK), view_matches(pocket, ATTACK, ATTACK), view_scores(pocket, ATTACK, [ATTACK])]
    for view in views:
        shown = Reader(view)
        assert "script" not in shown.tags
        assert "bamboo" in shown.text
    assert Reader(views[0]).text == ATTACK


def test_empty_and_long_texts(pocket):
    assert Reader(view_weights(pocket, "")).text == ""
    assert Reader(view_scores(pocket, "q", [])).text == ""
    with pytest.raises(InvalidInputError):
        view_matches(pocket, "", "text")
    long = "panda " * 2000
    with pytest.warns(TruncationWarning):
        assert len(Reader(view_weights(pocket, long)).titles) == pocket.max_length - 2


def test_models_without_the_heads_are_refused():
    with load_embedder(BASE) as dense:
        for view in (lambda: view_weights(dense, "a"), lambda: view_matches(dense, "a", "b")):
            with pytest.raises(InvalidInputError):
                view()
