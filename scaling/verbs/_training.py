"""The flags of verbs that train: the engine, and the flags that each engine declares in its own file."""

from __future__ import annotations

from types import SimpleNamespace

from scaling import engines
from scaling.errors import Code, UserError
from scaling.flags import Flag, Value

TRAINING = (
    Flag("engine", str, f"where to train: {', '.join(engines.engines())}", engines.DEFAULT, offers=engines.engines),
    Flag("retry_failed", bool, "train failed and rejected runs again", False),
    *engines.flags(),
)


def engine_options(options: SimpleNamespace) -> dict[str, Value | None]:
    """Those of a verb's options that its engine takes.

    Raises:
      UserError: the engine does not exist (UNKNOWN), or a flag of another engine is given (CONFLICT).
    """
    engines.engine(options.engine)
    own = {flag.name for flag in engines.flags(options.engine)}
    for flag in engines.flags():
        value = getattr(options, flag.name)
        if flag.name not in own and value != flag.default:
            raise UserError(flag.name, value, f"is not a flag of the engine {options.engine}", Code.CONFLICT)
    return {name: getattr(options, name) for name in own}
