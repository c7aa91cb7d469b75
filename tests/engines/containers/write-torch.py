"""Files of torch.save in many variants, each with its values as JSON beside it. Usage: write-torch.py FOLDER"""
import io, json, pickle, sys, warnings
from collections import OrderedDict
import torch

warnings.filterwarnings("ignore")
folder = sys.argv[1]
torch.manual_seed(1)


def values(state):
    out = OrderedDict()
    for name, tensor in state.items():
        if tensor is not None:
            out[name] = {"shape": list(tensor.shape), "values": tensor.detach().to(torch.float64).reshape(-1).tolist()}
    return out


def write(name, thing, state, **options):
    torch.save(thing, f"{folder}/{name}.pt", **options)
    with open(f"{folder}/{name}.json", "w") as f:
        json.dump(values(state), f)


base = torch.randn(6, 10, 4)
grid = torch.arange(240, dtype=torch.float32).reshape(6, 10, 4)
state = OrderedDict(
    f32=torch.randn(3, 5),
    f16=torch.randn(7).half(),
    bf16=torch.randn(4, 4).bfloat16(),
    scalar=torch.tensor(2.5),
    empty=torch.zeros(0, 3),
)
for legacy in (False, True):
    kind = "legacy" if legacy else "zip"
    options = {"_use_new_zipfile_serialization": not legacy}
    write(f"{kind}-plain", state, state, **options)
    for protocol in (3, 4, 5):
        write(f"{kind}-protocol{protocol}", state, state, pickle_protocol=protocol, **options)
    views = {
        "whole": grid,
        "rows": grid[2:4],
        "transposed": grid.permute(2, 0, 1),
        "columns": grid[:, 3:7],
        "inner": grid[:, :, 1:3],
        "one": grid[:, 5, 2],
        "steps": grid[::2, 1::3],
        "strange": grid[1:, :, ::2].transpose(0, 2),
        "last": grid.reshape(24, 10)[:, 7:],
        "thirds": grid.reshape(24, 10)[:, ::3],
        "tail": grid.reshape(-1)[5:235].reshape(23, 10)[:, 2:6],
        "expanded": grid[0, 0].expand(5, 4),
        "single": grid[3:4, :, 1:2].transpose(0, 1),
        "flipped": base.t() if base.dim() == 2 else base.transpose(0, 1),
    }
    write(f"{kind}-views", views, views, **options)
    nested = {"a": grid[1:5][1:3].transpose(1, 2)[:, 1:], "b": base[..., 1].t()[2:]}
    write(f"{kind}-nested", nested, nested, **options)

    tied = torch.randn(8, 4)
    ties = {"embed": tied, "head": tied, "part": tied[2:4]}
    write(f"{kind}-tied", ties, ties, **options)

    parameters = {"weight": torch.nn.Parameter(torch.randn(2, 3)), "frozen": torch.nn.Parameter(torch.randn(2), False)}
    write(f"{kind}-parameters", parameters, parameters, **options)
    write(f"{kind}-wrapped", {"epoch": 3, "lr": 1e-3, "state_dict": state, "rng": torch.get_rng_state()}, state, **options)

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)
            self.norm = torch.nn.BatchNorm1d(4)
            self.act = torch.nn.SiLU()
            self.register_buffer("mask", torch.ones(2, 2))
            self.register_buffer("scratch", torch.zeros(2), persistent=False)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(8, 4)
            self.blocks = torch.nn.ModuleList([Block(), Block()])
            self.head = torch.nn.Linear(4, 8, bias=False)
            self.head.weight = self.embed.weight
            self.double = torch.nn.Linear(4, 2).double()

    net = Net()
    write(f"{kind}-module", net, net.state_dict(), **options)
    sequential = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    write(f"{kind}-sequential", sequential, sequential.state_dict(), **options)

write("large", {"w": torch.zeros(1 << 19)}, {})
write("windows", {"w": torch.arange(10.0).as_strided((4, 3), (2, 1))}, {})
write("sparse", {"s": torch.eye(3).to_sparse()}, {})
write("quantised", {"q": torch.quantize_per_tensor(torch.randn(3), 0.1, 0, torch.qint8)}, {})
write("complex", {"c": torch.randn(2, dtype=torch.complex64)}, {})
write("nothing", {"epoch": 3}, {})
torch.jit.script(torch.nn.Linear(2, 2)).save(f"{folder}/script.pt")
