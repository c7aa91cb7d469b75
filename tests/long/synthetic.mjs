// Writes Llama checkpoints of any size: what the long tests and the benchmark convert. The same bytes each time, at the
// speed of the disk, a few MiB in memory.
import { closeSync, copyFileSync, mkdirSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs'
import path from 'node:path'

const TINY = path.resolve(import.meta.dirname, '../fixtures/tiny-llama')
const TOKENIZER_FILES = ['tokenizer.json', 'tokenizer_config.json', 'generation_config.json']

/** Sizes of real models, by the least bytes of a checkpoint that takes them. Rows are multiples of 256. */
const SHAPES = [
  { from: 2 ** 31, hidden: 4096, intermediate: 11_008, heads: 32, kvHeads: 8, vocab: 32_000 },
  { from: 2 ** 28, hidden: 2048, intermediate: 5632, heads: 32, kvHeads: 4, vocab: 32_000 },
  { from: 0, hidden: 512, intermediate: 1536, heads: 8, kvHeads: 2, vocab: 2048 },
]

/** Values that tensors are cut from, at places drawn for each piece: no two tensors are alike. */
const POOL_VALUES = 2 ** 21
const PIECE_BYTES = 2 ** 20

/** Inputs that share a scale in a GPTQ checkpoint. */
const GPTQ_GROUP = 128

/**
 * Writes a HuggingFace folder of a Llama in bf16 with at least `bytes` bytes of weights, in `shards` files. With `gptq` the
 * layers' matrices are quantised to 4 bits, as GPTQ stores them.
 * @param {string} folder made if need be
 * @param {number} bytes
 * @param {{ shards?: number, seed?: number, gptq?: boolean }} [options]
 * @returns {{ weightBytes: number, layers: number }}
 */
export function writeSynthetic(folder, bytes, { shards = 3, seed = 1, gptq = false } = {}) {
  const shape = SHAPES.find(({ from }) => bytes >= from) ?? SHAPES[0]
  const layer = (index) => (gptq ? layerTensors(shape, index).flatMap(gptqTensors) : layerTensors(shape, index))
  const fixed = sizeOf(outerTensors(shape))
  const layers = Math.max(1, Math.ceil((bytes - fixed) / sizeOf(layer(0))))
  const [embedding, ...ends] = outerTensors(shape)
  const all = [embedding, ...Array.from({ length: layers }, (_, i) => layer(i)).flat(), ...ends]
  const weightBytes = sizeOf(all)

  mkdirSync(folder, { recursive: true })
  for (const name of TOKENIZER_FILES) copyFileSync(path.join(TINY, name), path.join(folder, name))
  const config = JSON.parse(readFileSync(path.join(TINY, 'config.json'), 'utf8'))
  Object.assign(config, {
    head_dim: shape.hidden / shape.heads,
    hidden_size: shape.hidden,
    intermediate_size: shape.intermediate,
    num_attention_heads: shape.heads,
    num_hidden_layers: layers,
    num_key_value_heads: shape.kvHeads,
    vocab_size: shape.vocab,
  })
  if (gptq) {
    const own = { quant_method: 'gptq', bits: 4, group_size: GPTQ_GROUP, desc_act: false, sym: true }
    config.quantization_config = own
  }
  writeFileSync(path.join(folder, 'config.json'), `${JSON.stringify(config, null, 1)}\n`)

  const random = xorshift(seed)
  const pools = {
    weights: pool(random, 0, 0.02),
    norms: pool(random, 1, 0.1),
    ...(gptq ? { codes: words(random), scales: scales(random) } : {}),
  }
  const map = {}
  let next = 0
  for (let shard = 0; shard < shards; shard++) {
    const limit = (weightBytes * (shard + 1)) / shards
    const tensors = []
    let done = sizeOf(all.slice(0, next))
    for (; next < all.length && (done < limit || shard === shards - 1); next++) {
      tensors.push(all[next])
      done += sizeOf([all[next]])
    }
    const number = (value) => String(value).padStart(5, '0')
    const name = shards === 1 ? 'model.safetensors' : `model-${number(shard + 1)}-of-${number(shards)}.safetensors`
    for (const tensor of tensors) map[tensor.name] = name
    writeShard(path.join(folder, name), tensors, random, pools)
  }
  if (shards > 1) {
    const index = { metadata: { total_size: weightBytes }, weight_map: map }
    writeFileSync(path.join(folder, 'model.safetensors.index.json'), JSON.stringify(index))
  }
  return { weightBytes, layers }
}

function outerTensors({ hidden, vocab }) {
  return [
    { name: 'model.embed_tokens.weight', shape: [vocab, hidden] },
    { name: 'model.norm.weight', shape: [hidden] },
    { name: 'lm_head.weight', shape: [vocab, hidden] },
  ]
}

function layerTensors({ hidden, intermediate, heads, kvHeads }, index) {
  const kv = (hidden / heads) * kvHeads
  return [
    ['input_layernorm', [hidden]],
    ['self_attn.q_proj', [hidden, hidden]],
    ['self_attn.k_proj', [kv, hidden]],
    ['self_attn.v_proj', [kv, hidden]],
    ['self_attn.o_proj', [hidden, hidden]],
    ['post_attention_layernorm', [hidden]],
    ['mlp.gate_proj', [intermediate, hidden]],
    ['mlp.up_proj', [intermediate, hidden]],
    ['mlp.down_proj', [hidden, intermediate]],
  ].map(([name, shape]) => ({ name: `model.layers.${index}.${name}.weight`, shape }))
}

/** A matrix's parts as AutoGPTQ stores them, the groups in order; norms stay as they are. */
function gptqTensors(tensor) {
  const [outputs, inputs] = tensor.shape
  if (inputs === undefined) return [tensor]
  const groups = inputs / GPTQ_GROUP
  const part = (name, dtype, shape, from) => ({ name: tensor.name.replace(/weight$/, name), dtype, shape, from })
  const order = Buffer.from(Int32Array.from({ length: inputs }, (_, i) => Math.floor(i / GPTQ_GROUP)).buffer)
  return [
    part('qweight', 'I32', [inputs / 8, outputs], 'codes'),
    part('qzeros', 'I32', [groups, outputs / 8], Buffer.alloc(groups * (outputs / 8) * 4, 0x77)),
    part('scales', 'F16', [groups, outputs], 'scales'),
    part('g_idx', 'I32', [inputs], order),
  ]
}

const WIDTHS = { BF16: 2, F16: 2, I32: 4 }

/** Bytes of tensors. */
function sizeOf(tensors) {
  return tensors.reduce(
    (sum, { shape, dtype = 'BF16' }) => sum + shape.reduce((product, size) => product * size, WIDTHS[dtype]),
    0,
  )
}

function writeShard(file, tensors, random, pools) {
  const header = { __metadata__: { format: 'pt' } }
  let end = 0
  for (const tensor of tensors) {
    const size = sizeOf([tensor])
    header[tensor.name] = { dtype: tensor.dtype ?? 'BF16', shape: tensor.shape, data_offsets: [end, end + size] }
    end += size
  }
  const json = JSON.stringify(header)
  const head = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, ' ')
  head.writeBigUInt64LE(BigInt(head.length - 8))
  head.write(json, 8)
  const out = openSync(file, 'w')
  try {
    writeSync(out, head)
    for (const tensor of tensors) {
      const from = tensor.from ?? (tensor.shape.length === 1 ? 'norms' : 'weights')
      if (typeof from !== 'string') {
        writeSync(out, from)
        continue
      }
      const values = pools[from]
      for (let left = sizeOf([tensor]); left > 0; left -= PIECE_BYTES) {
        const length = Math.min(left, PIECE_BYTES)
        const start = 2 * Math.floor((random() * (values.length - length)) / 2)
        writeSync(out, values, start, length)
      }
    }
  } finally {
    closeSync(out)
  }
}

/** Words of any bits. */
function words(random) {
  return Buffer.from(Uint32Array.from({ length: POOL_VALUES }, () => random() * 2 ** 32).buffer)
}

/** f16 from 2^-9 to 2^-8. */
function scales(random) {
  return Buffer.from(Uint16Array.from({ length: POOL_VALUES }, () => 0x1800 + random() * 0x400).buffer)
}

/** Roughly normal bf16 values (the sum of four uniforms), as bytes. */
function pool(random, mean, deviation) {
  const values = Float32Array.from(
    { length: POOL_VALUES },
    () => mean + deviation * 1.732 * (random() + random() + random() + random() - 2),
  )
  const bits = new Uint32Array(values.buffer)
  // half to even
  const halves = Uint16Array.from(bits, (word) => (word + 0x7fff + ((word >>> 16) & 1)) >>> 16)
  return Buffer.from(halves.buffer)
}

/**
 * Marsaglia's xorshift32, as numbers in [0, 1): integers only, so the same everywhere.
 * @param {number} seed
 * @returns {() => number}
 */
export function xorshift(seed) {
  let state = seed | 0 || 1
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) / 2 ** 32
  }
}
