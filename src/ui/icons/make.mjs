// Draws the PNG icons in public/ from the same bars as public/icon.svg. Run after changing them: node src/ui/icons/make.mjs
import { writeFileSync } from 'node:fs'
import { deflateSync, crc32 } from 'node:zlib'

const GREEN = [0x0b, 0x6a, 0x5b]
const SUPERSAMPLING = 4
/** [x, y, width, height, radius, opacity] on a grid of 32. */
const BARS = [
  [7, 8, 18, 4, 2, 1],
  [7, 14, 11.5, 4, 2, 0.82],
  [7, 20, 6, 4, 2, 0.64],
]

function inside([x, y, width, height, radius], px, py) {
  const dx = Math.max(x + radius - px, px - (x + width - radius), 0)
  const dy = Math.max(y + radius - py, py - (y + height - radius), 0)
  return px >= x && px <= x + width && py >= y && py <= y + height && dx * dx + dy * dy <= radius * radius
}

/** RGBA pixels. `bleed` fills the whole square and shrinks the bars into the safe zone of a maskable icon. */
function draw(size, bleed) {
  const pixels = Buffer.alloc(size * size * 4)
  const scale = bleed ? 0.78 : 1
  for (let row = 0; row < size; row++) {
    for (let column = 0; column < size; column++) {
      const sum = [0, 0, 0, 0]
      for (let sample = 0; sample < SUPERSAMPLING ** 2; sample++) {
        const x = ((column + ((sample % SUPERSAMPLING) + 0.5) / SUPERSAMPLING) / size) * 32
        const y = ((row + (Math.floor(sample / SUPERSAMPLING) + 0.5) / SUPERSAMPLING) / size) * 32
        if (!bleed && !inside([0, 0, 32, 32, 8], x, y)) continue
        const bar = BARS.find((bar) => inside(bar, (x - 16) / scale + 16, (y - 16) / scale + 16))
        const white = bar === undefined ? 0 : bar[5]
        GREEN.forEach((channel, index) => (sum[index] += channel + (255 - channel) * white))
        sum[3]++
      }
      const at = (row * size + column) * 4
      for (let index = 0; index < 3; index++)
        pixels[at + index] = sum[3] === 0 ? 0 : Math.floor(sum[index] / sum[3] + 0.5)
      pixels[at + 3] = Math.floor((255 * sum[3]) / SUPERSAMPLING ** 2 + 0.5)
    }
  }
  return pixels
}

function chunk(type, body) {
  const out = Buffer.alloc(12 + body.length)
  out.writeUInt32BE(body.length, 0)
  out.write(type, 4, 'latin1')
  body.copy(out, 8)
  out.writeUInt32BE(crc32(out.subarray(4, 8 + body.length)), 8 + body.length)
  return out
}

/** https://www.w3.org/TR/png-3/: signature, IHDR (8-bit RGBA), IDAT (unfiltered rows), IEND. */
function png(size, bleed) {
  const pixels = draw(size, bleed)
  const header = Buffer.alloc(13)
  header.writeUInt32BE(size, 0)
  header.writeUInt32BE(size, 4)
  header.set([8, 6, 0, 0, 0], 8)
  const rows = Buffer.alloc(size * (size * 4 + 1))
  for (let row = 0; row < size; row++) pixels.copy(rows, row * (size * 4 + 1) + 1, row * size * 4, (row + 1) * size * 4)
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])
  return Buffer.concat([
    signature,
    chunk('IHDR', header),
    chunk('IDAT', deflateSync(rows, { level: 9 })),
    chunk('IEND', Buffer.alloc(0)),
  ])
}

const folder = new URL('../../../public/', import.meta.url)
writeFileSync(new URL('icon-180.png', folder), png(180, true))
writeFileSync(new URL('icon-192.png', folder), png(192, false))
writeFileSync(new URL('icon-512.png', folder), png(512, false))
writeFileSync(new URL('icon-maskable-512.png', folder), png(512, true))
