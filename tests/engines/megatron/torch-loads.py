"""Prints what torch.load makes of files: for each tensor of `model` its name, type, shape, sum of bytes."""
import json
import sys

import torch

result = []
for path in sys.argv[1:]:
    root = torch.load(path, map_location="cpu")
    model = {}
    for name, tensor in root["model"].items():
        assert tensor.is_contiguous()
        raw = tensor.view(torch.int16).reshape(-1).to(torch.int64)
        model[name] = [str(tensor.dtype), list(tensor.shape), int((raw * (torch.arange(raw.numel()) % 251 + 1)).sum())]
    args = {key: str(value) for key, value in vars(root["args"]).items()}
    result.append({"model": model, "args": args, "version": root["checkpoint_version"]})
print(json.dumps(result))
