"""Passages that are no language at all are recognised and counted."""

import base64
import random

import pytest

from bge_integrations.documents.encoded_data import is_encoded_data
from bge_integrations.documents.folder import follow_folder
from bge_integrations.index import M3Index

BASE64 = base64.b64encode(random.Random(0).randbytes(3000)).decode()
MINIFIED = (
    'function(e,t){"use strict";var n=t[0],r=e.exports;for(var i=0;i<n.length;i++)r[n[i]]=function(){return i}};' * 4
)


@pytest.mark.parametrize(
    "text", [BASE64, BASE64.encode().hex(), "\n".join([BASE64[:76]] * 9), MINIFIED, '{"a":[1,2],"b":3},' * 40]
)
def test_data(text):
    assert is_encoded_data(text)


@pytest.mark.parametrize(
    "text",
    [
        "Pandas eat bamboo.",
        "Die Rindfleischetikettierungsüberwachung ist ein langes Wort. " * 5,
        "大熊猫吃竹子，生活在中国西部的山区。" * 30,
        "แพนด้ากินไผ่และอาศัยอยู่ในภูเขาของจีน" * 30,
        "https://example.org/a/long/address/of/a/page/with/seventy/characters\n" * 20,
        "def eat(food):\n    return food * 2\n" * 20,
        "| Animal | Food |\n|---|---|\n| Panda | bamboo |\n" * 10,
        "",
    ],
)
def test_language_and_code(text):
    assert not is_encoded_data(text)


def test_an_index_counts_them(tmp_path, pocket):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_text(f"Pandas eat bamboo.\n\n{BASE64}\n")
    (folder / "b.txt").write_text("Owls hunt at night.")
    with M3Index.open(tmp_path / "index", pocket) as index:
        changes = follow_folder(index, folder)
        assert 1 < changes.encoded_data < changes.passages
        assert follow_folder(index, folder).encoded_data == changes.encoded_data
