"""Encrypted PDFs are read if they need no password; if not, the error names the reason."""

import io
import sys

import pytest
from pypdf import PdfWriter
from test_reading import pdf

from bge_integrations.documents import read_file
from bge_integrations.errors import UnreadableFileError

ALGORITHMS = ("AES-256", "AES-256-R5", "AES-128", "RC4-128", "RC4-40")


@pytest.fixture
def encrypted(tmp_path):
    def write(algorithm, password):
        writer = PdfWriter(clone_from=io.BytesIO(pdf("Herons eat fish.", title="Birds")))
        writer.encrypt(user_password=password, owner_password="owner", algorithm=algorithm)
        writer.write(tmp_path / "a.pdf")
        return tmp_path / "a.pdf"

    return write


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_empty_password(encrypted, algorithm):
    assert read_file(encrypted(algorithm, "")) == ("Birds", {1: "Herons eat fish."})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_password(encrypted, algorithm):
    with pytest.raises(UnreadableFileError, match=r"a\.pdf is encrypted and needs a password") as caught:
        read_file(encrypted(algorithm, "secret"))
    assert "without a password" in caught.value.advice


def test_a_missing_package_is_not_damage(encrypted, monkeypatch):
    file = encrypted("AES-256", "")
    for module in [name for name in sys.modules if name.startswith(("pypdf", "cryptography", "Crypto"))]:
        monkeypatch.delitem(sys.modules, module)
    for module in ("cryptography", "Crypto"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        UnreadableFileError, match=r"a\.pdf is encrypted, and reading it needs the package cry"
    ) as caught:
        read_file(file)
    assert "[files]" in caught.value.advice
