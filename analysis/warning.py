"""Warnings of a fit as immutable typed values: one class per kind, identified by its tag ``code``.

``analysis.card`` has them all; ``show.sentences`` puts them into words.
"""

from __future__ import annotations

from typing import Literal

from analysis.interval import Interval
from scaling.records.value import Value


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


class QuestionedUnits(Warning, tag="questioned_units"):
    """A column or ratio that is absurd in every row (a loss: in most), as in another unit: the range of its values."""

    column: Literal["N", "D/N", "6ND", "C/6ND", "loss"]
    lo: float
    hi: float
    below: float | None  # the usual values, None where that end is open
    above: float | None


class SweptSettings(Warning, tag="swept_settings"):
    """Rows of one N and D differ in settings that the law does not know, such as the learning rate or the data."""

    columns: tuple[str, ...]  # of the table
    cells: int  # of one N and D in which they differ
    of: int  # cells in all
    spread_log: float  # median over those cells of the range of log loss
    laws: tuple[str, ...]  # that have such a column
    groups: tuple[str, ...] = ()  # the words of a column of words, by which the losses of a cell differ; else none


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


class NotLinear(Warning, tag="not_linear"):
    """Linearised draws that leave the fitted values: the law bends within their spread, or they start at a bound."""

    size_log: float | None  # distance of a median draw from the estimate over the rows; None where it is not finite
    expected_log: float  # that of the linearised law


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


class Misfit(Warning, tag="misfit"):
    """The residuals have a smooth structure in the law's columns, more than their noise allows."""

    F: float
    df1: int
    df2: int
    p: float
    share: float  # of the residuals' sum of squares
    size_log: float  # root mean square of the structure, in log loss
    floors: dict[str, float]  # of laws of the same columns that fit these runs at least as well, this one included


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
    interval), ``collinear`` (D is a function of N in the rows), ``scale`` (a positive scale not known within a factor),
    ``approach`` (for approaches 1 and 2).
    """

    parameter: str
    why: Literal["floor", "flat", "wide", "collinear", "scale"]
    lo: float | None = None
    hi: float | None = None
    half_width: float | None = None
    expected_half_width: float | None = None
    expected_statistic: float | None = None
    bound: float = 0.0  # of a floor, below which none is looked for


class Doubtful(Warning, tag="doubtful"):
    """Identified at the fitted noise, but perhaps not at slightly larger noise."""

    parameter: str
    why: Literal["floor", "wide"]
    lo: float | None = None
    hi: float | None = None
    half_width: float | None = None
    expected_half_width: float | None = None
    expected_statistic: float | None = None
    bound: float = 0.0  # of a floor, below which none is looked for


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
    | QuestionedUnits
    | SweptSettings
    | Duplicates
    | CurveStartsLate
    | ParameterAtBound
    | StemEffects
    | NotLinear
    | TooFewValues
    | TooFewRuns
    | Collinear
    | Outliers
    | Heteroscedastic
    | SeveralOptima
    | MixedEpochs
    | MixedSchedules
    | Refuted
    | Misfit
    | Influential
    | NotIdentified
    | Doubtful
    | Diverged
    | LeftOut
    | Checkpoints
    | NotMonotone
    | ApproachesDisagree
)
