"""Acting: environments, networks, rollouts and returns of reinforcement learning."""
