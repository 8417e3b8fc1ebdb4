"""Learning to actively learn: which queries to make, and what to conclude from few noisy answers."""
