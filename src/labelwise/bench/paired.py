"""Every method against plain cross-entropy, seed by seed.

Runs of one seed share the noise, the data and the start: their differences vary less than they do.
"""

from __future__ import annotations

from labelwise.bench.cells import Entry, Line, Table, nothing, signed
from labelwise.bench.readings import Readings, spread


def comparison(readings: Readings) -> Table | None:
    """Every method against plain cross-entropy, seed by seed."""
    baseline = readings.baseline()
    if baseline is None:
        return None
    lines = []
    for row in readings.rows:
        if row != baseline:
            entries = (
                _pair_entry(differences(readings, row, baseline, column))
                or nothing(readings, row, column)
                for column in readings.columns
            )
            lines.append(Line(row, tuple(entries)))
    if not any(entry.says for line in lines for entry in line.entries):
        return None
    return Table(
        "against-ce",
        "Against cross-entropy, seed by seed",
        f"Test accuracy of the last epochs minus that of {baseline} with the same seed, "
        "percentage points: mean ± sample standard deviation of the differences, and for how many "
        "seeds the method is above.",
        readings.columns,
        tuple(lines),
        tuple(verdicts(readings)),
    )


def differences(readings: Readings, row: str, baseline: str, column: str) -> list[float]:
    """Accuracy of a row minus the baseline's for every seed that both have finished, fractions."""
    ours = readings.values(row, column, "test_accuracy_last")
    theirs = readings.values(baseline, column, "test_accuracy_last")
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def verdicts(readings: Readings) -> list[str]:
    """A line per method that is not above cross-entropy everywhere, or one that says all are."""
    baseline = readings.baseline()
    if baseline is None:
        return []
    found, compared = [], 0
    for row in readings.rows:
        if row == baseline:
            continue
        below = []
        for column in readings.columns:
            pairs = differences(readings, row, baseline, column)
            compared += bool(pairs)
            mean = spread(pairs)
            if mean is not None and mean.mean <= 0:
                above = sum(pair > 0 for pair in pairs)
                below.append(f"{column} ({signed(100 * mean.mean)}, {above} of {len(pairs)} above)")
        if below:
            found.append(f"Not above {baseline}: {row} in {'; '.join(below)}.")
    if not compared:
        return []
    return found or [f"Every method is above {baseline} in every column where both were run."]


def _pair_entry(pairs: list[float]) -> Entry | None:
    value = spread(pairs)
    if value is None:
        return None
    sd = "" if value.sd is None else f" ± {100 * value.sd:.1f}"
    above = sum(pair > 0 for pair in pairs)
    return Entry(f"{signed(100 * value.mean)}{sd} ({above} of {len(pairs)})")
