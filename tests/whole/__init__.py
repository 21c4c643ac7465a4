"""A whole fleet in one process under virtual time, real but for its outermost edges: `python -m tests.whole`."""
