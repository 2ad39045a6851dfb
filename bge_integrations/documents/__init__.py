"""Read files and split them into passages (`reading`, `splitting`), and keep a store in sync (`folder`, `sync`)."""

from bge_integrations.documents.finding import find_files
from bge_integrations.documents.reading import SUFFIXES, read_file
from bge_integrations.documents.splitting import PASSAGE_TOKENS, Passage, read_passages

__all__ = ["PASSAGE_TOKENS", "SUFFIXES", "Passage", "find_files", "read_file", "read_passages"]
