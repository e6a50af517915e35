"""From a budget of minutes to plain configuration values, before the run starts."""
