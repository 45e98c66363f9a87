"""What the suite asks of a refusal: its code, field and value, never its wording."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from scaling.errors import Code, UserError


@contextmanager
def refuses(code: Code, field: str | None = None, value: object = None) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """``pytest.raises(UserError)`` of this kind; where given, of this field and value (compared as text)."""
    with pytest.raises(UserError) as caught:
        yield caught
    error = caught.value
    assert error.code is code, f"{error.code}: {error}"
    assert field is None or error.field == field, f"{error.field}: {error}"
    assert value is None or str(error.value) == str(value), f"{error.value}: {error}"
