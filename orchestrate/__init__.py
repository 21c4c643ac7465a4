"""The orchestrator: gives the capacity back. It arrives with a later release."""
