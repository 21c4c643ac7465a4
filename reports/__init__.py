"""The report: which VMs lie fallow, ranked, with the evidence beside each verdict."""
