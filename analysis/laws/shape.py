"""Width and depth as separate variables."""

from __future__ import annotations

from analysis.laws.base import E, Law, Term, amplitude, exponent

shape = Law(
    "shape",
    "L = E + W width^-a + H depth^-b + B D^-beta",
    (
        E,
        amplitude("W", "what too little width costs at width 1"),
        amplitude("H", "what too little depth costs at depth 1"),
        amplitude("B", "what too few tokens cost at D = 1"),
        exponent("a", "slope in width"),
        exponent("b", "slope in depth"),
        exponent("beta", "slope in tokens"),
    ),
    (Term("W", (("width", "a"),)), Term("H", (("depth", "b"),)), Term("B", (("D", "beta"),))),
    "a power term for each dimension; compare Alabdulmohsin 2023, arXiv 2305.13035",
    no_optimum="width and depth give N together: choose them, then N follows",
    example={"E": 1.5, "W": 30.0, "H": 3.0, "B": 400.0, "a": 0.7, "b": 1.0, "beta": 0.28},
)
