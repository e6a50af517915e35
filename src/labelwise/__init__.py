"""labelwise."""
