"""Published laws: coefficients that were read in the source's own repository or data, or recomputed from it.

Each entry says where its numbers stand and how they were verified; numbers from memory have no place here.
``mark``: ``read`` = read in the source's own files; ``reproduced`` = the fit was made again from the runs that were
published and gave these numbers; a note says what did not come out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis import laws
from scaling.errors import UserError


@dataclass(frozen=True)
class Published:
    """Coefficients ``params`` of the law ``law`` (``analysis.laws``); an exponent alone where no amplitude is known.

    ``intervals`` are the published 95 % ones. ``runs`` names the set of reference runs that it belongs to.
    """

    name: str
    law: str
    params: Mapping[str, float]
    source: str
    arxiv: str
    where: str
    mark: str
    note: str = ""
    runs: str | None = None
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every coefficient of the law is there, so that it predicts."""
        return set(self.params) == set(laws.get(self.law).names)

    def predict(self, columns: Any) -> np.ndarray:
        """The law at the published coefficients, (n,). UserError where only some of them are known."""
        if not self.complete:
            raise UserError("published", self.name, f"only {', '.join(self.params)} is published; it predicts nothing")
        return laws.get(self.law).predict(dict(self.params), columns)

    def as_json(self) -> dict[str, Any]:
        """Plain values for a card or a listing."""
        return {
            "name": self.name, "law": self.law, "params": dict(self.params),
            "intervals": {k: list(v) for k, v in self.intervals.items()}, "source": self.source,
            "arxiv": self.arxiv, "where": self.where, "mark": self.mark, "note": self.note, "runs": self.runs,
        }  # fmt: skip


_REPRODUCED = "read, reproduced"
_BESIROGLU = "epoch-research/analyzing-chinchilla, data_analysis.ipynb"
_PORIAN = "formll/resolving-scaling-law-discrepancies, fit_results of summary_df*.pickle.xz"
# exponent of N_opt ~ C^a with the 95 % of their seed-noise bootstrap where it was read
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
        "hoffmann2022", "chinchilla",
        {"E": math.exp(0.5267228), "A": math.exp(6.0073404), "B": math.exp(6.0179186), "alpha": 0.33917084,
         "beta": 0.2849083},
        "Hoffmann 2022, approach 3 (printed: 1.69, 406.4, 410.7, .34, .28)", "2203.15556",
        f"{_BESIROGLU}, cells 16 and 59", "read", "does not fit the points of its own figure 4 (chi2 p 1.7e-49)",
        "chinchilla_besiroglu",
    ),
    Published(
        "besiroglu2024", "chinchilla",
        {"E": 1.8169, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
        "Besiroglu 2024", "2404.10102", f"{_BESIROGLU}, cells 18 to 59", _REPRODUCED,
        "the optimum of the plain objective is 1.81722, 477.83, 2143.4, .34731, .36717", "chinchilla_besiroglu",
        {"E": (1.769, 1.871), "A": (285.2, 743.6), "B": (1042, 5810), "alpha": (0.317, 0.373), "beta": (0.331, 0.415)},
    ),
    Published(
        "muennighoff2023", "repeats",
        {"E": math.exp(0.6254804), "A": math.exp(6.255414), "B": math.exp(7.3049974), "alpha": 0.3526596,
         "beta": 0.3526596, "R_D": 15.387756, "R_N": 5.309743},
        "Muennighoff 2023", "2305.16264", "huggingface/datablations, utils/parametric_fit.ipynb, cell 29", _REPRODUCED,
        "a local minimum of a flat valley: R_D 47 and R_N 2.3 fit a little better", "datablations_c4_fit182",
    ),
    Published(
        "mcleish2025", "chinchilla",
        {"E": math.exp(0.66552), "A": math.exp(4.87618), "B": math.exp(12.69841), "alpha": 0.25755, "beta": 0.59093},
        "McLeish 2025 (Gemstones), approach 3, runs beyond 100B tokens", "2502.06857",
        "mcleish7/gemstone-scaling-laws, parameters_delta-4/approach_3_parameters_grid_search_0_hot_100b+.json",
        _REPRODUCED, "beta comes out as .5895 at the same objective", "gemstones",
    ),
    Published(
        "steplaw2025-lr", "best_lr", {"k": 1.79, "p": -0.713, "q": 0.307}, "Step Law, Li 2025", "2503.04715",
        "step-law/steplaw, mean of data/1004_fitted_lr_bs_scaling_model_parameters.csv", "read",
        "does not come out of its raw rows: the best cells give 30 N^-.823 D^.288", "steplaw_dense_lr_bs",
        {"p": (-0.774, -0.655), "q": (0.271, 0.345)},
    ),
    Published(
        "steplaw2025-batch", "growth:D", {"k": 0.58, "a": 0.571}, "Step Law, Li 2025, batch in tokens", "2503.04715",
        "step-law/steplaw, mean of data/1004_fitted_lr_bs_scaling_model_parameters.csv", "read",
        "does not come out of its raw rows: the best cells give 3.4 D^.498", "steplaw_dense_lr_bs",
        {"a": (0.534, 0.606)},
    ),
    *(
        Published(
            f"porian2024-{key}", "growth:C", {"a": value}, f"Porian 2024, N_opt ~ C^a, {key.replace('-', ' ')}",
            "2406.19146", _PORIAN, _REPRODUCED, "", "porian_optima", {"a": interval} if interval else {},
        )
        for key, (value, interval) in _PORIAN_EXPONENTS.items()
    ),
    *(
        Published(
            f"gadre2024-{key}", "overtraining", dict(zip(("E", "A", "B", "eta"), map(float, values))),
            f"Gadre 2024, trained on {key}, loss on C4", "2403.08540",
            "refitted from mlfoundations/scaling, exp_data", "reproduced", "", "gadre_overtraining",
        )
        for key, values in _GADRE.items()
    ),
    *(
        Published(
            f"luo2025-{key}", "multipower",
            dict(zip(("L0", "A", "alpha", "B", "C", "beta", "gamma"), values)),
            f"multi-power law, Luo 2025, {key}", "2503.12811", "thu-yao-01-luo/MultiPowerLaw, README", _REPRODUCED,
            "its sums start at step 0 and hold the linear warm-up", "multipowerlaw_curves",
        )
        for key, values in _MULTIPOWER.items()
    ),
    *(
        Published(
            f"cherti2022-{key}", "power:C", {"A": a, "a": b},
            f"Cherti 2022, {key.replace('-', ', ')}: zero-shot error against C in GMAC", "2212.07143",
            "refitted from LAION-AI/scaling-laws-openclip", "reproduced", "", "openclip_zeroshot",
        )
        for key, (a, b) in _CLIP.items()
    ),
]  # fmt: skip

REGISTRY: dict[str, Published] = {entry.name: entry for entry in _ENTRIES}


def get(name: str) -> Published:
    """The published law of that name. UserError lists the names when there is none."""
    if name not in REGISTRY:
        raise UserError("published", name, f"choose one of {', '.join(REGISTRY)}")
    return REGISTRY[name]


def of(law: str) -> list[Published]:
    """Published coefficients of a functional form, ``growth`` standing for ``growth:C`` too."""
    return [p for p in REGISTRY.values() if p.law.partition(":")[0] == law.partition(":")[0]]


# Units of parameters whose values do not depend on what a token is: Kaplan's N_c is of parameters, and does.
OF_NO_LOSS = ("exponent", "epochs", "ratio")


def beside(law: str, intervals: Mapping[str, Mapping[str, Any]], *, same_loss: bool = True) -> list[dict[str, Any]]:
    """Every published fit of the form ``law`` beside a fit made here, of ``intervals`` {name: {"value", "lo", "hi",
    "unit"}}. Without ``same_loss``, for another tokenizer or objective, only exponents, epochs and ratios.

    Each {"name", "source", "runs", "note", "params": {name: {"published", "interval", "here", "says"}}, "verdict"}.
    ``says`` is agrees, or which interval excludes the other's value. What was held fixed is left out. That two fits
    differ is no fault of either where their runs are not the same.
    """
    out = []
    for entry in (p for p in REGISTRY.values() if p.law == law):
        cells = {}
        for name, value in entry.params.items():
            here = intervals.get(name) or {}
            lo, hi = here.get("lo"), here.get("hi")
            if here.get("value") is None or (lo is not None and lo == hi):
                continue
            if not same_loss and here["unit"] not in OF_NO_LOSS:
                continue
            ends = entry.intervals.get(name)
            ours = (lo is not None and value < lo) or (hi is not None and value > hi)
            theirs = ends is not None and not ends[0] <= here["value"] <= ends[1]
            says = {
                (False, False): "agrees", (True, False): "outside the interval here",
                (False, True): "outside the published interval", (True, True): "outside both intervals",
            }[ours, theirs]  # fmt: skip
            cells[name] = {
                "published": value, "interval": list(ends) if ends else None, "here": here["value"], "says": says,
            }  # fmt: skip
        if cells:
            alike = [k for k, c in cells.items() if c["says"] == "agrees"]
            apart = [k for k in cells if k not in alike]
            said = [f"{word} in {', '.join(names)}" for word, names in (("agrees", alike), ("differs", apart)) if names]
            verdict = "; ".join(said)
            out.append({"name": entry.name, "source": entry.source, "runs": entry.runs, "note": entry.note,
                        "params": cells, "verdict": verdict})  # fmt: skip
    return out
