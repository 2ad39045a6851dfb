"""`bge serve`: serve models and indexes over HTTP."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from typing import Annotated, Any

import typer

from bge_integrations.cli import options
from bge_integrations.errors import InvalidInputError
from bge_integrations.optional import import_library

#: Connections that wait to be accepted.
_BACKLOG = 2048


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="Embedding models: hub id, checkpoint folder, or 'pocket'."),
    ] = None,
    reranker: Annotated[
        list[str] | None,
        typer.Option("--reranker", metavar="MODEL", help="Reranker; repeat the option for several."),
    ] = None,
    index: Annotated[
        list[str] | None,
        typer.Option(
            "--index",
            metavar="NAME=FOLDER_OR_URL",
            help="Index to search: a folder, or a Qdrant server's URL, with #COLLECTION for another than 'documents'.",
        ),
    ] = None,
    create_indexes: Annotated[bool, typer.Option(help="Create the indexes that do not exist.")] = False,
    read_only: Annotated[bool, typer.Option(help="Only search the indexes.")] = False,
    hostname: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 chooses a free one.")] = 8080,
    uds_path: Annotated[
        str | None, typer.Option(metavar="FILE", help="Listen on this Unix socket instead of a port.")
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            envvar="BGE_API_KEY",
            show_envvar=True,
            help="Key that clients must send; repeat the option for several. Other users can see options in the list "
            "of processes, but not the environment variable, which takes several keys separated by spaces.",
        ),
    ] = None,
    served_model_name: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Another name for the first model; can be repeated.")
    ] = None,
    on_demand: Annotated[bool, typer.Option("--on-demand", help="Load each model when it is first used.")] = False,
    max_model_memory: Annotated[
        float | None,
        typer.Option(metavar="GB", min=0.001, help="Unload the models that were not used for longest above this."),
    ] = None,
    max_concurrent_requests: Annotated[int, typer.Option(min=1, help="More requests get status 429.")] = 512,
    max_batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Maximum tokens of a batch. Defaults to what suits the device.")
    ] = None,
    max_queued_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum tokens in a queue; requests above it get status 429.")
    ] = 1 << 20,
    max_client_batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Maximum inputs of a request. Defaults to 32 in TEI's routes, as there, and 2048 in all others."
        ),
    ] = None,
    payload_limit: Annotated[int, typer.Option(min=1, help="Maximum bytes of a request.")] = 2_000_000,
    max_image_pixels: Annotated[int, typer.Option(min=1, help="Maximum pixels of an image.")] = 40_000_000,
    auto_truncate: Annotated[
        bool, typer.Option("--auto-truncate", help="Truncate long inputs instead of refusing them.")
    ] = False,
    request_timeout: Annotated[float, typer.Option(min=0.001, help="Maximum seconds of a request.")] = 60.0,
    shutdown_timeout: Annotated[
        int, typer.Option(min=1, help="Maximum seconds to wait for running requests after SIGTERM.")
    ] = 30,
    default_prompt_name: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="query or passage: the instruction of texts whose request names none."),
    ] = None,
    default_prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Prepend this to texts whose request names no instruction.")
    ] = None,
    cors_allow_origin: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN", help="Web pages that may call the server; * is all.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json-output", help="Log as JSON.")] = False,
    otlp_endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Send OpenTelemetry traces there (OTLP over gRPC).")
    ] = None,
    prometheus_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="A second port for /metrics alone.")
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    max_length: options.MaxLength = None,
) -> None:
    """Serve models and indexes over HTTP.

    OpenAI's, Cohere's, Jina's and text-embeddings-inference's clients can use it; /docs lists all routes.
    """
    listener = _listen(hostname, port, uds_path)  # first, since importing the server takes a while
    try:
        import_library("fastapi", "serve", "bge serve")
        from bge_integrations.serving.pool import is_downloading
        from bge_integrations.serving.server import run
        from bge_integrations.serving.settings import ServerSettings

        settings = ServerSettings(
            models=models or [],
            rerankers=reranker or [],
            indexes=_indexes_of(index or []),
            served_model_names=served_model_name or [],
            preload=not on_demand,
            max_model_memory=None if max_model_memory is None else int(max_model_memory * 1e9),
            create_indexes=create_indexes,
            read_only=read_only,
            qdrant_api_key=os.environ.get("QDRANT_API_KEY"),
            device=device,
            dtype=dtype,
            max_length=max_length,
            max_concurrent_requests=max_concurrent_requests,
            max_batch_tokens=max_batch_tokens,
            max_queued_tokens=max_queued_tokens,
            max_client_batch_size=max_client_batch_size,
            payload_limit=payload_limit,
            max_image_pixels=max_image_pixels,
            auto_truncate=auto_truncate,
            request_timeout=request_timeout,
            default_prompt_name=default_prompt_name,
            default_prompt=default_prompt,
            api_keys=api_key or [],
            cors_allow_origins=cors_allow_origin or [],
            otlp_endpoint=otlp_endpoint,
        )
        failure = run(
            settings,
            listener,
            json_output=json_output,
            prometheus_port=prometheus_port,
            shutdown_timeout=shutdown_timeout,
        )
    finally:
        listener.close()
        if uds_path is not None:
            with suppress(FileNotFoundError):
                os.unlink(uds_path)
    if failure is not None:
        raise failure
    if is_downloading():
        os._exit(0)  # Python would wait for the hub's threads; what has arrived stays in its cache


def _indexes_of(given: list[str]) -> dict[str, str]:
    """Return {name: location} for NAME=LOCATION."""
    indexes: dict[str, str] = {}
    for each in given:
        name, equals, location = each.partition("=")
        if not (name and equals and location):
            raise typer.BadParameter(f"{each!r} must be NAME=FOLDER_OR_URL", param_hint="--index")
        if name in indexes:
            raise typer.BadParameter(f"the name {name!r} is used twice", param_hint="--index")
        indexes[name] = location
    return indexes


def _listen(hostname: str, port: int, uds_path: str | None) -> socket.socket:
    """Return a listening socket."""
    address: Any
    if uds_path is None:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(hostname, port, type=socket.SOCK_STREAM)[0]
        except socket.gaierror as error:
            raise InvalidInputError(
                f"{hostname!r} is not an address of this machine ({error.strerror})", argument="hostname"
            ) from None
        listener = socket.socket(family, kind, protocol)
        if os.name == "posix":  # elsewhere it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    else:
        if os.path.exists(uds_path) and stat.S_ISSOCK(os.stat(uds_path).st_mode):
            _remove_unused_socket(uds_path)
        listener, address = socket.socket(socket.AF_UNIX), uds_path
    try:
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        place = uds_path or f"{hostname}:{port}"
        raise OSError(f"can't listen on {place}: {os.strerror(error.errno or 0)}") from None
    return listener


def _remove_unused_socket(path: str) -> None:
    """Remove the socket of a server that was killed; one that answers stays, so that listening fails."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
