pytest_plugins = ["tests.support.spreading", "tests.support.tiers", "tests.support.real_model"]
