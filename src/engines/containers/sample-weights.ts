/** Looks at samples of stored weights for what no trained model has. */
import type { Folder, Source } from '../../core/bytes.ts'
import { dtypeInfo } from '../../core/dtype.ts'
import type { Finding } from '../../core/plan.ts'
import { tensorBytes } from '../../core/tensor.ts'
import type { StoredTensor, StoredWeights } from './safetensors-files.ts'
import { isAllZero, nonFiniteAt } from './sample.ts'

/** Of each tensor its start, middle and end are looked at, this much of each; smaller tensors whole. */
const SAMPLE_BYTES = 1 << 16
const SAMPLES = 3

/** NaN and infinity as errors, matrices of zeros as warnings, each with its place. */
export async function* checkWeights(folder: Folder, stored: StoredWeights): AsyncGenerator<Finding, void, void> {
  yield* checkTensors(
    folder,
    [...stored.tensors].filter(([name]) => !stored.views.has(name)),
  )
}

/** The same of tensors that may share names: those of one file after those of another. */
export async function* checkTensors(
  folder: Folder,
  tensors: readonly (readonly [name: string, tensor: StoredTensor])[],
): AsyncGenerator<Finding, void, void> {
  const files = new Map<string, (readonly [string, StoredTensor])[]>()
  for (const one of tensors) {
    const list = files.get(one[1].file)
    if (list === undefined) files.set(one[1].file, [one])
    else list.push(one)
  }
  for (const [file, own] of files) {
    const source = await folder.open(file)
    try {
      for (const [name, tensor] of own) yield* checkTensor(source, name, tensor)
    } finally {
      await source.close()
    }
  }
}

/** Where two tensors of one size differ, in bytes from the start of each; null if they agree wherever they are looked at. */
export async function firstDifference(folder: Folder, one: StoredTensor, other: StoredTensor): Promise<number | null> {
  const size = tensorBytes(one)
  const [a, b] = [new Uint8Array(Math.min(size, SAMPLE_BYTES)), new Uint8Array(Math.min(size, SAMPLE_BYTES))]
  const first = await folder.open(one.file)
  try {
    const second = await folder.open(other.file)
    try {
      for (const start of sampleStarts(size, dtypeInfo(one.dtype).bytes)) {
        const length = Math.min(SAMPLE_BYTES, size - start)
        await first.read(one.offset + start, a.subarray(0, length))
        await second.read(other.offset + start, b.subarray(0, length))
        const at = a.subarray(0, length).findIndex((byte, index) => byte !== b[index])
        if (at >= 0) return start + at
      }
      return null
    } finally {
      await second.close()
    }
  } finally {
    await first.close()
  }
}

async function* checkTensor(source: Source, name: string, tensor: StoredTensor): AsyncGenerator<Finding, void, void> {
  const size = tensorBytes(tensor)
  const buffer = new Uint8Array(Math.min(size, SAMPLE_BYTES))
  let zero = size > 0
  for (const start of sampleStarts(size, dtypeInfo(tensor.dtype).bytes)) {
    const bytes = buffer.subarray(0, Math.min(SAMPLE_BYTES, size - start))
    await source.read(tensor.offset + start, bytes)
    const bad = nonFiniteAt(bytes, tensor.dtype)
    if (bad !== null) {
      const offset = tensor.offset + start + bad
      yield {
        severity: 'error',
        code: 'bad-weights',
        message: `${name} holds NaN or infinity`,
        where: { file: tensor.file, offset, tensor: name },
      }
      return
    }
    zero &&= isAllZero(bytes)
  }
  if (!zero || tensor.shape.length < 2) return
  yield {
    severity: 'warning',
    code: 'zero-weights',
    message: `${name} is zero wherever it was looked at`,
    where: { file: tensor.file, offset: tensor.offset, tensor: name },
    hint: 'Real weights never are: was the model written whole?',
  }
}

/** Where samples begin: whole elements, and the last one ends with the tensor. */
function sampleStarts(size: number, element: number): readonly number[] {
  if (size <= SAMPLES * SAMPLE_BYTES) {
    return Array.from({ length: Math.ceil(size / SAMPLE_BYTES) }, (_, index) => index * SAMPLE_BYTES)
  }
  const middle = Math.floor((size - SAMPLE_BYTES) / 2 / element) * element
  return [0, middle, size - SAMPLE_BYTES]
}
