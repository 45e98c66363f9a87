"""The flags of verbs that train: which engine, and what each engine declares in its own file."""

from __future__ import annotations

from types import SimpleNamespace

from scaling import engines
from scaling.errors import Code, UserError
from scaling.flags import Flag, Value

TRAINING = (
    Flag("engine", str, f"where to train: {', '.join(engines.engines())}", "local"),
    Flag("retry_failed", bool, "train failed and rejected runs once more", False),
    *engines.flags(),
)


def engine_options(options: SimpleNamespace) -> dict[str, Value | None]:
    """Of a verb's options those that its engine takes.

    Raises:
      UserError: UNKNOWN, there is no such engine; CONFLICT, a flag of another engine is given.
    """
    engines.engine(options.engine)
    own = {flag.name for flag in engines.flags(options.engine)}
    for flag in engines.flags():
        value = getattr(options, flag.name)
        if flag.name not in own and value != flag.default:
            raise UserError(flag.name, value, f"is no flag of the engine {options.engine}", Code.CONFLICT)
    return {name: getattr(options, name) for name in own}
