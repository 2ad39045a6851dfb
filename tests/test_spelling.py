"""Messages write arguments as their caller does."""

from bge_integrations.cli.app import app
from bge_integrations.cli.option_names import options_of, spell
from bge_integrations.spelling import spelled, spelling_of


def test_python_is_the_default():
    assert (spelled("lora"), spelled("lora", False), spelled("epochs", None)) == ("lora", "lora=False", "epochs=None")
    with spelling_of(lambda argument, value: f"{argument} is {value}"):
        assert spelled("lora", 1) == "lora is 1"
    assert spelled("lora", 1) == "lora=1"


def test_commands_write_options():
    import typer.main

    train = options_of(typer.main.get_command(app).commands["train"])
    for argument, value, written in (
        ("batch_size", ..., "--batch-size"),
        ("batch_size", 2, "--batch-size 2"),
        ("lora", True, "--lora"),
        ("lora", False, "--no-lora"),
        ("resume", False, "--restart"),
        ("drop_last", False, "--set drop_last=False"),
        ("drop_last", ..., "--set drop_last"),
        ("query_instruction", "", "--set query_instruction=''"),
    ):
        assert spell(train, argument, value) == written
    mine = options_of(typer.main.get_command(app).commands["mine"])
    assert spell(mine, "weights", (1, 0.5)) == "--weights 1,0.5"
    assert spell(mine, "max_shard", 3) == "max_shard=3"
