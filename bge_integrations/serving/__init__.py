"""The server: OpenAI's, Cohere's, Jina's and text-embeddings-inference's routes, and our own, over HTTP.

`bge serve` runs it; `create_app` returns it as a FastAPI application for your own server.
"""

from bge_integrations.optional import needed_by

with needed_by("bge_integrations.serving", "bge-integrations[serve]"):
    from bge_integrations.serving.app import create_app
    from bge_integrations.serving.settings import ServerSettings

__all__ = ["ServerSettings", "create_app"]
