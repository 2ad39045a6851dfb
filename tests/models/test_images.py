"""Visualized-BGE and BGE-VL agree with the reference on texts, images and both, and refuse what can't be an image."""

import hashlib
import io
import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BASE, M3, ORACLE, assert_close
from PIL import Image

from bge_integrations import load_embedder
from bge_integrations.core import image_inputs
from bge_integrations.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    InvalidInputError,
    NotSupportedError,
    TextTooLongError,
    TruncationWarning,
    UnknownModelError,
)
from bge_integrations.models.patches import normalized

VISION = ORACLE / "vision"
IMAGES = VISION / "images"
EXPECTED = json.loads((VISION / "expected.json").read_text("utf-8"))
MODELS = list(EXPECTED["models"])
TEXTS = EXPECTED["texts"]
SHAPES = IMAGES / "shapes.png"


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    """An image model of each kind, and its expected outputs."""
    with load_embedder(VISION / "checkpoints" / request.param) as embedder:
        yield embedder, EXPECTED["models"][request.param]


@pytest.fixture(scope="module")
def visualized():
    with load_embedder(VISION / "checkpoints" / "visualized-base") as embedder:
        yield embedder


def test_texts_images_and_both_agree_with_the_reference(case):
    embedder, expected = case
    assert embedder.takes_images
    inputs, vectors = list(TEXTS), list(expected["text"]["emb"])
    for name, image in expected["image"].items():
        inputs.append({"image": IMAGES / name})
        vectors.append(image["emb"])
    for both in expected["composed"]:
        inputs.append({"image": str(IMAGES / both["image"]), "text": TEXTS[both["text"]]})
        vectors.append(both["emb"])
    together = embedder.encode(inputs).dense
    assert_close(together, vectors)
    for i in (0, len(TEXTS), len(inputs) - 1):
        assert_close(embedder.encode([inputs[i]]).dense[0], vectors[i])


def test_the_pixels_are_exactly_the_references(case):
    embedder, expected = case
    for name, image in expected["image"].items():
        with Image.open(IMAGES / name) as opened:
            pixels = embedder._image_format.pixels(opened)
        found = normalized([pixels], torch.device("cpu"))[0].numpy()
        assert hashlib.sha256(found.tobytes()).hexdigest() == image["pixels"]["sha256"], name


def test_a_long_text_is_cut_where_the_reference_cuts_it(case):
    embedder, expected = case
    both = {"image": IMAGES / expected["long"]["composed_image"], "text": EXPECTED["long_text"]}
    with pytest.warns(TruncationWarning, match="2 of 2"):
        found = embedder.encode([EXPECTED["long_text"], both]).dense
    values = expected["long"].get("77", expected["long"])
    assert_close(found, [values["text_emb"], values["composed_emb"]])
    if "75" in expected["long"]:
        shorter = embedder.encode([both], max_length=75, on_truncate="ignore").dense[0]
        assert_close(shorter, expected["long"]["75"]["composed_emb"])
    with pytest.raises(TextTooLongError):
        embedder.encode([both], on_truncate="error")


def test_an_image_with_an_empty_text():
    for name, is_same in (("visualized-m3", True), ("bge-vl-clip", False)):
        with load_embedder(VISION / "checkpoints" / name) as embedder:
            found = embedder.encode([{"image": SHAPES}, {"image": SHAPES, "text": ""}]).dense
            assert np.allclose(found[0], found[1], atol=1e-6) is is_same, name


def test_an_image_can_be_a_path_bytes_a_pil_image_or_an_array(case):
    embedder, expected = case
    opened = Image.open(SHAPES)
    images = [str(SHAPES), SHAPES, SHAPES.read_bytes(), bytearray(SHAPES.read_bytes()), opened, np.asarray(opened)]
    for vector in embedder.encode([{"image": image} for image in images]).dense:
        assert_close(vector, expected["image"]["shapes.png"]["emb"])
    with Image.open(IMAGES / "grey.png") as opened:
        grey = np.asarray(opened)
    both = embedder.encode([{"image": grey}, {"image": grey[..., None]}]).dense
    assert_close(both, [expected["image"]["grey.png"]["emb"]] * 2)


async def test_the_event_loop_gets_the_same_vectors(case):
    embedder, expected = case
    output = await embedder.aencode(["a", {"image": SHAPES}, {"text": TEXTS[0]}])
    assert_close(output.dense[1], expected["image"]["shapes.png"]["emb"])
    assert_close(output.dense[2], expected["text"]["emb"][0])


def test_more_images_than_a_chunk_holds(case, monkeypatch):
    embedder, expected = case
    names = list(expected["image"])
    inputs = [{"image": IMAGES / name} for name in names] + ["a"]
    alone = embedder.encode(inputs).dense
    monkeypatch.setattr("bge_integrations.core.embedder.CHUNK", 3)
    assert_close(embedder.encode(inputs).dense, alone)
    assert_close(alone[-1], expected["text"]["emb"][TEXTS.index("a")])


@pytest.mark.parametrize(("dtype", "least"), [("bfloat16", 0.99), ("int8", 0.98)])
def test_lower_precision_is_close(case, dtype, least):
    embedder, _ = case
    inputs = [TEXTS[0], {"image": SHAPES}, {"image": SHAPES, "text": TEXTS[1]}]
    with load_embedder(embedder.source, dtype=dtype) as other:
        cosines = (embedder.encode(inputs).dense * other.encode(inputs).dense).sum(1)
    assert least < cosines.min()
    assert cosines.max() < 1.0001


def test_truncated_and_unnormalized_vectors(case):
    embedder, expected = case
    with load_embedder(embedder.source, truncate_dim=8) as short:
        found = short.encode([{"image": SHAPES}]).dense[0]
    vector = np.array(expected["image"]["shapes.png"]["emb"])[:8]
    assert_close(found, vector / np.linalg.norm(vector))
    raw = embedder.encode([{"image": SHAPES}], normalize=False).dense[0]
    assert_close(raw / np.linalg.norm(raw), expected["image"]["shapes.png"]["emb"])
    assert not np.isclose(np.linalg.norm(raw), 1)


def test_tokens_are_counted_with_those_of_the_image(visualized):
    alone, image, both = visualized.count_tokens(["a", {"image": SHAPES}, {"image": SHAPES, "text": "a"}])
    assert (alone, image, both) == (3, 2 + 16, 3 + 16)


def test_texts_that_are_too_long_are_found_also_beside_an_image(case):
    embedder, _ = case
    long = "red " * (embedder.max_length + 1)
    inputs = ["red", long, {"image": SHAPES}, {"image": SHAPES, "text": long}, {"image": SHAPES, "text": "red"}]
    assert embedder.too_long(inputs) == [1, 3]
    assert embedder.too_long([]) == []
    with pytest.raises(InvalidInputError, match=r"texts\[1\]"):
        embedder.too_long(["red", {"image": b"not an image"}])


def png(width: int, height: int) -> bytes:
    """Return a PNG whose header promises this size; its pixels are missing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def encoded(image: Image.Image, file_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


BROKEN = {
    "empty": b"",
    "text": b"not an image",
    "cut short": SHAPES.read_bytes()[:-300],
    "a cut JPEG": (IMAGES / "turned.jpg").read_bytes()[:200],
    "no pixels": png(64, 64),
    "a bomb": png(60_000, 60_000),
    "too large": png(10_000, 9_000),
    "too narrow": encoded(Image.new("1", (1, 60_000)), "PNG"),
    "PostScript": encoded(Image.new("RGB", (32, 32)), "EPS"),
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", BROKEN)
def test_a_damaged_or_hostile_image_is_named(visualized, kind, tmp_path):
    file = tmp_path / "picture.png"
    file.write_bytes(BROKEN[kind])
    if kind == "too narrow":  # its shorter side would become 64 pixels, and the other one 3.8 million
        assert 60_000 < image_inputs.MAX_PIXELS < 64 * 64 * 60_000
    for image, shown in ((BROKEN[kind], "texts[1]"), (file, "picture.png")):
        with pytest.raises(InvalidInputError) as caught:
            visualized.encode(["fine", {"image": image, "text": "a"}])
        assert "texts[1]" in str(caught.value)
        assert kind in ("a bomb", "too large", "too narrow") or shown in str(caught.value)
    assert len(visualized.encode(["fine", {"image": SHAPES}]).dense) == 2


@pytest.mark.parametrize(
    "value",
    [
        3,
        None,
        b"text",
        {},
        {"image": None},
        {"text": None},
        {"text": 3},
        {"text": "\ud800"},
        {"image": SHAPES, "caption": "a"},
        {"image": 3},
        {"image": [SHAPES]},
        {"image": "missing.png"},
        {"image": "a\0b"},
        {"image": "iVBORw0KGgo" * 1000},
        {"image": "/dev/zero"},
        {"image": str(IMAGES)},
        {"image": "https://example.com/a.png"},
        {"image": "data:image/png;base64,AAAA"},
        {"image": np.zeros((4, 4, 3))},
        {"image": np.zeros((4, 4, 2), np.uint8)},
        {"image": np.zeros((0, 4, 3), np.uint8)},
        {"image": np.zeros(4, np.uint8)},
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_neither_text_nor_image_is_refused(visualized, value):
    with pytest.raises(InvalidInputError, match=r"texts\[1\]"):
        visualized.encode(["fine", value])


@pytest.mark.parametrize("values", ["text", {"image": SHAPES}, b"bytes", 3])
def test_one_input_instead_of_a_list_is_refused(visualized, values):
    with pytest.raises(InvalidInputError):
        visualized.encode(values)
    assert visualized.encode([]).dense.shape == (0, 48)


def test_a_text_model_takes_no_images():
    with load_embedder(BASE) as embedder, pytest.raises(InvalidInputError, match=r"texts\[0\]"):
        embedder.encode([{"image": SHAPES}])


def test_a_file_that_is_too_large_is_not_read(visualized, monkeypatch):
    monkeypatch.setattr(image_inputs, "MAX_BYTES", 100)
    for image in (SHAPES, SHAPES.read_bytes()):
        with pytest.raises(InvalidInputError, match=r"texts\[0\].*\b100\b"):
            visualized.encode([{"image": image}])


def test_an_image_leaves_no_room_for_a_text(visualized):
    with pytest.raises(InvalidInputError, match="max_length"):
        visualized.encode([{"image": SHAPES, "text": "a"}], max_length=2)


def test_an_image_model_has_dense_vectors_only(case):
    embedder, _ = case
    with pytest.raises(InvalidInputError):
        embedder.encode(["a"], sparse=True)


def test_clip_reads_the_first_end_token():
    """A text may contain the end token itself. The reference reads the first one, which sees nothing after it."""
    texts = ["a red square <|endoftext|> on a blue ground", "<|endoftext|>", "<|endoftext|> a red square"]
    with load_embedder(VISION / "checkpoints" / "bge-vl-clip") as embedder:
        vectors = embedder.encode([*texts, "a red square", ""]).dense
        assert_close(vectors[:3], vectors[[3, 4, 4]])
        assert_close(
            embedder.encode([{"image": SHAPES, "text": texts[0]}]).dense,
            embedder.encode([{"image": SHAPES, "text": "a red square"}]).dense,
        )
        assert not np.allclose(vectors[3], vectors[4], atol=1e-2)


def test_bge_vls_sentence_transformers_files_are_read_without_their_code(tmp_path):
    folder = shutil.copytree(VISION / "checkpoints" / "bge-vl-clip", tmp_path / "BGE-VL-base")
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "bge_vl_clip_transformer.BGEVLCLIPTransformer"},
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "bge_vl_clip_transformer.py").write_text("raise SystemExit('never run')")
    with load_embedder(folder) as embedder:
        assert embedder.name == "BAAI/BGE-VL-base"
        assert_close(embedder.encode(["a"]).dense[0], EXPECTED["models"]["bge-vl-clip"]["text"]["emb"][-1])


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"hidden_act": "gelu"}, NotSupportedError),
        ({"num_attention_heads": 5}, CheckpointError),
        ({"num_attention_heads": "4"}, CheckpointError),
        ({"layer_norm_eps": 7}, CheckpointError),
    ],
)
@pytest.mark.parametrize("tower", ["text_config", "vision_config"])
def test_a_clip_config_that_does_not_fit_is_refused(tmp_path, tower, changes, error):
    folder = shutil.copytree(VISION / "checkpoints" / "bge-vl-clip", tmp_path / "clip")
    config = json.loads((folder / "config.json").read_text())
    config[tower] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(error):
        load_embedder(folder)


def test_weights_that_do_not_belong_together_are_refused(tmp_path):
    folder = shutil.copytree(VISION / "checkpoints" / "visualized-base", tmp_path / "bge-visualized-base-en-v1.5")
    file = folder / "Visualized_base_en_v1.5.pth"
    state = torch.load(file, weights_only=True)
    for name, changed in (
        ("model_visual.visual.pos_embed", torch.zeros(1, 16, 48)),
        ("visual_proj.weight", torch.zeros(48, 32)),
        ("model_visual.visual.blocks.0.mlp.w3.weight", None),
    ):
        damaged = {**state, name: changed} if changed is not None else {k: v for k, v in state.items() if k != name}
        torch.save(damaged, file)
        with pytest.raises(CheckpointError):
            load_embedder(folder)
    torch.save(state, file)
    shutil.copy(file, folder / "Visualized_m3.pth")
    with pytest.raises(CheckpointError, match="Visualized_m3"):
        load_embedder(folder)
    (folder / "Visualized_m3.pth").unlink()
    shutil.copy(Path(BASE) / "model.safetensors", folder)  # the text model's own weights
    with pytest.raises(CheckpointError, match="text model"):
        load_embedder(folder)


def cached(cache: Path, repository: str, files: list[Path]) -> Path:
    """Put files into a hub cache as a repository's only revision; return its folder."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("1" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("1" * 40)
    for file in files:
        shutil.copy(file, snapshot)
    return folder


def test_files_of_two_repositories_become_one_checkpoint(tmp_path):
    """The weights come from BAAI/bge-visualized, config and tokenizer from the text model's repository."""
    source = VISION / "checkpoints" / "visualized-m3"
    where = {"cache_folder": str(tmp_path), "local_files_only": True}
    with pytest.raises(CheckpointNotFoundError, match="BAAI/bge-visualized:"):
        load_embedder("BAAI/bge-visualized-m3", **where)
    folder = cached(tmp_path, "BAAI/bge-visualized", [source / "Visualized_m3.pth"])
    with pytest.raises(CheckpointNotFoundError, match="BAAI/bge-m3:"):
        load_embedder("BAAI/bge-visualized-m3", **where)
    others = [file for file in source.iterdir() if file.suffix != ".pth"]
    text_weights = Path(M3) / "model.safetensors"  # must not be mistaken for the image model's
    cached(tmp_path, "BAAI/bge-m3", [*others, text_weights])
    for name in ("BAAI/bge-visualized-m3", "bge-visualized-m3"):
        with load_embedder(name, **where) as embedder:
            found = embedder.encode([{"image": SHAPES}]).dense[0]
            assert_close(found, EXPECTED["models"]["visualized-m3"]["image"]["shapes.png"]["emb"])
            again = embedder.source
    linked = {file.name for file in folder.glob("bge_integrations/*/bge-visualized-m3/*")}
    assert linked == {file.name for file in source.iterdir()}
    with load_embedder(again) as embedder:
        assert embedder.name == "BAAI/bge-visualized-m3"


def test_the_repository_of_both_models_is_not_a_model():
    with pytest.raises(UnknownModelError, match="bge-visualized-m3"):
        load_embedder("BAAI/bge-visualized")
    with pytest.raises(CheckpointNotFoundError, match="BAAI/bge-visualized"):
        load_embedder("BAAI/bge-visualized-m3", local_files_only=True, cache_folder="nowhere")
