import { describe, expect, test } from 'vitest'
import { createApi } from '../../src/api/api.ts'
import { matrix } from '../../src/api/matrix.ts'
import { AppError } from '../../src/core/errors.ts'
import { formatIds, loadEngine } from '../../src/engines/index.ts'
import { architectureFor, supportedArchitectures } from '../../src/models/index.ts'
import { memoryFolder, MemoryOutput } from '../contracts/memory.ts'
import { openFiles, safetensors, type Files } from '../engines/hf/folder.ts'
import { madeUp } from '../engines/megatron/folder.ts'
import { CONFIGS } from '../models/configs.ts'
import { ANYWHERE, testHost } from './host.ts'

const engines = await Promise.all(formatIds().map(loadEngine))

describe('what becomes what', () => {
  test('has one cell for each input and output, and each input once', async () => {
    const { inputs, outputs, cells } = await matrix()
    const pairs = cells.map(({ input, output }) => `${input} ${output}`)
    expect(new Set(pairs).size).toBe(inputs.length * outputs.length)
    expect(new Set(inputs.map(({ id }) => id)).size).toBe(inputs.length)
    expect(new Set(inputs.map(({ title }) => title)).size).toBe(inputs.length)
    for (const { format, help } of inputs) {
      expect(engines.find(({ id }) => id === format)?.open).not.toBeNull()
      expect(help).toMatch(/\.$/)
    }
  })

  test('a cell has the architectures that both sides know, or a reason', async () => {
    const { inputs, architectures, cells } = await matrix()
    const holds = (id: string, format: string): boolean =>
      architectures.find((one) => one.id === id)?.refused.every((refusal) => refusal.format !== format) === true
    for (const cell of cells) {
      const from = inputs.find(({ id }) => id === cell.input)!.format
      const both = architectures.map(({ id }) => id).filter((id) => holds(id, from) && holds(id, cell.output))
      expect(cell.architectures).toEqual(both)
      expect(cell.reason === null).toBe(both.length > 0)
    }
  })

  test('the ids of architectures are those of their descriptions', async () => {
    for (const { id, classNames } of supportedArchitectures()) {
      const architecture = await architectureFor(id, 'test')
      expect(architecture.id).toBe(id)
      expect(architecture.classNames).toContain(classNames[0])
    }
  })
})

describe('what engines say of architectures is what their writers do', () => {
  test('every architecture has a configuration here', () => {
    expect(Object.keys(CONFIGS).sort()).toEqual(
      supportedArchitectures()
        .map(({ id }) => id)
        .sort(),
    )
  })

  const writers = engines.filter(({ convert }) => convert !== null)
  test.each(Object.keys(CONFIGS))('%s', async (id) => {
    const checkpoint = await openFiles(await madeUp(CONFIGS[id]!))
    expect(checkpoint.architecture).toBe(id)
    for (const { id: format, convert, refuses } of writers) {
      const outcome: unknown = await convert!(checkpoint, {}, new Map()).catch((error: unknown) => error)
      if (refuses(id) === null) expect(outcome, `${id} to ${format}`).toMatchObject({ target: format })
      else {
        expect(outcome, `${id} to ${format}`).toBeInstanceOf(AppError)
        expect(outcome).toMatchObject({ code: 'unsupported' })
      }
    }
  })
})

describe('of one model', () => {
  const api = (files: Files): ReturnType<typeof createApi> =>
    createApi(testHost({ input: memoryFolder(files), output: new MemoryOutput() }))

  test('what cannot be reached is there, with the reason', async () => {
    const targets = await api(await madeUp(CONFIGS['opt']!)).targets(ANYWHERE)
    expect(new Set(targets.map(({ format }) => format))).toEqual(new Set(formatIds()))
    const closed = targets.filter(({ cost }) => cost === null)
    expect(new Set(closed.map(({ format }) => format))).toEqual(new Set(['gguf', 'mlx', 'megatron']))
    for (const { reason } of closed) expect(reason).toMatch(/OPT|opt/)
  })

  test.each([
    ['llama', 'mlx', { quant: '4bit' }],
    ['llama', 'mlx', { quant: 'mixed_4_6' }],
    ['mixtral', 'mlx', { quant: '8bit' }],
    ['qwen3moe', 'mlx', { quant: 'mxfp8' }],
    ['mixtral', 'gguf', { quant: 'q4_0' }],
    ['llama', 'gguf', { quant: 'q8_0' }],
  ] as const)('%s to %s %o: whatever is made of a weight, it is read once', async (id, target, options) => {
    // rows of which every group and block is whole, in tiles of which a tensor has several
    const sizes = { hidden_size: 512, head_dim: 128, intermediate_size: 1024, moe_intermediate_size: 512 }
    const files = await madeUp({ ...CONFIGS[id], ...sizes })
    const request = { input: ANYWHERE, output: ANYWHERE, target, options, name: null, overwrite: false }
    const { readBytes } = await api(files).plan(request)
    const size = Object.values(files).reduce((sum, bytes) => sum + bytes.length, 0)
    expect(readBytes).toBeLessThanOrEqual(size)
    expect(readBytes).toBeGreaterThan(files['model.safetensors']!.length * 0.9)
  })

  test('bare tensors of no model say how they become one', async () => {
    const data = new Uint8Array(Float32Array.of(1, 2).buffer)
    const odd = api({ 'a.safetensors': safetensors([{ name: 'odd', dtype: 'f32', shape: [2], data }]) })
    expect(await odd.inspect(ANYWHERE)).toMatchObject({ format: 'safetensors', kind: 'safetensors' })
    const targets = await odd.targets(ANYWHERE)
    expect(targets.filter(({ cost }) => cost !== null).map(({ format }) => format)).toContain('safetensors')
    const reason = (id: string): string => targets.find(({ format }) => format === id)!.reason!
    expect(reason('gguf')).toMatch(/cannot become GGUF\. Put the config\.json of the model beside its weights/)
    expect(reason('gguf')).not.toContain('--config')
    expect(reason('huggingface')).toContain('--config')
  })
})
