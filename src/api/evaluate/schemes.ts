import { bytesOf, elementCount } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import type { GroupScheme, Producer, Recipe, TensorInfo } from '../../core/tensor.ts'
import { codecOf, type CodecField } from './codecs.ts'
import { BadElement, castInto } from './elementwise.ts'
import { elementRange, sequenceBytes, stackBytes, type Evaluator, type Run } from './node.ts'

/** Several outputs computed together, group by group. */
export interface ProducerEvaluator {
  readonly fields: readonly { readonly name: string; readonly info: TensorInfo; readonly perGroup: number }[]
  readonly groups: number
  /** Values in a group. */
  readonly group: number
  /** The values, as f32. */
  readonly source: Pick<Evaluator, 'elements' | 'quantum' | 'info' | 'reads'>
  scratch(start: number, count: number): number
  reads(start: number, count: number): number
  /** Computes groups `start` to `start + count`; `into` has a buffer for every field. */
  fill(start: number, count: number, into: ReadonlyMap<string, Uint8Array>, run: Run): Promise<void>
}

/** `of` gives f32. */
export function producerEvaluator(producer: Producer, of: Evaluator): ProducerEvaluator {
  const codec = codecOf(producer.scheme)
  const { group } = codec
  const fields = codec.fields.map((field) => ({ ...field, info: fieldInfo(producer, field) }))
  const casts = fields.filter(({ dtype, info }) => dtype !== info.dtype)
  return {
    fields,
    groups: of.elements / group,
    group,
    source: of,
    scratch: (start, count) =>
      stackBytes(count * group * 4) +
      casts.reduce((sum, { dtype, perGroup }) => sum + stackBytes(bytesOf(dtype, count * perGroup)), 0) +
      of.scratch(start * group, count * group),
    reads: (start, count) => of.reads(start * group, count * group),
    fill: (start, count, into, run) =>
      run.stack.scope(async () => {
        const stored = fields.map(({ name }) => into.get(name) ?? missing(name))
        const input = run.stack.take(count * group * 4)
        const parts = fields.map(({ dtype, perGroup, info }, index) =>
          dtype === info.dtype ? (stored[index] ?? missing('part')) : run.stack.take(bytesOf(dtype, count * perGroup)),
        )
        await of.fill(start * group, count * group, input, run)
        const values = f32(input)
        requireFinite(values, start * group)
        codec.quantize(values, parts)
        for (const [index, { dtype, perGroup, info }] of fields.entries()) {
          const [from, to] = [parts[index], stored[index]]
          if (from === undefined || to === undefined || from === to) continue
          await castInto(run, dtype, info.dtype, from, to, start * perGroup, count * perGroup)
        }
      }),
  }
}

function fieldInfo(producer: Producer, { name }: CodecField): TensorInfo {
  return producer.fields[name] ?? missing(name)
}

function missing(name: string): never {
  throw new AppError('internal', `a quantisation without its ${name}`)
}

/** Casts have seen most values; those that are f32 as they lie in a file, nobody. A sum of them tells. */
export function requireFinite(values: Float32Array, start: number): void {
  let sum = 0
  for (const value of values) sum += value - value
  if (sum === 0) return
  throw new BadElement(start + values.findIndex((value) => !Number.isFinite(value)), 'f32', 'f32')
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

/** `partOf` makes the evaluator of a part, in the type asked for. */
export function dequantizeEvaluator(
  recipe: Recipe & { op: 'dequantize' },
  scheme: GroupScheme,
  partOf: (part: Recipe, field: CodecField) => Evaluator,
): Evaluator {
  const codec = codecOf(scheme)
  const { group } = codec
  const parts = codec.fields.map((field) => {
    const part = recipe.parts[field.name] ?? missing(field.name)
    return { ...field, of: partOf(part, field) }
  })
  const cover = (start: number, count: number): { first: number; groups: number } => {
    const first = Math.floor(start / group)
    return { first, groups: Math.ceil((start + count) / group) - first }
  }
  return {
    info: recipe,
    elements: elementCount(recipe.shape),
    quantum: group,
    scratch(start, count) {
      const { first, groups } = cover(start, count)
      const spill = groups * group === count ? 0 : stackBytes(groups * group * 4)
      const steps = parts.map(({ dtype, perGroup, of }) => ({
        kept: stackBytes(bytesOf(dtype, groups * perGroup)),
        scratch: of.scratch(first * perGroup, groups * perGroup),
      }))
      return sequenceBytes([{ kept: spill, scratch: 0 }, ...steps])
    },
    reads(start, count) {
      const { first, groups } = cover(start, count)
      return parts.reduce((sum, { of, perGroup }) => sum + of.reads(first * perGroup, groups * perGroup), 0)
    },
    fill: (start, count, into, run) =>
      run.stack.scope(async () => {
        const { first, groups } = cover(start, count)
        const output = groups * group === count ? into : run.stack.take(groups * group * 4)
        const loaded: Uint8Array[] = []
        for (const { dtype, perGroup, of } of parts) {
          const buffer = run.stack.take(bytesOf(dtype, groups * perGroup))
          await run.stack.scope(() => of.fill(first * perGroup, groups * perGroup, buffer, run))
          loaded.push(buffer)
        }
        codec.dequantize(loaded, f32(output))
        requireFinite(f32(output), first * group)
        if (output !== into) into.set(elementRange(recipe, output, start - first * group, count))
      }),
  }
}

function f32(bytes: Uint8Array): Float32Array {
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
}
