"""The families: one file each; `family.py` says what a family is."""
