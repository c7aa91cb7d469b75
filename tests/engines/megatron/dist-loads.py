"""Prints what Python makes of distributed checkpoints: each tensor's type, shape and sum, and how .metadata is built.

`.metadata` is unpickled with stand-ins for the classes of PyTorch 2, so that PyTorch 1 will do. Where PyTorch 2 is there,
torch.distributed.checkpoint loads the checkpoint too, and each tensor must be the same.
"""
import collections
import enum
import io
import json
import os
import pickle
import sys
import zipfile

import torch


class Stand:
    """An object of any class, hashed by its attributes as the frozen dataclasses are."""

    def __hash__(self):
        return hash(tuple(sorted((key, str(value)) for key, value in self.__dict__.items())))

    def __eq__(self, other):
        return self.__dict__ == other.__dict__


class MemFormat(enum.Enum):
    CONTIGUOUS = 0


class Properties(Stand):
    def __setstate__(self, state):
        self.dtype, self.layout, self.requires_grad, self.memory_format, self.pin_memory = state


stands = {}


class Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if name == "_MEM_FORMAT_ENCODING":
            return MemFormat
        if module.startswith("torch.distributed"):
            base = Properties if name == "TensorProperties" else Stand
            return stands.setdefault(name, type(name, (base,), {"module": module}))
        if module.startswith("pathlib"):
            return lambda *parts: "/".join(parts)
        assert (module, name) in {
            ("torch", "Size"), ("torch", "bfloat16"), ("torch", "float32"), ("torch", "float16"),
            ("torch.serialization", "_get_layout"),
        }, (module, name)
        return super().find_class(module, name)


def skeleton(value):
    """How a value is built: classes, attributes, types of what is in containers."""
    if isinstance(value, Stand):
        kind = type(value)
        return {f"{kind.module}.{kind.__name__}": {key: skeleton(item) for key, item in sorted(value.__dict__.items())}}
    if isinstance(value, dict):
        keys = sorted({json.dumps(skeleton(key), sort_keys=True) for key in value})
        return {"dict": keys, "of": sorted({json.dumps(skeleton(item), sort_keys=True) for item in value.values()})}
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return [type(value).__name__, *sorted({json.dumps(skeleton(item), sort_keys=True) for item in value})]
    if isinstance(value, (torch.dtype, torch.layout, enum.Enum, bool)):
        return str(value)
    return type(value).__name__


def total(tensor):
    assert tensor.is_contiguous()
    raw = tensor.reshape(-1).view(torch.int16).to(torch.int64)
    return int((raw * (torch.arange(raw.numel()) % 251 + 1)).sum())


def describe(folder):
    with open(os.path.join(folder, ".metadata"), "rb") as file:
        metadata = Unpickler(file).load()
    tensors = {}
    loaded = {}
    ends = collections.defaultdict(list)
    for index, place in metadata.storage_data.items():
        described = metadata.state_dict_metadata[index.fqn]
        with open(os.path.join(folder, place.relative_path), "rb") as file:
            file.seek(place.offset)
            data = file.read(place.length)
        assert len(data) == place.length
        assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None
        tensor = torch.load(io.BytesIO(data), map_location="cpu")
        (chunk,) = described.chunks
        assert tensor.shape == described.size == chunk.sizes, (tensor.shape, described.size)
        assert list(chunk.offsets) == list(index.offset) == [0] * tensor.dim()
        assert tensor.dtype == described.properties.dtype
        tensors[index.fqn] = [str(tensor.dtype), list(tensor.shape), total(tensor)]
        loaded[index.fqn] = tensor
        ends[place.relative_path].append((place.offset, place.offset + place.length))
    assert set(tensors) == set(metadata.state_dict_metadata)
    for path, ranges in ends.items():
        at = 0
        for start, end in sorted(ranges):
            assert start == at
            at = end
        assert at == os.path.getsize(os.path.join(folder, path))
    judged = False
    if int(torch.__version__.split(".")[0]) >= 2:
        import torch.distributed.checkpoint as dcp

        state = {name: torch.empty_like(tensor) for name, tensor in loaded.items()}
        dcp.load(state, storage_reader=dcp.FileSystemReader(folder), no_dist=True)
        judged = all(torch.equal(state[name], tensor) for name, tensor in loaded.items())
        assert judged
    options = {"weights_only": False} if judged else {}
    common = torch.load(os.path.join(folder, "common.pt"), map_location="cpu", **options)
    with open(os.path.join(folder, "metadata.json")) as file:
        backend = json.load(file)
    described = {key: skeleton(value) for key, value in vars(metadata).items() if key != "storage_meta"}
    return {
        "tensors": tensors,
        "built": described,
        "args": {key: str(value) for key, value in vars(common["args"]).items()},
        "common": {key: value for key, value in common.items() if key != "args"},
        "backend": backend,
        "dcp": judged,
    }


print(json.dumps([describe(folder) for folder in sys.argv[1:]], default=str))
