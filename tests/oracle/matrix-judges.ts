import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { expect } from 'vitest'
import type { OptionValues } from '../../src/core/option.ts'
import { floats, storedTensors, type Stored } from '../engines/mlx/naive.ts'
import { strictNames } from '../engines/mlx/modules.ts'
import { relativeError } from './convert-folder.ts'
import { judge } from './llama.ts'
import { configIn, llamaLogits, truthOf, type Truth, type Values } from './matrix-models.ts'
import type { MegatronReader } from './megatron-torch.ts'
import { rejoined } from './mlx-parts.ts'

/** Float32 of llama.cpp against float64. */
const MAX_ERROR = 1e-4

/** How a format is written without loss, and how it is known that nothing was lost. */
export interface JudgedOutput {
  readonly options: OptionValues
  /** Of an output folder. `megatron` reads with PyTorch. */
  expectWeights(folder: string, truth: Truth, megatron: MegatronReader): void | Promise<void>
}

/** Expects the same names, shapes and values, bit for bit. */
export function expectSame(found: ReadonlyMap<string, Values>, truth: ReadonlyMap<string, Values>): void {
  expect([...found.keys()].sort()).toEqual([...truth.keys()].sort())
  for (const [name, { shape, values }] of truth) {
    const other = found.get(name)!
    expect(other.shape, name).toEqual(shape)
    // zeros may have lost their sign where they were multiplied
    const different = values.findIndex((value, index) => value !== other.values[index])
    expect(different, `${name}: ${values[different]} became ${other.values[different]}`).toBe(-1)
  }
}

/**
 * The outputs that are written, by their ids. One that is added needs a judge here: the test fails for it otherwise.
 * Judged by programs that are not the product's: a reader of a few lines, llama.cpp, PyTorch.
 */
export const OUTPUTS: Readonly<Record<string, JudgedOutput>> = {
  huggingface: {
    options: { dtype: 'keep' },
    expectWeights: (folder, { tensors }) => expectSame(truthOf(folder).tensors, tensors),
  },
  safetensors: {
    options: { dtype: 'keep' },
    expectWeights(folder, { tensors, config }) {
      expect(readdirSync(folder)).toHaveLength(1)
      expectSame(truthOf(folder, [], config).tensors, tensors)
    },
  },
  mlx: {
    options: { quant: 'none', dtype: 'f32' },
    expectWeights(folder, truth) {
      const files = Object.fromEntries(
        readdirSync(folder).map((file) => [file, Uint8Array.from(readFileSync(path.join(folder, file)))]),
      )
      const stored = storedTensors(files)
      const names = strictNames(configIn(folder), stored)
      expect([...stored.keys()].sort()).toEqual([...names.keys()].sort())
      for (const [name, shape] of names) expect(stored.get(name)!.shape, name).toEqual(shape)
      expectSame(rejoined(unstacked(stored, truth), truth.config), truth.tensors)
    },
  },
  megatron: {
    options: { dtype: 'keep', tp: 2, pp: 2 },
    async expectWeights(folder, { tensors }, megatron) {
      expectSame(await megatron.read(folder), tensors)
    },
  },
  gguf: {
    options: { quant: 'f32' },
    async expectWeights(folder, truth) {
      const file = readdirSync(folder).find((name) => name.endsWith('.gguf'))!
      const llama = await judge(path.join(folder, file))
      try {
        expect(relativeError(await llama.logits(truth.ids), llamaLogits(truth))).toBeLessThan(MAX_ERROR)
      } finally {
        await llama.close()
      }
    },
  },
}

const EXPERT_NAMES: Readonly<Record<string, string>> = { gate_proj: 'w1', down_proj: 'w2', up_proj: 'w3' }

/** MLX's tensors under HuggingFace's names: experts one by one, GPT-2's matrices [in, out]. */
function unstacked(stored: ReadonlyMap<string, Stored>, { config }: Truth): ReadonlyMap<string, Values> {
  const found = new Map<string, Values>()
  for (const [name, tensor] of stored) {
    const values = Float32Array.from(floats(tensor))
    const [, at, part = ''] = /^(.*)\.switch_mlp\.(\w+)\.weight$/.exec(name) ?? []
    if (at !== undefined && config['model_type'] !== 'granitemoe') {
      const [experts = 0, ...shape] = tensor.shape
      const each = values.length / experts
      const own = config['model_type'] === 'mixtral' ? EXPERT_NAMES[part] : part
      for (let expert = 0; expert < experts; expert++) {
        const slice = values.subarray(expert * each, (expert + 1) * each)
        found.set(`${at}.experts.${expert}.${own}.weight`, { shape, values: slice })
      }
    } else if (config['model_type'] === 'gpt2') {
      const hf = name.replace(/^model\./, 'transformer.')
      found.set(hf, /\.c_\w+\.weight$/.test(name) ? transposed(tensor.shape, values) : { shape: tensor.shape, values })
    } else found.set(name, { shape: tensor.shape, values })
  }
  return found
}

function transposed([rows = 0, columns = 0]: readonly number[], values: Float32Array): Values {
  const turned = Float32Array.from(
    { length: values.length },
    (_, at) => values[(at % rows) * columns + Math.floor(at / rows)]!,
  )
  return { shape: [columns, rows], values: turned }
}
