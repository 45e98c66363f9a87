"""Figures as pure functions: a fit or a result in, a ``matplotlib.figure.Figure`` out.

Every figure says how many runs it shows and what its interval is. Units: N parameters, D training tokens, C training
FLOPs, loss in nats per token unless the fit's conventions differ. With ``ax=`` a figure is drawn into given axes.
"""

from analysis.show.plots.approaches import allocation, isoflop
from analysis.show.plots.catalogue import NAMES
from analysis.show.plots.checks import floor, residuals
from analysis.show.plots.files import FORMATS, of_dataset, of_workdir, render, save, save_all, save_fit, save_summaries
from analysis.show.plots.law import compute, contours, frontier, loss
from analysis.show.plots.optimum import optimum
from analysis.show.plots.outcomes import outcomes
from analysis.show.plots.profiles import compared, profiles
from analysis.show.plots.runs import forecasts, training
from analysis.show.plots.sweep import learning_rates

__all__ = [
    "FORMATS",
    "NAMES",
    "allocation",
    "compared",
    "compute",
    "contours",
    "floor",
    "forecasts",
    "frontier",
    "isoflop",
    "learning_rates",
    "loss",
    "of_dataset",
    "of_workdir",
    "optimum",
    "outcomes",
    "profiles",
    "render",
    "residuals",
    "save",
    "save_all",
    "save_fit",
    "save_summaries",
    "training",
]
