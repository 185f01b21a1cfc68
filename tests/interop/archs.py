"""Small random models of every architecture, written by transformers, and the way back from our tensor names to its own."""
import copy

SMALL = dict(hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4, vocab_size=320,
             max_position_embeddings=1024, bos_token_id=1, eos_token_id=2, pad_token_id=0)

# name: (family in transformers, configuration)
ARCHS = {
    "llama-mha-untied": ("Llama", dict(num_key_value_heads=4, tie_word_embeddings=False)),
    "llama-gqa-tied": ("Llama", dict(num_key_value_heads=2, tie_word_embeddings=True, rope_theta=50000.0)),
    "llama-head-dim": ("Llama", dict(num_key_value_heads=1, head_dim=32, tie_word_embeddings=False)),
    "llama-3.1-rope": ("Llama", dict(num_key_value_heads=2, rope_theta=500000.0, rope_scaling={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128})),
    "mistral": ("Mistral", dict(num_key_value_heads=2, sliding_window=None)),
    "mistral-window": ("Mistral", dict(num_key_value_heads=2, sliding_window=13)),
    "qwen2-bias": ("Qwen2", dict(num_key_value_heads=2, tie_word_embeddings=True)),
    "qwen3": ("Qwen3", dict(num_key_value_heads=2, head_dim=32, tie_word_embeddings=True)),
    "qwen3-window": ("Qwen3", dict(num_hidden_layers=3, num_key_value_heads=2, head_dim=16, use_sliding_window=True, sliding_window=9,
                                   max_window_layers=1)),
    "smollm3": ("SmolLM3", dict(num_hidden_layers=3, num_key_value_heads=2, no_rope_layers=[1, 0, 1])),
    "phi3": ("Phi3", dict(num_key_value_heads=4)),
    "phi3-gqa-window": ("Phi3", dict(num_key_value_heads=2, sliding_window=11)),
    "gemma2": ("Gemma2", dict(num_hidden_layers=3, num_key_value_heads=2, head_dim=32, query_pre_attn_scalar=24, sliding_window=12,
                              attn_logit_softcapping=5.0, final_logit_softcapping=3.0)),
    "gemma3": ("Gemma3", dict(num_hidden_layers=7, num_key_value_heads=1, head_dim=32, query_pre_attn_scalar=32, sliding_window=10,
                              rope_parameters={"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                                               "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}})),
}


def make(name, seed=7, **more):
    """The model, with norms and biases away from their dull initial values, and weights large enough that attention is far from
    uniform and soft caps are felt."""
    import torch
    import transformers

    family, extra = ARCHS[name]
    torch.manual_seed(seed)
    prefix = family + ("Text" if family == "Gemma3" else "")
    cfg = getattr(transformers, prefix + "Config")(**copy.deepcopy({**SMALL, **extra, **more}), attn_implementation="eager")
    model = getattr(transformers, family + "ForCausalLM")(cfg)
    for _, p in model.named_parameters():
        if p.dim() == 1:
            p.data += 0.1 * torch.randn_like(p)
        else:
            p.data *= 5
    return model.eval()


def fuse(state):
    """Our names to those of a model that keeps q|k|v and gate|up together."""
    import torch

    out = {}
    for k, v in state.items():
        for whole, parts in (("qkv_proj", ("q_proj", "k_proj", "v_proj")), ("gate_up_proj", ("gate_proj", "up_proj"))):
            if f".{parts[0]}." in k:
                out[k.replace(parts[0], whole)] = torch.cat([state[k.replace(parts[0], p)] for p in parts])
            if any(f".{p}." in k for p in parts):
                break
        else:
            out[k] = v
    return out


def put(model, state):
    """Loads weights under our names; every parameter must be met."""
    names = set(model.state_dict())
    state = state if set(state) <= names else fuse(state)
    assert set(state) <= names, set(state) - names
    left = names - set(state)
    assert left <= {"lm_head.weight"}, left
    model.load_state_dict(state, strict=False)
    model.tie_weights()
