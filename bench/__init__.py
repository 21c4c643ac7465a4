"""Benchmarks: `python -m bench NAME --json`. Each measures the real programs and says what it measured."""
