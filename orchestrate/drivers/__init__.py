"""Drivers of hypervisors: found by `orchestrate.drivers.registry`, held to the contract of `orchestrate.driver`."""
