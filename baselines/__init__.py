"""Baselines: one file each, one contract (`pwm.algorithms`), run by `python -m baselines`."""
