// libggml-base through koffi, in a process of its own since it aborts rather than fails. Messages: { id, op, ... } in,
// { id, value } or { id, error } out (serialization 'advanced', so typed arrays cross as they are).
import { createRequire } from 'node:module'
import path from 'node:path'
import { libraryFolder } from './library.mjs'

const require = createRequire(import.meta.url)

/** ggml's numbers of the types (ggml.h), and the bytes and elements of a block. */
export const TYPES = {
  f16: [1, 2, 1],
  q4_0: [2, 18, 32],
  q4_1: [3, 20, 32],
  q5_0: [6, 22, 32],
  q5_1: [7, 24, 32],
  q8_0: [8, 34, 32],
  q2_k: [10, 84, 256],
  q3_k: [11, 110, 256],
  q4_k: [12, 144, 256],
  q5_k: [13, 176, 256],
  q6_k: [14, 210, 256],
  iq2_xxs: [16, 66, 256],
  iq2_xs: [17, 74, 256],
  iq3_xxs: [18, 98, 256],
  iq1_s: [19, 50, 256],
  iq4_nl: [20, 18, 32],
  iq3_s: [21, 110, 256],
  iq2_s: [22, 82, 256],
  iq4_xs: [23, 136, 256],
  iq1_m: [29, 56, 256],
  bf16: [30, 2, 1],
  tq1_0: [34, 54, 256],
  tq2_0: [35, 66, 256],
  mxfp4: [39, 17, 32],
  q1_0: [41, 18, 128],
  q2_0: [42, 18, 64],
}

/** The calls that the tests use. */
export function loadGgml() {
  const { folder, reason } = libraryFolder()
  if (folder === null) throw new Error(reason)
  const lib = require('koffi').load(path.join(folder, 'libggml-base.so'))
  const quantizeChunk = lib.func(
    'size_t ggml_quantize_chunk(int type, void *src, void *dst, int64_t start, int64_t rows, int64_t perRow, void *imatrix)',
  )
  const validate = lib.func('bool ggml_validate_row_data(int type, void *data, size_t bytes)')
  const row = (name) => lib.func(`void ${name}(void *x, void *y, int64_t n)`)
  const rows = {
    f16: row('ggml_fp32_to_fp16_row'),
    bf16: row('ggml_fp32_to_bf16_row'),
    from_f16: row('ggml_fp16_to_fp32_row'),
    from_bf16: row('ggml_bf16_to_fp32_row'),
  }
  for (const type of Object.keys(TYPES)) {
    if (!type.endsWith('f16')) rows[`from_${type}`] = row(`dequantize_row_${type.replace(/_k$/, '_K')}`)
  }
  return {
    /** f32 values as a type's bytes: one row, or as many as there are of the importances' length. */
    encode(type, values, into, importance = null) {
      const [number, bytes, block] = TYPES[type]
      const out = into ?? new Uint8Array((values.length / block) * bytes)
      if (type === 'f16' || type === 'bf16') rows[type](values, out, values.length)
      else {
        const perRow = importance?.length ?? values.length
        quantizeChunk(number, values, out, 0, values.length / perRow, perRow, importance)
      }
      return out
    },
    /** Whether bytes of a type, by its number, hold no scale or value that is NaN or infinite. */
    valid(number, bytes) {
      return validate(number, bytes, bytes.length)
    },
    /** A type's bytes as f32 values. */
    decode(type, bytes, into) {
      const [, blockBytes, block] = TYPES[type]
      const out = into ?? new Float32Array((bytes.length / blockBytes) * block)
      rows[`from_${type}`](bytes, out, out.length)
      return out
    },
  }
}

if (process.send !== undefined && process.argv[1] === import.meta.filename) {
  const ggml = loadGgml()
  process.on('message', ({ id, op, type, data, importance }) => {
    try {
      process.send({
        id,
        value: op === 'encode' ? ggml.encode(type, data, undefined, importance) : ggml.decode(type, data),
      })
    } catch (error) {
      process.send({ id, error: String(error) })
    }
  })
}
