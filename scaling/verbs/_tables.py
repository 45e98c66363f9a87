"""Tables as the bytes of a file, for ``import`` and ``export``."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from scaling.errors import library

if TYPE_CHECKING:
    import pandas as pd


def check(kind: str, field: str, value: object) -> None:
    """Refuses a kind of table whose library is not installed (ENVIRONMENT).

    Args:
      field, value: what asks for it, for the message.
    """
    if kind == "parquet":
        library("pyarrow", "data", field, value)


def content(table: pd.DataFrame, kind: str) -> bytes:
    """A table as ``csv`` or ``parquet``."""
    if kind == "csv":
        return table.to_csv(index=False).encode()
    buffer = io.BytesIO()
    # FLOPs may need more than the 64 bits of its integers.
    wide = [name for name in table if len(table) and table[name].dtype == object and {*map(type, table[name])} == {int}]
    table = table.astype(dict.fromkeys(wide, float))
    table.to_parquet(buffer, engine="pyarrow", index=False)
    return buffer.getvalue()
