import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'

/** The models that come beside a working copy of the project, not with it: tests that need them skip without. */
export const MODELS = path.resolve(import.meta.dirname, '../../../shared/models')

/** Why there are none, or null. */
export const noModels: string | null = existsSync(MODELS) ? null : 'the test models (../shared/models) are not here'

/** One prompt with what PyTorch made of it. */
export interface Reference {
  readonly text: string
  readonly ids: readonly number[]
  readonly greedy: readonly number[]
  /** [ids, vocabulary]. */
  readonly logits: Float32Array
}

/** The reference of a model: reference.json with the logits of reference.safetensors. */
export function readReference(model: string): readonly Reference[] {
  return readReferenceAt(path.join(MODELS, model))
}

/** The reference in any folder. */
export function readReferenceAt(folder: string): readonly Reference[] {
  const json = JSON.parse(readFileSync(path.join(folder, 'reference.json'), 'utf8')) as {
    prompts: { text: string; input_ids: number[]; greedy: number[] }[]
  }
  const file = readFileSync(path.join(folder, 'reference.safetensors'))
  const headerBytes = Number(file.readBigUInt64LE(0))
  const header = JSON.parse(file.toString('utf8', 8, 8 + headerBytes)) as Record<
    string,
    { data_offsets: [number, number] }
  >
  return json.prompts.map((prompt, index) => {
    const [start, end] = header[`logits.${index}`]!.data_offsets.map((offset) => 8 + headerBytes + offset)
    return {
      text: prompt.text,
      ids: prompt.input_ids,
      greedy: prompt.greedy,
      logits: new Float32Array(Uint8Array.prototype.slice.call(file, start, end).buffer),
    }
  })
}

/** Plain text to measure on; ours to read where the models are. */
export function evaluationText(): string {
  return readFileSync(path.join(MODELS, '../text/eval.txt'), 'utf8')
}

/** The tensors of a model's reference.safetensors by name: floats, and integers as numbers. */
export function readReferenceTensors(model: string): ReadonlyMap<string, { shape: number[]; values: number[] }> {
  return readTensors(path.join(MODELS, model, 'reference.safetensors'))
}

/** The tensors of a small safetensors file of F32 and I64. */
export function readTensors(name: string): ReadonlyMap<string, { shape: number[]; values: number[] }> {
  const file = readFileSync(name)
  const headerBytes = Number(file.readBigUInt64LE(0))
  const header = JSON.parse(file.toString('utf8', 8, 8 + headerBytes)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >
  const tensors = Object.entries(header).filter(([name]) => name !== '__metadata__')
  return new Map(
    tensors.map(([name, { dtype, shape, data_offsets: offsets }]) => {
      const [start, end] = offsets.map((offset) => 8 + headerBytes + offset)
      const { buffer } = Uint8Array.prototype.slice.call(file, start, end)
      const values = dtype === 'F32' ? [...new Float32Array(buffer)] : [...new BigInt64Array(buffer)].map(Number)
      return [name, { shape, values }]
    }),
  )
}
