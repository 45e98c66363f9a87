"""Published laws: coefficients read in the source's own repository or data, or recomputed from it.

Each entry gives the place of its numbers and how they were verified; none is from memory. ``mark``: ``read`` in the
source's own files, or ``reproduced``: refitting the published runs gave these numbers. A note names what could not be
reproduced.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import msgspec
import numpy as np

from analysis import laws
from analysis.card import Interval, PublishedFit, PublishedParameter, Value
from analysis.laws.base import Columns
from scaling.errors import Code, UserError, choose


class Published(Value):
    """Coefficients of a published law; an exponent alone where no amplitude is known.

    Attributes:
      law: its form, by a name for ``laws.get``.
      where: the file with the numbers.
      mark: how they were verified.
      runs: the set of reference runs to which it belongs.
      intervals: the published 95 % intervals.
    """

    name: str
    law: str
    params: dict[str, float]
    source: str
    arxiv: str
    where: str
    mark: Literal["read", "reproduced", "read, reproduced"]
    note: str = ""
    runs: str | None = None
    intervals: dict[str, tuple[float, float]] = msgspec.field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every coefficient of the law is known, so that it can predict."""
        return set(self.params) == set(laws.get(self.law).names)

    def predict(self, columns: Columns) -> np.ndarray:
        """The law at the published coefficients, (n,). UserError where only some of them are known."""
        if not self.complete:
            remedy = f"only {', '.join(self.params)} is published; it predicts nothing"
            raise UserError("published", self.name, remedy, Code.UNSUPPORTED)
        return laws.get(self.law).predict(self.params, columns)


_BESIROGLU = "epoch-research/analyzing-chinchilla, data_analysis.ipynb"
_STEPLAW = "step-law/steplaw, mean of data/1004_fitted_lr_bs_scaling_model_parameters.csv"
_PORIAN = "formll/resolving-scaling-law-discrepancies, fit_results of summary_df*.pickle.xz"
# exponent of N_opt ~ C^a, with the 95 % interval of their seed-noise bootstrap where it is available
_PORIAN_EXPONENTS: dict[str, tuple[float, tuple[float, float] | None]] = {
    "rw-kaplan": (0.835, (0.824, 0.846)),
    "rw-last-layer": (0.706, (0.692, 0.717)),
    "rw-short-warmup": (0.602, (0.591, 0.617)),
    "rw-cosine": (0.572, (0.560, 0.589)),
    "rw-tuned": (0.497, (0.491, 0.505)),
    "owt2-kaplan": (0.864, (0.819, 0.897)),
    "owt2-last-layer": (0.699, (0.664, 0.725)),
    "owt2-short-warmup": (0.603, (0.570, 0.629)),
    "owt2-cosine": (0.574, (0.542, 0.606)),
    "owt2-tuned": (0.519, (0.493, 0.541)),
    "rw-attention-last-layer": (0.717, None),
    "rw-attention-short-warmup": (0.622, None),
    "rw-attention-cosine": (0.577, None),
    "rw-attention-tuned": (0.505, None),
    "rw-kaplan-count-tuned": (0.712, None),
}
_GADRE = {"c4": (1.51, 141, 190, 0.121), "rpj": (1.84, 212, 367, 0.136), "rw": (1.73, 157, 246, 0.127)}
_MULTIPOWER = {
    "25M": (3.040, 0.525, 0.508, 363.788, 2.066, 0.583, 0.641),
    "100M": (2.651, 0.601, 0.453, 437.946, 2.132, 0.598, 0.655),
    "400M": (2.375, 0.654, 0.429, 523.425, 2.025, 0.594, 0.635),
}
_CLIP = {
    "laion-imagenet": (5.86, 0.111),
    "openai-imagenet": (23.2, 0.164),
    "laion-coco": (2.75, 0.079),
    "openai-coco": (1.59, 0.051),
}

_ENTRIES = [
    Published(
        name="hoffmann2022",
        law="chinchilla",
        params={
            "E": math.exp(0.5267228),
            "A": math.exp(6.0073404),
            "B": math.exp(6.0179186),
            "alpha": 0.33917084,
            "beta": 0.2849083,
        },
        source="Hoffmann 2022, approach 3 (printed: 1.69, 406.4, 410.7, .34, .28)",
        arxiv="2203.15556",
        where=f"{_BESIROGLU}, cells 16 and 59",
        mark="read",
        note="does not fit the points of its own figure 4 (chi2 p 1.7e-49)",
        runs="chinchilla_besiroglu",
    ),
    Published(
        name="besiroglu2024",
        law="chinchilla",
        params={"E": 1.8169, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
        source="Besiroglu 2024",
        arxiv="2404.10102",
        where=f"{_BESIROGLU}, cells 18 to 59",
        mark="read, reproduced",
        note="the optimum of the plain objective is 1.81722, 477.83, 2143.4, .34731, .36717",
        runs="chinchilla_besiroglu",
        intervals={
            "E": (1.769, 1.871),
            "A": (285.2, 743.6),
            "B": (1042, 5810),
            "alpha": (0.317, 0.373),
            "beta": (0.331, 0.415),
        },
    ),
    Published(
        name="muennighoff2023",
        law="repeats",
        params={
            "E": math.exp(0.6254804),
            "A": math.exp(6.255414),
            "B": math.exp(7.3049974),
            "alpha": 0.3526596,
            "beta": 0.3526596,
            "R_D": 15.387756,
            "R_N": 5.309743,
        },
        source="Muennighoff 2023",
        arxiv="2305.16264",
        where="huggingface/datablations, utils/parametric_fit.ipynb, cell 29",
        mark="read, reproduced",
        note="a local minimum of a flat valley: R_D 47 and R_N 2.3 fit a little better",
        runs="datablations_c4_fit182",
    ),
    Published(
        name="mcleish2025",
        law="chinchilla",
        params={
            "E": math.exp(0.66552),
            "A": math.exp(4.87618),
            "B": math.exp(12.69841),
            "alpha": 0.25755,
            "beta": 0.59093,
        },
        source="McLeish 2025 (Gemstones), approach 3, runs beyond 100B tokens",
        arxiv="2502.06857",
        where="mcleish7/gemstone-scaling-laws, parameters_delta-4/approach_3_parameters_grid_search_0_hot_100b+.json",
        mark="read, reproduced",
        note="beta comes out as .5895 at the same objective",
        runs="gemstones",
    ),
    Published(
        name="steplaw2025-lr",
        law="best_lr",
        params={"k": 1.79, "p": -0.713, "q": 0.307},
        source="Step Law, Li 2025",
        arxiv="2503.04715",
        where=_STEPLAW,
        mark="read",
        note="does not come out of its raw rows: the best cells give 30 N^-.823 D^.288",
        runs="steplaw_dense_lr_bs",
        intervals={"p": (-0.774, -0.655), "q": (0.271, 0.345)},
    ),
    Published(
        name="steplaw2025-batch",
        law="growth:D",
        params={"k": 0.58, "a": 0.571},
        source="Step Law, Li 2025, batch in tokens",
        arxiv="2503.04715",
        where=_STEPLAW,
        mark="read",
        note="does not come out of its raw rows: the best cells give 3.4 D^.498",
        runs="steplaw_dense_lr_bs",
        intervals={"a": (0.534, 0.606)},
    ),
    *(
        Published(
            name=f"porian2024-{key}",
            law="growth:C",
            params={"a": value},
            source=f"Porian 2024, N_opt ~ C^a, {key.replace('-', ' ')}",
            arxiv="2406.19146",
            where=_PORIAN,
            mark="read, reproduced",
            runs="porian_optima",
            intervals={"a": interval} if interval else {},
        )
        for key, (value, interval) in _PORIAN_EXPONENTS.items()
    ),
    *(
        Published(
            name=f"gadre2024-{key}",
            law="overtraining",
            params=dict(zip(("E", "A", "B", "eta"), map(float, values))),
            source=f"Gadre 2024, trained on {key}, loss on C4",
            arxiv="2403.08540",
            where="refitted from mlfoundations/scaling, exp_data",
            mark="reproduced",
            runs="gadre_overtraining",
        )
        for key, values in _GADRE.items()
    ),
    *(
        Published(
            name=f"luo2025-{key}",
            law="multipower",
            params=dict(zip(("L0", "A", "alpha", "B", "C", "beta", "gamma"), values)),
            source=f"multi-power law, Luo 2025, {key}",
            arxiv="2503.12811",
            where="thu-yao-01-luo/MultiPowerLaw, README",
            mark="read, reproduced",
            note="its sums start at step 0 and hold the linear warm-up",
            runs="multipowerlaw_curves",
        )
        for key, values in _MULTIPOWER.items()
    ),
    *(
        Published(
            name=f"cherti2022-{key}",
            law="power:C",
            params={"A": a, "a": b},
            source=f"Cherti 2022, {key.replace('-', ', ')}: zero-shot error against C in GMAC",
            arxiv="2212.07143",
            where="refitted from LAION-AI/scaling-laws-openclip",
            mark="reproduced",
            runs="openclip_zeroshot",
        )
        for key, (a, b) in _CLIP.items()
    ),
]

REGISTRY: dict[str, Published] = {entry.name: entry for entry in _ENTRIES}


def get(name: str) -> Published:
    """The published law of that name. UserError lists the names when there is none."""
    if name not in REGISTRY:
        raise UserError("published", name, f"unknown; {choose(name, REGISTRY)}", Code.UNKNOWN)
    return REGISTRY[name]


def of(law: str | laws.Law) -> list[Published]:
    """Published coefficients of a functional form; ``growth`` includes ``growth:C``."""
    form = laws.get(law).form
    return [p for p in REGISTRY.values() if laws.get(p.law).form == form]


def beside(
    law: str | laws.Law, intervals: Mapping[str, Interval], *, same_loss: bool = True
) -> tuple[PublishedFit, ...]:
    """Compares a fit with every published fit of the same form.

    Fits of other runs may differ without either being wrong. Parameters that are fixed here are left out.

    Args:
      law: the fitted law; a law of one variable is compared in the same column only.
      intervals: of the fitted parameters, by name.
      same_loss: False for another tokenizer or objective: compares only parameters independent of it (``portable``).

    Returns:
      One value for each published fit that has a parameter to compare.
    """
    law = laws.get(law)
    portable = {p.name for p in law.params if same_loss or p.portable}
    out = []
    for entry in (p for p in REGISTRY.values() if p.law == law.name):
        params = {}
        for name, value in entry.params.items():
            here = intervals.get(name)
            if here is not None and name in portable and (here.lo is None or here.lo != here.hi):
                params[name] = _compare(value, entry.intervals.get(name), here)
        if params:
            out.append(
                PublishedFit(name=entry.name, source=entry.source, runs=entry.runs, note=entry.note, params=params)
            )
    return tuple(out)


def _compare(value: float, interval: tuple[float, float] | None, here: Interval) -> PublishedParameter:
    return PublishedParameter(
        published=value,
        interval=interval,
        here=here.value,
        outside_here=(here.lo is not None and value < here.lo) or (here.hi is not None and value > here.hi),
        outside_published=interval is not None and not interval[0] <= here.value <= interval[1],
    )
