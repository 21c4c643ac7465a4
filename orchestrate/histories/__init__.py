"""Random histories of the whole controller from a seed, watched by an oracle."""
