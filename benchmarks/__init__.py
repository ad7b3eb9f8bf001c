"""Measurements behind the README's figures: `python -m benchmarks` runs all, each writes one file of results/."""
