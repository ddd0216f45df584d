"""Marks that say which model made a file, beside its content and never in it; reading and checking them."""
