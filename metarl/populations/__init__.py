"""Populations of agents that learn to talk to each other, and to others."""
