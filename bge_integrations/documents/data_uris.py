"""Leave `data:` URIs, such as embedded pictures, out of Markdown."""

from __future__ import annotations

import re

#: What comes before the data: a media type with parameters, or at least one of the two. "data:, …" is prose.
_HEADER = r"data:(?=[\w;])(?:[\w.+-]+/[\w.+*-]+)?(?:;[\w.-]+(?:=[^;,\s\"'()<>]*)?)*,"
#: A Markdown destination ends at a space or at the parenthesis that closes it.
_BARE = r"(?:[^()\s]|\((?:[^()\s]|\([^()\s]*+\))*+\))*+"
#: Base64 that is wrapped into lines.
_WRAPPED = r"(?:[ \t]*\n[ \t]*[A-Za-z0-9+/=_-]{40,}+)*+(?:[ \t]*\n[ \t]*[A-Za-z0-9+/_-]*+={0,2}(?=[ \t]*[)\"'>]))?"

#: A reference definition, with its title: "[logo]: data:image/png;base64,… 'Logo'".
_DEFINITION = re.compile(
    rf"""^(?:[ ]{{0,3}}>)*[ ]{{0,3}}\[[^\]\n]+\]:[ \t]*\n?[ \t]*(?:<{_HEADER}[^>\n]*+>|{_HEADER}\S*+)"""
    rf"""(?:[ \t]*\n?[ \t]+(?:"[^"\n]*"|'[^'\n]*'|\([^)\n]*\)))?[ \t]*(?:\n|\Z)""",
    re.IGNORECASE | re.MULTILINE,
)
#: A URI in quotes, in angle brackets, or in the parentheses of a link, picture or `url()`.
_DELIMITED = re.compile(
    rf"""(?P<open>["']){_HEADER}(?:(?:(?!(?P=open))[^\n])*+|[^"'\s]*+{_WRAPPED}\s*+)(?P<close>(?P=open))"""
    rf"""|(?P<angle><){_HEADER}[^<>\n]*+>|(?P<round>\([ \t]*){_HEADER}{_BARE}{_WRAPPED}""",
    re.IGNORECASE,
)
#: A URI in prose or code. A short one may be an example, and stays.
_LONG = re.compile(rf"\b{_HEADER}[^\s()<>\"'`]{{64,}}+{_WRAPPED}", re.IGNORECASE)


def without_data_uris(text: str) -> str:
    """Return Markdown without its `data:` URIs. Alternative texts and titles of pictures stay."""
    if "data:" not in text.lower():
        return text
    text = _DEFINITION.sub("", text)
    text = _DELIMITED.sub(_delimiters, text)
    return _LONG.sub("", text)


def _delimiters(match: re.Match[str]) -> str:
    if match["round"]:
        return "("
    return "<>" if match["angle"] else match["open"] * 2
