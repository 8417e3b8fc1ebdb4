"""Carrying out runs: the host loop, checkpoints, logs and sweeps."""
