/** The self-test of quantisations whose parts are tensors of their own: what {@link ./selftest.ts} is to casts. */
import { bytesOf } from '../core/dtype.ts'
import type { MatrixScheme } from '../core/matrix-scheme.ts'
import {
  isGroupScheme,
  schemeFields,
  schemeGroups,
  tensorBytes,
  type GroupScheme,
  type Scheme,
} from '../core/tensor.ts'
import type { Backend, Parts, SchemeOp } from './backend.ts'
import { describeOp } from './check.ts'
import { ENCODE } from './reference/float.ts'
import { createReferenceBackend } from './reference/index.ts'
import { goldenValues, randoms, type SelfTestFailure } from './selftest.ts'

const GROUP_SCHEMES: readonly GroupScheme[] = [
  ...[2, 3, 4, 5, 6, 8].map((bits): GroupScheme => ({ kind: 'affine', bits, group: 64 })),
  { kind: 'mxfp4' },
  { kind: 'mxfp8' },
  { kind: 'nvfp4' },
]
const MATRIX_SCHEMES: readonly MatrixScheme[] = [
  ...[2, 3, 4, 8].flatMap((bits) =>
    [false, true].map((actOrder): MatrixScheme => ({ kind: 'gptq', bits, group: 48, zeroOffset: 1, actOrder })),
  ),
  ...(['gemm', 'gemv'] as const).map((layout): MatrixScheme => ({ kind: 'awq', layout, group: 48 })),
  ...([2, 4, 8] as const).flatMap((bits) =>
    [false, true].map((symmetric): MatrixScheme => ({
      kind: 'packed',
      bits,
      group: 48,
      symmetric,
      actOrder: symmetric,
    })),
  ),
  ...(['f8_e4m3', 'f8_e5m2', 'i8'] as const).map((codes): MatrixScheme => ({
    kind: 'scaled',
    codes,
    rows: 24,
    columns: 50,
    symmetric: codes !== 'i8',
  })),
]
/** A matrix that is no multiple of anything a kernel takes at once, but of the words of all schemes. */
const [ROWS, COLUMNS] = [32, 160]

/** The ops that every backend may have. */
export const SCHEME_OPS: readonly SchemeOp[] = [
  ...GROUP_SCHEMES.flatMap((scheme) =>
    (['f32', 'f16', 'bf16'] as const).map((from): SchemeOp => ({ kind: 'quantize', from, scheme })),
  ),
  ...[...GROUP_SCHEMES, ...MATRIX_SCHEMES].map((scheme): SchemeOp => ({ kind: 'dequantize', scheme })),
]

type Made = Parts | number

function shapeOf(scheme: Scheme): readonly [number, number] {
  if (!isGroupScheme(scheme)) return [ROWS, COLUMNS]
  const { group } = schemeGroups(scheme)
  return [goldenValues().length / group, group]
}

function emptyParts(scheme: Scheme): Record<string, Uint8Array> {
  const fields = Object.entries(schemeFields(scheme, shapeOf(scheme), 'f32'))
  return Object.fromEntries(fields.map(([name, info]) => [name, new Uint8Array(tensorBytes(info))]))
}

/** Codes and zeros of any bits but NaN, scales about 1, the groups that there are. */
function goldenParts(scheme: Scheme): Parts {
  const random = randoms(3)
  const parts = emptyParts(scheme)
  for (const [name, bytes] of Object.entries(parts)) {
    // 8-bit floats below their highest exponent, and powers of two about 1
    const most = scheme.kind === 'scaled' ? 0x78 : 256
    for (let i = 0; i < bytes.length; i++) bytes[i] = Math.floor(random() * most)
    if (name === 'groups' && (scheme.kind === 'gptq' || scheme.kind === 'packed')) {
      const count = Math.ceil(COLUMNS / scheme.group)
      const groups = new Int32Array(bytes.buffer)
      groups.forEach((_, i) => (groups[i] = Math.floor(random() * count)))
    } else if (name === 'scales' || name === 'biases') {
      if (isGroupScheme(scheme) && scheme.kind !== 'affine') bytes.forEach((byte, i) => (bytes[i] = 96 + (byte & 31)))
      else new Float32Array(bytes.buffer).forEach((_, i, all) => (all[i] = random() * 2 - 1))
    }
  }
  return parts
}

async function run(backend: Backend, op: SchemeOp): Promise<Made> {
  const [rows, columns] = shapeOf(op.scheme)
  const kernel = backend.prepareScheme(op)
  if (op.kind === 'dequantize') {
    const values = new Uint8Array(rows * columns * 4)
    const { bad } = await kernel.run(goldenParts(op.scheme), values, rows, columns)
    return bad ?? { values }
  }
  const golden = goldenValues()
  const values = new Uint8Array(bytesOf(op.from, golden.length))
  golden.forEach((value, i) => ENCODE[op.from]?.(new DataView(values.buffer), i, value))
  const parts = emptyParts(op.scheme)
  const { bad } = await kernel.run(parts, values, rows, columns)
  return bad ?? parts
}

async function failureOf(backend: Backend, reference: Backend, op: SchemeOp): Promise<string | null> {
  const [want, got] = [await run(reference, op), await run(backend, op)]
  if (typeof want === 'number' || typeof got === 'number') {
    return want === got ? null : `${describeOp(op)}: refused ${JSON.stringify(got)}, not ${JSON.stringify(want)}`
  }
  for (const [name, bytes] of Object.entries(want)) {
    const at = bytes.findIndex((byte, i) => byte !== got[name]?.[i])
    if (at >= 0) return `${describeOp(op)}: byte ${at} of ${name} is ${got[name]?.[at]}, not ${bytes[at]}`
  }
  return null
}

/** Runs golden values and parts through every op that the backend claims to do exactly; those it must not be given. */
export async function selfTestSchemes(
  backend: Backend,
  ops: readonly SchemeOp[] = SCHEME_OPS,
): Promise<SelfTestFailure[]> {
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
