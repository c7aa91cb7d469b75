import { describe, expect, test } from 'vitest'
import { parseJsonObject } from '../../src/core/json.ts'
import type { ModelConfig } from '../../src/core/checkpoint.ts'
import { normalizeConfig } from '../../src/engines/transformers/config.ts'
import { architectureFor } from '../../src/models/index.ts'
import { CONFIGS } from './configs.ts'

const S = 'sliding_attention'
const F = 'full_attention'

/** The smallest configuration of a family, with changes; keys that are undefined are left out. */
async function configOf(id: string, changes: Record<string, unknown>): Promise<ModelConfig> {
  const text = JSON.stringify({ ...CONFIGS[id], ...changes })
  const raw = parseJsonObject(new TextEncoder().encode(text), 'config.json')
  return normalizeConfig(raw, 'config.json', await architectureFor(id, 'config.json')).config
}

describe('Gemma 3: the same of both styles', () => {
  const expected = {
    slidingWindow: 32,
    windowPeriod: 3,
    attentionScale: 0.25,
    rope: { theta: 2e6, windowTheta: 30_000, scaling: { kind: 'linear', factor: 8 } },
  }

  test('transformers 4', async () => {
    const config = await configOf('gemma3', {
      sliding_window_pattern: 3,
      rope_theta: 2e6,
      rope_local_base_freq: 30_000,
      rope_scaling: { rope_type: 'linear', factor: 8 },
    })
    expect(config).toMatchObject(expected)
  })

  test('transformers 5', async () => {
    const config = await configOf('gemma3', {
      num_hidden_layers: 4,
      sliding_window_pattern: undefined,
      rope_theta: undefined,
      layer_types: [S, S, F, S],
      rope_parameters: {
        [F]: { rope_type: 'linear', factor: 8, rope_theta: 2e6 },
        [S]: { rope_type: 'default', rope_theta: 30_000 },
      },
    })
    expect(config).toMatchObject(expected)
  })

  test('what the class has as defaults', async () => {
    const config = await configOf('gemma3', {
      sliding_window: undefined,
      sliding_window_pattern: undefined,
      rope_theta: undefined,
      query_pre_attn_scalar: undefined,
    })
    expect(config).toMatchObject({
      slidingWindow: 4096,
      windowPeriod: 6,
      attentionScale: 1 / 16,
      rope: { theta: 1e6, windowTheta: 10_000, scaling: { kind: 'none' } },
    })
  })
})

describe('the order of blocks', () => {
  test.each([
    ['gemma3', { layer_types: [S, F, S, F] }, 32, 2],
    ['gemma3', { layer_types: [S, S, S, S] }, 32, 6],
    ['gemma3', { layer_types: [S, S, S, S, S, S, S] }, 32, undefined],
    ['gemma3', { layer_types: [F, F] }, null, undefined],
    ['gemma3', { sliding_window_pattern: 1 }, null, undefined],
    ['gemma3', { sliding_window: null }, null, undefined],
    ['olmo3', { layer_types: undefined }, 32, 4],
    ['cohere2', { sliding_window_pattern: undefined }, 32, 4],
    ['exaone4', { sliding_window: 32, sliding_window_pattern: 'LLG' }, 32, 3],
    ['exaone4', { sliding_window: 32, sliding_window_pattern: 2 }, 32, 2],
    ['exaone4', { layer_types: [F, F] }, null, undefined],
  ] as const)('%s with %j: a window of %s, none in every %s', async (id, changes, window, period) => {
    const { slidingWindow, windowPeriod } = await configOf(id, changes)
    expect([slidingWindow, windowPeriod]).toEqual([window, period])
  })

  test.each([
    ['gemma3', { layer_types: [F, S, S] }, 'layer_types'],
    ['olmo3', { layer_types: [S, F, F] }, 'layer_types'],
    ['exaone4', { sliding_window: 32, sliding_window_pattern: 'LGL' }, 'LGL'],
    ['exaone4', { sliding_window: 32, layer_types: [F, F] }, 'a sliding window that no block has'],
    ['smollm3', { no_rope_layers: [1, 0, 0, 1] }, 'no_rope_layers'],
    ['smollm3', { use_sliding_window: true, sliding_window: 8 }, 'use_sliding_window'],
    [
      'gemma3',
      { rope_parameters: { [F]: {}, [S]: { rope_type: 'linear', factor: 2 } } },
      'scaled rotary positions in blocks with a sliding window',
    ],
    ['gemma3', { sliding_window_pattern: 0 }, 'number of blocks'],
    ['glm4', { rope_scaling: { rope_type: 'dynamic', alpha: 2 } }, 'dynamic'],
    ['hunyuan', { rope_scaling: { type: 'dynamic', factor: 2 } }, 'dynamic'],
  ] as const)('%s with %j is refused', async (id, changes, says) => {
    await expect(configOf(id, changes)).rejects.toThrow(says)
  })
})

test.each([
  [{}, 4],
  [{ no_rope_layer_interval: 3 }, 3],
  [{ no_rope_layers: [1, 1] }, 4],
  [{ no_rope_layers: [1, 1, 1, 1, 1] }, undefined],
  [{ no_rope_layers: [1, 0, 1, 0] }, 2],
])('SmolLM 3 with %j: no positions in every %s', async (changes, period) => {
  expect((await configOf('smollm3', changes)).unrotatedPeriod).toBe(period)
})
