"""Settings of an engine of the kind ``vllm``: how ``ray.serve.llm`` places and scales it.

::

    [llm.engines.gpu]
    kind = "vllm"
    model = "llama-3.1-8b"
    source = "hf:meta-llama/Llama-3.1-8B-Instruct"

    [llm.engines.gpu.vllm]
    accelerator = "L4"
    tensor_parallel = 2
    max_replicas = 4
    adapters = { brand-voice = "file:/models/lora/brand-voice" }
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from mesh.core.settings_section import Section


class VLLMSettings(Section):
    python: Path | None = None
    """Interpreter of the environment that holds vLLM; unset: our own (``pip install
    'maily-mesh[gpu]'``). It needs the same Python and Ray as ours."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the replicas, such as ``VLLM_CPU_KVCACHE_SPACE``."""
    accelerator: str | None = None
    """Kind of GPU that a replica asks for, in Ray's names (``L4``, ``A10G``, ``H100`` …)."""
    gpus_per_worker: float = Field(default=1.0, ge=0)
    """0: on CPUs alone."""
    cpus_per_worker: float = Field(default=1.0, ge=0)
    """Of Ray's; on a node that serves everything else too, 0 asks for none."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs that share one model's layers."""
    pipeline_parallel: int = Field(default=1, ge=1)
    """Groups of such GPUs, one after the other."""
    min_replicas: int | None = Field(default=None, ge=0)
    """With ``max_replicas``: scaled by load instead of the fixed ``replicas``. 0: none while
    nobody asks."""
    max_replicas: int | None = Field(default=None, ge=1)
    target_ongoing: float = Field(default=8.0, gt=0)
    """Requests per replica that scaling aims at."""
    upscale_delay_s: float = Field(default=10.0, ge=0)
    downscale_delay_s: float = Field(default=300.0, ge=0)
    adapters: dict[str, str] = Field(default_factory=dict)
    """LoRA adapters: the model id that callers name → source of its folder. They share the base
    model's weights and slots."""
    max_lora_rank: int = Field(default=16, ge=1)
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Any further engine argument of vLLM, by its Python name (``quantization``, ``dtype`` …)."""

    @model_validator(mode="after")
    def _scales(self) -> Self:
        if (self.min_replicas is None) != (self.max_replicas is None):
            raise ValueError("min_replicas and max_replicas belong together")
        if self.max_replicas is not None and (self.min_replicas or 0) > self.max_replicas:
            raise ValueError("min_replicas must be at most max_replicas")
        return self

    @property
    def workers(self) -> int:
        """Processes of one replica."""
        return self.tensor_parallel * self.pipeline_parallel
