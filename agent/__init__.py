"""The agent: one sample a minute of the VM it runs in, pushed to the aggregator.

This package is the leaf of the house: standard library and psutil only, since it runs in every VM.
What both ends of the wire need (`sample`, `wire`, `settings`) lives here.
"""
