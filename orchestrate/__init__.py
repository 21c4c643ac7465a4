"""The orchestrator: gives capacity back, by plans that a person approved and that can be undone."""
