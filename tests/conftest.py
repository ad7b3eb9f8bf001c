pytest_plugins = ["tests.support.tiers", "tests.support.real_model"]
