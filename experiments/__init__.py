"""Experiments on the models: `python -m experiments NAME`."""
