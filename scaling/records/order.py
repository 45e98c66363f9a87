"""The order in which workers take the programs of a study."""

from __future__ import annotations

from collections.abc import Iterable

from scaling.records.types import ProgramSpec


def in_order(programs: Iterable[ProgramSpec]) -> list[ProgramSpec]:
    """Parents before children; else those first with which most remains: their own time, and that of what waits for it.

    The time that remains is that of the longest chain of programs from this one on, so that a short parent of long
    children is not left for last. Without parents these are the longest programs.
    """
    listed = list(programs)
    home = {spec.run: program.program for program in listed for spec in program.runs}
    children: dict[str, list[ProgramSpec]] = {}
    for program in listed:
        for parent in program.parents:
            if parent in home:
                children.setdefault(home[parent], []).append(program)
    remains: dict[str, tuple[float, int]] = {}  # seconds and number of programs of the longest chain from each
    waiting = listed[::-1]  # a stack, since a chain may be longer than Python calls go deep
    while waiting:
        program = waiting[-1]
        name, below = program.program, children.get(program.program, ())
        if name not in remains:
            remains[name] = program.seconds, 0  # also ends a circle, which only a damaged study has
            waiting += [child for child in below if child.program not in remains]
            continue
        waiting.pop()
        after = [remains[child.program] for child in below]
        remains[name] = (
            program.seconds + max((seconds for seconds, _ in after), default=0.0),
            max((number + 1 for _, number in after), default=0),
        )

    def key(program: ProgramSpec) -> tuple[float, int, str]:
        seconds, number = remains[program.program]
        return -seconds, -number, program.program

    return sorted(listed, key=key)
