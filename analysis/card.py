"""The results of a fit as immutable typed values: intervals, warnings, noise, scope, and the card that holds them all.

Everything here is data for programs and tests; ``show`` puts it into sentences. A card is written as JSON and validated
when it is read: a missing, extra or mistyped field is a ``UserError`` (``read_card``).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from scaling.records.unit import Unit
from scaling.records.value import Value

SCHEMA = 2


class Interval(Value):
    """A number and its interval, at the confidence level stated by its owner.

    Attributes:
      lo, hi: ends of the interval; None where that end is open.
      unit: of all three; empty where it is obvious.
    """

    value: float
    lo: float | None
    hi: float | None
    unit: str = ""

    @property
    def half_width(self) -> float:
        """Half the distance between the ends; infinite where one is open."""
        return float("inf") if self.lo is None or self.hi is None else (self.hi - self.lo) / 2


# --- warnings: one class per kind, identified by its tag ``code``


class Warning(Value, tag_field="code"):
    """A problem of a fit: its code (the tag) and its numbers. ``show.sentences`` puts it into words."""

    @property
    def code(self) -> str:
        """The tag: what programs and tests match."""
        return str(self.__struct_config__.tag)


class StrayValue(Warning, tag="stray_value"):
    """Rows far off all others in a column or ratio, where the others leave no such gap."""

    column: Literal["N", "D", "D/N", "C/6ND"]
    rows: tuple[str, ...]
    values: tuple[float, ...]
    of: int  # rows in all
    factor: float  # ratio to the nearest of the others
    side: Literal["above", "below"]


class MixedUnits(Warning, tag="mixed_units"):
    """Losses that differ from the others by the factor between bits and nats."""

    rows: tuple[str, ...]
    of: int
    looks_like: Literal["bits", "nats"]


class Duplicates(Warning, tag="duplicates"):
    """Rows that equal another one in N, D and loss but differ elsewhere."""

    rows: tuple[str, ...]


class CurveStartsLate(Warning, tag="curve_starts_late"):
    """Learning curves whose first logged step is not the first of the run."""

    runs: tuple[str, ...]
    first_step: int  # of the first of them


class ParameterAtBound(Warning, tag="parameter_at_bound"):
    parameter: str
    side: Literal["lower", "upper"]
    bound: float | None  # None where the bound is set by the engine, not by the law


class StemEffects(Warning, tag="stem_effects"):
    """Stem effects so large that the law would miss its runs; they are capped."""

    sd: float


class TooFewValues(Warning, tag="too_few_values"):
    """Too few distinct values of a column to determine the curvature."""

    column: str
    found: int
    needed: int


class TooFewRuns(Warning, tag="too_few_runs"):
    rows: int
    parameters: int


class Collinear(Warning, tag="collinear"):
    """log N and log D are collinear."""

    correlation: float


class OutlyingRow(Value):
    run: str
    residual: float  # in noise units


class Outliers(Warning, tag="outliers"):
    count: int
    limit: float  # noise units
    rows: tuple[OutlyingRow, ...]  # the first 50
    full_weight: bool  # whether the objective gives them full weight


class Heteroscedastic(Warning, tag="heteroscedastic"):
    spearman: float
    p: float
    ratio: float


class SeveralOptima(Warning, tag="several_optima"):
    count: int
    ranges: dict[str, tuple[float, float]]  # of the parameters that differ between the optima


class MixedEpochs(Warning, tag="mixed_epochs"):
    rows: int
    largest: float


class MixedSchedules(Warning, tag="mixed_schedules"):
    rows: dict[str, int]


class Refuted(Warning, tag="refuted"):
    """The lack of fit is larger than the noise between seeds."""

    F: float
    df1: int
    df2: int
    p: float


class InfluentialRow(Value):
    run: str
    residual: float
    quantity: str
    change: float  # change of the quantity when the row is left out
    change_of_others: float | None = None  # in a group: change when only this row is put back


class InfluentialGroup(Value):
    """Rows that mask each other: leaving them out together changes the quantity, one by one it does not."""

    runs: tuple[str, ...]
    quantity: str
    change: float
    largest_alone: float


class Influential(Warning, tag="influential"):
    rows: tuple[InfluentialRow, ...]
    share: float  # smallest change of a row that is reported, as a share of the half-width
    group: InfluentialGroup | None = None


class NotIdentified(Warning, tag="not_identified"):
    """The design does not identify a parameter or derived number.

    ``why``: ``floor`` (zero fits as well), ``flat`` (the loss does not fall), ``wide`` (an exponent with too wide an
    interval), ``scale`` (a positive scale not known within a factor), ``approach`` (for approaches 1 and 2).
    """

    parameter: str
    why: Literal["floor", "flat", "wide", "scale"]
    lo: float | None = None
    hi: float | None = None
    half_width: float | None = None
    expected_half_width: float | None = None
    expected_statistic: float | None = None


class Doubtful(Warning, tag="doubtful"):
    """Identified at the fitted noise, but perhaps not at slightly larger noise."""

    parameter: str
    why: Literal["floor", "wide"]
    lo: float | None = None
    hi: float | None = None
    half_width: float | None = None
    expected_half_width: float | None = None
    expected_statistic: float | None = None


class Diverged(Warning, tag="diverged"):
    """Losses so far above the law that training must have failed."""

    rows: tuple[str, ...]
    ratios: tuple[float, ...]
    of: int
    limit: float  # ratio to the law above which a loss counts as diverged


class LeftOut(Warning, tag="left_out"):
    """Rows of a table that were not fitted and whose absence biases the law."""

    why: Literal["diverged", "undecayed"]
    rows: tuple[str, ...]
    of: int


class Checkpoints(Warning, tag="checkpoints"):
    """Earlier checkpoints of runs among the rows, whose learning rate has not decayed as far as the table shows."""

    rows: int
    runs: int
    of: int


class NotMonotone(Warning, tag="not_monotone"):
    """A larger model that is worse at equal D."""

    rows: int
    rise_log: float
    D: float
    N_small: float
    N_large: float


class ApproachesDifference(Value):
    difference: float
    allowed: float
    disagree: bool
    exclude: bool


class ApproachesDisagree(Warning, tag="approaches_disagree"):
    """The fitted law and the isoFLOP parabolas of the same runs disagree."""

    a: ApproachesDifference
    N: ApproachesDifference
    a_values: tuple[Interval, Interval]  # approach 2, approach 3
    N_values: tuple[Interval, Interval]
    C: float  # FLOPs at which N is compared
    parabola_window: dict[str, float | None] | None = None  # a by window, where it depends on the parabolas' window


AnyWarning = (
    StrayValue
    | MixedUnits
    | Duplicates
    | CurveStartsLate
    | ParameterAtBound
    | StemEffects
    | TooFewValues
    | TooFewRuns
    | Collinear
    | Outliers
    | Heteroscedastic
    | SeveralOptima
    | MixedEpochs
    | MixedSchedules
    | Refuted
    | Influential
    | NotIdentified
    | Doubtful
    | Diverged
    | LeftOut
    | Checkpoints
    | NotMonotone
    | ApproachesDisagree
)


# --- parts of a card


class Dropped(Value):
    """A row of a table that was left out, and why.

    ``why``: ``unfinished``; ``status`` (``detail``: diverged, rejected, failed, or the table's own word);
    ``undecayed``; ``role`` (``detail``: the role of a held-out row); ``no_loss`` (``detail``: the loss term without a
    positive value); ``copy`` (``detail``: the row that it repeats); ``warmup`` (``detail``: number of logged steps of a
    curve). ``reason`` is the one in the run's own result.
    """

    row: str
    why: Literal["unfinished", "status", "undecayed", "role", "no_loss", "copy", "warmup"]
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
    why: Literal["asked", "few_rows", "many_rows", "many_clusters", "curves", "huge"]
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


class Noise(Value):
    """Standard deviations of log loss: of a run, of a stem or size, and between replicates."""

    sigma_run: float
    sigma_stem: float
    sigma_stem_hi: float
    groups: Groups | None
    pure_error: PureError
    lack_of_fit: LackOfFit


class Discrepancy(Value):
    """The possible error of the law beyond its runs: k x Student's t, x in e-folds (``check.discrepancy``)."""

    k: float
    df: float
    shared: float
    setting: Literal["auto", "off", "given"]
    sets: int | None = None  # number of studies from which k was learned
    sources: int | None = None


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
    """Numbers of the compute-optimal frontier, C = 6 N D on the card's N; all None for a law without one."""

    a: Interval | None = None
    b: Interval | None = None
    tokens_per_parameter: dict[str, Interval] = msgspec.field(default_factory=dict)  # by FLOPs, as 1e+21


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
      columns: for a table: its own names of N, D, C, loss and others.
      term: for records: the loss term or metric; None for a table.
      unit: of the loss; None where a table does not tell.
      warmup: for curves: steps of the assumed linear warm-up.
    """

    origin: Literal["records", "table", "curves"]
    n: str | None = None
    flops: Literal["exact", "column", "6ND"] | None = None
    columns: dict[str, str] = msgspec.field(default_factory=dict)
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


class FitCard(Value):
    """All results of a fit. ``draws`` is None until the card is saved; the arrays are in a file beside it.

    Attributes:
      law: its name for ``laws.get`` (``chinchilla``, ``power:C``, ``mine.py:law``).
      params, derived: all numbers with their intervals.
      runs: names of the fitted rows.
      schemes: intervals of other schemes by name, where requested.
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
