"""Laws of the data: transfer, mixtures, several modalities, distillation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.laws.base import Array, Columns, Param, amplitude, exponent, floor, ratio, scale, slope
from analysis.laws.smooth import Smooth, Value

transfer = Smooth(
    "transfer",
    "D_T = k D^a N^b",
    (
        amplitude("k", "tokens of fine-tuning data that pre-training is worth at D = N = 1", "tokens"),
        slope("a", "slope in fine-tuning tokens"),
        slope("b", "slope in parameters"),
    ),
    (),
    "effective data transferred, Hernandez 2021, arXiv 2102.01293",
    inputs=("N", "D"),
    logs=lambda m, p, c: {"k": p["a"] * m.log(c["D"]) + p["b"] * m.log(c["N"])},
    amplitudes=("k",),
    quantity="tokens",
    response="D_T: tokens that a model from scratch would need on top for the same loss",
    no_optimum="it prices pre-training in tokens",
    example={"k": 1e4, "a": 0.2, "b": 0.4},
)


def mixture(domains: int) -> Smooth:
    """The mixing law of so many domains, of which two or more have a share in each run."""
    names = [f"r{i}" for i in range(1, domains + 1)]

    def logs(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
        u: Any = 0.0
        for i, name in enumerate(names, 1):
            u = u + c[name] * p[f"t{i}"]
        return {"mixture": u}

    def guess(columns: Columns, loss: Array) -> dict[str, float]:
        r = np.stack([np.asarray(columns[k], dtype=np.float64) for k in names], 1)
        coefficients = np.linalg.lstsq(r, np.log(loss - 0.7 * loss.min()), rcond=None)[0]
        return {f"t{i}": float(v) for i, v in enumerate(coefficients, 1)}

    params = (floor("c", "loss that no mixture removes"),)
    params += tuple(Param(f"t{i}", "log loss", -30.0, 30.0, f"effect of domain {i}") for i in range(1, domains + 1))
    inside = " + ".join(f"t{i} r{i}" for i in range(1, domains + 1))
    return Smooth(
        f"mixture{domains}",
        f"L = c + exp({inside})",
        params,
        (),
        "data mixing law, Ye 2024, arXiv 2403.16952 (k is in the t, as the shares r add to one)",
        inputs=tuple(names),
        signed=tuple(names),
        shares=True,
        logs=logs,
        guess=guess,
        example={"c": 1.4, **{f"t{i}": 0.4 - 0.7 * i for i in range(1, domains + 1)}},
        no_optimum="it chooses shares of domains, at one N and D",
    )


mixture2, mixture3, mixture4 = mixture(2), mixture(3), mixture(4)
NUMBERED = {"mixture": mixture}  # mixture5, mixture17 ... are made when they are named


mixed_modal = Smooth(
    "mixed_modal",
    "L = unimodal - C + A N^-alpha + B D^-beta",
    (
        amplitude("C", "how much the modalities help each other"),
        amplitude("A", "how parameters compete at N = 1"),
        amplitude("B", "how tokens compete at D = 1"),
        exponent("alpha", "slope in parameters"),
        exponent("beta", "slope in tokens"),
    ),
    (),
    "Aghajanyan 2023, arXiv 2301.03728",
    inputs=("N", "D", "unimodal"),
    logs=lambda m, p, c: {
        "+": c["unimodal"],
        "C": 0.0 * m.log(c["N"]),
        "A": -p["alpha"] * m.log(c["N"]),
        "B": -p["beta"] * m.log(c["D"]),
    },
    amplitudes=("C", "A", "B"),
    negative=("C",),
    no_optimum="the unimodal losses, a column here, fall with N and D too",
    example={"C": 0.3, "A": 300.0, "B": 300.0, "alpha": 0.35, "beta": 0.3},
)


def _student(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
    log_t = m.log(c["teacher_loss"])
    gap = (log_t - m.log(c["student_loss"]) - m.log(p["d"])) / p["f"]
    model = m.logaddexp(-p["alpha"] * m.log(c["N"]), m.log(p["R"]) - p["beta"] * m.log(c["D"]))
    return {
        "+": c["teacher_loss"],
        "K": -p["c0"] * log_t - p["c1"] * p["f"] * m.logaddexp(0.0, gap) + p["gamma"] * model,
    }


distillation = Smooth(
    "distillation",
    "L = teacher_loss + K teacher_loss^-c0 (1 + (teacher_loss / (student_loss d))^(1/f))^(-c1 f) "
    "(N^-alpha + R D^-beta)^gamma",
    (
        amplitude("K", "A^gamma of the paper"),
        ratio("R", "B / A of the paper", (1e-3, 1e3), 1e-20),
        exponent("alpha", "slope in student parameters", 5.0, (0.2, 1.0)),
        exponent("beta", "slope in distillation tokens", 5.0, (0.2, 1.0)),
        exponent("gamma", "outer exponent", 5.0, (0.3, 1.5)),
        slope("c0", "slope in the teacher's loss before the break", 20.0, (0.2, 4.0)),
        slope("c1", "change of slope at the break", 500.0, (0.2, 10.0)),
        ratio("d", "teacher's over student's loss at the break", (0.5, 2.0), 1e-3),
        scale("f", "e-folds", "width of the break", (0.05, 1.0), 1e-3),
    ),
    (),
    "Busbridge 2025, arXiv 2502.08606; student_loss is the student's own, trained on labels",
    inputs=("N", "D", "teacher_loss", "student_loss"),
    logs=_student,
    amplitudes=("K",),
    no_optimum="the teacher's cost is not in it",
    example={"K": 200.0, "R": 3.0, "alpha": 0.4, "beta": 0.45, "gamma": 0.8, "c0": 2.0, "c1": 6.0, "d": 1.1, "f": 0.2},
)
