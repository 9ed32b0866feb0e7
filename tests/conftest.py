"""What every test shares: the real servers and the policy on skips."""

pytest_plugins = ["tests.skip_policy", "tests.both_databases", "tests.real.fixtures"]
