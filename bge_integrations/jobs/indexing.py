"""Add the rows of many files to an index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bge_integrations.errors import InvalidInputError
from bge_integrations.jobs.batches import BATCH_SIZE, add_rows
from bge_integrations.jobs.inputs import find_inputs
from bge_integrations.jobs.reading import joined_schema, read_tables, scan
from bge_integrations.progress import progress_bar
from bge_integrations.reporting import TruncatedTexts

if TYPE_CHECKING:
    from bge_integrations.index import M3Index


class RowFiles:
    """The rows of many files, each a document.

    Args:
        inputs: Files, folders, patterns and URLs of rows, as in `EmbeddingJob`.
        field: The column that contains the texts.
        id_field: The column that contains the ids, strings or whole numbers. None derives ids from the rows' contents.
            The other columns become metadata; nulls are left out.

    Attributes:
        rows: Number of rows.

    Raises:
        InvalidInputError: A file is missing or damaged, a row of JSON lines has no text, or there is no such column.
    """

    def __init__(self, inputs: str | Sequence[str], field: str = "text", id_field: str | None = None) -> None:
        self._field, self._id_field = field, id_field
        self._files = find_inputs(inputs)
        self._scanned = [scan(file, field, every=BATCH_SIZE) for file in self._files]
        self._schema = joined_schema(self._scanned)
        if id_field is not None and id_field not in self._schema.names:
            raise InvalidInputError(
                f"the rows have no column {id_field!r}",
                argument="id_field",
                advice=f"choose another: {', '.join(self._schema.names)}",
            )
        self.rows = sum(content.rows for content in self._scanned)

    def add_to(self, index: M3Index, show_progress: bool = False) -> None:
        """Add all rows to an index. Rows whose text it has already are not encoded again.

        Raises:
            InvalidInputError: A row is invalid; the rows before it stay in the index.
        """
        with progress_bar(self.rows, "row", show_progress) as bar, TruncatedTexts():
            for file, content in zip(self._files, self._scanned, strict=True):
                for table in read_tables(file, self._field, self._schema, 0, content.rows, 0, BATCH_SIZE):
                    add_rows(index, table, self._field, self._id_field)
                    bar.update(len(table))
