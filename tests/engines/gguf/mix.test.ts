import { describe, expect, test } from 'vitest'
import { categoryOf, chooseType, MIXES, more, type MixModel } from '../../../src/engines/gguf/mix.ts'

const mix = (id: string) => MIXES.find((candidate) => candidate.id === id)!

const model = (layers: number, tied = false): MixModel => {
  return { architecture: 'llama', layers, heads: 32, kvHeads: 8, tied }
}

/** Layers whose tensor of that name gets Q6_K in Q4_K_M. */
function bumped(layers: number, name: string): number[] {
  const all = Array.from({ length: layers }, (_, i) => i)
  return all.filter((i) => {
    const { type } = chooseType(mix('q4_k_m'), model(layers), `blk.${i}.${name}.weight`, [256, 256])
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
    ['blk.0.attn_v.weight', false, [320, 960], 'q8_0'],
    ['blk.0.ffn_down.weight', false, [960, 2568], 'f16'],
    ['blk.5.ffn_gate.weight', false, [2560, 200], 'f16'],
    ['blk.0.attn_norm.weight', false, [4096], 'f32'],
    ['blk.0.attn_q_norm.weight', false, [128], 'f32'],
    ['blk.0.attn_q.bias', false, [4096], 'f32'],
    ['output_norm.weight', false, [4096], 'f32'],
  ] as const)('%s, tied %s, %j: %s', (name, tied, shape, type) => {
    expect(chooseType(mix('q4_k_m'), model(32, tied), name, shape).type).toBe(type)
  })

  test('a fall-back says what was wanted', () => {
    const choice = chooseType(mix('q4_k_m'), model(32), 'blk.0.attn_v.weight', [320, 960])
    expect(choice).toEqual({ type: 'q8_0', wanted: 'q6_k', unavailable: null })
  })

  test('80 layers with grouped heads: Q6_K for the Q5_K that llama.cpp takes', () => {
    const seventy = { ...model(80), heads: 64, kvHeads: 8 }
    const choice = chooseType(mix('q4_k_m'), seventy, 'blk.10.attn_v.weight', [1024, 8192])
    expect(choice).toEqual({ type: 'q6_k', wanted: 'q6_k', unavailable: 'Q5_K' })
    const ungrouped = { ...seventy, kvHeads: 64 }
    expect(chooseType(mix('q4_k_m'), ungrouped, 'blk.10.attn_v.weight', [8192, 8192]).unavailable).toBeNull()
  })
})

describe('the other mixtures', () => {
  test.each([
    ['q8_0', 'output.weight', 'q8_0'],
    ['q8_0', 'blk.0.ffn_down.weight', 'q8_0'],
    ['q4_0', 'output.weight', 'q6_k'],
    ['q4_0', 'blk.0.attn_v.weight', 'q4_0'],
    ['q4_0', 'token_embd.weight', 'q4_0'],
    ['f16', 'output.weight', 'f16'],
    ['bf16', 'blk.0.attn_q.weight', 'bf16'],
    ['f32', 'blk.0.attn_q.weight', 'f32'],
    ['f16', 'blk.0.attn_norm.weight', 'f32'],
  ] as const)('%s: %s is %s', (id, name, type) => {
    const shape = name.includes('norm') ? [256] : [256, 256]
    expect(chooseType(mix(id), model(32), name, shape).type).toBe(type)
  })

  test('Q8_0 and Q4_0 rows that are no whole blocks become F16', () => {
    for (const id of ['q8_0', 'q4_0'])
      expect(chooseType(mix(id), model(32), 'blk.0.attn_q.weight', [8, 40]).type).toBe('f16')
  })

  test('llama.cpp file types and ids are not repeated', () => {
    expect(new Set(MIXES.map(({ id }) => id)).size).toBe(MIXES.length)
    expect(new Set(MIXES.map(({ fileType }) => fileType)).size).toBe(MIXES.length)
  })
})

test('categories', () => {
  expect(categoryOf('output.weight')).toBe('output')
  expect(categoryOf('token_embd.weight')).toBe('token_embd')
  expect(categoryOf('blk.12.ffn_down.weight')).toBe('ffn_down')
  expect(categoryOf('blk.12.ffn_down.bias')).toBe('other')
  expect(categoryOf('output_norm.weight')).toBe('other')
})
