"""Fine-tuning: the loss after so many tokens of fine-tuning data, by the size or the data of the model that it starts
from. For one such model the rectified law of arXiv 2402.02314, E + B / (D_l + D^beta), is ``saturating``."""

from __future__ import annotations

from analysis.laws.base import E, Law, Term, amplitude, exponent


def _of(name: str, column: str, what: str) -> Law:
    return Law(
        name,
        f"L = E + A {column}^-alpha tuning_tokens^-beta",
        (
            E,
            amplitude("A", f"reducible loss at one of {column} and of tuning_tokens"),
            exponent("alpha", f"slope in {what}"),
            exponent("beta", "slope in tokens of fine-tuning"),
        ),
        (Term("A", ((column, "alpha"), ("tuning_tokens", "beta"))),),
        "compare Zhang 2024, arXiv 2402.17193 (its abstract was read): A X^-a D_f^-b + E",
        no_optimum="it does not weigh the cost of the model against that of its fine-tuning",
        example={"E": 0.8, "A": 300.0, "alpha": 0.2, "beta": 0.1},
    )


fine_tuning = _of("fine_tuning", "N", "parameters")
fine_tuning_pretrained = _of("fine_tuning_pretrained", "pretraining_tokens", "tokens of pre-training")
