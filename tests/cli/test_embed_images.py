"""`bge embed --image-field`: rows with texts, pictures or both."""

import io
import json
import shutil
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import CLIP, IMAGES

from bge_integrations.cli import main

ROWS = [
    {"text": "red"},
    {"image": "sub/shapes.png"},
    {"image": "grey.png", "text": "grey"},
    {"image": None, "text": "a"},
]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "rows"
    (folder / "sub").mkdir(parents=True)
    shutil.copy(IMAGES / "shapes.png", folder / "sub")
    shutil.copy(IMAGES / "grey.png", folder)
    return folder


@pytest.fixture(scope="module")
def expected(clip):
    shapes, grey = IMAGES / "shapes.png", IMAGES / "grey.png"
    return clip.encode(["red", {"image": shapes}, {"image": grey, "text": "grey"}, "a"]).dense


def test_jsonl_and_parquet_have_paths_relative_to_their_folder(folder, tmp_path, expected):
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    columns = {name: [row.get(name) for row in ROWS] for name in ("image", "text")}
    pq.write_table(pa.table(columns), folder / "in.parquet")
    for file in ("in.jsonl", "in.parquet"):
        out = tmp_path / f"{file}-out.parquet"
        assert main(["embed", str(folder / file), str(out), "--model", CLIP, "--image-field", "image"]) == 0
        table = pq.read_table(out)
        assert np.allclose(np.array(table["dense"].to_pylist()), expected, atol=1e-5)
        assert table["image"].to_pylist() == columns["image"]


def test_parquet_without_a_column_of_texts(folder, tmp_path, expected):
    pq.write_table(pa.table({"image": ["sub/shapes.png"]}), folder / "in.parquet")
    out = tmp_path / "out.jsonl"
    assert main(["embed", str(folder / "in.parquet"), str(out), "--model", CLIP, "--image-field", "image"]) == 0
    assert np.allclose(json.loads(out.read_text())["dense"], expected[1], atol=1e-5)


def test_standard_input_has_paths_relative_to_the_current_folder(folder, expected, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    stream = io.TextIOWrapper(io.BytesIO(json.dumps(ROWS[1]).encode()))
    monkeypatch.setattr(sys, "stdin", stream)
    assert main(["embed", "-", "-", "--model", CLIP, "--image-field", "image", "--quiet"]) == 0
    assert np.allclose(json.loads(capsys.readouterr().out)["dense"], expected[1], atol=1e-5)


@pytest.mark.parametrize(
    "row",
    [{"image": "missing.png"}, {"image": 3}, {"image": "in.jsonl"}, {"image": "grey.png", "text": 3}, {"picture": "a"}],
    ids=str,
)
def test_a_bad_row_is_named_before_anything_is_written(folder, tmp_path, capsys, row):
    (folder / "in.jsonl").write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(row) + "\n")
    out = tmp_path / "out.jsonl"
    assert main(["embed", str(folder / "in.jsonl"), str(out), "--model", CLIP, "--image-field", "image"]) == 1
    err = capsys.readouterr().err
    assert "line 2" in err or row["image"] in err
    assert sorted(tmp_path.iterdir()) == [folder]


def test_a_text_model_and_a_folder_as_output_are_refused(folder, tmp_path):
    (folder / "in.jsonl").write_text(json.dumps(ROWS[1]) + "\n")
    arguments = ["embed", str(folder / "in.jsonl"), "--image-field", "image", "--model"]
    assert main([*arguments, "pocket", str(tmp_path / "out.jsonl")]) == 1
    assert main([*arguments, str(CLIP), f"{tmp_path / 'out'}/"]) == 1
    assert sorted(tmp_path.iterdir()) == [folder]
