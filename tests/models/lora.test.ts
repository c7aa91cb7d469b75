/** What of adapters is refused, and why; what merging does is tests/oracle/lora.test.ts. */
import { describe, expect, test } from 'vitest'
import { createApi } from '../../src/api/api.ts'
import type { ConvertRequest } from '../../src/api/wire.ts'
import type { Folder, Place } from '../../src/core/bytes.ts'
import { AppError } from '../../src/core/errors.ts'
import { parseJsonObject, type JsonObject } from '../../src/core/json.ts'
import type { Report } from '../../src/core/job.ts'
import type { AdapterChoice } from '../../src/core/transform.ts'
import { modulePattern, parseLoraConfig, scaleOf } from '../../src/models/lora-config.ts'
import { tinyLlama } from '../api/fixture.ts'
import { testHost } from '../api/host.ts'
import { memoryFolder, MemoryOutput } from '../contracts/memory.ts'
import { rawTensors, safetensors, type RawTensor } from '../engines/hf/folder.ts'

const json = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value))
const object = (value: unknown): JsonObject => parseJsonObject(json(value), 'adapter_config.json')
const config = (more: object): unknown => parseLoraConfig(object({ peft_type: 'LORA', ...more }), 'adapter_config.json')

describe('the configuration of an adapter', () => {
  test.each([
    [{ peft_type: 'IA3' }, /IA3/],
    [{ peft_type: 'LOHA' }, /LOHA/],
    [{ peft_type: 'VERA' }, /VERA/],
    [{ peft_type: 'ADALORA', r: 8 }, /ADALORA/],
    [{ peft_type: 'PROMPT_TUNING' }, /PROMPT_TUNING/],
    [{}, /no adapter of a kind that is known/],
    [{ fine_tune_type: 'lora', lora_parameters: { rank: 8 } }, /mlx-lm/],
    [{ peft_type: 'LORA', layer_replication: [[0, 4]] }, /repeats layers/],
    [{ peft_type: 'LORA', trainable_token_indices: { embed_tokens: [1] } }, /rows of the embedding/],
    [{ peft_type: 'LORA', target_parameters: ['mlp.experts.gate_up_proj'] }, /target_parameters/],
    [{ peft_type: 'LORA', use_qalora: true }, /use_qalora/],
    [{ peft_type: 'LORA', alora_invocation_tokens: [1, 2] }, /aLoRA/],
    [{ peft_type: 'LORA', init_lora_weights: 'pissa_niter_16' }, /changes the base/],
  ])('%j is refused by name', (raw, message) => {
    expect(() => parseLoraConfig(object(raw), 'adapter_config.json')).toThrow(
      expect.objectContaining({ code: 'unsupported', message: expect.stringMatching(message) as string }),
    )
  })

  test.each([{ r: 0 }, { lora_alpha: 'x' }, { rank_pattern: { a: 'b' } }, { target_modules: [1] }])(
    '%j is malformed',
    (raw) => {
      expect(() => config(raw)).toThrow(expect.objectContaining({ code: 'malformed' }))
    },
  )

  test('defaults are PEFT’s; harmless beginnings and empty keys are none', () => {
    expect(
      config({ init_lora_weights: 'gaussian', trainable_token_indices: null, target_parameters: [], use_dora: false }),
    ).toMatchObject({ rank: 8, alpha: 8, rankStabilized: false, dora: false, targets: null, base: null })
  })

  test('expressions are PEFT’s: the end of a name, or all of it; those that could take for ever are refused', () => {
    const fits = (pattern: string, module: string): boolean => modulePattern(pattern, 'f').test(module)
    const q = 'model.layers.1.self_attn.q_proj'
    expect(fits('q_proj', q)).toBe(true)
    expect(fits('_proj', q)).toBe(false)
    expect(fits('self_attn.*', q)).toBe(true)
    expect(fits(String.raw`.*\.1\..*q_proj`, q)).toBe(true)
    expect(fits('^model.layers.2.*', q)).toBe(false)
    for (const bad of ['(a+)+b', '(', '(?P<x>a)', 'x'.repeat(2000)]) {
      expect(() => modulePattern(bad, 'f')).toThrow(expect.objectContaining({ code: 'unsupported' }))
    }
  })

  test('scales', () => {
    const plain = parseLoraConfig(object({ peft_type: 'LORA', r: 4, lora_alpha: 6 }), 'f')
    expect(scaleOf(plain, 'm', 4, 'f')).toBe(1.5)
    expect(scaleOf({ ...plain, rankStabilized: true }, 'm', 4, 'f')).toBe(3)
    expect(scaleOf({ ...plain, alphaPattern: new Map([['m', 8]]) }, 'a.m', 4, 'f')).toBe(2)
  })
})

const CONFIG = { peft_type: 'LORA', r: 2, lora_alpha: 4, target_modules: ['q_proj'] }
const base = tinyLlama()
const stored = new Map(rawTensors(base['model.safetensors']!).map((tensor) => [tensor.name, tensor]))
const Q = 'model.layers.0.self_attn.q_proj'
const [OUT, IN] = stored.get(`${Q}.weight`)!.shape as [number, number]
const LAYERS = [...stored.keys()].filter((name) => name.endsWith('.q_proj.weight')).length
const TOKENS = stored.get('model.embed_tokens.weight')!.shape[0]!

const tensor = (name: string, shape: readonly number[], value = 0.5): RawTensor => {
  const count = shape.reduce((product, size) => product * size, 1)
  return { name, dtype: 'f32', shape, data: new Uint8Array(Float32Array.from({ length: count }, () => value).buffer) }
}
const pair = (module: string, rank = 2): RawTensor[] => [
  tensor(`base_model.model.${module}.lora_A.weight`, [rank, IN]),
  tensor(`base_model.model.${module}.lora_B.weight`, [OUT, rank]),
]
const everyQ = Array.from({ length: LAYERS }, (_, i) => `model.layers.${i}.self_attn.q_proj`)

interface Run {
  readonly tensors: readonly RawTensor[]
  readonly config?: object
  readonly files?: Record<string, Uint8Array>
  readonly weight?: number
}

async function merge(...runs: readonly Run[]): Promise<{ report: Report; output: MemoryOutput }> {
  const folders = new Map<string, Folder>([['base', memoryFolder(base, { name: 'base' })]])
  const adapters = runs.map(({ tensors, config: raw = CONFIG, files = {}, weight = 1 }, index): AdapterChoice => {
    const name = `adapter${index}`
    folders.set(
      name,
      memoryFolder(
        { 'adapter_config.json': json(raw), 'adapter_model.safetensors': safetensors(tensors), ...files },
        { name: 'mine' },
      ),
    )
    return { place: { kind: 'path', path: name }, weight }
  })
  const output = new MemoryOutput()
  const host = testHost({ input: folders.get('base')!, output })
  const api = createApi({ ...host, open: async (place: Place) => folders.get((place as { path: string }).path)! })
  const request: ConvertRequest = {
    input: { kind: 'path', path: 'base' },
    target: 'huggingface',
    options: { dtype: 'f32' },
    output: { kind: 'path', path: 'out' },
    name: null,
    overwrite: false,
    transforms: { adapters },
  }
  const job = api.start(request)
  for (;;) {
    for (const event of await job.next()) {
      if (event.type === 'failed') throw AppError.fromData(event.error)
      if (event.type === 'done') return { report: event.report, output }
    }
  }
}

const values = (output: MemoryOutput, name: string): Float32Array => {
  const { data } = rawTensors(output.files.get('model.safetensors')!).find((one) => one.name === name)!
  return new Float32Array(Uint8Array.from(data).buffer)
}

describe('merging', () => {
  test('all of a constant product; two folders of the same name do not mix', async () => {
    const one = { tensors: everyQ.flatMap((module) => pair(module)) }
    const two = { tensors: [tensor(`base_model.model.${Q}.lora_A.weight`, [2, IN], 1), ...pair(Q).slice(1)] }
    const { output, report } = await merge(one, two)
    const bits = new Uint16Array(Uint8Array.from(stored.get(`${Q}.weight`)!.data).buffer)
    const before = new Float32Array(Uint32Array.from(bits, (half) => half << 16).buffer)
    // scale 2, rank 2: 2 * 2 * 0.25, and 2 * 2 * 0.5
    values(output, `${Q}.weight`).forEach((value, i) => expect(value).toBeCloseTo(before[i]! + 3, 5))
    const codes = report.findings.map(({ code }) => code)
    expect(codes.filter((code) => code === 'lora-merged')).toHaveLength(2)
    // the second has only one of the matrices that its configuration targets
    expect(codes.filter((code) => code === 'lora-incomplete')).toHaveLength(LAYERS > 1 ? 1 : 0)
  })

  test.each<[string, Run, string]>([
    ['a rank that is not the configuration’s', { tensors: pair(Q, 3) }, 'bad-tensor'],
    ['one half without the other', { tensors: pair(Q).slice(1) }, 'missing-tensor'],
    ['another width', { tensors: [tensor(`${Q}.lora_A.weight`, [2, IN + 1]), ...pair(Q).slice(1)] }, 'bad-tensor'],
    ['a module that the base has not', { tensors: pair('model.layers.99.self_attn.q_proj') }, 'unsupported'],
    ['a head of another task', { tensors: [tensor('base_model.model.score.weight', [2, IN])] }, 'unsupported'],
    ['parts of VeRA', { tensors: [tensor(`base_model.model.${Q}.vera_lambda_b`, [OUT])] }, 'unsupported'],
    ['parts of AdaLoRA', { tensors: [...pair(Q), tensor(`base_model.model.${Q}.lora_E`, [2, 1])] }, 'unsupported'],
    ['nothing', { tensors: [] }, 'missing-tensor'],
    ['DoRA without lengths', { tensors: pair(Q), config: { ...CONFIG, use_dora: true } }, 'missing-tensor'],
    [
      'lengths without DoRA',
      { tensors: [...pair(Q), tensor(`base_model.model.${Q}.lora_magnitude_vector.weight`, [OUT])] },
      'malformed',
    ],
    [
      'a weighted tensor that was trained whole',
      { tensors: [...pair(Q), tensor('base_model.model.model.norm.weight', [IN])], weight: 0.5 },
      'bad-option',
    ],
    ['integers', { tensors: [{ ...pair(Q)[0]!, dtype: 'i32' }, ...pair(Q).slice(1)] }, 'bad-tensor'],
  ])('%s is refused', async (_, run, code) => {
    await expect(merge(run)).rejects.toMatchObject({ code })
  })

  test('tokens that an adapter adds: embedding and head of more rows', async () => {
    const tied = !stored.has('lm_head.weight')
    const rows = TOKENS + 8
    const embedding = tensor('base_model.model.model.embed_tokens.weight', [rows, IN], 0.25)
    const head = tensor('base_model.model.lm_head.weight', [rows, IN], 0.125)
    const { output } = await merge({ tensors: tied ? [...pair(Q), embedding] : [...pair(Q), embedding, head] })
    const made = JSON.parse(new TextDecoder().decode(output.files.get('config.json'))) as Record<string, unknown>
    expect(made['vocab_size']).toBe(rows)
    expect(values(output, 'model.embed_tokens.weight')).toHaveLength(rows * IN)
  })

  test('an adapter that was trained on an other size is not taken for one that adds tokens', async () => {
    const wrong = tensor('base_model.model.model.embed_tokens.weight', [TOKENS, IN + 1])
    await expect(merge({ tensors: [...pair(Q), wrong] })).rejects.toMatchObject({ code: 'bad-tensor' })
  })
})
