"""From a run and a dataset to an artifact: one loop for every family."""
