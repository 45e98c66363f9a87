"""What a fit says, as immutable typed values: intervals, warnings, noise, scope, and the card that holds them all.

Everything here is data. Sentences about it are made in ``show``; programs and tests read types and numbers. A card is
written as JSON and checked when it is read: a missing, extra or mistyped field is a ``UserError`` (``read_card``).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from scaling.records.unit import Unit
from scaling.records.value import Value

SCHEMA = 2


class Interval(Value):
    """A number and its interval, at the level that the holder states.

    Attributes:
      lo, hi: None where that end is open.
      unit: of all three; empty where it goes without saying.
    """

    value: float
    lo: float | None
    hi: float | None
    unit: str = ""

    @property
    def half_width(self) -> float:
        """Half the distance of the ends; infinite where one is open."""
        return float("inf") if self.lo is None or self.hi is None else (self.hi - self.lo) / 2


# --- warnings: one class a kind, found by its tag ``code``


class Warning(Value, tag_field="code"):
    """What is wrong or unknowable about a fit: its code (the tag) and its numbers. ``show.sentences`` words it."""

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
    factor: float  # by which they lie off the nearest other
    side: Literal["above", "below"]


class MixedUnits(Warning, tag="mixed_units"):
    """Losses that lie off the others by the factor between bits and nats."""

    rows: tuple[str, ...]
    of: int
    looks_like: Literal["bits", "nats"]


class Duplicates(Warning, tag="duplicates"):
    """Rows equal to another in N, D and loss that differ elsewhere."""

    rows: tuple[str, ...]


class CurveStartsLate(Warning, tag="curve_starts_late"):
    """Learning curves whose first logged step is not the first of the run."""

    runs: tuple[str, ...]
    first_step: int  # of the first of them


class ParameterAtBound(Warning, tag="parameter_at_bound"):
    parameter: str
    side: Literal["lower", "upper"]
    bound: float | None  # None where the limit is the engine's own, not the law's


class StemEffects(Warning, tag="stem_effects"):
    """Stem effects that would take the law off its runs, and are held."""

    sd: float


class TooFewValues(Warning, tag="too_few_values"):
    """Fewer distinct values of a column than the curve's bend needs."""

    column: str
    found: int
    needed: int


class TooFewRuns(Warning, tag="too_few_runs"):
    rows: int
    parameters: int


class Collinear(Warning, tag="collinear"):
    """log N and log D go together."""

    correlation: float


class OutlyingRow(Value):
    run: str
    residual: float  # in noise units


class Outliers(Warning, tag="outliers"):
    count: int
    limit: float  # noise units
    rows: tuple[OutlyingRow, ...]  # the first 50
    full_weight: bool  # the objective does not hold them down


class Heteroscedastic(Warning, tag="heteroscedastic"):
    spearman: float
    p: float
    ratio: float


class SeveralOptima(Warning, tag="several_optima"):
    count: int
    ranges: dict[str, tuple[float, float]]  # of parameters that differ between them


class MixedEpochs(Warning, tag="mixed_epochs"):
    rows: int
    largest: float


class MixedSchedules(Warning, tag="mixed_schedules"):
    rows: dict[str, int]


class Refuted(Warning, tag="refuted"):
    """The form misses by more than seeds differ."""

    F: float
    df1: int
    df2: int
    p: float


class InfluentialRow(Value):
    run: str
    residual: float
    quantity: str
    change: float  # of the quantity when the row is left out
    change_of_others: float | None = None  # of a group: what putting it back alone changes


class InfluentialGroup(Value):
    """Rows that hide each other: together they move the quantity, one by one they do not."""

    runs: tuple[str, ...]
    quantity: str
    change: float
    largest_alone: float


class Influential(Warning, tag="influential"):
    rows: tuple[InfluentialRow, ...]
    share: float  # of the half-width that one row must move
    group: InfluentialGroup | None = None


class NotIdentified(Warning, tag="not_identified"):
    """The design does not show a parameter or derived number.

    ``why``: ``floor`` (zero fits as well), ``flat`` (the loss does not fall), ``wide`` (an exponent's interval),
    ``scale`` (a positive scale unknown within a factor), ``approach`` (of approaches 1 and 2).
    """

    parameter: str
    why: Literal["floor", "flat", "wide", "scale"]
    lo: float | None = None
    hi: float | None = None
    half_width: float | None = None
    expected_half_width: float | None = None
    expected_statistic: float | None = None


class Doubtful(Warning, tag="doubtful"):
    """Identified at the fitted noise, and perhaps not at a little more."""

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
    limit: float  # ratio to the law from which on


class LeftOut(Warning, tag="left_out"):
    """Rows of a table that were not fitted and whose absence bends the law."""

    why: Literal["diverged", "undecayed"]
    rows: tuple[str, ...]
    of: int


class Checkpoints(Warning, tag="checkpoints"):
    """Earlier checkpoints of runs among the rows: not decayed, as far as the table says."""

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
    """The fitted law and the isoFLOP parabolas of the same runs."""

    a: ApproachesDifference
    N: ApproachesDifference
    a_values: tuple[Interval, Interval]  # approach 2, approach 3
    N_values: tuple[Interval, Interval]
    C: float  # FLOPs at which N is compared
    parabola_window: dict[str, float | None] | None = None  # a by window, where it depends on the window


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


# --- what a card is made of


class Dropped(Value):
    """A row of a table that was left out, and why.

    ``why``: ``unfinished``; ``status`` (``detail``: diverged, rejected, failed, or a word of the table); ``undecayed``;
    ``role`` (``detail``: of a held-out row); ``no_loss`` (``detail``: the loss term without a positive value); ``copy``
    (of the row ``detail``); ``warmup`` (``detail``: how many logged steps of a curve). ``reason`` is what the run's own
    result says.
    """

    row: str
    why: Literal["unfinished", "status", "undecayed", "role", "no_loss", "copy", "warmup"]
    detail: str = ""
    reason: str = ""


class Scheme(Value):
    """How intervals were made, and why so.

    Attributes:
      name, asked: the scheme, and what was asked for: ``auto`` chooses by the design.
      df: degrees of freedom of the t distribution.
      why: what chose it.
      grouped: ``stem`` or ``size`` where rows share one; ``groups`` how many.
      converged: share of the refits of a bootstrap that converged.
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
    """How wrong the law may be beyond its runs: k x Student's t, x in e-folds (``check.discrepancy``)."""

    k: float
    df: float
    shared: float
    setting: Literal["auto", "off", "given"]
    sets: int | None = None  # studies that k was learned from
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
    """What another scheme says of the same fit."""

    scheme: Scheme
    intervals: dict[str, Interval]


class EvaluationError(Value):
    """Standard error of the evaluation set, common to all runs: it moves the floor once and weighs no run."""

    se: float


class SeedWeights(Value):
    """Of one size, what seeds say of its noise."""

    value: float
    df: int
    sd: float | None
    sd_moderated: float
    weight: float


class Weights(Value):
    """How rows were weighed: by a column of precisions, or by the variance between seeds (moderated, Smyth 2004)."""

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
    """What leaving a row (of curves: a run) out changes; ``residual`` in noise units, of a run the mean one."""

    run: str
    quantity: str
    change: float
    residual: float


class Regret(Value):
    """The most that a tuned recipe's learning rate costs among the runs: a fraction of the loss, at N and D."""

    N: float
    D: float
    value: float
    hi: float


class Conventions(Value):
    """What N, D, C and the loss of the rows mean.

    Attributes:
      origin: ``records`` of a work directory, a ``table`` of final losses, or ``curves`` of logged steps.
      n: which count N is (nonembedding, total, ...); None where a table does not say.
      flops: what C is: the ``exact`` count of the records, a ``column`` of the table, or ``6ND``; None without C.
      columns: of a table: its names of N, D, C, loss and others.
      term: of records, the loss term or metric; None of a table.
      unit: of the loss; None where a table does not say.
      warmup: of curves: steps of the assumed linear warm-up.
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
    runs: str | None  # the set of reference runs that it belongs to
    note: str
    params: dict[str, PublishedParameter]


class Rows(Value):
    """The fitted rows by column, each (n,): ``run`` and numbers (N, D, C, loss, fitted, residual_log, weight ...)."""

    run: tuple[str, ...]
    columns: dict[str, tuple[float | None, ...]]

    def __len__(self) -> int:
        return len(self.run)


class FitCard(Value):
    """All that a fit says. ``draws`` is None until it is saved; the arrays lie beside it, named by their hash.

    Attributes:
      law: the name by which ``laws.get`` finds it (``chinchilla``, ``power:C``, ``mine.py:law``).
      params, derived: every number with its interval.
      runs: the rows that were fitted.
      schemes: by name, what other schemes of intervals say, where asked.
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
        """Parameters and a, b, by name."""
        derived = {name: getattr(self.derived, name) for name in ("a", "b")}
        return {**self.params, **{name: cell for name, cell in derived.items() if cell is not None}}

    @property
    def level(self) -> float:
        """Of the intervals."""
        return self.scheme.level


def finite(value: float) -> float | None:
    """The number as JSON can hold it: None where it is not finite."""
    return float(value) if math.isfinite(value) else None


def encode(value: Any, *, indent: int = 1) -> bytes:
    """JSON of a value of this module, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(value), indent=indent) + b"\n"
