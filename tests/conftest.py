pytest_plugins = ["tests.support.tiers"]
