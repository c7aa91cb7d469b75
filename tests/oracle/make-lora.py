"""
LoRA adapters as PEFT saves them, and what merging them gives, in doubles. Nothing of PEFT is used: the formulas are
written out here once more, tensor by tensor. Usage: make-lora.py CASES.json, a list of
{ base, out, config, modules: { NAME: kind }, saved: { NAME: shape }, bin, own, untied }, where kind is linear, conv1d,
embedding or dora. Each `out` gets adapter_config.json, the adapter's weights, and expected.json with expected.bin (float64).
"""
import json, math, os, re, struct, sys, warnings

warnings.filterwarnings("ignore")
import torch

TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NAMES = {kind: name for name, kind in TYPES.items()}


def read_safetensors(path):
    data = open(path, "rb").read()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    body = bytearray(data[8 + length :])
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        found[name] = torch.frombuffer(body[begin:end], dtype=TYPES[entry["dtype"]]).reshape(entry["shape"])
    return found


def raw(tensor):
    kind = torch.int16 if tensor.element_size() == 2 else torch.int32
    return tensor.contiguous().view(kind).numpy().tobytes()


def write_safetensors(path, tensors):
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in tensors.items():
        data = raw(tensor)
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + body)


def pattern(patterns, module, general):
    for key, value in patterns.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return general


def make(case):
    torch.manual_seed(case.get("seed", 0))
    base = read_safetensors(os.path.join(case["base"], "model.safetensors"))
    config = case["config"]
    own = case.get("own", "")
    kind_of = TYPES[case.get("dtype", "F32")]
    wide = {name: tensor.to(torch.float64) for name, tensor in base.items()}
    if "untied" in case:
        wide["lm_head.weight"] = wide[case["untied"]].clone()
    adapter, expected = {}, {}
    random = lambda *shape: (torch.randn(*shape) * 0.05).to(kind_of)
    prefix = "base_model.model."
    for name, shape in case.get("saved", {}).items():
        value = random(*shape)
        adapter[prefix + name.replace("*", "modules_to_save.default.")] = value
        plain = name.replace("*", "").replace(".base_layer", "")
        expected[plain] = wide[plain] = value.to(torch.float64)
    for module, kind in case["modules"].items():
        weight = wide[module + ".weight"]
        rank = pattern(config.get("rank_pattern", {}), module, config["r"])
        alpha = pattern(config.get("alpha_pattern", {}), module, config["lora_alpha"])
        scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
        at = prefix + module
        if kind == "embedding":
            tokens, width = weight.shape
            a, b = random(rank, tokens), random(width, rank)
            adapter[f"{at}.lora_embedding_A{own}"], adapter[f"{at}.lora_embedding_B{own}"] = a, b
            merged = weight + scale * (b.double() @ a.double()).T
        else:
            out, into = weight.shape if kind != "conv1d" else weight.shape[::-1]
            a, b = random(rank, into), random(out, rank)
            adapter[f"{at}.lora_A{own}.weight"], adapter[f"{at}.lora_B{own}.weight"] = a, b
            delta = scale * (b.double() @ a.double())
            merged = weight + (delta.T if kind == "conv1d" else delta)
            if kind == "dora":
                magnitude = (torch.rand(out) + 0.5).to(kind_of)
                adapter[f"{at}.lora_magnitude_vector{own}" + case.get("magnitude", ".weight")] = magnitude
                merged = merged * (magnitude.double() / torch.linalg.norm(merged, dim=1)).reshape(-1, 1)
            if config.get("lora_bias"):
                bias = random(out)
                adapter[f"{at}.lora_B{own}.bias"] = bias
                expected[module + ".bias"] = wide[module + ".bias"] + scale * bias.double()
        expected[module + ".weight"] = merged
    out = case["out"]
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "adapter_config.json"), "w") as file:
        json.dump({"peft_type": "LORA", "base_model_name_or_path": "somebody/base", **config}, file)
    if case.get("bin"):
        torch.save(adapter, os.path.join(out, "adapter_model.bin"))
    else:
        write_safetensors(os.path.join(out, "adapter_model.safetensors"), adapter)
    index, body = {}, b""
    for name, tensor in {**wide, **expected}.items():
        index[name] = {"shape": list(tensor.shape), "offset": len(body), "changed": name in expected}
        body += tensor.contiguous().numpy().tobytes()
    json.dump(index, open(os.path.join(out, "expected.json"), "w"))
    open(os.path.join(out, "expected.bin"), "wb").write(body)


for one in json.load(open(sys.argv[1])):
    make(one)
