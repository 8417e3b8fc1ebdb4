"""Runs: the host loop, checkpoints, logs, sweeps and options."""
