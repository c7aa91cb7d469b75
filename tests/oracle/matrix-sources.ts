import { cpSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { safetensors, type RawTensor } from '../engines/hf/folder.ts'
import { storedTensors, weightOf } from '../engines/mlx/naive.ts'
import {
  packAwq,
  packCompressed,
  packGptq,
  packMicroscaled,
  packScaled,
  type Grid,
  type Packed,
} from '../engines/transformers/naive-quantized.ts'
import type { OptionValues } from '../../src/core/option.ts'
import { configIn, storedIn, truthOf, valuesOf, type Truth } from './matrix-models.ts'
import { MODELS, readReference } from './models.ts'

/** What sources are made with. */
export interface Kit {
  /** A new folder. */
  folder(name: string): string
  /** Converts and returns the folder of the output. */
  convert(input: string, target: string, options: OptionValues, name: string): Promise<string>
}

/** A model of some kind on the disk, and what is in it. */
export interface SourceModel {
  readonly path: string
  readonly truth: Truth
}

const LLAMA = path.join(MODELS, 'llama-spm')
const FOREIGN = path.join(MODELS, '../foreign')
const MEGATRON = path.join(MODELS, '../megatron')
const TOKENIZER = ['tokenizer.json', 'tokenizer_config.json', 'tokenizer.model', 'generation_config.json']

let llama: Truth | null = null
/** The trained Llama that most sources are made of: read once, so that what is computed of it is computed once. */
function llamaTruth(): Truth {
  llama ??= truthOf(LLAMA, readReference('llama-spm')[0]!.ids)
  return llama
}

let half: Truth | null = null
/** The same in F16, as the PyTorch files have it. */
function halfTruth(): Truth {
  half ??= {
    ...llamaTruth(),
    tensors: new Map(
      [...llamaTruth().tensors].map(([name, { shape, values }]) => [name, { shape, values: values.map(toHalf) }]),
    ),
  }
  return half
}

/** To eleven significant bits, and no finer than 2^-24; what lies between two of them, to the even one. */
function toHalf(value: number): number {
  const step = 2 ** Math.max(-24, Math.floor(Math.log2(Math.abs(value))) - 10)
  const steps = value / step
  if (Math.abs(steps % 1) === 0.5) return 2 * Math.round(steps / 2) * step
  return value === 0 ? 0 : Math.round(steps) * step
}

type Pack = (module: string, n: number, k: number, seed: number, weights: Grid) => Packed

/** The trained Llama with the matrices of its blocks rounded and packed, by their formats' own words. */
function packed(kit: Kit, name: string, quantization: object, pack: Pack): SourceModel {
  const to = kit.folder(name)
  const tensors = new Map(llamaTruth().tensors)
  const parts = storedIn(LLAMA).flatMap((tensor, seed): readonly RawTensor[] => {
    if (!tensor.name.endsWith('_proj.weight')) return [tensor]
    const { shape, values } = valuesOf(tensor)
    const [n = 0, k = 0] = shape
    const rows = Array.from({ length: n }, (_, row) => [...values.subarray(row * k, (row + 1) * k)])
    const made = pack(tensor.name.replace(/\.weight$/, ''), n, k, seed, rows)
    tensors.set(tensor.name, { shape, values: made.values })
    return made.parts
  })
  const config = { ...configIn(LLAMA), quantization_config: quantization }
  writeFileSync(path.join(to, 'config.json'), JSON.stringify(config))
  writeFileSync(path.join(to, 'model.safetensors'), safetensors(parts))
  copyFiles(LLAMA, to, TOKENIZER)
  return { path: to, truth: { ...llamaTruth(), tensors } }
}

function copyFiles(from: string, to: string, files: readonly string[]): void {
  for (const file of files) if (readdirSync(from).includes(file)) cpSync(path.join(from, file), path.join(to, file))
}

/**
 * A real model of each kind of input that the product reads, by the kind's id. A kind that is added needs one here: the
 * test fails for it otherwise.
 */
export const SOURCES: Readonly<Record<string, (kit: Kit) => SourceModel | Promise<SourceModel>>> = {
  huggingface: () => ({ path: LLAMA, truth: llamaTruth() }),
  pytorch: () => ({ path: path.join(FOREIGN, 'llama-bin'), truth: halfTruth() }),
  safetensors(kit) {
    const from = path.join(MODELS, 'main')
    const to = kit.folder('bare')
    copyFiles(from, to, ['model.safetensors'])
    return { path: to, truth: truthOf(from, readReference('main')[0]!.ids.slice(0, 6)) }
  },
  gptq(kit) {
    const config = { quant_method: 'gptq', bits: 4, group_size: 32, desc_act: true, sym: true }
    return packed(kit, 'gptq', config, (module, n, k, seed, weights) =>
      packGptq(module, n, k, { bits: 4, group: 32, version: 1, sym: true, actOrder: true }, seed, weights),
    )
  },
  awq(kit) {
    const config = { quant_method: 'awq', bits: 4, group_size: 32, version: 'gemm', zero_point: true }
    return packed(kit, 'awq', config, (module, n, k, seed, weights) => packAwq(module, n, k, 32, 'gemm', seed, weights))
  },
  'compressed-tensors'(kit) {
    const weights = { num_bits: 4, symmetric: true, strategy: 'group', group_size: 32 }
    const config = {
      quant_method: 'compressed-tensors',
      format: 'pack-quantized',
      config_groups: { group_0: { targets: ['Linear'], weights } },
    }
    return packed(kit, 'compressed', config, (module, n, k, seed, rows) =>
      packCompressed(module, n, k, { bits: 4, group: 32, symmetric: true }, seed, rows),
    )
  },
  fp8(kit) {
    const config = { quant_method: 'fp8', fmt: 'e4m3', weight_block_size: [32, 32] }
    const options = { type: 'f8_e4m3', rows: 32, columns: 32, name: 'weight_scale_inv' } as const
    return packed(kit, 'fp8', config, (module, n, k, seed, weights) => packScaled(module, n, k, options, seed, weights))
  },
  mxfp4: (kit) =>
    packed(kit, 'mxfp4', { quant_method: 'mxfp4' }, (module, n, k, seed, weights) =>
      packMicroscaled(`${module}.weight_blocks`, `${module}.weight_scales`, n, k, seed, weights),
    ),
  async gguf(kit) {
    const folder = await kit.convert(LLAMA, 'gguf', { quant: 'bf16' }, 'gguf-source')
    return { path: folder, truth: llamaTruth() }
  },
  async mlx(kit) {
    const folder = await kit.convert(LLAMA, 'mlx', { quant: '4bit' }, 'mlx-source')
    const files = Object.fromEntries(
      readdirSync(folder).map((file) => [file, Uint8Array.from(readFileSync(path.join(folder, file)))]),
    )
    const [config, stored] = [configIn(folder), storedTensors(files)]
    const tensors = [...llamaTruth().tensors].map(([name, { shape }]) => {
      const { values } = weightOf(config, name.replace(/\.weight$/, ''), stored)
      return [name, { shape, values: Float32Array.from(values) }] as const
    })
    return { path: folder, truth: { ...llamaTruth(), tensors: new Map(tensors) } }
  },
  megatron: () => ({ path: path.join(MEGATRON, 'llama-tp2-pp2'), truth: llamaTruth() }),
  'megatron-dist': () => ({ path: path.join(MEGATRON, 'llama-dist'), truth: llamaTruth() }),
  'megatron-single': () => ({ path: path.join(MEGATRON, 'llama-single'), truth: llamaTruth() }),
}

/** Other forms in which a kind comes, beyond the one that goes to every output: each is read to HuggingFace. */
export const VARIANTS: Readonly<Record<string, Readonly<Record<string, (kit: Kit) => SourceModel>>>> = {
  pytorch: {
    'the format before zip'(kit) {
      const to = kit.folder('legacy')
      copyFiles(path.join(FOREIGN, 'llama-bin'), to, ['config.json', ...TOKENIZER])
      copyFiles(path.join(FOREIGN, 'legacy-tar'), to, ['pytorch_model.bin'])
      return { path: to, truth: halfTruth() }
    },
  },
  gptq: {
    'version 2, 8 bits'(kit) {
      const config = { quant_method: 'gptq', bits: 8, group_size: -1, sym: false, checkpoint_format: 'gptq_v2' }
      const options = { bits: 8, group: -1, version: 2, sym: false } as const
      return packed(kit, 'gptq-8', config, (module, n, k, seed, weights) =>
        packGptq(module, n, k, options, seed, weights),
      )
    },
  },
  awq: {
    GEMV(kit) {
      const config = { quant_method: 'awq', bits: 4, group_size: 32, version: 'gemv', zero_point: true }
      return packed(kit, 'awq-gemv', config, (module, n, k, seed, weights) =>
        packAwq(module, n, k, 32, 'gemv', seed, weights),
      )
    },
  },
}
