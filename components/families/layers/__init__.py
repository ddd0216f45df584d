"""Pieces of networks and of samplers that families share; none of them knows what a family is."""
