"""The real programs under faults: `python -m tests.faults --all`. `docs/reliability.md`."""
