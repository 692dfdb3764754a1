"""The GGUF that llama.cpp reads, as the safetensors that vLLM reads, and a LoRA adapter for it.

Run with vLLM's interpreter: ``python tests/vllm/convert.py MODEL.gguf FOLDER``. It writes
``FOLDER/model`` and ``FOLDER/adapter``. The adapter is no fine-tuning: random weights on a middle
layer's attention, which is enough to see that its answers are its own.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

RANK = 8


def convert(gguf: Path, out: Path) -> LlamaForCausalLM:
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # it is dequantised now
    config.dtype = torch.float32
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    return model


def adapter(model: LlamaForCausalLM, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(7)
    layer = model.config.num_hidden_layers // 2
    rows, columns = model.model.layers[layer].self_attn.o_proj.weight.shape
    prefix = f"base_model.model.model.layers.{layer}.self_attn.o_proj"
    save_file(
        {
            f"{prefix}.lora_A.weight": torch.randn(RANK, columns, dtype=torch.bfloat16),
            f"{prefix}.lora_B.weight": torch.randn(rows, RANK, dtype=torch.bfloat16),
        },
        out / "adapter_model.safetensors",
    )
    (out / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "r": RANK,
                "lora_alpha": 2 * RANK,
                "lora_dropout": 0.0,
                "bias": "none",
                "target_modules": ["o_proj"],
                "base_model_name_or_path": "",
            }
        )
    )


if __name__ == "__main__":
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    adapter(convert(source, folder / "model"), folder / "adapter")
