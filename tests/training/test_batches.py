"""Which rows share a batch, and which passages a query gets."""

from collections import Counter

import pytest
from conftest import CHECKPOINTS

from bge_integrations.errors import InvalidInputError
from bge_integrations.models.tokenizer import TextTokenizer
from bge_integrations.training import TrainingRow, read_rows
from bge_integrations.training.batches import BatchPlan
from bge_integrations.training.embedder_data import row_sets
from bge_integrations.training.groups import Groups, RowSet, Visit, check_group_size
from bge_integrations.training.icl_examples import ExampleWriter


def row(number, negatives=3, **fields):
    return TrainingRow(f"q{number}", (f"p{number}a", f"p{number}b"), tuple(f"n{i}" for i in range(negatives)), **fields)


def rows_of(batches):
    return [[visit.row for visit in batch] for batch in batches]


def plan(count, batch_size=4, **settings):
    return BatchPlan([RowSet(range(count), batch_size, 4)], 42, **settings)


def test_an_epoch_visits_each_row_once_in_a_new_order():
    batches = plan(12)
    first = rows_of(batches)
    batches.set_epoch(1)
    second = rows_of(batches)
    for epoch in (first, second):
        assert sorted(row for batch in epoch for row in batch) == list(range(12))
    assert first != second
    batches.set_epoch(0)
    assert rows_of(batches) == first


def test_the_processes_share_each_batch():
    whole = rows_of(plan(17, 8))
    parts = [rows_of(plan(17, 4, processes=2, process=process)) for process in range(2)]
    assert [first + second for first, second in zip(*parts, strict=True)] == whole


def test_the_last_batch_can_be_kept():
    assert sorted(map(len, rows_of(plan(11)))) == [4, 4]
    assert sorted(map(len, rows_of(plan(11, drop_last=False)))) == [3, 4, 4]
    parts = [rows_of(plan(11, processes=2, process=i, drop_last=False)) for i in range(2)]
    assert [len(batch) for batch in parts[0]] == [
        len(batch) for batch in parts[1]
    ]  # else a process would wait for ever


def test_too_few_rows_are_an_error():
    with pytest.raises(InvalidInputError) as raised:
        plan(3)
    assert raised.value.argument == "batch_size"


def test_rows_are_grouped_by_length():
    lengths = [i % 5 for i in range(100)]
    spread = [len({lengths[row] for row in batch}) for batch in rows_of(plan(100, lengths=lengths))]
    assert sum(spread) < 40  # 25 batches; without grouping almost all have several lengths


def test_a_visit_always_draws_the_same_passages_and_another_epoch_others():
    groups = Groups([row(0, 20)], 42)
    row_set = RowSet([0], 1, 8)
    drawn = [groups[Visit(epoch, 0, row_set)].passages for epoch in range(10)]
    assert drawn == [groups[Visit(epoch, 0, row_set)].passages for epoch in range(10)]
    assert len(set(drawn)) > 5
    for passages in drawn:
        assert passages[0] in ("p0a", "p0b")
        assert len(set(passages)) == 8
    assert {passages[0] for passages in drawn} == {"p0a", "p0b"}


def test_too_few_negatives_are_repeated_equally():
    group = Groups([row(0, 2)], 1)[Visit(0, 0, RowSet([0], 1, 6))]
    assert sorted(Counter(group.passages[1:]).values()) == [2, 3]


def test_the_parts_of_long_positives_are_shuffled():
    text = "".join(chr(ord("a") + i % 26) for i in range(101))
    groups = Groups([TrainingRow("q", (text,), (text[::-1],)), TrainingRow("q", (text[:100],))], 1, shuffle_ratio=0.5)
    drawn = [groups[Visit(epoch, 0, RowSet([0], 1, 2))].passages for epoch in range(40)]
    assert {passages[1] for passages in drawn} == {text[::-1]}
    changed = [passages[0] for passages in drawn if passages[0] != text]
    assert 5 < len(changed) < 35
    assert {tuple(sorted(each.split())) for each in changed} == {tuple(sorted((text[:34], text[34:68], text[68:])))}
    assert {groups[Visit(epoch, 1, RowSet([1], 1, 1))].passages for epoch in range(10)} == {(text[:100],)}


def test_teacher_scores_go_with_their_passages():
    scored = row(0, 3, pos_scores=(1.0, 2.0), neg_scores=(-1.0, -2.0, -3.0))
    scores = {"p0a": 1.0, "p0b": 2.0, "n0": -1.0, "n1": -2.0, "n2": -3.0}
    for epoch in range(5):
        group = Groups([scored], 42)[Visit(epoch, 0, RowSet([0], 1, 6))]
        assert group.teacher_scores == tuple(scores[passage] for passage in group.passages)


def test_negatives_are_all_there_or_all_missing():
    assert check_group_size(read_rows([row(0), row(1)]), 8, own_negatives=False) == 8
    assert check_group_size(read_rows([row(0, 0), row(1, 0)]), 8, own_negatives=False) == 1
    for rows, own_negatives in (([row(0), row(1, 0)], False), ([row(0, 0)], True)):
        with pytest.raises(InvalidInputError) as raised:
            check_group_size(read_rows(rows), 8, own_negatives=own_negatives)
        assert raised.value.argument == "group_size"


@pytest.fixture
def datasets(tmp_path):
    """Return a function that writes files, from a dict of name to number of rows, and returns their row sets."""
    from bge_integrations.training import write_rows

    def make(files, data=None, fields=None, negatives=3, **settings):
        for name, count in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            write_rows([row(i, negatives, **fields or {}) for i in range(count)], tmp_path / name)
        paths = [tmp_path / name for name in data or files]
        arguments = {"own_negatives": False, "same_dataset": True, "small_threshold": 0, "drop_threshold": 0}
        return row_sets(read_rows(paths), 4, 4, **arguments | settings)

    return make


#: What the reference's cases need to be made again: the rows' further fields, and how many negatives they have.
MADE_WITH = {
    "class": ({"type": "symmetric_class"}, 2),
    "sts": ({"type": "symmetric_sts"}, 3),
    "nli": ({"type": "only_1neg"}, 3),
    "batch_size_column": ({"batch_size": 2}, 3),
    "train_group_size_column": ({"train_group_size": 3}, 3),
}


def test_same_dataset_batches_are_the_references(embedder_runs, datasets):
    for case in embedder_runs["same_dataset_batches"]:
        fields, negatives = MADE_WITH.get(case["case"].removesuffix("_trailing_slash"), (None, 3))
        thresholds = {name: case.get(name, 0) for name in ("small_threshold", "drop_threshold")}
        sets = datasets(case["files"], fields=fields, negatives=negatives, **thresholds)
        batches = [list(BatchPlan(sets, 42, processes=case["processes"], process=i)) for i in range(case["processes"])]
        assert [len(own) for own in batches] == [case["batches"]] * case["processes"], case["case"]
        for batch in batches[0]:
            row_set = batch[0].row_set
            assert {visit.row_set.rows[0] for visit in batch} == {row_set.rows[0]}
            assert len(batch) == case["queries_in_a_batch_of_one_process"]
            assert row_set.group_size == case["passages_per_query"]
            # a slash at the end of the folder's name makes no difference here
            assert row_set.own_negatives == (case["case"] in ("class", "class_trailing_slash"))
            assert row_set.is_symmetric == case["passage_gets_query_instruction"]


def test_without_same_dataset_all_rows_are_mixed(datasets):
    assert [list(row_set.rows) for row_set in datasets({"a.jsonl": 3, "b.jsonl": 4}, same_dataset=False)] == [
        [*range(7)]
    ]


@pytest.mark.parametrize("field", [{"type": "only_1neg"}, {"batch_size": 2}, {"train_group_size": 2}])
def test_the_rows_of_a_data_set_agree(field):
    rows = read_rows([row(0), row(1, **field)])
    with pytest.raises(InvalidInputError) as raised:
        row_sets(rows, 4, 4, own_negatives=False, same_dataset=True, small_threshold=0, drop_threshold=0)
    assert raised.value.argument == "data"


def test_in_context_examples_are_other_rows_as_the_reference_writes_them(embedder_runs, training_rows):
    case = embedder_runs["icl_example"]
    instruction = case["query_instruction_format"].format("Find it.", "")
    writer = ExampleWriter(
        TextTokenizer(CHECKPOINTS / case["tokenizer"]),
        case["suffix"],
        room=200,
        most=5,
        seed=42,
        query_tokens=case["example_query_max_len"],
        answer_tokens=case["example_passage_max_len"],
    )
    row_set = RowSet(range(4), 4, 4)
    groups = Groups(training_rows, 42)
    theirs = {example for query in case["queries"] for example in query.split("\n\n")[:-1]}
    drawn = []
    for epoch in range(20):
        batch = [groups[Visit(epoch, i, row_set)] for i in range(4)]
        for i in range(4):
            written = writer.examples(batch, [instruction] * 4, i).split("\n\n")[:-1]
            assert training_rows[i].query not in {
                example.split("<query>")[1].split("\nResponse")[0] for example in written
            }
            drawn += written
    assert theirs <= set(drawn)
    assert len(set(drawn)) == 4  # one of each row, the same whenever it is drawn


def test_examples_stop_at_their_room(training_rows):
    tokenizer = TextTokenizer(CHECKPOINTS / "bge-en-icl")
    groups = Groups(training_rows, 42)
    for room in (0, 40):
        writer = ExampleWriter(tokenizer, "\n<response>", room, 5, 42)
        for epoch in range(10):
            batch = [groups[Visit(epoch, i, RowSet(range(4), 4, 4))] for i in range(4)]
            assert len(tokenizer.ids([writer.examples(batch, [""] * 4, 0)])[0]) <= room
