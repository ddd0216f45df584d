"""A search for the settings of a run: its space, its trials by Ray Tune, what they found."""
