"""What is wrong or unknowable: diagnosis, influence, replicates, rolling forecasts, approaches, discrepancy."""
