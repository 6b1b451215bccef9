"""Simulated annotators, image makers and rate limits, with known error rates, behind real HTTP on loopback."""
