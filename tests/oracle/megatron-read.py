"""Reads Megatron checkpoints of ranks with torch.load and gives the weights under HuggingFace's names.

A line of JSON {"folder", "out"} in, a line of JSON {"args", "tensors": {name: [shape, offset]}} out; the values go to the
file `out` as float32. Written from Megatron-Core's own layout, with nothing of the product.
"""
import json
import re
import sys
from pathlib import Path

import torch


def merged(ranks, gated):
    """One stage of the pipeline: the tensors of its tensor-parallel ranks put together."""
    whole = {}
    for name in ranks[0]:
        parts = [rank[name] for rank in ranks]
        if re.search(r"(word_embeddings|output_layer)\.weight$|linear_qkv\.(weight|bias)$", name):
            whole[name] = torch.cat(parts, 0)
        elif re.search(r"linear_fc1\.(weight|bias)$", name):
            halves = [part.chunk(2 if gated else 1, 0) for part in parts]
            whole[name] = torch.cat([torch.cat(column, 0) for column in zip(*halves)], 0)
        elif re.search(r"linear_(proj|fc2)\.weight$", name):
            whole[name] = torch.cat(parts, 1)
        else:
            assert all(torch.equal(part, parts[0]) for part in parts), name
            whole[name] = parts[0]
    return whole


def read(folder):
    root = Path(folder)
    iteration = (root / "latest_checkpointed_iteration.txt").read_text().strip()
    stages = {}
    for path in sorted((root / f"iter_{int(iteration):07d}").glob("mp_rank_*/model_optim_rng.pt")):
        _, _, tensor, *stage = path.parent.name.split("_")
        loaded = torch.load(path, map_location="cpu")
        stages.setdefault(int(stage[0]) if stage else 0, {})[int(tensor)] = loaded["model"]
        args = vars(loaded["args"])
    model = {}
    for stage, ranks in sorted(stages.items()):
        assert len(ranks) == args["tensor_model_parallel_size"]
        own = merged([ranks[at] for at in sorted(ranks)], args["swiglu"])
        first = stage * args["num_layers"] // len(stages)
        for name, tensor in own.items():
            model[re.sub(r"layers\.(\d+)", lambda m: f"layers.{int(m[1]) + first}", name)] = tensor
    assert len(stages) == args["pipeline_model_parallel_size"]
    return args, model


def huggingface(args, model, kind):
    """The tensors of transformers' class."""
    groups, heads, width = args["num_query_groups"], args["num_attention_heads"], args["kv_channels"]
    if not args["group_query_attention"]:
        groups = heads
    gpt2 = kind == "gpt2"
    out = {}

    def take(name, tensor):
        match = re.match(r"decoder\.layers\.(\d+)\.(.+)\.?(weight|bias)$", name)
        if name == "embedding.word_embeddings.weight":
            out["transformer.wte.weight" if gpt2 else "model.embed_tokens.weight"] = tensor[: args["vocab_size"]]
        elif name == "embedding.position_embeddings.weight":
            out["transformer.wpe.weight"] = tensor
        elif name == "output_layer.weight":
            # a tied model's last stage has a copy of the embedding
            if args["untie_embeddings_and_output_weights"]:
                out["lm_head.weight"] = tensor[: args["vocab_size"]]
        elif name.startswith("decoder.final_layernorm."):
            out[name.replace("decoder.final_layernorm", "transformer.ln_f" if gpt2 else "model.norm")] = tensor
        else:
            assert match, name
            layer, module, field = match[1], match[2].rstrip("._"), match[3]
            block(f"transformer.h.{layer}" if gpt2 else f"model.layers.{layer}", module, field, tensor)

    def block(at, module, field, tensor):
        norms = {
            "self_attention.linear_qkv.layer_norm": "ln_1" if gpt2 else "input_layernorm",
            "input_layernorm": "ln_1" if gpt2 else "input_layernorm",
            "mlp.linear_fc1.layer_norm": "ln_2" if gpt2 else "post_attention_layernorm",
            "pre_mlp_layernorm": "ln_2" if gpt2 else "post_attention_layernorm",
            "self_attention.q_layernorm": "self_attn.q_norm",
            "self_attention.k_layernorm": "self_attn.k_norm",
        }
        conv = (lambda t: t.t() if t.dim() == 2 else t) if gpt2 else (lambda t: t)
        expert = re.match(r"mlp\.experts\.local_experts\.(\d+)\.(linear_fc[12])$", module)
        if module in norms:
            out[f"{at}.{norms[module]}.{field}"] = tensor
        elif module == "self_attention.linear_qkv":
            rows = tensor.reshape(groups, -1, *tensor.shape[1:])
            q, k, v = rows.split([heads // groups * width, width, width], 1)
            parts = [part.reshape(-1, *tensor.shape[1:]) for part in (q, k, v)]
            if gpt2:
                out[f"{at}.attn.c_attn.{field}"] = conv(torch.cat(parts, 0))
            else:
                for letter, part in zip("qkv", parts):
                    out[f"{at}.self_attn.{letter}_proj.{field}"] = part
        elif module == "self_attention.linear_proj":
            out[f"{at}.{'attn.c_proj' if gpt2 else 'self_attn.o_proj'}.{field}"] = conv(tensor)
        elif module == "mlp.router":
            out[f"{at}.{'block_sparse_moe' if kind == 'mixtral' else 'mlp'}.gate.{field}"] = tensor
        elif expert:
            mlp, names = (
                ("block_sparse_moe", ("w1", "w3", "w2"))
                if kind == "mixtral"
                else ("mlp", ("gate_proj", "up_proj", "down_proj"))
            )
            below = f"{at}.{mlp}.experts.{expert[1]}"
            if expert[2] == "linear_fc1":
                for name, part in zip(names, tensor.chunk(2, 0)):
                    out[f"{below}.{name}.{field}"] = part
            else:
                out[f"{below}.{names[2]}.{field}"] = tensor
        elif module == "mlp.shared_experts.linear_fc1":
            for name, part in zip(("gate_proj", "up_proj"), tensor.chunk(2, 0)):
                out[f"{at}.mlp.shared_expert.{name}.{field}"] = part
        elif module == "mlp.shared_experts.linear_fc2":
            out[f"{at}.mlp.shared_expert.down_proj.{field}"] = tensor
        elif module == "mlp.shared_experts.gate":
            out[f"{at}.mlp.shared_expert_gate.{field}"] = tensor
        elif module == "mlp.linear_fc1":
            if gpt2:
                out[f"{at}.mlp.c_fc.{field}"] = conv(tensor)
            else:
                for name, part in zip(("gate_proj", "up_proj"), tensor.chunk(2, 0)):
                    out[f"{at}.mlp.{name}.{field}"] = part
        elif module == "mlp.linear_fc2":
            out[f"{at}.mlp.{'c_proj' if gpt2 else 'down_proj'}.{field}"] = conv(tensor)
        else:
            raise KeyError(module)

    for name, tensor in model.items():
        take(name, tensor)
    return out


for line in sys.stdin:
    request = json.loads(line)
    try:
        args, model = read(request["folder"])
        kind = json.loads((Path(request["folder"]) / "config.json").read_text())["model_type"]
        tensors = {}
        at = 0
        with open(request["out"], "wb") as out:
            for name, tensor in huggingface(args, model, kind).items():
                raw = tensor.to(torch.float32).contiguous().numpy().tobytes()
                tensors[name] = [list(tensor.shape), at]
                out.write(raw)
                at += len(raw)
        said = {key: value for key, value in args.items() if isinstance(value, (int, float, str, bool))}
        print(json.dumps({"args": said, "tensors": tensors}), flush=True)
    except Exception as error:  # the test shows it
        print(json.dumps({"error": repr(error)}), flush=True)
