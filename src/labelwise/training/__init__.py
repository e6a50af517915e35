"""The nouns, the loop and what it stands on."""
