"""The results of a fit as immutable typed values: intervals, warnings, noise, scope, and the card that holds them all.

Everything here is data for programs and tests; ``show`` puts it into sentences. A card is written as JSON and validated
when it is read: a missing, extra or mistyped field is a ``UserError`` (``read_card``).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from analysis.interval import Interval
from analysis.warning import (
    AnyWarning as AnyWarning,
)
from analysis.warning import (
    ApproachesDifference as ApproachesDifference,
)
from analysis.warning import (
    ApproachesDisagree as ApproachesDisagree,
)
from analysis.warning import (
    Checkpoints as Checkpoints,
)
from analysis.warning import (
    Collinear as Collinear,
)
from analysis.warning import (
    CurveStartsLate as CurveStartsLate,
)
from analysis.warning import (
    Diverged as Diverged,
)
from analysis.warning import (
    Doubtful as Doubtful,
)
from analysis.warning import (
    Duplicates as Duplicates,
)
from analysis.warning import (
    Heteroscedastic as Heteroscedastic,
)
from analysis.warning import (
    Influential as Influential,
)
from analysis.warning import (
    InfluentialGroup as InfluentialGroup,
)
from analysis.warning import (
    InfluentialRow as InfluentialRow,
)
from analysis.warning import (
    LeftOut as LeftOut,
)
from analysis.warning import (
    Misfit as Misfit,
)
from analysis.warning import (
    MixedEpochs as MixedEpochs,
)
from analysis.warning import (
    MixedSchedules as MixedSchedules,
)
from analysis.warning import (
    MixedUnits as MixedUnits,
)
from analysis.warning import (
    NotIdentified as NotIdentified,
)
from analysis.warning import (
    NotLinear as NotLinear,
)
from analysis.warning import (
    NotMonotone as NotMonotone,
)
from analysis.warning import (
    Outliers as Outliers,
)
from analysis.warning import (
    OutlyingRow as OutlyingRow,
)
from analysis.warning import (
    ParameterAtBound as ParameterAtBound,
)
from analysis.warning import (
    QuestionedUnits as QuestionedUnits,
)
from analysis.warning import (
    Refuted as Refuted,
)
from analysis.warning import (
    SeveralOptima as SeveralOptima,
)
from analysis.warning import (
    StemEffects as StemEffects,
)
from analysis.warning import (
    StrayValue as StrayValue,
)
from analysis.warning import (
    SweptSettings as SweptSettings,
)
from analysis.warning import (
    TooFewRuns as TooFewRuns,
)
from analysis.warning import (
    TooFewValues as TooFewValues,
)
from analysis.warning import (
    Warning as Warning,
)
from scaling.records.unit import Unit
from scaling.records.value import Value

SCHEMA = 2


# --- parts of a card


class Dropped(Value):
    """A row of a table that was left out, and why.

    ``why``: ``unfinished``; ``status`` (``detail``: diverged, rejected, failed, or the table's own word);
    ``undecayed``; ``role`` (``detail``: the role of a held-out row); ``no_loss`` (``detail``: the loss term without a
    positive value); ``copy`` (``detail``: the row that it repeats); ``warmup`` (``detail``: number of logged steps of a
    curve); ``not_best`` (``detail``: the row of the same N and D with the lowest loss); ``unplanned``: the study asks
    for the run no longer. ``reason`` is the one in the run's own result.
    """

    row: str
    why: Literal["unfinished", "status", "undecayed", "role", "no_loss", "copy", "warmup", "not_best", "unplanned"]
    detail: str = ""
    reason: str = ""


class Scheme(Value):
    """How intervals were made, and why in this way.

    Attributes:
      name, asked: the scheme used and the one requested; ``auto`` chooses by the design.
      df: degrees of freedom of the t distribution.
      why: the reason for the choice.
      grouped: ``stem`` or ``size`` where rows share one; ``groups`` is their number.
      converged: share of a bootstrap's refits that converged.
    """

    level: float
    name: str
    asked: str
    df: float
    runs: int
    why: Literal["asked", "few_rows", "many_rows", "many_clusters", "curves", "huge", "bent"]
    grouped: Literal["stem", "size"] | None = None
    groups: int | None = None
    random_effect: bool = False
    draws: int | None = None
    converged: float | None = None


class Objective(Value):
    name: str
    delta: float | None
    value: float
    rms_log_residual: float


class Optimum(Value):
    params: dict[str, float]
    objective: float
    share_of_starts: float


class Groups(Value):
    kind: Literal["stem", "size"]
    count: int


class PureError(Value):
    sd: float | None
    df: int


class LackOfFit(Value):
    F: float | None
    df1: int | None
    df2: int | None
    p: float | None


class Structure(Value):
    """The F test of a polynomial in the law's columns against its residuals (``check.structure``)."""

    F: float
    df1: int
    df2: int
    p: float
    share: float  # of the residuals' sum of squares that the polynomial explains
    size_log: float  # root mean square of the structure, in log loss


class Noise(Value):
    """Standard deviations of log loss: of a run, of a stem or size, and between replicates."""

    sigma_run: float
    sigma_stem: float
    sigma_stem_hi: float
    groups: Groups | None
    pure_error: PureError
    lack_of_fit: LackOfFit
    structure: Structure | None = None  # None where the design leaves no room for the test


class Discrepancy(Value):
    """The possible error of the law beyond its runs: k x Student's t, x in e-folds (``check.discrepancy``)."""

    k: float
    df: float
    shared: float
    setting: Literal["auto", "off", "given"]
    sets: int | None = None  # number of studies from which k was learned
    sources: int | None = None
    of: Literal["loss", "other_loss", "error", "tokens", "steps", "value"] = "loss"  # what the law gives


class Scope(Value):
    """The range of the fitted runs."""

    rows: int
    sizes: int | None = None
    C_min: float | None = None
    C_max: float | None = None
    N_min: float | None = None
    N_max: float | None = None
    D_min: float | None = None
    D_max: float | None = None
    ND_max: float | None = None


class Data(Value):
    rows: int
    dropped: tuple[Dropped, ...]
    sha256: str
    source: str
    dataset: str | None


class Draws(Value):
    file: str
    sha256: str


class Derived(Value):
    """Numbers of the compute-optimal frontier, C = 6 N D on the card's N; all None for a law without one.

    Attributes:
      a, b: exponents of the optimal N and D; their intervals hold if the law does.
      a_beyond: a from the middle of the runs to ten times their compute; the interval holds the discrepancy. None where
        that is switched off.
      tokens_per_parameter: of the optimum, by FLOPs as in 1e+21; beyond the runs the intervals hold the discrepancy.
    """

    a: Interval | None = None
    b: Interval | None = None
    a_beyond: Interval | None = None
    tokens_per_parameter: dict[str, Interval] = msgspec.field(default_factory=dict)


class SchemeIntervals(Value):
    """The intervals of another scheme for the same fit."""

    scheme: Scheme
    intervals: dict[str, Interval]


class EvaluationError(Value):
    """Standard error of the evaluation set, common to all runs: it shifts the floor and does not enter the weights."""

    se: float


class SeedWeights(Value):
    """Noise between the seeds of one size."""

    value: float
    df: int
    sd: float | None
    sd_moderated: float
    weight: float


class Weights(Value):
    """How rows were weighted: by a column of precisions, or by the variance between seeds (moderated, Smyth 2004)."""

    name: str
    by: str | None = None
    prior_df: float | None = None
    prior_sd: float | None = None
    sizes: tuple[SeedWeights, ...] = ()


class Throughput(Value):
    """Tokens per second of one device by size."""

    N: tuple[float, ...]
    tokens_per_second: tuple[float, ...]


class Influence(Value):
    """The effect of leaving out a row (for curves: a run); ``residual`` is in units of noise, for a run its mean."""

    run: str
    quantity: str
    change: float
    residual: float


class Regret(Value):
    """The largest cost of a tuned recipe's learning rate among the runs, as a fraction of the loss, at N and D."""

    N: float
    D: float
    value: float
    hi: float


class Conventions(Value):
    """What N, D, C and the loss of the rows mean.

    Attributes:
      origin: ``records`` of a work directory, a ``table`` of final losses, or ``curves`` of logged steps.
      n: which count N is (nonembedding, total, ...); None where a table does not tell.
      flops: what C is: the ``exact`` count of the records, a ``column`` of the table, or ``6ND``; None without C.
      tokens: ``C/6N`` where D was computed from C; None where the rows have D, or no D at all.
      columns: for a table: its own names of N, D, C, loss and others, or arithmetic of its columns.
      units: for a table: the declared units of these, where they are not parameters, tokens, FLOPs and nats.
      aside: for a table: other columns that could be the loss.
      term: for records: the loss term or metric; None for a table.
      unit: of the loss; None where a table does not tell.
      warmup: for curves: steps of the assumed linear warm-up.
    """

    origin: Literal["records", "table", "curves"]
    n: str | None = None
    flops: Literal["exact", "column", "6ND"] | None = None
    tokens: Literal["C/6N"] | None = None
    columns: dict[str, str] = msgspec.field(default_factory=dict)
    units: dict[str, str] = msgspec.field(default_factory=dict)
    aside: tuple[str, ...] = ()
    term: str | None = None
    unit: Unit | None = None
    warmup: int | None = None
    regret: Regret | None = None


class PublishedParameter(Value):
    """A published coefficient beside the one fitted here."""

    published: float
    interval: tuple[float, float] | None
    here: float
    outside_here: bool  # the published value lies outside the interval here
    outside_published: bool  # the value here lies outside the published interval


class PublishedFit(Value):
    """A published fit of the same form beside this one (``laws.published``)."""

    name: str
    source: str
    runs: str | None  # the set of reference runs to which it belongs
    note: str
    params: dict[str, PublishedParameter]


class Rows(Value):
    """The fitted rows by column, each (n,): ``run`` and numbers (N, D, C, loss, fitted, residual_log, weight ...)."""

    run: tuple[str, ...]
    columns: dict[str, tuple[float | None, ...]]

    def __len__(self) -> int:
        return len(self.run)


class Kind(msgspec.Struct, frozen=True):
    """The field that every file in ``fits/`` has, and that tells which type it is of. Other fields are left out."""

    kind: str


class FitCard(Value):
    """All results of a fit. ``draws`` is None until the card is saved; the arrays are in a file beside it.

    Attributes:
      law: its name for ``laws.get`` (``chinchilla``, ``power:C``, ``mine.py:law``).
      params, derived: all numbers with their intervals.
      runs: names of the fitted rows.
      schemes: intervals of other schemes by name, where requested.
      offset: where some losses are not positive, what was added to all to fit them: residuals, noise and discrepancy
        are shares of the loss with it; parameters and rows are without it.
    """

    law: str
    formula: str
    source: str
    params: dict[str, Interval]
    fixed: dict[str, float]
    priors: dict[str, tuple[float, float]]
    derived: Derived
    scheme: Scheme
    objective: Objective
    weights: Weights | None
    evaluation: EvaluationError | None
    optima: tuple[Optimum, ...]
    warnings: tuple[AnyWarning, ...]
    conventions: Conventions
    data: Data
    scope: Scope
    noise: Noise
    discrepancy: Discrepancy
    throughput: Throughput | None
    runs: Rows
    influence: tuple[Influence, ...]
    published: tuple[PublishedFit, ...]
    draws: Draws | None
    seed: int
    schemes: dict[str, SchemeIntervals] = msgspec.field(default_factory=dict)
    offset: float = 0.0
    kind: Literal["fit"] = "fit"
    schema: Literal[2] = SCHEMA

    @property
    def intervals(self) -> dict[str, Interval]:
        """Intervals of the parameters and of a and b, by name."""
        derived = {name: getattr(self.derived, name) for name in ("a", "b")}
        return {**self.params, **{name: cell for name, cell in derived.items() if cell is not None}}

    @property
    def level(self) -> float:
        """Confidence level of the intervals."""
        return self.scheme.level


def finite(value: float) -> float | None:
    """The number, or None where it is not finite and JSON cannot hold it."""
    return float(value) if math.isfinite(value) else None


def encode(value: Any, *, indent: int = 1) -> bytes:
    """JSON of a value of this module, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(value), indent=indent) + b"\n"
