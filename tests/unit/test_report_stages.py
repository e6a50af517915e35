"""The report of a run with stages, and the losses right after the warm-up."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from labelwise.audit.charts import BOTTOM, HEIGHT, TOP, Chart
from labelwise.audit.curves import curves, stage_charts
from labelwise.audit.early import BINS, early_figure
from labelwise.audit.facts import about
from labelwise.audit.outcome import early_losses
from labelwise.audit.report import write_report
from labelwise.audit.run_files import read_run
from labelwise.audit.stages import read_stages
from labelwise.cli import app
from labelwise.data.ledger import Ledger
from labelwise.errors import UserError
from labelwise.methods.dividemix import DivideMix
from labelwise.noise.planting import Planted
from labelwise.training.method import BASE_COLUMNS
from labelwise.training.scoring import EARLY, Score
from report_runs import STAGES, staged, with_early_losses, write_run


def words_of(run: Path, beside: Path | None = None) -> str:
    """The page without tags, its spaces squeezed."""
    text = write_report(run, beside).read_text(encoding="utf-8")
    text = re.sub(r"<(style|script)>.*?</\1>", "", text, flags=re.S)
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def heights(chart: Chart) -> list[dict[float, float]]:
    """Height of each bar above the axis by its left edge, for each colour, in drawing units."""
    found = []
    for bars in chart.bars:
        parts = re.findall(r"M([\d.]+) ([\d.]+)V([\d.]+)H", bars.path)
        found.append({float(x): float(low) - float(high) for x, low, high in parts})
    return found


def auroc_by_pairs(loss: np.ndarray, wrong: np.ndarray) -> float:
    """P(a wrong label's loss is higher than a right one's), by comparing every pair."""
    high, low = loss[wrong][:, None], loss[~wrong][None]
    return float(((high > low) + 0.5 * (high == low)).mean())


def wrong_of(run: Path) -> np.ndarray:
    found = read_run(run)
    assert found.labels.truth is not None
    return found.labels.given != found.labels.truth


# -- stages ------------------------------------------------------------------------------------


def test_stages_are_read_in_their_order(tmp_path: Path) -> None:
    stages = read_stages(read_run(staged(write_run(tmp_path))))
    assert [stage.title for stage in stages] == [
        "self-supervision (SimCLR)",
        "clustering (SCAN)",
        "sanm+scanmix",
    ]
    assert [len(stage.rows) for stage in stages] == [epochs for _, epochs in STAGES]
    assert [stage.seconds for stage in stages] == [12.0, 28.0, 150.0]
    assert stages[0].figures == pytest.approx({"knn_accuracy": 0.65, "neighbour_purity": 0.55})
    assert stages[1].figures == pytest.approx({"cluster_accuracy": 0.9, "clusters_used": 1.0})
    assert stages[2].figures == pytest.approx({"test_accuracy": 0.78})
    assert [stage.epochs[0] for stage in stages] == [1, 1, 1]


def test_page_of_a_run_with_stages(tmp_path: Path) -> None:
    run = staged(write_run(tmp_path))
    words = words_of(run)
    for part in (
        "The stages of the training",
        "Stage Epochs Time k-NN accuracy Neighbour purity Cluster accuracy Clusters in use "
        "Test accuracy",
        "no label is read. 6 12 s 65.0% 55.0% – – –",
        "no label is read. 4 28 s – – 90.0% 100.0% –",
        "reads the labels. 5 2 min 30 s – – – – 78.0%",
        "Trained with sanm+scanmix for 5 epochs after 6 epochs of self-supervision (SimCLR) and 4 "
        "of clustering (SCAN) (",
        "The last stage, sanm+scanmix, by its own epochs.",
        "vote for its true class",
        "The share of the pairs of similar samples",
    ):
        assert part in words
    assert 'href="#stages"' in (run / "report.html").read_text(encoding="utf-8")


def test_curves_of_the_stages(tmp_path: Path) -> None:
    run = read_run(staged(write_run(tmp_path)))
    found = {chart.title: chart for chart in stage_charts(run)}
    assert list(found) == [
        "SimCLR: similar samples",
        "SimCLR: loss",
        "SCAN: clusters",
        "SCAN: loss",
    ]
    assert all(chart.note.endswith(".") for chart in found.values())
    near = found["SimCLR: similar samples"]
    assert [line.name for line in near.lines] == ["k-NN accuracy", "neighbour purity"]
    assert "k-NN accuracy from 0.45 to 0.65" in near.words
    # Measured in every other epoch: the line goes on between the points that there are.
    assert near.lines[0].path.count("M") == 1
    assert near.lines[0].path.count("L") == 2
    assert [line.name for line in found["SimCLR: loss"].lines] == ["contrast"]
    assert "contrast from 5 to 2.5" in found["SimCLR: loss"].words
    assert "cluster accuracy from 0.6 to 0.9" in found["SCAN: clusters"].words


def test_curves_of_the_method_are_those_of_the_last_stage(tmp_path: Path) -> None:
    charts = {c.title: c for c in curves(read_run(staged(write_run(tmp_path))))}
    assert list(charts) == [
        "Test accuracy",
        "Labels judged right and wrong",
        "Neighbour pairs kept",
        "Training loss by term",
        "Clustering loss by term",
        "Time by phase",
    ]
    accuracy = charts["Test accuracy"]
    assert accuracy.lines[0].path.count("L") == STAGES[-1][1] - 1
    assert accuracy.x_ticks[0].text == "1"
    assert accuracy.x_ticks[-1].text == "5"
    kept = charts["Neighbour pairs kept"]
    assert [line.name for line in kept.lines] == ["pairs kept, network 1", "pairs kept, network 2"]
    assert "network 2 from 0.5 to 0.8" in kept.words
    clustering = charts["Clustering loss by term"]
    assert [line.name for line in clustering.lines] == ["cluster: consistency", "cluster: entropy"]
    assert "cluster: entropy from -2.5 to -2.5" in clustering.words
    training = charts["Training loss by term"]
    assert not any("cluster" in line.name for line in training.lines)


def test_stages_without_truth_speak_of_agreement(tmp_path: Path) -> None:
    words = words_of(staged(write_run(tmp_path, truth=False)))
    assert "k-NN agreement Neighbour agreement Cluster agreement" in words
    assert "k-NN accuracy" not in words
    assert "true class" not in words
    assert "wrong labels keep both down" in words


def test_a_run_without_stages_is_shown_as_before(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    page = write_report(run).read_text(encoding="utf-8")
    assert read_stages(read_run(run)) == ()
    for part in ('id="stages"', 'id="early"', "#stages", "#early", 'class="note"'):
        assert part not in page
    assert "Trained with dividemix for 4 epochs (small_resnet" in about(read_run(run))
    titles = [chart.title for chart in curves(read_run(run))]
    assert titles[0] == "Test accuracy"
    assert not stage_charts(read_run(run))


# -- losses right after the warm-up ------------------------------------------------------------


def test_histogram_of_right_and_wrong_labels(tmp_path: Path) -> None:
    run = with_early_losses(write_run(tmp_path))
    found, wrong = read_run(run), wrong_of(run)
    figure = early_figure(found)
    assert figure is not None
    (panel,) = figure.panels
    known = np.isfinite(found.arrays["early_loss"])
    loss = found.arrays["early_loss"][known].astype(float)
    unit = (loss - loss.min()) / (loss.max() - loss.min())
    expected = [np.histogram(unit[mask], BINS, (0, 1))[0] for mask in (~wrong[known], wrong[known])]
    assert [bars.name for bars in panel.chart.bars] == ["truly right", "truly wrong"]
    top = 1.08 * max(count.max() for count in expected)
    for bars, count in zip(heights(panel.chart), expected, strict=True):
        shown = [height for _, height in sorted(bars.items())]
        share = count[count > 0] / top
        scale = (HEIGHT - TOP - BOTTOM) * (np.sqrt(share) if figure.root else share)
        assert shown == pytest.approx(scale, abs=0.11)
    assert panel.auroc == pytest.approx(auroc_by_pairs(loss, wrong[known]), abs=1e-6)
    assert 0.9 < (panel.auroc or 0) < 1
    assert panel.num_left_out == 5
    words = words_of(run)
    assert f"higher loss than a right one with probability {panel.auroc:.3f}" in words
    assert "5 labels are left out" in words
    assert "Loss after the warm-up" in words


def test_early_losses_without_truth_have_one_colour(tmp_path: Path) -> None:
    run = with_early_losses(write_run(tmp_path, truth=False))
    figure = early_figure(read_run(run))
    assert figure is not None
    assert [bars.style for bars in figure.panels[0].chart.bars] == ["unknown"]
    assert figure.panels[0].auroc is None
    words = words_of(run)
    assert "AUROC" not in words
    assert "Which labels are wrong is not known here" in words


def test_early_losses_that_are_all_equal_or_unknown(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    with np.load(run / "evidence.npz") as file:
        arrays = dict(file)
    np.savez(run / "evidence.npz", **arrays, early_loss=np.ones(200))
    figure = early_figure(read_run(run))
    assert figure is not None
    assert figure.panels[0].auroc == 0.5
    np.savez(run / "evidence.npz", **arrays, early_loss=np.full(200, np.nan))
    assert early_figure(read_run(run)) is None
    assert 'id="early"' not in write_report(run).read_text(encoding="utf-8")
    np.savez(run / "evidence.npz", **arrays, early_loss=np.ones(3))
    with pytest.raises(UserError, match="early_loss has shape"):
        write_report(run)


def test_two_runs_side_by_side_on_the_same_axes(tmp_path: Path) -> None:
    ours = with_early_losses(staged(write_run(tmp_path / "ours")), spread=0.5)
    other = with_early_losses(write_run(tmp_path / "other"), spread=1.5)
    figure = early_figure(read_run(ours), read_run(other))
    assert figure is not None
    first, second = figure.panels
    assert first.chart.title == "sanm+scanmix after simclr+scan · ours"
    assert second.chart.title == "dividemix · other"
    assert first.chart.y_ticks == second.chart.y_ticks
    assert first.chart.x_ticks == second.chart.x_ticks
    assert (first.auroc or 0) > (second.auroc or 1)
    loss = read_run(other).arrays["early_loss"].astype(float)
    known = np.isfinite(loss)
    by_pairs = auroc_by_pairs(loss[known], wrong_of(other)[known])
    assert second.auroc == pytest.approx(by_pairs, abs=1e-6)
    words = words_of(ours, other)
    for panel in figure.panels:
        assert f"AUROC {panel.auroc:.3f}" in words
        assert f"{panel.chart.title} : a wrong label has a higher loss" in words
    page = (ours / "report.html").read_text(encoding="utf-8")
    assert page.split('class="panels"')[1].split("</figure>")[0].count("<svg viewBox") == 2


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("label_hash", "other", "they differ in the given labels"),
        ("input_hash", "other", "they differ in the inputs"),
        ("input_hash", None, "does not say which inputs it had"),
    ],
)
def test_runs_on_other_data_are_not_put_side_by_side(
    tmp_path: Path, key: str, value: str | None, message: str
) -> None:
    ours, other = (with_early_losses(write_run(tmp_path / name)) for name in ("ours", "other"))
    described = json.loads((other / "config.json").read_text(encoding="utf-8"))
    described["data"][key] = value
    (other / "config.json").write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        write_report(ours, other)
    assert not (ours / "report.html").exists()


def test_a_run_without_early_losses_is_named(tmp_path: Path) -> None:
    ours = with_early_losses(write_run(tmp_path / "ours"))
    other = with_early_losses(write_run(tmp_path / "other"), method="ce")
    with np.load(other / "evidence.npz") as file:
        arrays = dict(file)
    del arrays["early_loss"]
    np.savez(other / "evidence.npz", **arrays)
    with pytest.raises(UserError, match=r"other has no losses .*: ce does not divide"):
        write_report(ours, other)
    with pytest.raises(UserError, match="nowhere"):
        write_report(ours, tmp_path / "nowhere")


def test_the_command_takes_another_run(tmp_path: Path) -> None:
    for name in ("ours", "other"):
        with_early_losses(write_run(tmp_path / name))
    ours, other = str(tmp_path / "ours"), str(tmp_path / "other")
    done = CliRunner().invoke(app, ["report", ours, "--beside", other])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "ours" / "report.html").read_text(encoding="utf-8")
    assert 'class="panels"' in page
    assert CliRunner().invoke(app, ["report", ours]).exit_code == 0
    assert 'class="panels"' not in (tmp_path / "ours" / "report.html").read_text(encoding="utf-8")


# -- where they come from ----------------------------------------------------------------------


def test_only_the_first_scoring_is_kept() -> None:
    method = DivideMix()
    assert EARLY in method.columns()
    method.schedule = method.schedule.override({"epochs": 6, "warmup": 2})
    first = [
        phase.step.first
        for epoch in range(6)
        for phase in method.phases(epoch)
        if isinstance(phase.step, Score)
    ]
    assert first == [True, False, False, False]


def test_early_losses_of_a_ledger() -> None:
    ledger = Ledger((*BASE_COLUMNS, EARLY), 2, 4, torch.device("cpu"))
    assert early_losses(ledger, None) is None  # none written
    for peer, values in enumerate(([1.0, 2.0, 3.0, 4.0], [3.0, 2.0, 5.0, 0.0])):
        ledger.write(EARLY.name, peer, torch.arange(4), torch.tensor(values))
    loss = early_losses(ledger, None)
    assert loss is not None
    assert loss.tolist() == [2.0, 2.0, 4.0, 2.0]
    planted = Planted(torch.tensor([1]), torch.tensor([0]))
    loss = early_losses(ledger, planted)
    assert loss is not None
    assert np.isnan(loss).tolist() == [False, True, False, False]
    assert early_losses(Ledger(BASE_COLUMNS, 1, 4, torch.device("cpu")), None) is None
