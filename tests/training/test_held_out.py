"""The held-out split keeps what belongs together on one side, and does not change without need."""

import pytest

from bge_integrations.errors import InvalidInputError
from bge_integrations.training import TrainingRow, hold_out, read_rows

ROWS = read_rows([TrainingRow(f"query {i}", (f"passage {i}",), ("x",)) for i in range(200)])


def queries(rows):
    return {row.query for row in rows}


def test_the_split_is_deterministic_and_complete():
    train, held_out = hold_out(ROWS, 0.2)
    assert (len(train), len(held_out)) == (160, 40)
    assert sorted([*train.locations, *held_out.locations]) == sorted(ROWS.locations)
    shuffled, again = hold_out(ROWS.select(reversed(range(200))), 0.2)
    assert (queries(shuffled), queries(again)) == (queries(train), queries(held_out))
    assert queries(hold_out(ROWS, 0.2, seed=1)[1]) != queries(held_out)
    assert len(hold_out(ROWS, 0.2, most=15)[1]) == 15


def test_more_rows_keep_most_of_what_is_held_out():
    more = read_rows([*ROWS, *(TrainingRow(f"other {i}", (f"text {i}",)) for i in range(20))])
    kept = queries(hold_out(ROWS, 0.2)[1]) & queries(hold_out(more, 0.2)[1])
    assert len(kept) >= 30


def test_rows_of_one_query_or_one_positive_stay_together():
    rows = read_rows(
        [
            *(TrainingRow(f"query {i}", (f"passage {i}",)) for i in range(50)),
            *(TrainingRow(f"QUERY, {i}!", (f"another {i}",)) for i in range(50)),
            *(
                TrainingRow(f"paraphrase {i}", ("z", f"Another  {i}.") if i == 7 else (f"another {i}",))
                for i in range(50)
            ),
        ]
    )
    train, held_out = hold_out(rows, 0.5)
    assert len(train) + len(held_out) == 150
    for side in (train, held_out):
        numbers = sorted(int("".join(filter(str.isdigit, row.query))) for row in side)
        assert numbers[::3] == numbers[1::3] == numbers[2::3]


def test_a_large_group_is_trained_on():
    rows = [TrainingRow(f"query {i}", ("the same",)) for i in range(60)]
    rows += [TrainingRow(f"other {i}", (f"passage {i}",)) for i in range(40)]
    _, held_out = hold_out(read_rows(rows), 0.3)
    assert len(held_out) == 30
    assert all(query.startswith("other") for query in queries(held_out))


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"held_out": 0}, "held_out"),
        ({"held_out": 1.0}, "held_out"),
        ({"held_out": 0.01}, "held_out"),
        ({"most": 3}, "most"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_arguments_and_too_few_queries_are_refused(arguments, argument):
    with pytest.raises(InvalidInputError) as error:
        hold_out(ROWS, **arguments)
    assert error.value.argument == argument
