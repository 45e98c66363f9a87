"""The base class of values that are written to a file and validated when it is read."""

from __future__ import annotations

from typing import dataclass_transform

import msgspec


# The decorator tells type checkers what msgspec does: subclasses are frozen too.
@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An immutable typed value. Unknown fields in a file are an error when it is read."""
