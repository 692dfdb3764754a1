"""The deployment of a vLLM engine: ``ray.serve.llm`` places it, our service speaks for it.

Imported only where vLLM is installed: by the driver that deploys it and by its replicas.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.llm._internal.serve.core.configs.llm_config import DiskMultiplexConfig
from ray.serve import Application
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.deployment import LLMServer

from actors.names import engine_deployment
from mesh.core.settings import EngineSettings, ObservabilitySettings
from serve_apps.llm.deployment import LLMService
from serve_apps.llm.vllm_engine import VLLMEngine


class VLLMService(LLMService, LLMServer):  # type: ignore[misc, unused-ignore]  # no types there
    """``LLMService``'s methods over an engine that ``LLMServer`` starts and watches."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        llm_config: LLMConfig,
        *,
        name: str,
        engine: EngineSettings,
        adapters: Mapping[str, str],
        observability: ObservabilitySettings,
    ) -> None:
        """``name``: of the engine in the settings. ``adapters``: model id → folder on this node."""
        await LLMServer.__init__(self, llm_config)
        for number, (model, folder) in enumerate(adapters.items(), start=1):
            await self.engine.resolve_lora(
                DiskMultiplexConfig(
                    model_id=model,
                    max_total_tokens=None,
                    local_path=folder,
                    lora_assigned_int_id=number,
                )
            )
        served = VLLMEngine(
            self.engine,
            (engine.model, *adapters),
            context_tokens=engine.context_tokens,
            slots=engine.slots,
            queue=engine.queue_limit,
        )
        self.hold(name, served, observability)


def build_vllm_app(
    name: str,
    engine: EngineSettings,
    *,
    model: str,
    adapters: Mapping[str, Path],
    observability: ObservabilitySettings,
) -> Application:
    """The application of one vLLM engine. ``name``: in the settings. ``model``: a folder, or a
    hub's repository that each node fetches by itself; folders are the same on every node."""
    return build_llm_deployment(
        llm_config(engine, model, bool(adapters)),
        deployment_cls=VLLMService,
        bind_kwargs={
            "name": name,
            "engine": engine,
            "adapters": {key: str(folder) for key, folder in adapters.items()},
            "observability": observability,
        },
        override_serve_options={"name": engine_deployment(name)},
    )


def llm_config(engine: EngineSettings, model: str, lora: bool) -> LLMConfig:
    """What the settings say, in the terms of ``ray.serve.llm``."""
    vllm = engine.vllm
    arguments: dict[str, Any] = {
        "max_model_len": engine.context_tokens,
        "max_num_seqs": engine.slots,
        "tensor_parallel_size": vllm.tensor_parallel,
        "pipeline_parallel_size": vllm.pipeline_parallel,
    }
    if lora:
        arguments |= {
            "enable_lora": True,
            "max_loras": min(len(vllm.adapters), 8),
            "max_cpu_loras": len(vllm.adapters),
            "max_lora_rank": vllm.max_lora_rank,
        }
    bundle: dict[str, float] = {"CPU": vllm.cpus_per_worker}
    if vllm.gpus_per_worker:
        bundle["GPU"] = vllm.gpus_per_worker
    runtime: dict[str, Any] = {"env_vars": _environment(vllm.env)}
    if vllm.python is not None:
        runtime["py_executable"] = str(vllm.python)
    return LLMConfig(
        model_loading_config={"model_id": engine.model, "model_source": model},
        accelerator_type=vllm.accelerator,
        placement_group_config={"bundles": [bundle] * vllm.workers},
        engine_kwargs=arguments | dict(vllm.arguments),
        runtime_env=runtime,
        deployment_config=_deployment(engine, runtime),
        log_engine_metrics=False,
    )


def _deployment(engine: EngineSettings, runtime: Mapping[str, Any]) -> dict[str, Any]:
    vllm, room = engine.vllm, engine.slots + engine.queue_limit
    options: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": 0, "runtime_env": dict(runtime)},
        # more than the engine admits, so that it is the engine who refuses, at once
        "max_ongoing_requests": room + 16,
        "max_queued_requests": room,
        "health_check_period_s": 1,
        "health_check_timeout_s": 30,
        "graceful_shutdown_timeout_s": 10,
    }
    if vllm.max_replicas is None:
        return options | {"num_replicas": engine.replicas}
    return options | {
        "autoscaling_config": {
            "min_replicas": vllm.min_replicas,
            "initial_replicas": max(1, vllm.min_replicas or 0),
            "max_replicas": vllm.max_replicas,
            "target_ongoing_requests": vllm.target_ongoing,
            "upscale_delay_s": vllm.upscale_delay_s,
            "downscale_delay_s": vllm.downscale_delay_s,
        }
    }


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """An interpreter of its own finds our packages beside these modules."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.environ.get("PYTHONPATH", "")
    return {
        "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root,
        **extra,
    }
