"""Check archives before a library unpacks them: .docx, .pptx, .xlsx and .epub files are ZIP archives."""

from __future__ import annotations

import zipfile
from pathlib import Path

from bge_integrations.errors import UnreadableFileError

#: Maximum bytes of an archive's files after unpacking, and of its XML, which takes several times as much memory.
_MOST_BYTES, _MOST_XML_BYTES = 2**31, 2**28
_XML = (".xml", ".rels", ".xhtml", ".html", ".htm", ".opf", ".ncx")
#: How the files of Office before 2007 begin; Office files with a password are stored in such a file.
_OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")


def check_archive(file: Path, kind: str) -> None:
    """Check that a file is an archive that is not encrypted, and that unpacking it is safe.

    A file in an archive can't be larger than the archive's list of contents says; `zipfile` reads no more.

    Args:
        file: The file.
        kind: What it should be, such as "a Word document".

    Raises:
        UnreadableFileError: It needs a password, is too large, or is not an archive.
        OSError: The system refuses to read it.
    """
    with file.open("rb") as opened:
        if opened.read(len(_OLD_OFFICE)) == _OLD_OFFICE:
            if _ENCRYPTED in opened.read():
                raise UnreadableFileError(
                    f"{file} is encrypted and needs a password",
                    advice="save a copy without a password, and index that",
                )
            raise UnreadableFileError(
                f"{file} is in the format of Office 97, not {kind}", advice=f"save it as {file.suffix.lower()}"
            )
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    if any(entry.flag_bits & 1 for entry in entries):
        raise UnreadableFileError(
            f"{file} is encrypted and needs a password", advice="save a copy without a password, and index that"
        )
    size = sum(entry.file_size for entry in entries)
    xml = sum(entry.file_size for entry in entries if entry.filename.lower().endswith(_XML))
    if size > _MOST_BYTES or xml > _MOST_XML_BYTES:
        raise UnreadableFileError(
            f"{file} is too large to read: {size / 1e6:,.0f} MB after unpacking, {xml / 1e6:,.0f} MB of it XML",
            advice="divide it, or remove its pictures",
        )
