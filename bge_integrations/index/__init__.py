"""`M3Index`, which stores and searches documents with bge-m3's three representations."""

from bge_integrations.index.m3_index import M3Index
from bge_integrations.index.records import Hit, StoredDocument

#: The former name of `StoredDocument`.
Entry = StoredDocument

__all__ = ["Entry", "Hit", "M3Index", "StoredDocument"]
