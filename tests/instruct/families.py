"""A tiny model of every family of causal language models that is tested, made from its configuration.

The names of the weights that DLC masks are written here by hand, so that tests compare the package with them.
"""

import re
from dataclasses import dataclass
from typing import Any

import transformers
from torch import nn

from prunetune.base.seeding import seeded

COMMON = {"vocab_size": 259, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "use_cache": False}
COMMON |= {"initializer_range": 0.2}  # Large, so that logits differ between tokens in spite of the small width.
LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 256}
LLAMA |= {"num_attention_heads": 4, "num_key_value_heads": 2}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
EXPERTS = {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
MAMBA = {"hidden_size": 32, "num_hidden_layers": 2}
GATED = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
ATTENTION = "q_proj|k_proj|v_proj|o_proj"
STACKED = r"experts\.(gate_up_proj|down_proj)"


@dataclass(frozen=True)
class Family:
    """A family: the prefix of its classes, settings, and what is masked.

    linear: a pattern of the last names of the masked linear layers. experts: a pattern of the ends of the parameters
    that hold the matrices of all experts; empty if it is no mixture. uncalled: the end of the names of linear weights
    that the model reads without calling their layer, so that no unit is dropped there.
    """

    prefix: str
    settings: dict[str, Any]
    linear: str
    experts: str = ""
    uncalled: tuple[str, ...] = ()

    def model(self) -> nn.Module:
        """Return a model with random weights, float32 on the CPU, in eval mode and without gradients."""
        config = getattr(transformers, f"{self.prefix}Config")(**{**COMMON, **self.settings})
        with seeded("family", self.prefix):
            return transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)

    def is_linear(self, name: str) -> bool:
        """Return whether a parameter of this name is the weight of a masked linear layer."""
        return re.fullmatch(rf".*\.({self.linear})\.weight", name) is not None

    def is_stack(self, name: str) -> bool:
        """Return whether a parameter of this name holds the matrices of all experts."""
        return bool(self.experts) and re.fullmatch(rf".*\.{self.experts}", name) is not None


FAMILIES = {
    "gpt2": Family("GPT2", GPT, "c_attn|c_proj|c_fc"),
    "mixtral": Family("Mixtral", {**LLAMA, **LOCAL}, ATTENTION, STACKED),
    "gpt_oss": Family("GptOss", {**LLAMA, **LOCAL, "head_dim": 8, "sliding_window": 24}, ATTENTION, STACKED),
    "gemma": Family("Gemma", {**LLAMA, "head_dim": 8}, GATED),
    "gemma2": Family("Gemma2", {**LLAMA, "head_dim": 8, "sliding_window": 24}, GATED),
    "gemma3": Family("Gemma3Text", {**LLAMA, "head_dim": 8, "sliding_window": 24}, GATED),
    "llama": Family("Llama", LLAMA, GATED),
    "mistral": Family("Mistral", {**LLAMA, "sliding_window": 24}, GATED),
    "qwen2": Family("Qwen2", LLAMA, GATED),
    "qwen3": Family("Qwen3", {**LLAMA, "head_dim": 8}, GATED),
    "phi": Family("Phi", LLAMA, "q_proj|k_proj|v_proj|dense|fc1|fc2"),
    "phi3": Family("Phi3", LLAMA, "qkv_proj|o_proj|gate_up_proj|down_proj"),
    "gpt_neo": Family(
        "GPTNeo",
        {
            **{"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 256, "window_size": 24},
            "attention_types": [[["global", "local"], 1]],
        },
        "q_proj|k_proj|v_proj|out_proj|c_fc|c_proj",
    ),
    "gpt_neox": Family("GPTNeoX", LLAMA, "query_key_value|dense|dense_h_to_4h|dense_4h_to_h"),
    "gptj": Family("GPTJ", {**GPT, "rotary_dim": 4}, "q_proj|k_proj|v_proj|out_proj|fc_in|fc_out"),
    "gpt_bigcode": Family("GPTBigCode", GPT, "c_attn|c_proj|c_fc"),
    "codegen": Family("CodeGen", {**GPT, "rotary_dim": 4}, "qkv_proj|out_proj|fc_in|fc_out"),
    "opt": Family(
        "OPT",
        {**MAMBA, "ffn_dim": 48, "num_attention_heads": 4, "max_position_embeddings": 256, "word_embed_proj_dim": 32},
        "q_proj|k_proj|v_proj|out_proj|fc1|fc2",
    ),
    "bloom": Family(
        "Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, "query_key_value|dense|dense_h_to_4h|dense_4h_to_h"
    ),
    "falcon": Family(
        "Falcon", {**MAMBA, "num_attention_heads": 4}, "query_key_value|dense|dense_h_to_4h|dense_4h_to_h"
    ),
    "mpt": Family(
        "Mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256}, "Wqkv|out_proj|up_proj|down_proj"
    ),
    "mamba": Family(
        "Mamba", {**MAMBA, "state_size": 4}, "in_proj|x_proj|dt_proj|out_proj", uncalled=("dt_proj.weight",)
    ),
    "mamba2": Family(
        "Mamba2",
        {**MAMBA, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 16},
        "in_proj|out_proj",
    ),
    "olmo2": Family("Olmo2", LLAMA, GATED),
    "stablelm": Family("StableLm", LLAMA, GATED),
    "starcoder2": Family("Starcoder2", LLAMA, f"{ATTENTION}|c_fc|c_proj"),
    "cohere": Family("Cohere", LLAMA, GATED),
    "granite": Family("Granite", LLAMA, GATED),
    "smollm3": Family("SmolLM3", LLAMA, GATED),
    "glm4": Family("Glm4", {**LLAMA, "head_dim": 8}, f"{ATTENTION}|gate_up_proj|down_proj"),
    "lfm2": Family(
        "Lfm2",
        {**LLAMA, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
        "q_proj|k_proj|v_proj|in_proj|out_proj|w1|w2|w3",
    ),
    "exaone4": Family("Exaone4", {**LLAMA, "head_dim": 8, "sliding_window": 24}, GATED),
    "qwen2_moe": Family("Qwen2Moe", {**LLAMA, **EXPERTS, "shared_expert_intermediate_size": 24}, GATED, STACKED),
    "qwen3_moe": Family("Qwen3Moe", {**LLAMA, **EXPERTS, "head_dim": 8}, GATED, STACKED),
    "olmoe": Family("Olmoe", {**LLAMA, "num_experts": 4, "num_experts_per_tok": 2}, GATED, STACKED),
    "deepseek_v3": Family(
        "DeepseekV3",
        {
            **{**LLAMA, "num_key_value_heads": 4, "moe_intermediate_size": 24, "n_routed_experts": 4, "n_group": 2},
            **{"num_experts_per_tok": 2, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 16},
            **{"kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8},
        },
        "q_a_proj|q_b_proj|kv_a_proj_with_mqa|kv_b_proj|o_proj|gate_proj|up_proj|down_proj",
        STACKED,
    ),
    "granitemoe": Family("GraniteMoe", {**LLAMA, **LOCAL}, ATTENTION, STACKED),
    "phimoe": Family("Phimoe", {**LLAMA, **LOCAL}, ATTENTION, STACKED),
    "jetmoe": Family(
        "JetMoe",
        {**MAMBA, **LOCAL, "num_key_value_heads": 2, "kv_channels": 8, "intermediate_size": 24},
        "kv_proj",
        r"(input_linear|output_linear)\.weight",
    ),
    "jamba": Family(
        "Jamba",
        {
            **{**LLAMA, "num_experts": 4, "num_experts_per_tok": 2, "use_mamba_kernels": False, "mamba_d_state": 4},
            **{"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
            "mamba_dt_rank": 4,
        },
        f"{GATED}|in_proj|x_proj|dt_proj|out_proj",
        STACKED,
    ),
}
