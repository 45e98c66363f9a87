"""Scaling laws from a table of runs: fit, diagnose, forecast, allocate. Never imports the trainer, nor JAX.

Letters in names: S parameter sets, n runs, P parameters, K terms of a law.
"""
