"""Run the application: listen on a port or a Unix socket, and finish what runs when the process is asked to stop."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from typing import TYPE_CHECKING

import uvicorn
from prometheus_client import start_http_server

from bge_integrations.serving.app import create_app
from bge_integrations.serving.logs import configure_logging

if TYPE_CHECKING:
    from bge_integrations.serving.settings import ServerSettings

_logger = logging.getLogger(__name__)
#: Seconds that a thread keeps the interpreter while another one waits for it. Python's 5 ms let the event loop hold up
#: the thread that computes a batch, which needs the interpreter between two operations for some microseconds.
_SWITCH_INTERVAL = 0.0005


def run(
    settings: ServerSettings,
    listener: socket.socket,
    *,
    json_output: bool = False,
    prometheus_port: int | None = None,
    shutdown_timeout: int = 30,
) -> Exception | None:
    """Serve until SIGTERM or Ctrl-C. No new connections are accepted then, and running requests are finished.

    Args:
        settings: What to serve, and the limits.
        listener: A bound socket.
        json_output: Log as JSON.
        prometheus_port: A port for `/metrics` alone, on the same host; None has it only on the main one.
        shutdown_timeout: Maximum seconds to wait for running requests.

    Returns:
        Why the server could not start; None if it did.
    """
    configure_logging(json_output)
    app = create_app(settings)
    failures: list[Exception] = []

    def end(failure: Exception) -> None:
        failures.append(failure)
        server.should_exit = True

    app.state.service.on_failure = end
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=shutdown_timeout,
        ws="none",
    )
    server = uvicorn.Server(config)
    address = listener.getsockname()
    name = address if isinstance(address, str) else f"http://{address[0]}:{address[1]}"
    if prometheus_port is not None:
        host = "127.0.0.1" if isinstance(address, str) else address[0]
        start_http_server(prometheus_port, host, app.state.service.metrics.registry)
    _logger.info("listening on %s", name)
    sys.setswitchinterval(_SWITCH_INTERVAL)
    # uvicorn raises the signal again when it has stopped, which must not end the process before it has cleaned up
    signal.signal(signal.SIGTERM, lambda *_: setattr(server, "should_exit", True))
    server.run(sockets=[listener])
    return failures[0] if failures else None
