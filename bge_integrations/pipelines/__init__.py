"""Sample RAG pipelines."""
