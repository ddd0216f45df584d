"""Genloom's parts: plain functions on paths, hashes and numbers, usable without a cluster or a flow."""
