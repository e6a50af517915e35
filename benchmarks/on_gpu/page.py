"""The page of a run on a GPU, from its rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]
MEBI = 2**20


def page(rows: Sequence[Row]) -> str:
    """Everything as Markdown; of an item that was run several times the last good one counts."""
    newest = latest(rows)
    parts = [
        "# labelwise on a GPU",
        about(rows),
        correctness(newest),
        throughput(newest),
        variants(newest),
        scaling(newest),
        suite(newest),
        failures(newest),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def latest(rows: Iterable[Row]) -> list[Row]:
    """One row of every item: the last that is done, else the last."""
    kept: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (row["part"], row["item"])
        if row["status"] == "done" or kept.get(key, row)["status"] != "done":
            kept[key] = row
    return list(kept.values())


def table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)


def about(rows: Sequence[Row]) -> str:
    """What the figures hold for: every device and version among the rows."""
    lines = []
    for row in rows:
        if "versions" not in row:
            continue
        versions, memory = row["versions"], row.get("gpu_memory")
        device = row.get("gpu", "no GPU, a rehearsal")
        size = "" if memory is None else f", {memory / 2**30:.0f} GiB"
        line = (
            f"- {device}{size}; driver {row.get('driver')}, CUDA {row['cuda']}, cuDNN "
            f"{row.get('cudnn')}; torch {versions.get('torch')}, Python {versions['python']}, "
            f"labelwise {versions.get('labelwise')}; {row['cpu']}, {row['threads']} threads; "
            f"commit {row['commit']}; {row['date'][:10]}"
        )
        if line not in lines:
            lines.append(line)
    if rows and not any("gpu" in row for row in rows):
        lines.append("\n**A rehearsal on a CPU: what it measures says nothing.**")
    return "\n".join(lines)


def of_part(rows: Iterable[Row], part: str, start: str = "") -> list[Row]:
    """Rows of a part whose item begins with a word."""
    return [row for row in rows if row["part"] == part and row["item"].startswith(start)]


def correctness(rows: Sequence[Row]) -> str:
    """A line for every method."""
    waits = {row["item"].partition(" ")[2]: row for row in of_part(rows, "correctness", "waits ")}
    parity = {row["item"].partition(" ")[2]: row for row in of_part(rows, "correctness", "parity ")}
    lines = []
    for name in dict.fromkeys((*waits, *parity)):
        same = parity.get(name, {})
        figures = same.get("result", {})
        numbers = [number(figures.get(key)) for key in ("features", "terms", "gradient", "views")]
        lines.append([f"`{name}`", waited(waits.get(name)), said(same), *numbers])
    if not lines:
        return ""
    head = ["method", "waits for the device", "as on the CPU"]
    head += ["features", "terms", "gradient", "views"]
    text = (
        "## Correctness\nThe first step of every phase of every method: with each synchronisation "
        "turned into an error, and beside the CPU with the same weights, batch, targets and draws "
        "(float32, no TF32). Features, terms of the loss and gradient: largest relative "
        "difference; views: largest difference of a pixel.\n\n" + table(head, lines)
    )
    epochs = [
        [f"`{row['item'].partition(' ')[2]}`", said(row), *epoch_figures(row)]
        for row in of_part(rows, "correctness", "epoch ")
    ]
    if epochs:
        head = ["method", "as on the CPU", "terms", "accuracies CPU", "accuracies device"]
        text += "\n\nTwo epochs of digits (symmetric 40 %) with the same draws:\n\n"
        text += table(head, epochs)
    return text


def waited(row: Row | None) -> str:
    """Whether a step waited."""
    if row is None:
        return "-"
    if row["status"] != "done":
        return f"**{row['status']}**: {row['error'].splitlines()[0][:120]}"
    return "no" if row["result"]["checked"] else "not told on a CPU"


def said(row: Row) -> str:
    """Whether a check held."""
    status = str(row.get("status", "-"))
    return {"done": "yes", "failed": "**no**"}.get(status, status)


def number(value: float | None) -> str:
    """A small number."""
    return "-" if value is None else f"{value:.1e}"


def epoch_figures(row: Row) -> list[str]:
    """Difference of the terms, and both accuracies."""
    result = row.get("result")
    if not result:
        return ["-"] * 3
    shown = [", ".join(f"{a:.1%}" for a in own) for own in result["accuracies"]]
    return [number(result["terms"]), *shown]


def throughput(rows: Sequence[Row]) -> str:
    """A line for every comparison."""
    found = [
        (row["result"]["model"], one)
        for row in of_part(rows, "throughput")
        if row["status"] == "done"
        for one in row["result"].get("rows", [])
    ]
    if not found:
        return ""
    lines = [
        [
            one["name"],
            seconds_of(one["ours"]),
            seconds_of(one["plain"]),
            f"**{one['ratio_of_medians']:.2f}**",
            len(one["ours"]),
            *(rate(one, side) for side in ("ours", "plain")),
            *(mebibytes(one["peaks"].get(side)) for side in ("ours", "plain")),
        ]
        for _, one in found
    ]
    head = ["", "labelwise, s", "plain, s", "ratio", "n", "images/s", "plain images/s"]
    head += ["peak MiB", "plain peak MiB"]
    models = ", ".join(dict.fromkeys(model for model, _ in found))
    text = (
        f"## Throughput\n{models}; both sides in turn, medians (min..max). Plain: float32 with "
        "PyTorch's TF32 defaults, NCHW, `cudnn.benchmark`, Pillow in loader workers, a forward per "
        "guessed view. labelwise: its own precision, channels-last. Images: those that a step "
        "draws, or the images of the data set in a whole epoch.\n\n" + table(head, lines)
    )
    notes = [f"- {one['name']}: {one['note']}." for _, one in found if one["note"]]
    return text + "\n\n" + "\n".join([*notes, *(where(one) for _, one in found if one["parts"])])


def where(one: Row) -> str:
    """Where the time of one comparison goes."""
    whole = sum(one["parts"].values())
    shares = ", ".join(f"{name} {spent / whole:.1%}" for name, spent in one["parts"].items())
    return f"- {one['name']}: {shares}."


def seconds_of(seconds: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(seconds):.4g} ({min(seconds):.4g}..{max(seconds):.4g})"


def rate(one: Row, side: str) -> str:
    """Images a second."""
    found = one.get("images_per_second")
    return "-" if found is None else f"{found[side]:,.0f}"


def mebibytes(peak: int | None) -> str:
    """Bytes in MiB."""
    return "-" if peak is None else f"{peak / MEBI:,.0f}"


def variants(rows: Sequence[Row]) -> str:
    """Compiled and not."""
    lines, notes = [], []
    for row in of_part(rows, "throughput", "variants "):
        if row["status"] != "done":
            continue
        name = row["item"].partition(" ")[2]
        result = row["result"]
        for variant, own in result["variants"].items():
            base = result["variants"]["as it is"]["median"]
            factor = base / own["median"]
            cells = [f"{own['median']:.4g}", f"{factor:.2f}", mebibytes(own["peak"])]
            lines.append([f"`{name}`", variant, *cells])
        notes += [f"- `{name}`, {what}: {why}" for what, why in result["notes"].items()]
    if not lines:
        return ""
    head = ["method", "variant", "seconds a step", "times faster", "peak MiB"]
    text = "## Compiled, and with cuDNN's own choice\n" + table(head, lines)
    return "\n\n".join([text, *(["\n".join(notes)] if notes else [])])


def scaling(rows: Sequence[Row]) -> str:
    """By batch size."""
    lines, largest = [], []
    for row in of_part(rows, "scaling"):
        if row["status"] != "done":
            continue
        name = row["item"].partition(" ")[2]
        for one in row["result"]["batches"]:
            if "error" in one:
                cells = [one["error"], "-", "-"]
            else:
                cells = [f"{one['images_per_second']:,.0f}", f"{one['seconds']:.4g}"]
                cells.append(mebibytes(one["peak"]))
            lines.append([f"`{name}`", one["batch"], *cells])
        found = row["result"]["largest"]
        if found is not None:
            peak = mebibytes(found.get("peak"))
            more = "no larger one was tried"
            if found["fails"] is not None:
                more = f"{found['fails']} does not: {found['why']}"
            words = f"the largest batch that fits is {found['batch']:,} ({peak} MiB); {more}"
            largest.append(f"- `{name}`: {words}")
    if not lines:
        return ""
    head = ["method", "batch a side", "images/s", "seconds a step", "peak MiB"]
    text = "## Batch size\n" + table(head, lines)
    return "\n\n".join([text, *(["\n".join(largest)] if largest else [])])


def suite(rows: Sequence[Row]) -> str:
    """What of the suite was run."""
    found = of_part(rows, "suite")
    if not found:
        return ""
    row = found[0]
    result = row.get("result", {})
    lines = [
        [
            f"`{one['row'] or one['name']}`",
            one["column"],
            one["seed"],
            percent(one["test_accuracy_last"]) if one["status"] == "done" else one["status"],
            one["paper_last"] or "-",
            "-" if one["wall_seconds"] is None else f"{one['wall_seconds'] / 60:.1f}",
            mebibytes(one["peak_memory_bytes"]),
        ]
        for one in result.get("rows", [])
    ]
    head = ["row", "column", "seed", "last-10 %", "paper %", "minutes", "peak MiB"]
    body = table(head, lines) if lines else row.get("error", "nothing was run")
    return f"## The suite {row['item']}\n`{result.get('command', '')}`\n\n{body}"


def percent(value: float | None) -> str:
    """A fraction in percent."""
    return "-" if value is None else f"{100 * value:.1f}"


def failures(rows: Sequence[Row]) -> str:
    """What did not work, with its traceback, and what there was no time for."""
    texts = [
        f"### {row['part']}: {row['item']}\n```\n{row.get('traceback') or row['error']}\n```"
        for row in rows
        if row["status"] == "failed"
    ]
    skipped = [f"{row['part']} {row['item']}" for row in rows if row["status"] == "skipped"]
    if skipped:
        texts.append("### No time was left for\n" + ", ".join(skipped))
    return "## What did not work\n" + "\n\n".join(texts) if texts else ""
