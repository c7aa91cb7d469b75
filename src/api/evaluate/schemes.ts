import { bytesOf, elementCount, type DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import type { Producer, Recipe, TensorInfo } from '../../core/tensor.ts'
import { dequantizeAffineGroups, quantizeAffineGroups } from '../../kernels/reference/affine-groups.ts'
import { castInto } from './elementwise.ts'
import { elementRange, sequenceBytes, stackBytes, type Evaluator, type Run } from './node.ts'

/** Several outputs computed together, group by group. */
export interface ProducerEvaluator {
  readonly fields: readonly { readonly name: string; readonly info: TensorInfo; readonly perGroup: number }[]
  readonly groups: number
  scratch(start: number, count: number): number
  reads(start: number, count: number): number
  /** Computes groups `start` to `start + count`; `into` has a buffer for every field. */
  fill(start: number, count: number, into: ReadonlyMap<string, Uint8Array>, run: Run): Promise<void>
}

export function producerEvaluator(producer: Producer, of: Evaluator): ProducerEvaluator {
  const { bits, group } = producer.scheme
  const perGroup = (name: string): number => (name === 'codes' ? (group * bits) / 32 : 1)
  const fields = Object.entries(producer.fields).map(([name, info]) => ({ name, info, perGroup: perGroup(name) }))
  const scales = fields.find((field) => field.name === 'scales')?.info.dtype ?? 'f32'
  return {
    fields,
    groups: of.elements / group,
    scratch: (start, count) =>
      stackBytes(count * group * 4) + 2 * stackBytes(count * 4) + of.scratch(start * group, count * group),
    reads: (start, count) => of.reads(start * group, count * group),
    fill: (start, count, into, run) =>
      run.stack.scope(async () => {
        const codes = into.get('codes')
        const scaleBytes = into.get('scales')
        const biasBytes = into.get('biases')
        if (codes === undefined || scaleBytes === undefined || biasBytes === undefined) {
          throw new AppError('internal', 'a producer without its fields')
        }
        const input = run.stack.take(count * group * 4)
        const scale = run.stack.take(count * 4)
        const bias = run.stack.take(count * 4)
        await of.fill(start * group, count * group, input, run)
        quantizeAffineGroups(
          f32(input),
          bits,
          group,
          new Uint32Array(codes.buffer, codes.byteOffset, codes.length / 4),
          f32(scale),
          f32(bias),
        )
        await store(run, scales, scale, scaleBytes, start, count)
        await store(run, scales, bias, biasBytes, start, count)
      }),
  }
}

async function store(run: Run, dtype: DType, from: Uint8Array, to: Uint8Array, start: number, count: number) {
  if (dtype === 'f32') to.set(from)
  else await castInto(run, 'f32', dtype, from, to, start, count)
}

/** One field by itself: the whole producer runs for the groups it needs. */
export function partEvaluator(recipe: Recipe & { op: 'part' }, producer: ProducerEvaluator): Evaluator {
  const own = producer.fields.find((field) => field.name === recipe.field)
  if (own === undefined) throw new AppError('internal', `a producer without ${recipe.field}`)
  const cover = (start: number, count: number): { first: number; groups: number } => {
    const first = Math.floor(start / own.perGroup)
    return { first, groups: Math.ceil((start + count) / own.perGroup) - first }
  }
  const buffers = (groups: number): number =>
    producer.fields.reduce((sum, field) => sum + stackBytes(bytesOf(field.info.dtype, groups * field.perGroup)), 0)
  return {
    info: recipe,
    elements: elementCount(recipe.shape),
    quantum: own.perGroup,
    scratch(start, count) {
      const { first, groups } = cover(start, count)
      return buffers(groups) + producer.scratch(first, groups)
    },
    reads(start, count) {
      const { first, groups } = cover(start, count)
      return producer.reads(first, groups)
    },
    fill: (start, count, into, run) =>
      run.stack.scope(async () => {
        const { first, groups } = cover(start, count)
        const outputs = new Map(
          producer.fields.map((field) => [
            field.name,
            run.stack.take(bytesOf(field.info.dtype, groups * field.perGroup)),
          ]),
        )
        await producer.fill(first, groups, outputs, run)
        const output = outputs.get(recipe.field)
        if (output !== undefined) into.set(elementRange(recipe, output, start - first * own.perGroup, count))
      }),
  }
}

/** Parts are f32 (scales, biases) and u32 (codes) evaluators. */
export function dequantizeEvaluator(
  recipe: Recipe & { op: 'dequantize' },
  parts: { readonly codes: Evaluator; readonly scales: Evaluator; readonly biases: Evaluator },
): Evaluator {
  const { bits, group } = recipe.scheme
  const words = (group * bits) / 32
  const cover = (start: number, count: number): { first: number; groups: number } => {
    const first = Math.floor(start / group)
    return { first, groups: Math.ceil((start + count) / group) - first }
  }
  const { codes, scales, biases } = parts
  /** The parts with the ranges of theirs that a range of the output takes. */
  const ranges = (start: number, count: number): readonly (readonly [Evaluator, number, number])[] => {
    const { first, groups } = cover(start, count)
    return [
      [codes, first * words, groups * words],
      [scales, first, groups],
      [biases, first, groups],
    ]
  }
  return {
    info: recipe,
    elements: elementCount(recipe.shape),
    quantum: group,
    scratch(start, count) {
      const { groups } = cover(start, count)
      const parts = ranges(start, count).map(([part, from, length]) => ({
        kept: stackBytes(length * 4),
        scratch: part.scratch(from, length),
      }))
      const spill = groups * group === count ? 0 : stackBytes(groups * group * 4)
      return sequenceBytes([{ kept: spill, scratch: 0 }, ...parts])
    },
    reads: (start, count) =>
      ranges(start, count).reduce((sum, [part, from, length]) => sum + part.reads(from, length), 0),
    fill: (start, count, into, run) =>
      run.stack.scope(async () => {
        const { first, groups } = cover(start, count)
        const output = groups * group === count ? into : run.stack.take(groups * group * 4)
        const load = async (part: Evaluator, from: number, length: number): Promise<Uint8Array> => {
          const buffer = run.stack.take(length * 4)
          await run.stack.scope(() => part.fill(from, length, buffer, run))
          return buffer
        }
        const packed = await load(codes, first * words, groups * words)
        const scale = await load(scales, first, groups)
        const bias = await load(biases, first, groups)
        dequantizeAffineGroups(
          new Uint32Array(packed.buffer, packed.byteOffset, groups * words),
          f32(scale),
          f32(bias),
          bits,
          group,
          f32(output),
        )
        if (output !== into) into.set(elementRange(recipe, output, start - first * group, count))
      }),
  }
}

function f32(bytes: Uint8Array): Float32Array {
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
}
