"""One warning per call of `add`, with the documents' ids."""

import pytest

from bge_integrations.errors import TruncationWarning
from bge_integrations.index import M3Index

TEXTS = [f"document {i} " + "word " * 600 * (i % 100 == 50) for i in range(300)]
IDS = [f"d{i}" for i in range(300)]


async def test_one_warning_names_all_truncated_documents(tmp_path):
    with M3Index.open(tmp_path / "index", model="pocket") as index:
        index.add([TEXTS[150]], ids=["d150"], on_truncate="ignore")  # not encoded again
        with pytest.warns(TruncationWarning) as caught:
            index.add(TEXTS[:200], ids=IDS[:200])
        with pytest.warns(TruncationWarning) as caught_later:
            await index.aadd(TEXTS[200:], ids=IDS[200:])
    (first,), (second,) = ([each.message for each in warned] for warned in (caught, caught_later))
    assert (first.ids, second.ids) == (("d50",), ("d250",))
    assert (first.count, first.total, second.total) == (1, 199, 100)
    assert caught[0].filename == __file__
