"""The command `genloom`: each module parses, calls and prints; heavy imports stand inside the functions."""
