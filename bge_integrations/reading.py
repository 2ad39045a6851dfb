"""The old import path of `bge_integrations.documents`, from version 0.1."""

from bge_integrations.documents import PASSAGE_TOKENS, SUFFIXES, Passage, find_files, read_file, read_passages

__all__ = ["PASSAGE_TOKENS", "SUFFIXES", "Passage", "find_files", "read_file", "read_passages"]
