/**
 * Golden blocks: what a backend must turn into the reference's very bytes before it may do an op. Values of every
 * kind that has an own path somewhere: plain, of mixed scale, ties, zeros of both signs, one sign only, nearly equal,
 * subnormal. A few KiB an op.
 */
import { bytesOf, DTYPES, requiresImportance, takesImportance } from '../core/dtype.ts'
import type { AnyOp, Backend, Importance, KernelOp } from './backend.ts'
import { describeOp } from './check.ts'
import { ENCODE } from './reference/float.ts'
import { createReferenceBackend } from './reference/index.ts'

/** An op that a backend got wrong. */
export interface SelfTestFailure {
  readonly op: AnyOp
  /** For people: what differed. */
  readonly reason: string
}

const BLOCK = 256
const FLOATS = ['f32', 'f16', 'bf16'] as const
const BLOCK_TYPES = [
  'q8_0',
  'q4_0',
  'q4_1',
  'q5_0',
  'q5_1',
  'q2_k',
  'q3_k',
  'q4_k',
  'q5_k',
  'q6_k',
  'iq4_nl',
  'iq4_xs',
  'iq3_xxs',
  'iq3_s',
  'mxfp4',
  'tq1_0',
  'tq2_0',
  'q1_0',
  'q2_0',
  'iq1_m',
  'iq2_s',
] as const
/** The types that values cannot become without an importance matrix. */
const ONLY_WEIGHTED_TYPES = ['iq1_s', 'iq2_xxs', 'iq2_xs'] as const
/** The types that take an importance matrix. */
const WEIGHTED_TYPES = [...BLOCK_TYPES.filter(takesImportance), ...ONLY_WEIGHTED_TYPES]

/**
 * The ops that every backend may have: casts among the three common float types, quantising, by importance too, and
 * dequantising.
 */
export const COMMON_OPS: readonly KernelOp[] = [
  ...FLOATS.flatMap((from) => [...FLOATS, ...BLOCK_TYPES].map((to): KernelOp => ({ kind: 'cast', from, to }))),
  ...FLOATS.flatMap((from) => WEIGHTED_TYPES.map((to): KernelOp => ({ kind: 'cast', from, to, weighted: true }))),
  ...[...BLOCK_TYPES, ...ONLY_WEIGHTED_TYPES].map((from): KernelOp => ({ kind: 'cast', from, to: 'f32' })),
]

/** Pseudo-random numbers in [0, 1): a 32-bit counter, scrambled. */
export function randoms(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x9e3779b9) | 0
    let word = Math.imul(state ^ (state >>> 16), 0x85ebca6b)
    word = Math.imul(word ^ (word >>> 13), 0xc2b2ae35)
    return ((word ^ (word >>> 16)) >>> 0) / 2 ** 32
  }
}

/** Makes a value from a bell-shaped one, a uniform one and the element's index. */
const KINDS: readonly ((bell: number, uniform: number, index: number) => number)[] = [
  (bell) => bell * 0.02,
  (bell, uniform) => bell * 10 ** (uniform * 6 - 5),
  (bell) => Math.round(bell * 4) / 4,
  (bell, uniform) => (uniform < 0.8 ? (uniform < 0.4 ? 0 : -0) : bell),
  (bell, _, index) => -Math.abs(bell) * (index % 64 < 32 ? 1 : 1e-5),
  (bell) => 1 + bell * 1e-3,
  (bell) => bell * 1e-6,
]

/** Golden values, f32: an odd number of blocks, since backends take them in twos and fours. */
export function goldenValues(): Float32Array {
  const random = randoms(1)
  const bell = (): number => random() + random() + random() - 1.5
  return Float32Array.from({ length: KINDS.length * BLOCK }, (_, i) => {
    const kind = KINDS[Math.floor(i / BLOCK)]
    return kind?.(bell(), random(), i) ?? 0
  })
}

/** Importances of one row of so many columns, some of them 0. */
function goldenImportance(columns: number): Importance {
  const random = randoms(2)
  const values = Float32Array.from({ length: columns }, () => Math.max(0, random() - 0.1) ** 2)
  return { values: new Uint8Array(values.buffer), columns }
}

async function run(backend: Backend, op: KernelOp, input: Uint8Array, elements: number): Promise<Uint8Array | number> {
  const output = new Uint8Array(bytesOf(op.to, elements))
  const importance = op.weighted === true ? goldenImportance(elements) : undefined
  const { bad } = await backend.prepare(op).run(input, output, elements, undefined, importance)
  return bad ?? output
}

/** The golden values as an op's input type. */
async function goldenInput(reference: Backend, op: KernelOp): Promise<Uint8Array> {
  const values = goldenValues()
  const bytes = new Uint8Array(values.buffer)
  if (op.from === 'f32') return bytes
  const encode = ENCODE[op.from]
  if (DTYPES[op.from].kind === 'quant') {
    const weighted = requiresImportance(op.from)
    const made = await run(reference, { kind: 'cast', from: 'f32', to: op.from, weighted }, bytes, values.length)
    if (typeof made !== 'number') return made
  }
  const encoded = new Uint8Array(bytesOf(op.from, values.length))
  values.forEach((value, i) => encode?.(new DataView(encoded.buffer), i, value))
  return encoded
}

async function failureOf(backend: Backend, reference: Backend, op: KernelOp): Promise<string | null> {
  const elements = goldenValues().length
  const input = await goldenInput(reference, op)
  const [want, got] = [await run(reference, op, input, elements), await run(backend, op, input, elements)]
  if (typeof want === 'number' || typeof got === 'number') {
    return want === got ? null : `${describeOp(op)}: refused element ${String(got)}, not ${String(want)}`
  }
  const at = want.findIndex((byte, i) => byte !== got[i])
  return at < 0 ? null : `${describeOp(op)}: byte ${at} is ${got[at]}, not ${want[at]}`
}

/** Runs the golden blocks through every op that the backend claims to do exactly; the ops that it must not be given. */
export async function selfTest(backend: Backend, ops: readonly KernelOp[] = COMMON_OPS): Promise<SelfTestFailure[]> {
  const reference = createReferenceBackend()
  const failures: SelfTestFailure[] = []
  for (const op of ops) {
    if (backend.speed(op) === 0 || !backend.exact(op)) continue
    try {
      const reason = await failureOf(backend, reference, op)
      if (reason !== null) failures.push({ op, reason })
    } catch (error) {
      failures.push({ op, reason: `${describeOp(op)}: ${error instanceof Error ? error.message : String(error)}` })
    }
  }
  return failures
}
