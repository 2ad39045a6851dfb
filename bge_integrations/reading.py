"""The import path of version 0.1 for `bge_integrations.documents`."""

from bge_integrations.documents import PASSAGE_TOKENS, SUFFIXES, Passage, find_files, read_file, read_passages

__all__ = ["PASSAGE_TOKENS", "SUFFIXES", "Passage", "find_files", "read_file", "read_passages"]
