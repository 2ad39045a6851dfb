"""CSV, JSON and JSON Lines become text in which each row or value says what it is."""

import csv
import json

import pytest

from bge_integrations.documents import read_file, read_passages
from bge_integrations.errors import UnreadableFileError


def text_of(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return read_file(file)[1][None]


CSV = [
    ("Animal,Food\nPanda,bamboo\n", "Animal: Panda; Food: bamboo"),
    ('Tier;Preis\r\n"Bär; braun";"3,5"\r\n', "Tier: Bär; braun; Preis: 3,5"),
    ('a\tb\n"x\ny"\t"say ""hi"""\n', 'a: x y; b: say "hi"'),
    ("动物|食物\n大熊猫|竹子\n", "动物: 大熊猫; 食物: 竹子"),
    ("1,2\n3,4\n", "1; 2\n3; 4"),
    ("Animals of 2020\n\nAnimal,Food\nPanda,\n,bamboo\n", "Animals of 2020\nAnimal: Panda\nFood: bamboo"),
    ("one\ntwo\n", "one\ntwo"),
    ("only,a header\n\n", "only; a header"),
    ("a,b\n1,2,3\n", "a: 1; b: 2; 3"),
    ("sep=;\r\na;b\r\nx,1;y\r\n", "a: x,1; b: y"),
    ("text\nhello, world\nbye, now\n", "text\nhello, world\nbye, now"),
    ('a, b\n1, "x, y"\n', "a: 1; b: x, y"),
    ("a;b\r1;2\r", "a: 1; b: 2"),
]


@pytest.mark.parametrize(("content", "text"), CSV)
def test_rows_of_csv(tmp_path, content, text):
    assert text_of(tmp_path, "a.csv", content) == text


def test_csv_of_excel_in_other_encodings(tmp_path):
    rows = "Tier;Futter\nBär;Honig\nKäfer;Blätter\nGrünspecht;Würmer\n"
    wanted = "Tier: Bär; Futter: Honig\nTier: Käfer; Futter: Blätter\nTier: Grünspecht; Futter: Würmer"
    for encoding in ("utf-8-sig", "utf-16", "cp1252"):
        assert text_of(tmp_path, "a.csv", rows.encode(encoding)) == wanted


def test_a_cell_longer_than_the_limit_of_csv(tmp_path):
    limit = csv.field_size_limit()
    assert len(text_of(tmp_path, "a.csv", f"a,b\n{'x' * 300_000},{'y' * 300_000}\n")) == 600_008
    assert csv.field_size_limit() == limit


def test_rows_stay_whole(tmp_path, pocket):
    rows = "\n".join(f"Animal {i},eats {i} kilograms" for i in range(200))
    (tmp_path / "a.csv").write_text(f"Animal,Food\n{rows}\n")
    found = list(read_passages(tmp_path, pocket, passage_tokens=64))
    assert len(found) > 10
    assert all(line.count("Animal: ") == line.count("; Food: ") == 1 for p in found for line in p.text.splitlines())


JSON = [
    ({"a": {"b": [1, 2.5, "x"], "c": None}, "d": True}, "a.b: 1, 2.5, x\nd: true"),
    ([{"name": "Panda", "food": "竹子"}, {"name": "Owl"}], "name: Panda\nfood: 竹子\n\nname: Owl"),
    ({"pages": [{"text": "One.\n\nTwo."}, [1, [2]]]}, "pages.text: One.\n\nTwo.\n\npages: 1\n\npages: 2"),
    ("only a string", "only a string"),
    ({"half": "a\ud800b"}, "half: a\ufffdb"),
]


@pytest.mark.parametrize(("value", "text"), JSON)
def test_json_as_paths_and_values(tmp_path, value, text):
    assert text_of(tmp_path, "a.json", json.dumps(value)) == text


def test_each_record_of_json_lines_begins_a_passage(tmp_path, pocket):
    records = [{"name": f"Animal {i}", "food": "bamboo"} for i in range(5)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n\n")
    found = list(read_passages(tmp_path, pocket))
    assert [passage.text for passage in found] == [f"name: Animal {i}\nfood: bamboo" for i in range(5)]
    whole = read_file(tmp_path / "a.jsonl")[1][None]
    assert all(whole[passage.start :].startswith(passage.text) for passage in found)


def test_json_lines_in_a_json_file(tmp_path):
    assert text_of(tmp_path, "a.json", '{"a": 1}\n{"a": 2}\n') == "a: 1\n\na: 2"


BAD = {
    "lines.json": b'{"a": 1}\n{"a": \n',
    "a.json": b"{",
    "b.json": b"[" * 100_000,
    "c.json": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "d.jsonl": b'{"a": 1}\nnot json\n',
    "e.json": b"{}",
    "f.csv": b"",
    "g.json": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_files_are_named(tmp_path, name):
    with pytest.raises(UnreadableFileError) as caught:
        text_of(tmp_path, name, BAD[name])
    assert name in str(caught.value)
    if name == "d.jsonl":
        assert "line 2" in str(caught.value)


def test_long_paths_do_not_multiply(tmp_path):
    value = {"k" * 50_000: {f"name{i}": i for i in range(2000)}}
    assert len(text_of(tmp_path, "a.json", json.dumps(value))) < 2000 * 300
