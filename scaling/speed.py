"""How fast a machine trains, which prices a plan: two numbers for a step, and one for the compiler.

    seconds of a step = FLOPs / rate + scores * score

``count`` counts FLOPs and attention scores. At the widths of a laptop the exponentials and sums of a score cost more
than all its products, which a rate of FLOPs alone misses by a factor of 2 between sizes. On an AMD EPYC with AVX2 the
formula is 0.76 to 1.15 of what 15 shapes took, from 4 to 64 sequences a step, see experiments/LOG.md.
"""

from __future__ import annotations

import hashlib
import os
import platform
from importlib.metadata import version
from pathlib import Path

import msgspec

from scaling.errors import Code, UserError
from scaling.records import read_typed
from scaling.records.files import write_atomic
from scaling.records.typed import to_json
from scaling.records.value import Value

# Evaluation, a forward pass, over the training of as many tokens: .28 to .33 over nine shapes of gpt, 3k to 3M.
EVALUATION = 0.3
# Initialisation, training and evaluation of a shape of two layers over the training step that ``measure`` compiles.
COMPILATIONS = 4.0
# Components of gpt, which ``measure`` compiles. A shape of twice as many takes half as long again. In one run each two
# streams (23) took 1.65 of one (10), but late fusion (13, a part of it frozen) 0.9 of early (8); experiments/LOG.md.
COMPONENTS = 6
VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON", "neon": "NEON"}
SETTINGS = ("XLA_FLAGS", "JAX_PLATFORMS", "GLIBC_TUNABLES")  # settings of a worker that change its speed
TIMED = ("worker/measure.py", "blocks/attention.py", "blocks/dense.py")  # what ``worker.measure`` times
FORGOTTEN = "it is measured again if you delete it"


class Machine(Value, kw_only=True):
    """What a speed was measured on; a speed of another machine is not used.

    Attributes:
      cpu: its model and vector extension. cores: that this process may use. settings: environment variables that
        change how fast a worker is. code: digest of the code that was timed, for a newer version may be faster.
    """

    cpu: str
    cores: int
    accelerated: bool
    jax: str
    settings: dict[str, str]
    code: str = ""  # of a file of an older version


class Speed(Value, kw_only=True):
    """The speed of one worker while every core has one.

    Attributes:
      rate: FLOPs per second. score: seconds of an attention score, with its derivative. compile: seconds of a shape.
      machine: None for the reference, which was measured elsewhere.
    """

    rate: float
    score: float
    compile: float
    machine: Machine | None = None

    def compiling(self, components: int) -> float:
        """Seconds to compile a shape of so many counted components."""
        return self.compile * (1 + components / COMPONENTS) / 2

    def __post_init__(self) -> None:
        if not (0 < self.rate < 1e18 and 0 <= self.score < 1 and 0 <= self.compile < 1e4):
            raise ValueError("a speed is not positive")  # msgspec names the file

    def seconds(self, flops: float, scores: float) -> float:
        """Seconds of training FLOPs and attention scores."""
        return flops / self.rate + scores * self.score


# One core of an AMD EPYC with AVX2, jax 0.10.2, fitted to the idle steps of the demo's sizes.
REFERENCE = Speed(rate=3.97e10, score=1.74e-8, compile=12.0)


def solve(
    small: tuple[float, float, float], large: tuple[float, float, float], compile: float, machine: Machine
) -> Speed:
    """The speed that two measured shapes tell.

    Args:
      small, large: FLOPs, attention scores and seconds of a step.
      compile: seconds to compile such a step.

    Returns:
      The solution of both equations; if noise makes one number negative, the other explains all of ``large``.
    """
    (f1, s1, t1), (f2, s2, t2) = small, large
    determinant = f1 * s2 - f2 * s1
    slow, score = (t1 * s2 - t2 * s1) / determinant, (f1 * t2 - f2 * t1) / determinant
    if slow <= 0 or score < 0:
        slow, score = t2 / f2, 0.0
    return Speed(rate=1 / slow, score=score, compile=COMPILATIONS * compile, machine=machine)


def machine(cores: int, *, accelerated: bool) -> Machine:
    """This machine, for a process that may use ``cores`` cores."""
    settings = {name: value for name in SETTINGS if (value := os.environ.get(name))}
    jax, timed = version("jax"), b"".join((Path(__file__).parent / each).read_bytes() for each in TIMED)
    code = hashlib.sha256(timed).hexdigest()[:12]
    return Machine(cpu=cpu(), cores=cores, accelerated=accelerated, jax=jax, settings=settings, code=code)


def cpu() -> str:
    """The model of the CPU, and its vector extension where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    found = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    flags = (found.get("flags") or found.get("Features") or "").split()
    vectors = next((text for flag, text in VECTORS.items() if flag in flags), None)
    model = found.get("model name") or platform.processor() or platform.machine() or "unknown"
    return model if vectors is None else f"{model}, {vectors}"


def place(folder: str | Path, of: Machine) -> Path:
    """The file of a machine's speed in a folder, which machines may share."""
    digest = hashlib.sha256(msgspec.json.encode(of, order="sorted")).hexdigest()
    return Path(folder) / f"speed-{digest[:12]}.json"


def recall(path: Path, of: Machine) -> Speed | None:
    """The speed in a file; None if it is not there, damaged, or of another machine."""
    try:
        found = read_typed(path, Speed, remedy=FORGOTTEN)
    except (FileNotFoundError, UserError):
        return None
    return found if found.machine == of else None


def remember(path: Path, speed: Speed) -> None:
    """Writes a speed, atomically. A folder that cannot be written is no obstacle: it is measured again."""
    try:
        write_atomic(path, to_json(speed))
    except UserError as error:
        if error.code is not Code.ENVIRONMENT:
            raise
