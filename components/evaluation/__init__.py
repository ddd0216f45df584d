"""How good a model is: metrics on held-out data, with intervals."""
