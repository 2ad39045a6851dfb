"""Damage files: bytes, JSON values, tensor headers, and the members of archives."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

Mutation = Callable[[bytes, Random], bytes]

#: Values that readers often don't expect, as JSON.
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, -(2**63), 1.5, 1e308, float("nan"), float("inf")),
    *("", "a", "../../../etc/passwd", "/etc/passwd", "\ud800", "\x00", "9" * 5000, "é" * 300, "(a+)+$"),
    *([], {}, [[]], {"": {}}, [None] * 50, {"a": 1}),
)
#: Bytes that mean something to a reader of text, tables, markup or numbers.
_PIECES = (
    *(b"\x00", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00", b"\xef\xbb\xbf", b"\xff\xfe"),
    *(b'"', b"{", b"}", b"[", b"]", b"<", b">", b"&", b";", b"\t", b"\n", b"\r", b",", b"|", b"#", b"`", b"-1"),
    *(b"9" * 30, b"1e999", b"NaN", b"null", b"\\ud800", b"&#0;", b"&#x110000;", b"<!--", b"<![CDATA[", b"\x1b$B"),
    *(b"<table>", b"<tr><td>", b"<ul><li>", b"<div>", b"obj", b"endstream", b"stream\n", b"/Length 99999999"),
    *(b"../../", b"%00", b"file:///etc/passwd", b"http://127.0.0.1:9/", b"\xe2\x80\xae", b"\xed\xa0\x80"),
)


def mutate_bytes(data: bytes, random: Random) -> bytes:
    """Change, insert, remove, repeat or swap bytes in a few places, or cut the file short."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 8))):
        at = random.randrange(len(changed) + 1)
        length = min(random.choice((1, 2, 4, 16, 256)), len(changed) - at)
        match random.randrange(7):
            case 0 if at < len(changed):
                changed[at] ^= 1 << random.randrange(8)
            case 1 if at < len(changed):
                changed[at] = random.randrange(256)
            case 2:
                changed[at : at + random.choice((0, length))] = random.choice(_PIECES)
            case 3:
                del changed[at : at + length]
            case 4:
                changed[at:at] = changed[at : at + length] * random.choice((1, 2, 50))
            case 5:
                other = random.randrange(len(changed) + 1)
                changed[at : at + length] = changed[other : other + length]
            case 6 if random.random() < 0.2:
                del changed[at:]
    return bytes(changed)


def mutate_json(data: bytes, random: Random) -> bytes:
    """Replace, remove, rename or repeat values of a JSON file, or damage its bytes."""
    if random.random() < 0.3:
        return mutate_bytes(data, random)
    content = json.loads(data)
    for _ in range(random.choice((1, 1, 2, 3))):
        content = _with_change(content, random)
    if random.random() < 0.02:
        return b'{"a":' * 100_000 + json.dumps(content).encode() + b"}" * 100_000
    return json.dumps(content).encode()


def mutate_json_lines(data: bytes, random: Random) -> bytes:
    """Change one line of a file of JSON lines, or damage its bytes."""
    lines = data.splitlines()
    chosen = random.randrange(len(lines))
    lines[chosen] = mutate_json(lines[chosen], random)
    return b"\n".join(lines) + b"\n"


def mutate_safetensors(data: bytes, random: Random) -> bytes:
    """Change the header of tensors, its length, or the bytes."""
    if random.random() < 0.3:
        return mutate_bytes(data, random)
    (length,) = struct.unpack("<Q", data[:8])
    header = mutate_json(data[8 : 8 + length], random)
    written = random.choice((len(header), len(header), len(header), length, 2**62, 0))
    return struct.pack("<Q", written) + header + data[8 + length :]


def mutate_archive(data: bytes, random: Random) -> bytes:
    """Change a member of a ZIP archive, its name or its place, or damage the archive's bytes."""
    if random.random() < 0.2:
        return mutate_bytes(data, random)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    chosen = random.randrange(len(members))
    name, content = members[chosen]
    match random.randrange(10):
        case 0:
            del members[chosen]
        case 1:
            members[chosen] = random.choice((f"../../{name}", "/etc/passwd", name.upper(), name + "\x00")), content
        case 2:
            members[chosen] = name, random.choice(members)[1]
        case _:
            members[chosen] = name, mutate_bytes(content, random)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return packed.getvalue()


def _with_change(content: Any, random: Random) -> Any:
    """Return a JSON value with one change somewhere in it."""
    inner = isinstance(content, dict | list) and content and random.random() < 0.85
    if not inner:
        if isinstance(content, bool | int | float) and random.random() < 0.4:
            return random.choice((-content, content + 1, content * 1000, content / 3, not content, str(content)))
        return random.choice(_VALUES)
    changed = content.copy()
    key = random.choice(list(content) if isinstance(content, dict) else range(len(content)))
    match random.randrange(12):
        case 0:
            del changed[key]
        case 1 if isinstance(changed, dict):
            changed[str(random.choice((*content, "", "__class__", 5)))] = changed.pop(key)
        case 2 if isinstance(changed, list):
            changed.insert(key, changed[key])
        case _:
            changed[key] = _with_change(content[key], random)
    return changed
