import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { rawTensors, type RawTensor } from '../engines/hf/folder.ts'
import { floats } from '../engines/mlx/naive.ts'
import { Decoder, type DecoderConfig } from './forward.ts'

/** A tensor's values as HuggingFace has them, row by row. */
export interface Values {
  readonly shape: readonly number[]
  readonly values: Float32Array
}

/** What a model holds, by HuggingFace's names, as it is known without any of the product's readers. */
export interface Truth {
  readonly config: Readonly<Record<string, unknown>>
  readonly tensors: ReadonlyMap<string, Values>
  /** A prompt for models that continue text. */
  readonly ids: readonly number[]
}

/** The weights of a folder's safetensors files, as they lie. */
export function storedIn(folder: string): readonly RawTensor[] {
  return readdirSync(folder)
    .filter((file) => file.endsWith('.safetensors') && file !== 'reference.safetensors')
    .flatMap((file) => rawTensors(Uint8Array.from(readFileSync(path.join(folder, file)))))
}

export function valuesOf({ shape, dtype, data }: RawTensor): Values {
  return { shape, values: Float32Array.from(floats({ dtype: dtype.toUpperCase(), bytes: Uint8Array.from(data) })) }
}

export function configIn(folder: string): Truth['config'] {
  return JSON.parse(readFileSync(path.join(folder, 'config.json'), 'utf8')) as Truth['config']
}

/** A HuggingFace folder of float weights; `config` for weights that have none beside them. */
export function truthOf(folder: string, ids: readonly number[] = [], config = configIn(folder)): Truth {
  const tensors = new Map(storedIn(folder).map((tensor) => [tensor.name, valuesOf(tensor)]))
  return { config, tensors, ids }
}

const LOGITS = new WeakMap<Truth, readonly number[]>()

/** The logits of a Llama of these weights, computed one number at a time. */
export function llamaLogits(truth: Truth): readonly number[] {
  const known = LOGITS.get(truth)
  if (known !== undefined) return known
  const rope = truth.config['rope_parameters'] as { rope_theta: number } | undefined
  const decoder = new Decoder({ rope_theta: rope?.rope_theta, ...truth.config } as unknown as DecoderConfig)
  for (const [name, tensor] of truth.tensors) decoder.weights.set(name, tensor)
  const logits = decoder.logits(truth.ids)
  // whatever it had to make up was not there
  if (decoder.weights.size !== truth.tensors.size) throw new Error('the model is no plain Llama')
  LOGITS.set(truth, logits)
  return logits
}
