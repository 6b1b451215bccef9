"""Sweeps over an experiment: one file for W&B's server and for this machine alone."""
