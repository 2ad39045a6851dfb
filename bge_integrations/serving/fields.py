"""Types of fields that the requests of several dialects share. JSON's own types only: "1" is not a number."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Flag = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
TokenId = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Weight = Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False)]
#: Two texts.
Pair = Annotated[list[str], Field(min_length=2, max_length=2)]
