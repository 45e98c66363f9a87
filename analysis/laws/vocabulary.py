"""Vocabularies of different sizes, with data counted in characters."""

from __future__ import annotations

from analysis.laws.base import E, Law, Term, amplitude, exponent, slope

vocabulary = Law(
    "vocabulary",
    "L = E + A N^-alpha + V vocabulary^-gamma + B D^-beta vocabulary^-kappa",
    (
        E,
        amplitude("A", "what too few parameters outside of the embeddings cost at N = 1"),
        amplitude("V", "what too small a vocabulary costs, of one token"),
        amplitude("B", "what too few characters cost at D = 1, of a vocabulary of one token"),
        exponent("alpha", "slope in parameters"),
        exponent("gamma", "slope in the size of the vocabulary"),
        exponent("beta", "slope in characters"),
        slope("kappa", "slope of the data term in the vocabulary; below zero where a larger one needs more data"),
    ),
    (
        Term("A", (("N", "alpha"),)),
        Term("V", (("vocabulary", "gamma"),)),
        Term("B", (("D", "beta"), ("vocabulary", "kappa"))),
    ),
    "compare approach 3 of Tao 2024, arXiv 2407.13623, whose tokens are characters over their number in a token; here "
    "the data term has a slope in the vocabulary instead. Losses in nats less those of the unigram model",
    no_optimum="it depends on the vocabulary: hold that, then a = beta / (alpha + beta)",
    example={"E": 1.7, "A": 60.0, "V": 60.0, "B": 300.0, "alpha": 0.25, "gamma": 0.45, "beta": 0.35, "kappa": -0.11},
)
