"""What a fit is for: allocation of a budget, the next cells, forecasts and their test, comparisons, tuning."""
