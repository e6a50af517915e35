"""Suites of runs: one command per table, resumable, with the papers' numbers beside ours."""
