"""Reinforcement learning: networks, rollouts, returns, critics, and the seam of objectives."""
