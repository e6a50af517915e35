"""`kill -9` at any moment loses nothing: the resumed run ends with the same bits."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import labelwise
from labelwise.training.checkpoint import Checkpoints
from support import assert_same_tensors, rows_without_times

RUN = {
    "noise": "symmetric:0.5",
    "settings": {"lambda_u": 25.0},
    "epochs": 3,
    "checkpoint_every": 0,
    "threads": 1,
}
CHAIN = {
    **RUN,
    "method": "coteaching",
    "epochs": 2,
    "pretrain": "simclr",
    "settings": {"simclr.epochs": 2},
}
STAGES = {
    **RUN,
    "method": "scanmix",
    "pretrain": "moco+scan",
    "settings": {
        "moco.epochs": 2,
        "scan.epochs": 2,
        "scan.self_label_epochs": 1,
        "scan.head_steps": 20,
        "scanmix.cluster_lr": 1e-3,
    },
}
MASKED = {
    "noise": "symmetric:0.5",
    "method": "sanm+ce",
    "settings": {"sanm.score_every": 1},
    "epochs": 3,
    "checkpoint_every": 0,
    "threads": 1,
}
ANCHORS = {
    **RUN,
    "method": "hallucination",
    "settings": {
        "lambda_u": 25.0,
        "anchors_per_sample": 10,
        "hallucinator_steps": 20,
        "doubtful": 0.0,
        "least_agreement": 0.0,
    },
    "epochs": 4,
}
SCRIPT = """
import json, sys, labelwise
out, limit, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
try:
    if options:
        labelwise.fit("digits", limit=limit, out=out, **options)
    else:
        labelwise.resume(out)
except labelwise.Interrupted:
    sys.exit(130)
"""
STOPPED = 130


def begin(
    out: Path, limit: int, *, resume: bool, options: dict[str, Any] | None = None
) -> subprocess.Popen[bytes]:
    """Start or resume the run in a process of its own."""
    words = json.dumps({} if resume else options or RUN)
    return subprocess.Popen(
        [sys.executable, "-W", "error::UserWarning", "-c", SCRIPT, str(out), str(limit), words],
        stderr=subprocess.PIPE,
    )


def commits(out: Path) -> int:
    """The number of the last commit; 0 before the first."""
    try:
        entry = json.loads((out / "checkpoint" / "LAST").read_text())
    except (OSError, ValueError):
        return 0
    return int(Path(entry["file"]).stem)


def stop(process: subprocess.Popen[bytes], out: Path, after: int, delay: float, how: int) -> int:
    """Send a signal `delay` seconds after commit number `after`; return the exit status."""
    while process.poll() is None and commits(out) < after:
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(how)
    status = process.wait(timeout=120)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    process.stderr.close()
    assert "Traceback" not in said, said
    return status


def finish(out: Path, limit: int) -> None:
    """Resume to the end."""
    process = begin(out, limit, resume=True)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said.decode()


def assert_same_run(out: Path, whole: Path) -> None:
    """Weights, labels and figures equal those of the run that was left alone."""
    networks = sorted(path.name for path in (whole / "model").glob("network-*.pt"))
    assert networks
    assert networks == sorted(path.name for path in (out / "model").glob("network-*.pt"))
    for name in networks:
        ours, theirs = (torch.load(path / "model" / name) for path in (out, whole))
        assert_same_tensors(ours, theirs)
    ours, theirs = (pd.read_parquet(path / "labels.parquet") for path in (out, whole))
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    assert (out / "labels.csv").read_bytes() == (whole / "labels.csv").read_bytes()
    # Notes have a test of their own beside the loop's.
    first, second = (rows_without_times(p / "metrics.jsonl") for p in (out, whole))
    assert first == second
    clocks = {"wall_seconds", "images_per_second", "peak_memory_bytes"}
    summaries = [json.loads((p / "summary.json").read_text()) for p in (out, whole)]
    for summary in summaries:
        for stage in summary.get("stages", ()):
            del stage["seconds"]
    assert {k: v for k, v in summaries[0].items() if k not in clocks} == {
        k: v for k, v in summaries[1].items() if k not in clocks
    }


def whole_run(folder: Path, limit: int) -> tuple[Path, int]:
    """The run left alone, and how often it committed."""
    out = folder / "whole"
    labelwise.fit("digits", limit=limit, out=out, **RUN)
    return out, commits(out)


def test_killed_corrupted_stopped_and_resumed(tmp_path: Path) -> None:
    limit, draw = 120, random.Random(0)
    whole, total = whole_run(tmp_path, limit)
    assert total > 30
    out = tmp_path / "run"
    third = total // 3

    process = begin(out, limit, resume=False)
    killed = stop(process, out, draw.randint(1, third), 0.05 * draw.random(), signal.SIGKILL)
    assert killed == -signal.SIGKILL
    with pytest.raises(ValueError, match="not finished: `labelwise resume"):
        labelwise.load_run(out)
    newest = sorted((out / "checkpoint").glob("*.pt"))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)

    process = begin(out, limit, resume=True)
    before = commits(out)
    stopped = stop(process, out, before + draw.randint(3, third), 0.0, signal.SIGINT)
    assert stopped == STOPPED
    assert not list((out / "checkpoint").glob(".*")), "a stop leaves no partial file"
    assert not (out / "summary.json").exists()

    finish(out, limit)
    assert_same_run(out, whole)


def test_killed_in_pre_training_and_after_it(tmp_path: Path) -> None:
    """In either stage the resumed run has the optimisers, heads and epochs that belong to it."""
    limit, whole, out = 200, tmp_path / "whole", tmp_path / "run"
    labelwise.fit("digits", limit=limit, out=whole, **CHAIN)
    stages = [row["stage"] for row in rows_without_times(whole / "metrics.jsonl")]
    assert stages == ["simclr", "simclr", "coteaching", "coteaching"]
    total = commits(whole)
    process = begin(out, limit, resume=False, options=CHAIN)
    for after in (2, total // 2):
        assert stop(process, out, after, 0.0, signal.SIGKILL) == -signal.SIGKILL
        process = begin(out, limit, resume=True)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said.decode()
    assert_same_run(out, whole)


@pytest.mark.slow
def test_killed_while_masks_follow_the_clean_probability(tmp_path: Path) -> None:
    """The ratios of a resumed epoch's masks come from the ledger of the checkpoint."""
    limit, whole, out = 120, tmp_path / "whole", tmp_path / "run"
    labelwise.fit("digits", limit=limit, out=whole, **MASKED)
    total = commits(whole)
    assert total > 12
    process = begin(out, limit, resume=False, options=MASKED)
    for after in (total // 2, 3 * total // 4):
        assert stop(process, out, after, 0.0, signal.SIGKILL) == -signal.SIGKILL
        process = begin(out, limit, resume=True)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said.decode()
    assert_same_run(out, whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_in_every_stage_of_scanmix(tmp_path: Path, seed: int) -> None:
    """MoCo with its queue, neighbours, SCAN, self-labelling, warm-up, division, clustering."""
    limit, draw = 200, random.Random(seed)
    whole, out = tmp_path / "whole", tmp_path / "run"
    labelwise.fit("digits", limit=limit, out=whole, **STAGES)
    total = commits(whole)
    process = begin(out, limit, resume=False, options=STAGES)
    for after in sorted(draw.sample(range(1, total - 2), 10)):
        status = stop(process, out, max(after, commits(out)), 0.05 * draw.random(), signal.SIGKILL)
        assert status == -signal.SIGKILL
        process = begin(out, limit, resume=True)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said.decode()
    assert_same_run(out, whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_between_sorting_and_correcting(tmp_path: Path, seed: int) -> None:
    """The features of the scoring pass are no state, the hallucinator and what it sorted are."""
    limit, draw = 200, random.Random(seed)
    whole, out = tmp_path / "whole", tmp_path / "run"
    labelwise.fit("digits", limit=limit, out=whole, **ANCHORS)
    rows = rows_without_times(whole / "metrics.jsonl")
    assert all(row["corrected"] > 0 for row in rows[1:]), "nothing was corrected"
    total = commits(whole)
    process = begin(out, limit, resume=False, options=ANCHORS)
    for after in sorted(draw.sample(range(1, total - 2), 6)):
        status = stop(process, out, max(after, commits(out)), 0.05 * draw.random(), signal.SIGKILL)
        assert status == -signal.SIGKILL
        process = begin(out, limit, resume=True)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said.decode()
    assert_same_run(out, whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_many_random_moments(tmp_path: Path, seed: int) -> None:
    limit, draw = 300, random.Random(seed)
    whole, total = whole_run(tmp_path, limit)
    out = tmp_path / "run"
    process = begin(out, limit, resume=False)
    while True:
        after = commits(out) + draw.randint(1, max(2, total // 8))
        how = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        status = stop(process, out, after, 0.06 * draw.random(), how)
        assert status in (-signal.SIGKILL, STOPPED, 0)
        if status == 0:
            break
        if draw.random() < 0.3 and commits(out) > 2:
            newest = sorted((out / "checkpoint").glob("*.pt"))[-1]
            newest.write_bytes(newest.read_bytes()[: draw.randint(0, 5000)])
        process = begin(out, limit, resume=True)
    finish(out, limit)
    assert_same_run(out, whole)


def test_second_run_keeps_out_of_the_folder(tmp_path: Path) -> None:
    """The folder's lock and the state of a stopped run survive an attempt to start over it."""
    out = tmp_path / "run"
    options = {"limit": 60, "epochs": 1, "method": "ce", "threads": 1}
    labelwise.fit("digits", out=out, **options)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="is in use: continue it with `labelwise resume"):
        labelwise.fit("digits", out=out, **options)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_two_runs_started_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that comes second is refused, and leaves the first one's files alone."""
    from labelwise import estimator

    out = tmp_path / "run"
    config = '{"config": "of the first run"}'

    def first_run_starts(*args: object, **kwargs: object) -> object:
        out.mkdir()
        (out / "config.json").write_text(config)
        return prepare(*args, **kwargs)  # type: ignore[arg-type]

    prepare = estimator.prepare
    monkeypatch.setattr(estimator, "prepare", first_run_starts)
    with pytest.raises(ValueError, match="in use"):
        labelwise.fit("digits", limit=60, epochs=1, method="ce", out=out)
    assert (out / "config.json").read_text() == config


def test_checkpoint_of_other_labels_is_refused(tmp_path: Path) -> None:
    """The digest of a run covers its labels."""
    out = tmp_path / "run"
    labelwise.fit("digits", limit=60, epochs=1, method="ce", out=out, threads=1)
    described = json.loads((out / "config.json").read_text())
    digest = described["config_digest"] + described["data"]["label_hash"][:16]
    assert Checkpoints(out / "checkpoint", digest).load() is not None
    (out / "report.html").unlink()  # a finished run is not touched at all
    described["data"]["label_hash"] = "0" * 64
    (out / "config.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="labels of digits are not those"):
        labelwise.resume(out)
    described["config"]["seed"] = 5
    (out / "config.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"not those|another configuration"):
        labelwise.resume(out)
