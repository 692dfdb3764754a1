"""``maily job``: work that is done once on the cluster, such as training."""

from __future__ import annotations

import json as jsonlib
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.console import JsonFlag, answer, err, load, load_resolved, out

if TYPE_CHECKING:
    from mesh.core.settings import Settings

app = typer.Typer(help="Jobs on the cluster: training.", no_args_is_help=True)

MODULE = "cluster.jobs.train_classifier"


@app.callback()
def _jobs() -> None:
    """Jobs on the cluster."""


@app.command("train-classifier")
def train_classifier(
    limit: Annotated[
        int, typer.Option(min=0, help="Messages of the spam corpus, evenly chosen; 0: all.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same weights.")] = 7,
    local: Annotated[
        bool, typer.Option("--local", help="In this process, without a running instance.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until it is stopped.")] = 3_600,
    json: JsonFlag = False,
) -> None:
    """Train the classifier (topic, tone, audience, spam) and store it as the latest version."""
    from cluster.cli.progress import fetch_all
    from cluster.downloads import Artefact
    from mesh.agents.classifier.corpus import CORPUS_SOURCE

    settings = load() if local else load_resolved()[0]
    corpus = Artefact("SpamAssassin corpus", CORPUS_SOURCE, None, "the network")
    fetch_all(settings, [corpus], quiet=json)

    def say(line: str) -> None:
        if not json:
            err.print(line, highlight=False, style="dim")

    if local:
        from cluster.downloads import store_of
        from cluster.jobs.train_classifier import local_embedder, run

        store = store_of(settings, os.environ)
        result = run(settings, store, local_embedder(settings, store), limit, seed, say)
    else:
        result = _on_cluster(settings, limit, seed, timeout, say)
    if json:
        answer(result)
        return
    _show(result)
    if settings.agents.classifier == "builtin":
        out.print("[bold]→[/] use it: `maily up --set agents.classifier=latest`", highlight=False)


def _on_cluster(
    settings: Settings, limit: int, seed: int, timeout: float, say: Any
) -> dict[str, Any]:
    from cluster.failures import UNHEALTHY, Failure
    from cluster.jobs.submit import RESULT_MARK, Jobs, job_server
    from cluster.layout import Layout

    if settings.profile != "embedded":
        raise Failure(
            "jobs are submitted to the embedded Ray alone",
            f"on your own cluster: ray job submit -- python -m {MODULE}",
        )
    jobs = Jobs(job_server(settings), Layout(settings.home).secret("ray-token"))
    job = jobs.submit(MODULE, [f"--limit={limit}", f"--seed={seed}"], {}, cpus=0.1)
    say(f"job {job}")
    try:
        end = jobs.follow(job, say, timeout)
    except KeyboardInterrupt:
        jobs.stop(job)
        raise
    if not end.succeeded:
        last = "\n".join(end.log.strip().splitlines()[-3:])
        raise Failure(
            f"job {job} ended as {end.status}: {end.message[:500] or last}",
            "`maily logs ray` and the job's own log say more",
            UNHEALTHY,
        )
    lines = [line for line in end.log.splitlines() if line.startswith(RESULT_MARK)]
    found: dict[str, Any] = jsonlib.loads(lines[-1].removeprefix(RESULT_MARK))
    return {"job": job, **found}


def _show(result: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title=f"classifier {result['version']}")
    for column in ("question", "accuracy", "calibration error", "held out", ""):
        table.add_column(column, justify="left" if column in ("question", "") else "right")
    for name, metrics in result["metrics"].items():
        more = ", ".join(
            f"{key.replace('_', ' ')} {metrics[key]:.3f}"
            for key in ("out_of_fold_accuracy", "macro_f1", "roc_auc", "precision", "recall")
            if key in metrics
        )
        table.add_row(
            name,
            f"{metrics['accuracy']:.3f}",
            f"{metrics['calibration_error']:.3f}",
            str(metrics["held_out"]),
            more,
        )
    out.print(table)
    out.print(f"{result['folder']} in {result['seconds']} s", highlight=False, soft_wrap=True)
