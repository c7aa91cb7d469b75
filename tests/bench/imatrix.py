# What llama-imatrix measures, for a small plain Llama, by PyTorch: the mean square of each input column of each matrix.
#   python3 tests/bench/imatrix.py MODEL_FOLDER IDS.json OUT.json
# IDS.json is a list of windows of token ids; OUT.json holds {"blk.0.attn_q.weight": [means], ...} under GGUF's names.
import json
import struct
import sys

import torch

folder, windows, out = sys.argv[1:]
config = json.load(open(f'{folder}/config.json'))
hidden, heads, kv_heads = (config[key] for key in ('hidden_size', 'num_attention_heads', 'num_key_value_heads'))
dim = config['head_dim']
theta = config.get('rope_parameters', config)['rope_theta']
types = {'F32': torch.float32, 'F16': torch.float16, 'BF16': torch.bfloat16}

weights = {}
with open(f'{folder}/model.safetensors', 'rb') as file:
    size = struct.unpack('<Q', file.read(8))[0]
    header = json.loads(file.read(size))
    data = bytearray(file.read())
for name, tensor in header.items():
    if name == '__metadata__':
        continue
    start, end = tensor['data_offsets']
    part = torch.frombuffer(data[start:end], dtype=types[tensor['dtype']])
    weights[name] = part.reshape(tensor['shape']).float()

sums, counts = {}, {}


def linear(x, name, seen_as):
    square = (x * x).sum(dim=0)
    sums[seen_as] = sums.get(seen_as, 0) + square
    counts[seen_as] = counts.get(seen_as, 0) + x.shape[0]
    return x @ weights[name].T


def norm(x, name):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + config['rms_norm_eps']) * weights[name]


def rotate(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


with torch.no_grad():
    for ids in json.load(open(windows)):
        length = len(ids)
        x = weights['model.embed_tokens.weight'][torch.tensor(ids)]
        angles = torch.outer(torch.arange(length).float(), theta ** (-torch.arange(0, dim, 2).float() / dim))
        cos, sin = (torch.cat((f(angles), f(angles)), dim=-1)[:, None] for f in (torch.cos, torch.sin))
        mask = torch.full((length, length), float('-inf')).triu(1)
        for i in range(config['num_hidden_layers']):
            layer, block = f'model.layers.{i}', f'blk.{i}'
            h = norm(x, f'{layer}.input_layernorm.weight')
            q, k, v = (linear(h, f'{layer}.self_attn.{n}_proj.weight', f'{block}.attn_{n}.weight') for n in 'qkv')
            q = rotate(q.view(length, heads, dim), cos, sin).transpose(0, 1)
            k = rotate(k.view(length, kv_heads, dim), cos, sin).transpose(0, 1)
            k, v = (t.repeat_interleave(heads // kv_heads, dim=0) for t in (k, v.view(length, kv_heads, dim).transpose(0, 1)))
            scores = torch.softmax(q @ k.transpose(1, 2) / dim**0.5 + mask, dim=-1)
            joined = (scores @ v).transpose(0, 1).reshape(length, heads * dim)
            x = x + linear(joined, f'{layer}.self_attn.o_proj.weight', f'{block}.attn_output.weight')
            h = norm(x, f'{layer}.post_attention_layernorm.weight')
            gate = linear(h, f'{layer}.mlp.gate_proj.weight', f'{block}.ffn_gate.weight')
            up = linear(h, f'{layer}.mlp.up_proj.weight', f'{block}.ffn_up.weight')
            inner = torch.nn.functional.silu(gate) * up
            x = x + linear(inner, f'{layer}.mlp.down_proj.weight', f'{block}.ffn_down.weight')
        head = 'model.embed_tokens.weight' if config['tie_word_embeddings'] else 'lm_head.weight'
        linear(norm(x, 'model.norm.weight'), head, 'output.weight')

json.dump({name: (total / counts[name]).tolist() for name, total in sums.items()}, open(out, 'w'))
