# Logits of GPT-2 and Gemma 2 in float64, but with GELU as ggml has it on the CPU: looked up in a table of f16, from an
# input rounded to f16 (ggml_vec_gelu_f32 and ggml_vec_geglu_f32 of ggml-cpu/vec.h):
#   gelu-f16.py MODEL OUT [exact]
# MODEL is a HuggingFace folder in bf16 with reference.json; OUT gets the logits of each prompt as float32, one after the
# other. With "exact" GELU is computed, as in PyTorch: what the table alone changes.
import json
import sys
import numpy as np

model, out = sys.argv[1:3]
exact = sys.argv[3:] == ['exact']
config = json.load(open(f'{model}/config.json'))
prompts = [prompt['input_ids'] for prompt in json.load(open(f'{model}/reference.json'))['prompts']]


def weights():
    data = open(f'{model}/model.safetensors', 'rb').read()
    size = int.from_bytes(data[:8], 'little')
    found = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name == '__metadata__':
            continue
        assert entry['dtype'] == 'BF16'
        start, end = (8 + size + offset for offset in entry['data_offsets'])
        bits = np.frombuffer(data[start:end], np.uint16).astype(np.uint32) << 16
        found[name] = bits.view(np.float32).astype(np.float64).reshape(entry['shape'])
    return found


W = weights()


def tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * x * (1 + 0.044715 * x * x)))


def gelu(x):
    if exact:
        return tanh_gelu(x)
    table = tanh_gelu(x.astype(np.float16).astype(np.float64)).astype(np.float16).astype(np.float64)
    return np.where(x <= -10, 0, np.where(x >= 10, x, table))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(q, k, v, heads, kv_heads, scale, cap=None, window=None):
    length, width = q.shape[0], q.shape[1] // heads
    q = q.reshape(length, heads, width)
    k, v = (np.repeat(x.reshape(length, kv_heads, width), heads // kv_heads, 1) for x in (k, v))
    scores = np.einsum('ihd,jhd->hij', q, k) * scale
    if cap is not None:
        scores = cap * np.tanh(scores / cap)
    i, j = np.indices((length, length))
    seen = (j <= i) if window is None else (j <= i) & (i - j < window)
    return np.einsum('hij,jhd->ihd', softmax(np.where(seen, scores, -np.inf)), v).reshape(length, -1)


def gpt2(ids):
    eps, heads = config['layer_norm_epsilon'], config['n_head']

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
        return x * W[f'{name}.weight'] + W[f'{name}.bias']

    def conv(x, name):
        return x @ W[f'{name}.weight'] + W[f'{name}.bias']

    x = W['transformer.wte.weight'][ids] + W['transformer.wpe.weight'][:len(ids)]
    for layer in range(config['n_layer']):
        block = f'transformer.h.{layer}'
        q, k, v = np.split(conv(norm(x, f'{block}.ln_1'), f'{block}.attn.c_attn'), 3, -1)
        scale = 1 / np.sqrt(q.shape[1] // heads)
        x = x + conv(attention(q, k, v, heads, heads, scale), f'{block}.attn.c_proj')
        x = x + conv(gelu(conv(norm(x, f'{block}.ln_2'), f'{block}.mlp.c_fc')), f'{block}.mlp.c_proj')
    return norm(x, 'transformer.ln_f') @ W['transformer.wte.weight'].T


def gemma2(ids):
    heads, kv_heads, width = config['num_attention_heads'], config['num_key_value_heads'], config['head_dim']
    positions = np.arange(len(ids))[:, None]
    angles = positions * config['rope_parameters']['rope_theta'] ** (-np.arange(0, width, 2) / width)
    cos, sin = np.tile(np.cos(angles), 2)[:, None], np.tile(np.sin(angles), 2)[:, None]

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + config['rms_norm_eps']) * (1 + W[f'{name}.weight'])

    def turn(x, count):
        x = x.reshape(len(ids), count, width)
        half = np.concatenate([-x[..., width // 2:], x[..., :width // 2]], -1)
        return (x * cos + half * sin).reshape(len(ids), -1)

    x = W['model.embed_tokens.weight'][ids] * np.sqrt(config['hidden_size'])
    for layer in range(config['num_hidden_layers']):
        block = f'model.layers.{layer}'
        h = norm(x, f'{block}.input_layernorm')
        q, k, v = (h @ W[f'{block}.self_attn.{name}_proj.weight'].T for name in 'qkv')
        window = config['sliding_window'] if config['layer_types'][layer] == 'sliding_attention' else None
        scale = config['query_pre_attn_scalar'] ** -0.5
        cap = config['attn_logit_softcapping']
        h = attention(turn(q, heads), turn(k, kv_heads), v, heads, kv_heads, scale, cap, window)
        x = x + norm(h @ W[f'{block}.self_attn.o_proj.weight'].T, f'{block}.post_attention_layernorm')
        h = norm(x, f'{block}.pre_feedforward_layernorm')
        gate, up = (h @ W[f'{block}.mlp.{name}_proj.weight'].T for name in ('gate', 'up'))
        x = x + norm((gelu(gate) * up) @ W[f'{block}.mlp.down_proj.weight'].T, f'{block}.post_feedforward_layernorm')
    logits = norm(x, 'model.norm') @ W['model.embed_tokens.weight'].T
    cap = config['final_logit_softcapping']
    return cap * np.tanh(logits / cap)


run = {'gpt2': gpt2, 'gemma2': gemma2}[config['model_type']]
open(out, 'wb').write(b''.join(run(ids).astype(np.float32).tobytes() for ids in prompts))
