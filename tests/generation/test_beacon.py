"""Activation Beacon gives what the reference gave on the oracle's checkpoints: logits, tokens, and what is kept."""

import json
import shutil

import pytest
import torch
from conftest import ORACLE, assert_close

from bge_integrations.errors import CheckpointError, NotSupportedError
from bge_integrations.generation.beacon_config import BeaconConfig
from bge_integrations.generation.network import Placement, Source, load_language_model

BEACON = ORACLE / "beacon"
EXPECTED = json.loads((BEACON / "expected.json").read_text("utf-8"))
CASES = [
    (name, case)
    for name, checkpoint in EXPECTED["checkpoints"].items()
    for case, values in checkpoint["cases"].items()
    if "error" not in values and "forward_arguments" not in values
]
ON_CPU = Placement("cpu", "float32", None)


def loss_of(name, case):
    """Return a case's loss; None if it has none, or if it is of a batch."""
    values = EXPECTED["checkpoints"][name]["cases"][case]
    return None if "attention_mask" in values else values.get("loss")


@pytest.fixture
def load():
    """Return a function that loads a checkpoint with some settings changed."""

    def load(name, settings):
        folder = BEACON / "checkpoints" / name
        config = json.loads((folder / "config.json").read_text("utf-8")) | settings
        if settings.get("beacon") == "off":
            config = {key: value for key, value in config.items() if not key.startswith("beacon")}
        return load_language_model(Source(name, folder, None, config), ON_CPU, None)

    return load


def ids_of(name, case):
    """Return the rows of a case's input, without padding."""
    given = case["input"]
    if isinstance(given, str):
        return [EXPECTED["inputs"][name][given]]
    return [
        [token for token, real in zip(*row, strict=True) if real]
        for row in zip(given, case["attention_mask"], strict=True)
    ]


def greedy(model, logits, memory, count):
    tokens = []
    for _ in range(count):
        tokens.append(int(logits.argmax()))
        logits = model.read(tokens[-1:], memory, lambda: None)
    return tokens, logits


@pytest.mark.parametrize(("name", "case"), CASES)
@torch.inference_mode()
def test_the_oracle(load, name, case):
    expected = EXPECTED["checkpoints"][name]["cases"][case]
    model = load(name, expected["settings"])
    ids, is_batch = ids_of(name, expected)[0], "attention_mask" in expected
    memory, begin = model.start(len(ids)), 0
    for size in expected.get("pieces", [len(ids)]):
        logits = model.read(ids[begin : begin + size], memory, lambda: None)
        begin += size
    assert_close(logits, expected["last_logits"][0] if is_batch else expected["last_logits"])
    if sizes := expected.get("memory_sizes_sink_beacon_raw"):
        progress = memory.progress
        assert [progress.sink, progress.beacons, len(progress.raw)] == sizes
    if "greedy" in expected:
        wanted = expected["greedy"][0] if is_batch else expected["greedy"]
        tokens, logits_after = greedy(model, logits, memory, len(wanted))
        assert tokens == wanted
    if "last_logits_after_generation" in expected:
        assert_close(logits_after, expected["last_logits_after_generation"])


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, case in CASES if loss_of(name, case)])
@torch.inference_mode()
def test_the_loss_of_all_tokens(load, name, case):
    model = load(name, EXPECTED["checkpoints"][name]["cases"][case]["settings"])
    ids = torch.tensor(ids_of(name, EXPECTED["checkpoints"][name]["cases"][case])[:1])
    states = torch.cat(list(model.steps(ids, model.start(ids.shape[1]))), 1)
    loss = torch.nn.functional.cross_entropy(model.logits(states[0, :-1]), ids[0, 1:])
    assert_close(loss, loss_of(name, case))


@pytest.mark.parametrize("name", EXPECTED["checkpoints"])
@pytest.mark.parametrize(("case", "first"), [("interleave-r4", 0), ("append-r4", 32), ("append-r4-step-expansion", 32)])
def test_gradients_flow_through_the_beacons(load, name, case, first):
    """Training leaves the first window out of the loss if beacons are appended."""
    expected = EXPECTED["checkpoints"][name]["training"][case]
    model = load(name, expected["settings"])
    ids = torch.tensor(ids_of(name, expected))
    states = torch.cat(list(model.steps(ids, model.start(ids.shape[1]))), 1)
    loss = torch.nn.functional.cross_entropy(model.logits(states[0, first:-1]), ids[0, first + 1 :])
    assert_close(loss.detach(), expected["loss"])
    loss.backward()
    parameters = dict(model.network.named_parameters())
    for parameter, norm in expected["grad_norm"].items():
        found = parameters[parameter].grad
        assert_close(0.0 if found is None else found.norm(), norm, 1e-4)


@pytest.mark.parametrize("name", EXPECTED["checkpoints"])
@torch.inference_mode()
def test_a_row_of_a_left_padded_batch_is_what_it_is_alone(load, name):
    """The reference fills windows with padding; here a row is read without it."""
    case = EXPECTED["checkpoints"][name]["cases"]["interleave-r4-batch-leftpad"]
    model, rows = load(name, case["settings"]), ids_of(name, case)
    assert len(rows[0]) > len(rows[1])
    memory = model.start(len(rows[1]))
    alone = model.read(rows[1], memory, lambda: None)
    # the same ids as the beginning of a longer text
    longer = model.start(len(rows[0]))
    assert_close(model.read(rows[0][: len(rows[1])], longer, lambda: None), alone)
    together = torch.cat(list(model.steps(torch.tensor([rows[1], rows[0][:91]]), model.start(91))), 1)
    assert_close(model.logits(together[0, -1]), alone)


@torch.inference_mode()
def test_memory_stays_bounded_by_the_ratio(load):
    model = load("beacon-qwen2", {"beacon_ratio": [8]})
    ids = EXPECTED["inputs"]["beacon-qwen2"]["longer"] * 4
    memory = model.start(len(ids))
    model.read(ids, memory, lambda: None)
    plain = model.start(len(ids))
    load("beacon-qwen2", {"beacon_ratio": [0]}).read(ids, plain, lambda: None)
    assert memory.bytes * 7 < plain.bytes


@torch.inference_mode()
def test_a_step_that_fails_can_be_repeated(load):
    model = load("beacon-qwen2", {"beacon_ratio": [4]})
    ids = EXPECTED["inputs"]["beacon-qwen2"]["long"]
    memory, whole = model.start(len(ids)), model.start(len(ids))
    steps = iter([None, None])

    def two_steps():
        if next(steps, "end") == "end":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.read(ids, memory, two_steps)
    assert memory.progress.beacons == 16
    assert_close(model.read(ids[64:], memory, lambda: None), model.read(ids, whole, lambda: None))


def test_a_checkpoint_without_its_beacons_is_refused(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = BEACON / "checkpoints" / "beacon-llama"
    config = json.loads((folder / "config.json").read_text("utf-8"))
    LlamaForCausalLM(LlamaConfig.from_dict(config)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError):
        load_language_model(Source("own", tmp_path, None, config), ON_CPU, None)


def test_weights_that_are_cut_short_are_named(tmp_path):
    folder = BEACON / "checkpoints" / "beacon-llama"
    shutil.copytree(folder, tmp_path / "cut")
    file = tmp_path / "cut" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    config = json.loads((folder / "config.json").read_text("utf-8"))
    with pytest.raises(CheckpointError):
        load_language_model(Source("cut", tmp_path / "cut", None, config), ON_CPU, None)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"beacon_stride": 16}, NotSupportedError),
        ({"beacon_attn": "segmentation"}, NotSupportedError),
        ({"beacon_attn": "step-expansion"}, NotSupportedError),
        ({"beacon_attn": "other"}, CheckpointError),
        ({"beacon_ratio": [3, 5]}, CheckpointError),
        ({"beacon_ratio": "two"}, CheckpointError),
        ({"beacon_ratio_mix": "adapt-"}, CheckpointError),
        ({"beacon_param": ["x"]}, CheckpointError),
        ({"beacon_window": 0}, CheckpointError),
        ({"max_position_embeddings": None}, CheckpointError),
    ],
)
def test_settings_that_cannot_be_run_are_refused(settings, error):
    config = {"max_position_embeddings": 512, "beacon_window": 32, "beacon_stride": 32}
    with pytest.raises(error):
        BeaconConfig.read({**config, **settings})


def test_a_ratio_is_chosen_by_length():
    config = {"max_position_embeddings": 96, "beacon_window": 32, "beacon_stride": 32, "beacon_ratio": [8, 2, 4]}
    adapting = BeaconConfig.read({**config, "beacon_ratio_mix": "adapt-100"})
    assert [adapting.ratio_of(0, length) for length in (60, 61, 188, 189, 9999)] == [2, 4, 4, 8, 8]
    assert adapting.max_length == 64 * 8 + 32
    scaled = BeaconConfig.read({**config, "rope_scaling": {"type": "linear", "factor": 2.0}})
    assert scaled.positions == 192
