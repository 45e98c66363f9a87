"""How a law is fitted and how sure that is: surfaces, starts, estimation, random effects, inference, profiles."""
