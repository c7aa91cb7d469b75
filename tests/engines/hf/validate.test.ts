import { beforeAll, describe, expect, it } from 'vitest'
import type { Finding } from '../../../src/core/plan.ts'
import { huggingface } from '../../../src/engines/hf/engine.ts'
import { memoryFolder } from '../../contracts/memory.ts'
import {
  edit,
  editWeights,
  jsonOf,
  noShared,
  rawTensors,
  safetensors,
  SHARED_MODELS,
  sharded,
  sharedFiles,
  tinyLlama,
  without,
  type Files,
} from './folder.ts'

async function findingsOf(files: Files): Promise<Finding[]> {
  const folder = memoryFolder(files)
  const match = (await huggingface.detect(folder))!
  const findings: Finding[] = []
  for await (const finding of huggingface.validate(folder, match)) findings.push(finding)
  expect(folder.stats.openSources).toBe(0)
  expect(folder.stats.largestRead).toBeLessThan(200_000)
  return findings
}

let tiny: Files
beforeAll(() => {
  tiny = tinyLlama()
})

/** Sets bytes of one tensor. */
function poke(name: string, change: (data: Uint8Array) => void): Files {
  return editWeights(tiny, (all) =>
    all.map((tensor) => {
      if (tensor.name !== name) return tensor
      const data = tensor.data.slice()
      change(data)
      return { ...tensor, data }
    }),
  )
}

describe('validation', () => {
  it('finds nothing in a good folder', async () => {
    expect(await findingsOf(tiny)).toEqual([])
    expect(await findingsOf(sharded(tiny, 4))).toEqual([])
  })

  it.skipIf(noShared)('finds nothing in the shared models (../shared)', async () => {
    for (const name of SHARED_MODELS) expect(await findingsOf(sharedFiles(name)), name).toEqual([])
  })

  it('gives what opening throws as an error', async () => {
    expect(await findingsOf(edit(tiny, 'config.json', { hidden_size: 0 }))).toMatchObject([
      { severity: 'error', code: 'malformed', where: { file: 'config.json' } },
    ])
    expect(await findingsOf(without(tiny, 'model.safetensors'))).toMatchObject([
      { severity: 'error', code: 'missing-file' },
    ])
  })

  it('is stricter than opening about what should not be there', async () => {
    const extra = { name: 'extra', dtype: 'f32', shape: [1], data: new Uint8Array(4) } as const
    expect(await findingsOf(editWeights(tiny, (all) => [...all, extra]))).toMatchObject([
      { severity: 'error', code: 'tensor-ignored' },
    ])
    const files = sharded(tiny, 2)
    const { 'model.norm.weight': _, ...weight_map } = jsonOf(files, 'model.safetensors.index.json')[
      'weight_map'
    ] as Record<string, string>
    expect(await findingsOf(edit(files, 'model.safetensors.index.json', { weight_map }))).toMatchObject([
      { severity: 'error', code: 'index-incomplete' },
    ])
  })

  it('checks total_size', async () => {
    const files = edit(sharded(tiny, 2), 'model.safetensors.index.json', { metadata: { total_size: 7 } })
    expect(await findingsOf(files)).toMatchObject([
      { severity: 'error', code: 'total-size', where: { file: 'model.safetensors.index.json' } },
    ])
  })

  it('misses the format of the metadata', async () => {
    const bytes = safetensors(rawTensors(tiny['model.safetensors']!), new Map())
    expect(await findingsOf({ ...tiny, 'model.safetensors': bytes })).toMatchObject([
      { severity: 'warning', code: 'no-format' },
    ])
  })

  it('compares the dtype', async () => {
    expect(await findingsOf(edit(tiny, 'config.json', { dtype: 'float32' }))).toMatchObject([
      { severity: 'warning', code: 'dtype-mismatch' },
    ])
  })

  it.each([
    ['NaN', 0x7fc0],
    ['infinity', 0x7f80],
    ['minus infinity', 0xff80],
  ])('finds %s, and where', async (_, bits) => {
    const name = 'model.layers.1.mlp.up_proj.weight'
    const index = 1234
    const files = poke(name, (data) => new DataView(data.buffer).setUint16(2 * index, bits, true))
    const findings = await findingsOf(files)
    expect(findings).toMatchObject([{ severity: 'error', code: 'bad-weights', where: { tensor: name } }])
    const bytes = files['model.safetensors']!
    expect(new DataView(bytes.buffer).getUint16(findings[0]!.where!.offset!, true)).toBe(bits)
  })

  it('finds matrices of zeros, but lets vectors be', async () => {
    expect(await findingsOf(poke('model.layers.0.mlp.up_proj.weight', (data) => data.fill(0)))).toMatchObject([
      { severity: 'warning', code: 'zero-weights', where: { tensor: 'model.layers.0.mlp.up_proj.weight' } },
    ])
    expect(await findingsOf(poke('model.norm.weight', (data) => data.fill(0)))).toEqual([])
  })

  it('looks at the start, the middle and the end of large tensors', async () => {
    const rows = 4096
    const wide = (at: number | null): Files => {
      const files = editWeights(edit(tiny, 'config.json', { intermediate_size: rows }), (all) =>
        all.map((tensor) => {
          if (!tensor.name.includes('.mlp.')) return tensor
          const data = new Uint8Array(rows * 64 * 2).fill(0x3c)
          if (at !== null) new DataView(data.buffer).setUint16(at, 0x7fc0, true)
          return { ...tensor, data, shape: tensor.shape.map((size) => (size === 160 ? rows : size)) }
        }),
      )
      return files
    }
    const bytes = rows * 64 * 2
    for (const at of [0, bytes / 2, bytes - 2]) {
      expect((await findingsOf(wide(at))).map(({ code }) => code)).toContain('bad-weights')
    }
    expect(await findingsOf(wide(null))).toEqual([])
    // between the samples: not seen, as documented
    expect(await findingsOf(wide(100_000))).toEqual([])
  })

  it('knows generation configs that transformers refuses to save', async () => {
    const odd = edit(tiny, 'generation_config.json', { do_sample: false, temperature: 0.6, top_p: 0.9 })
    expect(await findingsOf(odd)).toMatchObject([{ severity: 'warning', code: 'generation-config' }])
    expect(await findingsOf(edit(odd, 'generation_config.json', { do_sample: true }))).toEqual([])
    expect(await findingsOf(edit(tiny, 'generation_config.json', { temperature: 1 }))).toEqual([])
  })
})

describe('inference', () => {
  it('is of GGUF files only, and says so', async () => {
    const folder = memoryFolder(tiny)
    const checkpoint = await huggingface.open!(folder, (await huggingface.detect(folder))!)
    expect(huggingface.canInfer(checkpoint)).toEqual({ can: false, because: expect.stringContaining('GGUF') })
  })
})
