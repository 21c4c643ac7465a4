"""Drivers and the suite that holds for all of them."""

import pytest

# The suite is no test module by name: without this a failed assertion of it would tell no values.
pytest.register_assert_rewrite("tests.orchestrate.drivers.contract")
