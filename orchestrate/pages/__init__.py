"""The controller's pages for people: plans, approvals, runs, the audit log and the kill switch."""
