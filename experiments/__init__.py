"""Everything that was measured: `python -m experiments NAME`."""
