import { closeSync, copyFileSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs'
import path from 'node:path'

const SAMPLE = path.resolve(import.meta.dirname, '../../../sample')
const SMALL_FILES = ['chat_template.jinja', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json']
const HIDDEN = 1024
const INTERMEDIATE = 4096
const HEADS = 16
const KV_HEADS = 4
const HEAD = 64
const LAYERS = 4
const VOCABULARY = 2048

/**
 * Writes a Llama of 65 million weights (130 MB of bf16) with the sample's tokenizer: large enough that a conversion can
 * be watched, paused and interrupted. Its values are the sample's, over and over.
 */
export function writeBigModel(folder: string): void {
  for (const name of SMALL_FILES) copyFileSync(path.join(SAMPLE, name), path.join(folder, name))
  const config = JSON.parse(readFileSync(path.join(SAMPLE, 'config.json'), 'utf8')) as Record<string, unknown>
  Object.assign(config, {
    hidden_size: HIDDEN,
    intermediate_size: INTERMEDIATE,
    num_attention_heads: HEADS,
    num_key_value_heads: KV_HEADS,
    head_dim: HEAD,
    num_hidden_layers: LAYERS,
  })
  writeFileSync(path.join(folder, 'config.json'), JSON.stringify(config))

  const header: Record<string, unknown> = {}
  let at = 0
  for (const [name, shape] of shapes()) {
    const end = at + shape.reduce((product, size) => product * size, 1) * 2
    header[name] = { dtype: 'BF16', shape, data_offsets: [at, end] }
    at = end
  }
  const text = Buffer.from(JSON.stringify(header))
  const head = Buffer.alloc(8 + Math.ceil(text.length / 8) * 8, ' ')
  head.writeBigUInt64LE(BigInt(head.length - 8))
  text.copy(head, 8)

  const sample = readFileSync(path.join(SAMPLE, 'model.safetensors'))
  const values = sample.subarray(8 + Number(sample.readBigUInt64LE(0)))
  const file = openSync(path.join(folder, 'model.safetensors'), 'w')
  writeSync(file, head)
  for (let left = at; left > 0; left -= values.length)
    writeSync(file, values.subarray(0, Math.min(left, values.length)))
  closeSync(file)
}

function shapes(): [string, number[]][] {
  const layers = Array.from({ length: LAYERS }, (_, index): [string, number[]][] => {
    const layer = `model.layers.${index}`
    return [
      [`${layer}.input_layernorm.weight`, [HIDDEN]],
      [`${layer}.self_attn.q_proj.weight`, [HEADS * HEAD, HIDDEN]],
      [`${layer}.self_attn.k_proj.weight`, [KV_HEADS * HEAD, HIDDEN]],
      [`${layer}.self_attn.v_proj.weight`, [KV_HEADS * HEAD, HIDDEN]],
      [`${layer}.self_attn.o_proj.weight`, [HIDDEN, HEADS * HEAD]],
      [`${layer}.post_attention_layernorm.weight`, [HIDDEN]],
      [`${layer}.mlp.gate_proj.weight`, [INTERMEDIATE, HIDDEN]],
      [`${layer}.mlp.up_proj.weight`, [INTERMEDIATE, HIDDEN]],
      [`${layer}.mlp.down_proj.weight`, [HIDDEN, INTERMEDIATE]],
    ]
  })
  return [
    ['model.embed_tokens.weight', [VOCABULARY, HIDDEN]],
    ...layers.flat(),
    ['model.norm.weight', [HIDDEN]],
    ['lm_head.weight', [VOCABULARY, HIDDEN]],
  ]
}
