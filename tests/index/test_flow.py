"""A flow that encodes texts runs the same synchronously and asynchronously."""

import asyncio
import threading

import pytest

from bge_integrations.errors import InvalidInputError
from bge_integrations.index.flow import Encode, arun, run


async def test_both_drivers_return_the_flows_result(pocket):
    steps = []

    def flow(texts):
        steps.append(threading.current_thread())
        dense = (yield Encode(texts, {"kind": "query"})).dense
        steps.append(threading.current_thread())
        again = (yield Encode(texts[:1], {"sparse": True})).sparse
        return dense.shape, len(again)

    expected = ((2, pocket.dimension), 1)
    assert run(flow(["a", "b"]), pocket) == expected
    assert set(steps) == {threading.current_thread()}
    steps.clear()
    assert await arun(flow(["a", "b"]), pocket) == expected
    assert threading.current_thread() not in steps


async def test_a_failed_request_closes_the_flow_and_a_failed_step_is_raised(pocket):
    closed = []

    def unreadable():
        try:
            yield Encode([3], {})
        finally:
            closed.append(True)

    def failing():
        yield Encode(["a"], {})
        raise KeyError("step")

    for drive in (run, lambda *arguments: asyncio.run(arun(*arguments))):
        with pytest.raises(InvalidInputError, match=r"texts\[0\].*\bint\b"):
            await asyncio.to_thread(drive, unreadable(), pocket)
        with pytest.raises(KeyError, match="step"):
            await asyncio.to_thread(drive, failing(), pocket)
    assert closed == [True, True]


async def test_a_step_that_runs_when_the_caller_is_cancelled_finishes(pocket):
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def flow():
        try:
            yield Encode(["a"], {})
            begun.set()
            assert go_on.wait(60)
            yield Encode(["b"], {})
        finally:
            done.set()

    running = asyncio.create_task(arun(flow(), pocket))
    assert await asyncio.to_thread(begun.wait, 60)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not done.is_set()
    go_on.set()
    assert await asyncio.to_thread(done.wait, 60)
