"""Replays recorded load over a described host park and tells what a consolidation policy would have cost."""
