import { describe, expect, test } from 'vitest'
import { dtypeInfo, requiresImportance, takesImportance } from '../../../src/core/dtype.ts'
import { ggmlTypes } from '../../../src/engines/containers/gguf/types.ts'
import {
  categoryOf,
  chooseTypes,
  isOffered,
  isQuantizable,
  mixOf,
  more,
  PLAIN,
  type Choice,
  type MixModel,
  type MixSettings,
} from '../../../src/engines/gguf/weights/mix.ts'
import { MIXES } from '../../../src/engines/gguf/weights/mixes.ts'
import { blockOf, WEIGHT_TYPES, WRITABLE, writableDType } from '../../../src/engines/gguf/weights/types.ts'
import { createReferenceBackend } from '../../../src/kernels/reference/index.ts'

const mix = (id: string) => mixOf(id)!

const LLAMA: MixModel = { architecture: 'llama', layers: 32, heads: 32, kvHeads: 8, experts: 0 }

/** The choice for one tensor of a model of which only what is needed is there. */
function choose(
  id: string,
  name: string,
  shape: readonly number[],
  given: { model?: Partial<MixModel>; tied?: boolean; settings?: Partial<MixSettings> } = {},
): Choice {
  const tensors = [{ name, shape }]
  if (given.tied !== true && name !== 'output.weight') tensors.push({ name: 'output.weight', shape: [256, 256] })
  const choices = chooseTypes(mix(id), { ...LLAMA, ...given.model }, tensors, { ...PLAIN, ...given.settings })
  return choices.get(name)!
}

/** Layers whose tensor of that name gets Q6_K in Q4_K_M. */
function bumped(layers: number, name: string): number[] {
  const all = Array.from({ length: layers }, (_, i) => i)
  const tensors = all.map((i) => ({ name: `blk.${i}.${name}.weight`, shape: [256, 256] }))
  const choices = chooseTypes(mix('q4_k_m'), { ...LLAMA, layers }, tensors)
  return all.filter((i) => {
    const { type } = choices.get(`blk.${i}.${name}.weight`)!
    expect(['q4_k', 'q6_k']).toContain(type)
    return type === 'q6_k'
  })
}

/** The tables of ../shared/specs/gguf.md, made with llama-quantize itself. */
const MORE_32 = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
const MORE_24 = [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]

describe('Q4_K_M', () => {
  test.each([
    [32, MORE_32],
    [24, MORE_24],
    [6, [2, 5]],
    [1, [0]],
  ])('%i layers: more bits for the value and down matrices of some', (layers, expected) => {
    expect(bumped(layers, 'attn_v')).toEqual(expected)
    expect(bumped(layers, 'ffn_down')).toEqual(expected)
    for (const name of ['attn_q', 'attn_k', 'attn_output', 'ffn_gate', 'ffn_up'])
      expect(bumped(layers, name)).toEqual([])
    expect(Array.from({ length: layers }, (_, i) => i).filter((i) => more(i, layers))).toEqual(expected)
  })

  test.each([
    // name, tied, shape, type
    ['output.weight', false, [1000, 4096], 'q6_k'],
    ['token_embd.weight', false, [1000, 4096], 'q4_k'],
    ['token_embd.weight', true, [1000, 4096], 'q6_k'],
    ['output.weight', false, [1000, 960], 'q8_0'],
    ['token_embd.weight', true, [1000, 960], 'q8_0'],
    ['token_embd.weight', false, [1000, 960], 'q5_0'],
    ['output.weight', false, [1000, 176], 'f16'],
    ['blk.5.attn_q.weight', false, [960, 960], 'q5_0'],
    ['blk.0.attn_v.weight', false, [320, 960], 'q5_0'],
    ['blk.0.ffn_down.weight', false, [960, 2568], 'f16'],
    ['blk.5.ffn_gate.weight', false, [2560, 200], 'f16'],
    ['blk.0.attn_norm.weight', false, [4096], null],
    ['blk.0.attn_q_norm.weight', false, [128], null],
    ['blk.0.attn_q.bias', false, [4096], null],
    ['output_norm.weight', false, [4096], null],
    ['blk.0.ffn_gate_inp.weight', false, [8, 4096], null],
    // a matrix of one row is a vector to ggml
    ['blk.0.attn_q.weight', false, [1, 4096], null],
  ] as const)('%s, tied %s, %j: %s', (name, tied, shape, type) => {
    // one value matrix of one: no layer is among the bumped ones but by the rule's third case
    expect(choose('q4_k_m', name, shape, { tied, model: { layers: 2 } }).type).toBe(
      name === 'blk.0.attn_v.weight' ? 'q8_0' : type,
    )
  })

  test('a fall-back says what was wanted', () => {
    const choice = choose('q4_k_m', 'blk.0.attn_v.weight', [320, 960])
    expect(choice).toEqual({ type: 'q8_0', wanted: 'q6_k', needsImportance: false })
  })
})

describe('what the user decides', () => {
  const matrix = [256, 256]
  test("the first pattern that is found counts, without the mixture's rules", () => {
    const overrides = [
      { pattern: /attn_[vk]/, type: 'q8_0' },
      { pattern: /attn_v/, type: 'q4_0' },
    ] as const
    expect(choose('q4_k_m', 'blk.0.attn_v.weight', matrix, { settings: { overrides } }).type).toBe('q8_0')
    expect(choose('q4_k_m', 'blk.0.attn_q.weight', matrix, { settings: { overrides } }).type).toBe('q4_k')
    // llama-quantize heeds patterns in mixtures of blocks only
    expect(choose('f16', 'blk.0.attn_v.weight', matrix, { settings: { overrides } }).type).toBe('f16')
  })

  test('types of the output matrix and of the embedding', () => {
    const settings = { output: 'q8_0', embedding: 'q4_0' } as const
    expect(choose('q4_k_m', 'output.weight', matrix, { settings }).type).toBe('q8_0')
    expect(choose('q4_k_m', 'token_embd.weight', matrix, { settings }).type).toBe('q4_0')
    expect(choose('q4_k_m', 'token_embd.weight', matrix, { tied: true, settings: { output: 'q8_0' } }).type).toBe(
      'q8_0',
    )
    expect(choose('f16', 'output.weight', matrix, { settings }).type).toBe('q8_0')
  })

  test('pure, and an output matrix that is left alone', () => {
    expect(choose('q4_k_m', 'output.weight', matrix, { settings: { pure: true } }).type).toBe('q4_k')
    expect(choose('q4_k_m', 'output.weight', matrix, { settings: { leaveOutput: true } }).type).toBeNull()
    expect(choose('q4_k_m', 'token_embd.weight', matrix, { tied: true, settings: { leaveOutput: true } }).type).toBe(
      'q6_k',
    )
  })
})

test('importances are needed by the smallest types, the embedding and the output matrix aside', () => {
  const matrix = [256, 256]
  const needs = (id: string, name = 'blk.5.ffn_up.weight') => choose(id, name, matrix).needsImportance
  for (const id of ['iq1_s', 'iq1_m', 'iq2_xxs', 'iq2_xs', 'iq2_s', 'iq2_m', 'iq3_xxs', 'q2_k_s']) {
    expect(needs(id), id).toBe(true)
    expect(needs(id, 'token_embd.weight'), id).toBe(false)
    expect(needs(id, 'output.weight'), id).toBe(false)
  }
  for (const id of ['q2_k', 'iq3_s', 'iq3_m', 'iq4_xs', 'q3_k_s', 'tq1_0']) expect(needs(id), id).toBe(false)
  expect(needs('iq3_xs', 'blk.5.attn_q.weight')).toBe(true)
  // a fall-back needs none
  expect(choose('iq2_xs', 'blk.5.ffn_up.weight', [256, 96])).toEqual({
    type: 'iq4_nl',
    wanted: 'iq2_xs',
    needsImportance: false,
  })
})

test('rows that no fall-back suits are refused', () => {
  expect(() => choose('q1_0', 'blk.0.ffn_up.weight', [256, 96])).toThrow(
    'blk.0.ffn_up.weight cannot be Q1_0: its rows of 96 are not whole blocks of 128',
  )
})

describe('the table', () => {
  test('ids, titles and file types are not repeated', () => {
    for (const key of ['id', 'title', 'fileType'] as const)
      expect(new Set(MIXES.map((one) => one[key])).size).toBe(MIXES.length)
    for (const { id, title } of MIXES) expect(title.toLowerCase()).toBe(id)
  })

  test('a mixture is offered if all its types can be written', () => {
    const offered = MIXES.filter(isOffered).map(({ id }) => id)
    for (const id of ['f32', 'f16', 'bf16', 'q8_0', 'q4_k_m', 'q4_0']) expect(offered).toContain(id)
    for (const one of MIXES) if (!WRITABLE.has(one.base)) expect(offered).not.toContain(one.id)
  })

  test('writable types are those that the reference kernels write, and have their blocks', async () => {
    const backend = createReferenceBackend()
    for (const type of WEIGHT_TYPES) {
      const dtype = writableDType(type)
      expect(blockOf(type).bytes, type).toBeGreaterThan(0)
      const known = ggmlTypes().find(({ name }) => name.toLowerCase() === type)?.dtype ?? null
      const can = (weighted: boolean): boolean =>
        known !== null && backend.speed({ kind: 'cast', from: 'f32', to: known, weighted }) > 0
      expect(WRITABLE.has(type), type).toBe(can(false) || can(true))
      expect(dtype, type).toBe(can(false) || can(true) ? known : null)
      if (dtype !== null && dtypeInfo(dtype).kind === 'quant') {
        expect(can(true), type).toBe(takesImportance(dtype))
        expect(can(false), type).toBe(!requiresImportance(dtype))
      }
    }
    await backend.close()
  })
})

test('categories', () => {
  expect(categoryOf('output.weight')).toBe('output')
  expect(categoryOf('token_embd.weight')).toBe('token_embd')
  expect(categoryOf('blk.12.ffn_down.weight')).toBe('ffn_down')
  expect(categoryOf('blk.12.ffn_down_exps.weight')).toBe('ffn_down')
  expect(categoryOf('blk.12.attn_qkv.weight')).toBe('attn_v')
  expect(categoryOf('dec.blk.0.cross_attn_v.weight')).toBe('attn_v')
  expect(categoryOf('output_norm.weight')).toBe('other')
  expect(isQuantizable({ name: 'blk.0.ssm_conv1d.weight', shape: [8, 8] })).toBe(false)
})
