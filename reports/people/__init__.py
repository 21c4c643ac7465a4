"""People: accounts, passwords, sessions, API tokens, who may do what, and the record of it."""
