"""Does the best teacher have a U-shape: is there a size beyond which a better teacher makes a worse student?

    scaling plan --config=experiments/distill.py
    scaling run  --config=experiments/distill.py --workdir=runs/distill
    python experiments/distill.py --workdir=runs/distill      # the table; also written as distill.json

Students of three sizes and three D learn from teachers of five sizes, two of them smaller than a student and one six
times as large as any of these; seeds of teacher and student go together, three of each. Busbridge 2025 (arXiv
2502.08606) finds that the loss of a student falls with that of its teacher and rises again where the teacher is far
ahead (the capacity gap). A student sees the teacher's distribution alone, at T = 1, over 0.06M to 0.26M tokens; its
teacher was trained on 0.26M of the same text. The world's entropy is exact, so losses are compared by their nats above
it. ``plain`` is the same student taught by the text.

The contrast: log nats of the student, quadratic in log N of the teacher, or in log nats of the teacher, a level a seed.
A U is a slope that is certainly negative at the least and certainly positive at the greatest teacher, at 95 %, which is
Fieller's interval of the minimum inside the range; ``falls`` and ``rises`` are the same sign at both. The answer is
that of the mean over all nine students, as they share their teachers and the noise of these.

Power, before the run: a pilot (seeds 10 and 11, one student, teachers of sizes 0 to 4 on 0.5M tokens) left a noise of
0.065. With three seeds ``power`` says that a U in the middle whose ends are 10 % (20 %) above the minimum is told with
probability 0.49 (0.99) at that noise, of one student, and 1.00 (1.00) at 0.03, about that of a mean of nine if half is
the teachers'; with the minimum at three quarters of the range and the far end 20 % (40 %) above it, 0.13 (0.51) and
0.57 (1.00). Without an effect a U is told in less than 1 %. The pilot itself told none.

2026-11-30, 181 cells, 4.0e12 FLOPs, 329 CPU-seconds with compilation (Intel Xeon with AVX-512, jax 0.10.2, one worker
on a shared core). Nats above the entropy, geometric means of three seeds, by the teacher's N; the last row is the
teachers':

         N        D   plain  by 6,256  by 13,976  by 24,768  by 55,568  by 154,064
     6,256   65,536  0.5147    0.4004     0.4013     0.4251     0.4119      0.4477
     6,256  131,072  0.3618    0.2486     0.2226     0.2630     0.2317      0.2454
     6,256  262,144  0.1802    0.1982     0.1591     0.1737     0.1469      0.1279
    13,976   65,536  0.4276    0.3144     0.2874     0.3083     0.2860      0.3182
    13,976  131,072  0.2595    0.2157     0.1833     0.1874     0.1624      0.1606
    13,976  262,144  0.1398    0.1888     0.1490     0.1505     0.1280      0.1006
    24,768   65,536  0.4377    0.2999     0.3229     0.2938     0.3127      0.3139
    24,768  131,072  0.2797    0.2095     0.1903     0.1771     0.1781      0.1592
    24,768  262,144  0.1391    0.1856     0.1496     0.1469     0.1295      0.0968
    teacher 262,144               0.1802     0.1398     0.1391     0.1143     0.0733

**No U-shape is found.** By N it is not identified: slopes -0.09 [-0.26, 0.09] and -0.05 [-0.22, 0.12] at the ends, for
the mean and for each of the nine students. Teachers of one size differ between seeds by up to a factor of two, so the
noise was 0.100, above what was expected: at that a U of 20 % in the middle is told with 0.77, of 10 % with 0.21. **By
the teacher's own nats the noise is 0.040** and the curve is not a U but flattens: a student's nats go as the teacher's
to the 0.43 [0.29, 0.57] at the worst teachers and 0.14 [-0.02, 0.30] at the best. The minimum of the parabola, at 0.044
[0.000, 0.076] nats, is beyond the best teacher's 0.073 or at it. There a U of 10 % in the middle is told with 0.94;
with the minimum at a quarter from the best, where 1/9 of the depth is on the near side, 40 % are needed for 0.90.

Where the text is short, no effect of the choice of teacher is seen. Looked at afterwards, by D: at 0.06M tokens the
slopes in nats are -0.06 [-0.29, 0.16] at the best and -0.02 [-0.22, 0.18] at the worst teachers, at 0.26M 0.45 [0.34,
0.55] and 0.86 [0.77, 0.96]: a better teacher is then better throughout. Any teacher saves a student of 0.06M tokens 13
to 33 % of its nats; at 0.26M one of the student's size or less costs nats (6 to 35 % more), as the student can hardly
pass it, while the largest saves 28 to 30 %.

The rate, at two sizes, one D, one seed and the middle teacher: half and twice give -4 and +5 %. Not shown: a teacher
more than 25 times as large as its student, or far ahead of it, which is where a gap would be; teachers trained for
longer, or on other text; T other than 1, the plain loss mixed in, DistilBERT's recipe; whether a teacher pays for
itself; depth apart from width. ``:large`` is the same for a GPU and has not been run, ``:smoke`` two sizes at two
seeds: a look at the path, no answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ml_collections import ConfigDict

from scaling import study
from scaling.errors import Code, UserError
from scaling.records.value import Value
from scaling.verbs import experiment, show

if TYPE_CHECKING:
    from analysis.interval import Interval

K, M = 2**10, 2**20
RATE = 0.01
RATES = (0.5, 2.0)  # times that, at two sizes and one D, with the middle teacher, for what the rate costs
TEXT = {"source": "zipf", "exponent": 0.6, "peak": 8.0}
PURE = {"temperature": 1.0, "kl": 1.0, "clm": 0.0}  # the student sees the teacher's distribution alone

Shape = Literal["U", "falls", "rises", "not identified"]


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``smoke`` for a look at the path, ``large`` for a GPU."""
    config: Any = study.base("distill", argument, ("smoke", "large"))
    config.recipe = {"name": "width", "learning_rate": RATE, "batch": 4, "warmup_steps": 20}
    config.evaluation.tokens = 16 * K
    teachers, students, seeds = (0, 1, 2, 3, 5), (0, 1, 2), (0, 1, 2)
    before, after = M // 4, (64 * K, 128 * K, 256 * K)
    if argument == "smoke":
        teachers, students, seeds = (0, 1, 2), (0, 1), (0, 1)
        before, after = 16 * K, (4 * K, 8 * K)
    if argument == "large":
        teachers, students, config.model.context, config.recipe["batch"] = (7, 8, 10, 12, 14), (8, 9, 10), 256, 32
        before, after = 32 * M, (8 * M, 16 * M, 32 * M)
    for name in ("teacher", "plain", "taught", "rates"):
        config.data[name] = TEXT
    config.cells.teacher = study.block("grid", "teacher", teachers, tokens=(before,), seeds=seeds)
    config.cells.plain = study.block("grid", "plain", students, tokens=after, seeds=seeds)
    for size in teachers:
        asked = {"teacher": {"block": "teacher", "size": size}, **PURE}
        cells = study.block("grid", "taught", students, tokens=after, seeds=seeds, distill=asked)
        config.cells[f"taught_{size}"] = cells
    asked = {"teacher": {"block": "teacher", "size": teachers[len(teachers) // 2]}, **PURE}
    for index, times in enumerate(RATES):
        fields = {"recipe": {"learning_rate": RATE * times}, "distill": asked}
        config.cells[f"rates_{index}"] = study.block("grid", "rates", students[::2], tokens=after[1:2], **fields)
    return config


def rows(workdir: Path) -> Any:
    """One row a finished run: arm, size, N, D, seed, rate, the nats above the entropy; N and nats of its teacher."""
    import pandas as pd

    found, teachers = [], {}
    for manifest, result in experiment.finished(workdir):
        entropy = manifest.data.entropy
        assert entropy is not None  # of a source that knows it
        own = {"arm": manifest.dataset, "size": manifest.size, "N": manifest.parameters.nonembedding}
        own |= {"D": manifest.tokens.D, "seed": manifest.seed, "rate": manifest.recipe["learning_rate"]}
        own |= {"excess": result.evaluation["loss"].value - entropy, "teacher": [x.run for x in manifest.parents]}
        teachers[manifest.run] = own
        found.append(own)
    for own in found:
        (teacher,) = own.pop("teacher") or (None,)
        taught = teachers.get(teacher, {})
        own |= {"N_teacher": taught.get("N", 0), "excess_teacher": taught.get("excess", math.nan)}
    return pd.DataFrame(found)


class Contrast(Value):
    """The quadratic of log nats above the entropy in log x, x a property of the teacher: a level a seed, common slopes.

    Attributes:
      first, last: slopes at the teachers of the least and the greatest x. least: x at the minimum, its interval that of
        Fieller; None where the curve is not certainly convex. noise: standard deviation of what is left, in nats' log.
      shape: ``U`` if the student certainly gains at the first and certainly loses at the last; ``falls`` or ``rises``
        if it certainly does the one or the other at both. At 95 %, two-sided, of Student's t.
    """

    first: Interval
    last: Interval
    least: Interval | None
    noise: float
    shape: Shape


class Student(Value):
    """Students of one size and D: nats above the entropy, geometric means over seeds, without and by teacher's N."""

    size: int
    N: int
    D: int
    plain: float
    taught: dict[int, float]
    by_size: Contrast


class Answer(Value):
    """Students, teachers' nats above the entropy by N, and the contrasts of the mean over all students.

    Attributes:
      by_size, by_loss: in the teacher's N, and in its nats above the entropy (where ``first`` is the best teacher).
      rates: {times the rate: nats above the entropy over those at the rate}, geometric mean over sizes, of one seed.
    """

    students: tuple[Student, ...]
    teachers: dict[int, float]
    by_size: Contrast
    by_loss: Contrast
    rates: dict[str, float]


def contrast(x: Sequence[float], excess: Sequence[float], seeds: Sequence[int]) -> Contrast:
    """The quadratic through runs of different teachers.

    Args:
      x: of each run's teacher. excess: of each run. seeds: of each run.

    Raises:
      UserError: no degree of freedom is left, or fewer than three teachers (TOO_FEW).
    """
    import numpy as np
    from scipy import stats

    from analysis.interval import Interval

    which, logs = np.asarray(seeds), np.log(np.asarray(x, float))
    ends = [np.mean([pick(logs[which == seed]) for seed in set(seeds)]) for pick in (np.min, np.max)]
    centre = float(np.mean(ends))
    z = logs - centre
    design = np.column_stack([z, z**2, *[(which == seed).astype(float) for seed in sorted(set(seeds))]])
    free = len(z) - design.shape[1]
    if free < 1 or np.linalg.matrix_rank(design) < design.shape[1]:
        raise UserError("workdir", len(z), "runs are too few: three teachers at two seeds", Code.TOO_FEW)
    y = np.log(np.asarray(excess))
    fitted = np.linalg.lstsq(design, y, rcond=None)[0]
    noise = math.sqrt(float(np.sum((y - design @ fitted) ** 2)) / free)
    covariance = noise**2 * np.linalg.inv(design.T @ design)[:2, :2]
    times, (b, c) = float(stats.t.ppf(0.975, free)), (float(value) for value in fitted[:2])
    found = []
    for end in ends:
        toward = np.array([1.0, 2 * (end - centre)])
        half = times * math.sqrt(float(toward @ covariance @ toward))
        slope = b + c * float(toward[1])
        found.append(Interval(value=slope, lo=slope - half, hi=slope + half))
    least = _least(b, c, times**2 * covariance)
    if least is not None:
        low, middle, high = (math.exp(min(centre + value, 700.0)) for value in least)
        least = Interval(value=middle, lo=low, hi=high)
    return Contrast(first=found[0], last=found[1], least=least, noise=noise, shape=_shape(*found))


def _least(b: float, c: float, covariance: Any) -> tuple[float, float, float] | None:
    # Fieller: the places v at which the slope b + 2 c v is not certainly other than 0; two roots of a quadratic in v.
    (bb, bc), (_, cc) = covariance.tolist()
    square, half, constant = 4 * (c * c - cc), 2 * (b * c - bc), b * b - bb
    if c <= 0 or square <= 0:
        return None
    root = math.sqrt(max(half * half - square * constant, 0.0))
    return (-half - root) / square, -b / (2 * c), (-half + root) / square


def _shape(first: Interval, last: Interval) -> Shape:
    signs = [1 if (end.lo or 0) > 0 else -1 if (end.hi or 0) < 0 else 0 for end in (first, last)]
    known: dict[tuple[int, ...], Shape] = {(-1, 1): "U", (-1, -1): "falls", (1, 1): "rises"}
    return known.get(tuple(signs), "not identified")


def power(
    noise: float, depth: float, teachers: Sequence[float], at: float = 0.5, draws: int = 400
) -> dict[Shape, float]:
    """How often ``contrast`` says which shape of three seeds with this noise, by simulation.

    Args:
      noise: standard deviation of log nats above the entropy. teachers: their N.
      depth: log nats that the farther end lies above the minimum, planted at the fraction ``at`` of the range of log N.
    """
    import numpy as np

    rng, logs = np.random.default_rng(0), np.log(np.asarray(teachers, float))
    place = (logs - logs.min()) / (logs.max() - logs.min())
    y = depth * ((place - at) / max(at, 1 - at)) ** 2
    x, seeds = np.tile(teachers, 3).tolist(), np.repeat([0, 1, 2], len(teachers)).tolist()
    told = [contrast(x, np.exp(np.tile(y, 3) + noise * rng.normal(size=len(x))).tolist(), seeds) for _ in range(draws)]
    return {shape: sum(each.shape == shape for each in told) / draws for shape in ("U", "falls", "rises")}


def analyse(workdir: Path) -> Answer:
    """The students of every teacher, compared.

    Raises:
      UserError: teachers or seeds are too few (TOO_FEW).
    """
    import numpy as np

    table: Any = rows(workdir)
    table["log"] = np.log(table["excess"])
    taught, plain, teacher = (table[table["arm"] == arm] for arm in ("taught", "plain", "teacher"))
    students = []
    for (size, amount), own in taught.groupby(["size", "D"]):
        alone = plain[(plain["size"] == size) & (plain["D"] == amount)]["log"]
        students.append(
            Student(
                size=int(size),
                N=int(own["N"].iloc[0]),
                D=int(amount),
                plain=float(np.exp(alone.mean())),
                taught=_means(own, "N_teacher"),
                by_size=contrast(own["N_teacher"].tolist(), own["excess"].tolist(), own["seed"].tolist()),
            )
        )
    # Teachers are shared by students, and so is their noise: the mean over students keeps one value a teacher and seed.
    cells = taught.pivot_table(index=["N_teacher", "seed", "excess_teacher"], columns=["size", "D"], values="log")
    mean = np.exp(cells.dropna().mean(axis=1)).reset_index(name="excess")
    y, seeds = mean["excess"].tolist(), mean["seed"].tolist()
    return Answer(
        students=tuple(students),
        teachers=_means(teacher, "N"),
        by_size=contrast(mean["N_teacher"].tolist(), y, seeds),
        by_loss=contrast(mean["excess_teacher"].tolist(), y, seeds),
        rates=_rates(table),
    )


def _means(table: Any, by: str) -> dict[int, float]:
    return {int(n): math.exp(value) for n, value in table.groupby(by)["log"].mean().items()}


def _rates(table: Any) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    keys = ["size", "D", "seed", "N_teacher"]
    both = table[table["arm"] == "rates"].merge(table[table["arm"] == "taught"], on=keys, suffixes=("", "_base"))
    for row in both.itertuples():
        found.setdefault(f"{row.rate / RATE:g}", []).append(row.log - row.log_base)
    return {times: math.exp(sum(logs) / len(logs)) for times, logs in found.items()}


def lines(answer: Answer) -> list[str]:
    columns = {
        "N": lambda row: f"{row.N:,}",
        "D": lambda row: f"{row.D:,}",
        "plain": lambda row: f"{row.plain:.4f}",
        **{f"by {n:,}": lambda row, n=n: f"{row.taught[n]:.4f}" for n in answer.teachers},
        "shape": lambda row: row.by_size.shape,
        "slopes": lambda row: f"{_span(row.by_size.first)}, {_span(row.by_size.last)}",
    }
    found = show.table(answer.students, columns)
    found.append("teachers: " + ", ".join(f"{value:.4f} at {n:,}" for n, value in answer.teachers.items()))
    for name, own, digits in (("N", answer.by_size, ",.0f"), ("nats", answer.by_loss, ".4f")):
        least = "no minimum is certain" if own.least is None else f"least at {_span(own.least, digits)}"
        slopes = f"slopes {_span(own.first)} and {_span(own.last)}"
        found.append(f"all students by the teacher's {name}: {own.shape}; {slopes}; {least}; noise {own.noise:.3f}")
    if answer.rates:
        shown = ", ".join(f"{value:.2f} at {times} times the rate" for times, value in answer.rates.items())
        found.append(f"taught: the excess is {shown}")
    return found


def _span(cell: Interval, digits: str = ".2f") -> str:
    return f"{cell.value:{digits}} [{cell.lo:{digits}}, {cell.hi:{digits}}]"


if __name__ == "__main__":
    experiment.command(__doc__, "distill.json", analyse, lines)
