import { bytesOf, elementCount } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import { schemeGroups, type GroupScheme, type Producer, type Recipe, type TensorInfo } from '../../core/tensor.ts'
import { groupFields, type GroupField } from './group-layout.ts'
import { BadElement, castInto } from './elementwise.ts'
import { elementRange, sequenceBytes, stackBytes, type Evaluator, type Run } from './node.ts'

/** Several outputs computed together, group by group. */
export interface ProducerEvaluator {
  readonly fields: readonly { readonly name: string; readonly info: TensorInfo; readonly perGroup: number }[]
  readonly groups: number
  /** Values in a group. */
  readonly group: number
  /** The values. */
  readonly source: Pick<Evaluator, 'elements' | 'quantum' | 'info' | 'reads'>
  scratch(start: number, count: number): number
  reads(start: number, count: number): number
  /** Computes groups `start` to `start + count`; `into` has a buffer for every field. */
  fill(start: number, count: number, into: ReadonlyMap<string, Uint8Array>, run: Run): Promise<void>
}

/** `of` gives the values in a type that kernels quantise. */
export function producerEvaluator(producer: Producer, of: Evaluator): ProducerEvaluator {
  const { scheme } = producer
  const { group } = schemeGroups(scheme)
  const from = of.info.dtype
  const fields = groupFields(scheme).map((field) => ({ ...field, info: fieldInfo(producer, field) }))
  const casts = fields.filter(({ dtype, info }) => dtype !== info.dtype)
  return {
    fields,
    groups: of.elements / group,
    group,
    source: of,
    scratch: (start, count) =>
      stackBytes(bytesOf(from, count * group)) +
      casts.reduce((sum, { dtype, perGroup }) => sum + stackBytes(bytesOf(dtype, count * perGroup)), 0) +
      of.scratch(start * group, count * group),
    reads: (start, count) => of.reads(start * group, count * group),
    fill: (start, count, into, run) =>
      run.stack.scope(async () => {
        const stored = fields.map(({ name }) => into.get(name) ?? missing(name))
        const values = run.stack.take(bytesOf(from, count * group))
        const made = fields.map(({ dtype, perGroup, info }, index) =>
          dtype === info.dtype ? (stored[index] ?? missing('part')) : run.stack.take(bytesOf(dtype, count * perGroup)),
        )
        await of.fill(start * group, count * group, values, run)
        const parts = Object.fromEntries(fields.map(({ name }, index) => [name, made[index] ?? missing(name)]))
        const { bad } = await run
          .scheme({ kind: 'quantize', from, scheme })
          .run(parts, values, count, group, run.signal)
        if (bad !== null) throw new BadElement(start * group + bad, from, 'f32')
        for (const [index, { dtype, perGroup, info }] of fields.entries()) {
          const [part, into] = [made[index], stored[index]]
          if (part === undefined || into === undefined || part === into) continue
          await castInto(run, dtype, info.dtype, part, into, start * perGroup, count * perGroup)
        }
      }),
  }
}

function fieldInfo(producer: Producer, { name }: GroupField): TensorInfo {
  return producer.fields[name] ?? missing(name)
}

function missing(name: string): never {
  throw new AppError('internal', `a quantisation without its ${name}`)
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
  partOf: (part: Recipe, field: GroupField) => Evaluator,
): Evaluator {
  const { group } = schemeGroups(scheme)
  const parts = groupFields(scheme).map((field) => {
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
        const loaded: Record<string, Uint8Array> = {}
        for (const { name, dtype, perGroup, of } of parts) {
          const buffer = run.stack.take(bytesOf(dtype, groups * perGroup))
          await run.stack.scope(() => of.fill(first * perGroup, groups * perGroup, buffer, run))
          loaded[name] = buffer
        }
        const { bad } = await run.scheme({ kind: 'dequantize', scheme }).run(loaded, output, groups, group, run.signal)
        if (bad !== null) throw new BadElement(first * group + bad, 'f32', 'f32')
        if (output !== into) into.set(elementRange(recipe, output, start - first * group, count))
      }),
  }
}
