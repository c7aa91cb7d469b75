// Writes the grids of the IQ1, IQ2 and IQ3 types: src/kernels/reference/grid-tables.ts. They are part of the format, and
// read off ggml: blocks that name every index, of scale 1, are dequantised. Run it from anywhere.
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { loadGgml } from './ggml.mjs'

const BLOCK = 256
const ONE = 0x3c00
/** Base64's digits. */
const DIGITS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'
const MORE = DIGITS.length - 1

/**
 * By grid: the type that shows it, how many entries of how many elements there are, the bytes of its first entry's index
 * in an empty block, the factor that makes a level of a value, and what levels there are.
 */
const GRIDS = {
  iq2_xxs: { entries: 256, width: 8, scale: 0.125, levels: [8, 25, 43], put: (b, i) => (b[2] = i) },
  iq2_xs: { entries: 512, width: 8, scale: 0.125, levels: [8, 25, 43], put: (b, i) => b.writeUInt16LE(i, 2) },
  iq2_s: { entries: 1024, width: 8, scale: 0.125, levels: [8, 25, 43], put: (b, i) => ((b[2] = i), (b[66] = i >> 8)) },
  iq3_xxs: { entries: 256, width: 4, scale: 0.25, levels: [4, 12, 20, 28, 36, 44, 52, 62], put: (b, i) => (b[2] = i) },
  iq3_s: {
    entries: 512,
    width: 4,
    scale: 1,
    levels: [1, 3, 5, 7, 9, 11, 13, 15],
    put: (b, i) => ((b[2] = i), (b[66] = i >> 8)),
  },
  iq1_s: {
    entries: 2048,
    width: 8,
    scale: 1,
    plus: 0.125,
    levels: [-1, 0, 1],
    put: (b, i) => ((b[2] = i), b.writeUInt16LE(i >> 8, 34)),
  },
}
const BYTES = { iq2_xxs: 66, iq2_xs: 74, iq2_s: 82, iq3_xxs: 98, iq3_s: 110, iq1_s: 50 }

/** The levels of all entries, as indices. */
function read(ggml, type) {
  const { entries, width, scale, plus = 0, levels, put } = GRIDS[type]
  return Array.from({ length: entries }, (_, i) => {
    const block = Buffer.alloc(BYTES[type])
    block.writeUInt16LE(ONE, 0)
    put(block, i)
    const values = ggml.decode(type, block, new Float32Array(BLOCK)).subarray(0, width)
    return [...values].map((value) => {
      const level = levels.indexOf(value / scale - plus)
      if (level < 0) throw new Error(`${type}: entry ${i} has ${value}`)
      return level
    })
  })
}

/** The entries as numbers, first element lowest: their ascending gaps, in digits of which the last one goes on. */
function pack(type, grid) {
  const base = GRIDS[type].levels.length
  let last = 0
  let text = ''
  for (const entry of grid) {
    const number = entry.reduceRight((sum, level) => sum * base + level, 0)
    if (number < last) throw new Error(`${type}: the entries do not ascend`)
    let gap = number - last
    last = number
    for (; gap >= MORE; gap -= MORE) text += DIGITS[MORE]
    text += DIGITS[gap]
  }
  return text
}

/** A string over lines of at most 120 columns, as the formatter has it. */
function lines(text) {
  return (text.match(/.{1,112}/g) ?? []).map((line) => `'${line}'`).join(' +\n  ')
}

const ggml = loadGgml()
const grids = Object.keys(GRIDS).map((type) => [type, read(ggml, type)])
const root = path.resolve(import.meta.dirname, '../..')

const tables = grids.map(([type, grid]) => {
  const name = type.toUpperCase()
  return `/** ${grid.length} entries of ${GRIDS[type].width} elements. */\nexport const ${name} =\n  ${lines(pack(type, grid))}\n`
})
writeFileSync(
  path.join(root, 'src/kernels/reference/grid-tables.ts'),
  `/**
 * Made by tests/oracle/make-grids.mjs: the grids of the IQ1, IQ2 and IQ3 types, whose entries are chosen points that no rule
 * yields. An entry is a number whose digits are its elements' levels, the first one lowest; the entries ascend, so only
 * the gaps are written, in base64's digits, of which the last (63) means that the gap goes on.
 */

${tables.join('\n')}`,
)
