"""Label noise processes: one file each, found by discovery."""
