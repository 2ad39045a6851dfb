"""Runs `bge serve`'s application on a real socket."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from conftest import wait_until

from bge_integrations.serving import ServerSettings, create_app


@contextmanager
def run_server(settings: ServerSettings) -> Iterator[str]:
    """Run a server in a thread until the block ends, and yield its URL."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=0, log_level="warning", ws="none"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive())
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
