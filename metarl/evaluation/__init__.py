"""How good rules are: meta-tests, scales and statistics."""
