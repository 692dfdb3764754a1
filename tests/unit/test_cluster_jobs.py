"""Jobs: submitted, followed line by line, stopped; and the training job itself in small."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.jobs import submit, train_classifier
from cluster.jobs.submit import RESULT_MARK, Jobs, job_server
from mesh.agents.classifier import artefact, corpus
from mesh.core.errors import Unavailable
from mesh.core.settings import Settings
from mesh.llm.fake import fake_embedding
from mesh.llm.store import ModelStore


class JobServer:
    """Says one more line of its log, and its next status, whenever it is asked."""

    def __init__(self, log: list[str], end: str = "SUCCEEDED") -> None:
        self.log, self.end = log, end
        self.asked = 0
        self.stopped: list[str] = []
        self.submitted: dict[str, Any] = {}

    def submit_job(self, **job: Any) -> str:
        self.submitted = job
        return "job-1"

    def get_job_status(self, job: str) -> str:
        self.asked += 1
        return self.end if self.asked > len(self.log) else "RUNNING"

    def get_job_logs(self, job: str) -> str:
        return "".join(self.log[: self.asked])

    def get_job_info(self, job: str) -> Any:
        return type("Info", (), {"message": "as planned"})()

    def stop_job(self, job: str) -> None:
        self.stopped.append(job)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> JobServer:
    import ray.job_submission

    made = JobServer(["one\n", "two, and half", " of it\nthree\n", RESULT_MARK + "{}\n"])
    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", lambda *a, **k: made)
    monkeypatch.setattr(submit, "POLL_S", 0.0)
    return made


def test_a_job_is_followed_by_whole_lines(server: JobServer) -> None:
    jobs, said = Jobs("http://127.0.0.1:1", "token"), list[str]()
    job = jobs.submit("cluster.jobs.x", ["--a", "b c"], {"A": "1"}, cpus=0.5)
    assert server.submitted["entrypoint"].endswith("-m cluster.jobs.x --a 'b c'")
    assert server.submitted["runtime_env"] == {"env_vars": {"A": "1"}}
    end = jobs.follow(job, said.append, timeout_s=10)
    assert end.succeeded
    assert said == ["one", "two, and half of it", "three"]


def test_a_job_that_fails_or_hangs_is_told(server: JobServer) -> None:
    server.end = "FAILED"
    end = Jobs("http://127.0.0.1:1", None).follow("job-1", lambda line: None, timeout_s=10)
    assert (end.succeeded, end.status, end.message) == (False, "FAILED", "as planned")
    server.asked = 0
    end = Jobs("http://127.0.0.1:1", None).follow("job-1", lambda line: None, timeout_s=0)
    assert end.status == "STOPPED"
    assert server.stopped == ["job-1"]


def test_no_job_server_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.job_submission

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", refuse)
    with pytest.raises(Unavailable, match="job server"):
        Jobs(job_server(Settings()), "token")


def test_a_job_server_that_hangs_is_given_up(
    server: JobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "CALL_TIMEOUT_S", 0.05)
    never = threading.Event()
    monkeypatch.setattr(server, "submit_job", lambda **job: never.wait(30))
    with pytest.raises(Unavailable, match="did not answer"):
        Jobs("http://127.0.0.1:1", None).submit("cluster.jobs.x", [], {}, cpus=0.1)
    never.set()
    monkeypatch.setattr(server, "submit_job", lambda **job: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Jobs("http://127.0.0.1:1", None).submit("cluster.jobs.x", [], {}, cpus=0.1)


def small_corpus(folder: Path) -> Path:
    texts = {
        "spam-1": corpus.spam_seeds() * 2,
        "easy-ham-1": [seed.text for seed in corpus.seeds()[:40]],
    }
    for group, lines in texts.items():
        (folder / group).mkdir(parents=True)
        for index, line in enumerate(lines):
            text = f"Subject: mail {index}\n\n{line}"
            (folder / group / f"{index:03d}.json").write_text(json.dumps({"text": text}))
    return folder


def embed(texts: Any) -> list[list[float]]:
    return [fake_embedding(text, 16) for text in texts]


def test_the_training_job_stores_a_version_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"file:{small_corpus(tmp_path / 'corpus')}"
    monkeypatch.setattr(corpus, "CORPUS_SOURCE", source)
    settings = Settings(home=tmp_path, store=tmp_path / "store")
    said: list[str] = []
    store = ModelStore(settings.store_directory)
    result = train_classifier.run(settings, store, embed, 0, 7, said.append)
    assert artefact.load(settings.store_directory).version == result["version"]
    assert set(result["metrics"]) == {"topic", "tone", "audience", "spam"}  # type: ignore[call-overload]
    assert any("32 of them spam" in line for line in said)
    assert any(line.startswith("fit") for line in said)


def test_thinning_keeps_the_shares() -> None:
    mails = [corpus.Message(str(i), i % 4 == 0, "x") for i in range(100)]
    picked = train_classifier.thinned(mails, 10)
    assert len(picked) == 10
    assert len({m.text for m in picked}) == 10
    assert train_classifier.thinned(mails, 0) is mails
    assert train_classifier.thinned(mails, 1_000) is mails


def test_the_command_trains_locally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "CORPUS_SOURCE", f"file:{small_corpus(tmp_path / 'corpus')}")
    monkeypatch.setattr(train_classifier, "local_embedder", lambda settings, store: embed)
    runner = CliRunner()
    arguments = ["--home", str(tmp_path), "job", "train-classifier", "--local", "--json"]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert Path(answer["folder"]).parent == tmp_path / "store" / "classifier"
    assert answer["metrics"]["spam"]["held_out"] > 0
