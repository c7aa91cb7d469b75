import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { rawTensors, type Files } from '../engines/hf/folder.ts'
import { madeUp } from '../engines/megatron/folder.ts'
import { command, temporary, tinyModel, type Ran } from './command.ts'

let space: ReturnType<typeof temporary>
let folder: string
const run = (...args: readonly string[]): Promise<Ran> => command(folder, ...args)
const at = (...parts: readonly string[]): string => path.join(folder, ...parts)

beforeEach(() => {
  space = temporary()
  folder = space.path
})
afterEach(() => space.remove())

function write(name: string, files: Files): void {
  mkdirSync(at(name))
  for (const [file, bytes] of Object.entries(files)) writeFileSync(at(name, file), bytes)
}

const json = (...parts: readonly string[]): Record<string, unknown> =>
  JSON.parse(readFileSync(at(...parts), 'utf8')) as Record<string, unknown>

/** A folder's weights by name, as numbers of f32 or as the bytes that they are. */
const weights = (name: string): Map<string, string> =>
  new Map(
    rawTensors(readFileSync(at(name, 'model.safetensors'))).map((tensor) => [
      tensor.name,
      `${tensor.dtype} ${tensor.shape.join('x')} ${Buffer.from(tensor.data).toString('base64')}`,
    ]),
  )

async function expectRefused(words: readonly string[], ...args: readonly string[]): Promise<void> {
  const { code, stdout, stderr } = await run('convert', ...args, '-o', 'out/')
  expect([code, stdout]).toEqual([2, ''])
  for (const word of [...words, 'hint: ']) expect(stderr).toContain(word)
}

describe('--fake-weight-config', () => {
  const YAML = `# the weights of tests
seed: 4
dist: uniform
dtype: f16
tensors:
  model.norm.weight: {value: 0.5}
  model.layers.*.mlp.up_proj.weight: &wide
    std: 0.5
  model.layers.*.mlp.gate_proj.weight: *wide
`
  const FLOW = '{seed: 4, dist: uniform, dtype: f16, tensors: {model.norm.weight: {value: 0.5}, '
  const STDS = 'model.layers.*.mlp.up_proj.weight: {std: 0.5}, model.layers.*.mlp.gate_proj.weight: {std: 0.5}}}'

  test('takes YAML and JSON, in files and as they are', { timeout: 60_000 }, async () => {
    tinyModel(folder)
    const asJson = JSON.stringify({
      seed: 4,
      dist: 'uniform',
      dtype: 'f16',
      tensors: {
        'model.norm.weight': { value: 0.5 },
        'model.layers.*.mlp.up_proj.weight': { std: 0.5 },
        'model.layers.*.mlp.gate_proj.weight': { std: 0.5 },
      },
    })
    writeFileSync(at('fake.yaml'), YAML)
    writeFileSync(at('fake.YML'), YAML)
    writeFileSync(at('fake.json'), asJson)
    writeFileSync(at('fake'), YAML)
    const made: Map<string, string>[] = []
    for (const [index, config] of ['fake.yaml', 'fake.YML', 'fake.json', 'fake', YAML, FLOW + STDS, asJson].entries()) {
      const { code, stderr } = await run('convert', 'tiny', 'hf', '--fake-weight-config', config, '-o', `${index}/`)
      expect([code, stderr.includes('error')], config).toEqual([0, false])
      made.push(weights(String(index)))
    }
    for (const one of made) expect(one).toEqual(made[0])
    expect(made[0]!.get('model.norm.weight')).toBe(
      `f16 64 ${Buffer.from(new Uint16Array(64).fill(0x3800).buffer).toString('base64')}`,
    )
    const plain = await run('convert', 'tiny', 'hf', '--fake-weight', '-o', 'plain/')
    expect(plain.code).toBe(0)
    expect(weights('plain')).not.toEqual(made[0])
  })

  test('says where a mistake is', async () => {
    tinyModel(folder)
    const given = (name: string, text: string): string => {
      writeFileSync(at(name), text)
      return name
    }
    const refused = (config: string, ...words: readonly string[]): Promise<void> =>
      expectRefused(['error[bad-option]: ', ...words], 'tiny', 'hf', '--fake-weight-config', config)
    await refused(given('a.yaml', 'seed: 1\ndist: [normal\n'), 'a.yaml is not valid YAML', 'line 3, column 1')
    await refused(given('b.yaml', 'seed: 1\nseed: 2\n'), 'the key "seed" occurs twice at line 2, column 1')
    await refused(given('c.json', '{"seed": 1,\n "dist": x}'), 'c.json is not valid JSON', 'line 2, column 10')
    await refused(given('d.yaml', 'sed: 1\n'), 'd.yaml: it has the key "sed"')
    await refused('{seed: 1', '--fake-weight-config is not valid YAML', 'line 1')
    await refused(given('e.yaml', 'tensors: {__proto__: [4]}'), 'The model has no tensor __proto__')
    await refused(given('f.yaml', ''), 'f.yaml: it must be an object')
  })
})

describe('--mup2llama', () => {
  const MINICPM = {
    architectures: ['MiniCPMForCausalLM'],
    model_type: 'minicpm',
    hidden_size: 32,
    intermediate_size: 48,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    num_hidden_layers: 4,
    vocab_size: 300,
    max_position_embeddings: 128,
    rms_norm_eps: 1e-5,
    torch_dtype: 'bfloat16',
    tie_word_embeddings: true,
    attention_bias: true,
    scale_emb: 12,
    scale_depth: 1.4,
    dim_model_base: 16,
  }
  const LLAMA = { architectures: ['LlamaForCausalLM'], model_type: 'llama' }

  test('makes a plain Llama, from HuggingFace, GGUF and Megatron alike', { timeout: 60_000 }, async () => {
    write('mini', await madeUp(MINICPM))
    const convert = async (...args: readonly string[]): Promise<void> => {
      const { code, stderr } = await run('convert', ...args, '--quiet')
      expect(code, stderr).toBe(0)
    }
    const fold = (from: string, to: string): Promise<void> =>
      convert(from, 'hf', '--mup2llama', '--dtype', 'f32', '-o', `${to}/`)
    await fold('mini', 'folded')
    expect(json('folded', 'config.json')).toMatchObject({ ...LLAMA, tie_word_embeddings: false })
    for (const key of ['scale_emb', 'scale_depth', 'dim_model_base'])
      expect(json('folded', 'config.json')).not.toHaveProperty(key)
    await convert('mini', 'gguf', '--quant', 'bf16', '-o', 'mini.gguf')
    await fold('mini.gguf', 'from-gguf')
    await convert('mini', 'megatron', '--tp', '2', '--pp', '2', '-o', 'ranks/')
    await fold('ranks', 'from-ranks')
    for (const name of ['from-gguf', 'from-ranks']) expect(weights(name), name).toEqual(weights('folded'))
    await expectRefused(['folded into its weights before'], 'folded', 'gguf', '--mup2llama')
    // a plain Llama to other formats, too: as such it is none of muP
    await convert('folded', 'gguf', '--quant', 'bf16', '-o', 'folded.gguf')
    await expectRefused(['is not a muP model'], 'folded.gguf', 'hf', '--mup2llama')
  })

  test('--keep-tied adds no tensor', async () => {
    write('mini', await madeUp(MINICPM))
    const { code } = await run('convert', 'mini', 'hf', '--mup2llama', '--keep-tied', '-o', 'tied/')
    expect(code).toBe(0)
    expect(json('tied', 'config.json')).toMatchObject({ ...LLAMA, tie_word_embeddings: true })
    expect([...weights('tied').keys()].sort()).toEqual([...weights('mini').keys()].sort())
  })

  test('refuses what is not of muP, and says what --force would take it for', { timeout: 60_000 }, async () => {
    tinyModel(folder)
    await expectRefused(['error[bad-option]', 'LlamaForCausalLM is not a muP model'], 'tiny', 'hf', '--mup2llama')
    await expectRefused(['is not a muP model'], 'tiny', 'hf', '--mup2llama', '--force')
    await expectRefused(['Give --mup2llama as well'], 'tiny', 'hf', '--force')
    await expectRefused(['Give --mup2llama as well'], 'tiny', 'hf', '--keep-tied')
    const { scale_depth: _, ...some } = MINICPM
    write('some', await madeUp({ ...some, ...LLAMA }))
    const plain = await run('convert', 'some', 'hf', '--mup2llama', '-o', 'out/')
    expect(plain.code).toBe(1)
    expect(plain.stderr).toContain('has scale_emb, dim_model_base, but is not known to use muP')
    expect(plain.stderr).toContain('--force')
    const forced = await run('convert', 'some', 'hf', '--mup2llama', '--force', '-o', 'forced/')
    expect(forced.code, forced.stderr).toBe(0)
    expect(forced.stdout + forced.stderr).toContain('with scale_depth 1 as its class has them')
    expect(json('forced', 'config.json')).toHaveProperty('mup_folded')
  })
})
