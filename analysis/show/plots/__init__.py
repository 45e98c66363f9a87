"""Figures as pure functions: a fit or a result in, a ``matplotlib.figure.Figure`` out.

Every figure says how many runs it shows and what its interval is. Units: N parameters, D training tokens, C training
FLOPs, loss in nats per token unless the fit's conventions differ. With ``ax=`` a figure is drawn into given axes.
"""

from analysis.show.plots.approaches import allocation, isoflop
from analysis.show.plots.checks import floor, residuals
from analysis.show.plots.files import of_dataset, of_workdir, render, save, save_all, save_fit
from analysis.show.plots.law import compute, loss
from analysis.show.plots.runs import forecasts, training

__all__ = [
    "allocation",
    "compute",
    "floor",
    "forecasts",
    "isoflop",
    "loss",
    "of_dataset",
    "of_workdir",
    "render",
    "residuals",
    "save",
    "save_all",
    "save_fit",
    "training",
]
