"""Checks of a fit and its data: diagnosis, influence, replicates, rolling forecasts, approaches, discrepancy."""
