import { expect, test } from 'vitest'
import {
  formatBytes,
  formatCount,
  formatDuration,
  formatExactBytes,
  formatPercent,
  formatRatio,
} from '../../src/ui/state/format.ts'
import { folderName } from '../../src/ui/state/shelf.ts'

/** The formats join number and unit by a space that does not break. */
const plain = (text: string): string => text.replaceAll('\u00a0', ' ')

test.each([
  [0, '0 bytes'],
  [999, '999 bytes'],
  [1000, '0.98 KiB'],
  [1024, '1.00 KiB'],
  [1_023_900, '0.98 MiB'],
  [3_575_168, '3.41 MiB'],
  [16_060_522_496, '15.0 GiB'],
  [2 ** 40 * 5000, '5000 TiB'],
])('%d bytes are %s', (bytes, text) => {
  expect(plain(formatBytes(bytes))).toBe(text)
})

test('no size takes more than three significant digits', () => {
  for (let bytes = 1000; bytes < 2 ** 49; bytes = Math.ceil(bytes * 1.037)) {
    const [number = ''] = plain(formatBytes(bytes)).split(' ')
    expect(number.replace('.', '').replace(/^0+/, '').length, `${bytes}`).toBeLessThanOrEqual(3)
  }
})

test('exact bytes, counts, times, shares and ratios', () => {
  expect(plain(formatExactBytes(3_575_168))).toBe('3,575,168 bytes')
  expect(plain(formatCount(57))).toBe('57')
  expect(plain(formatCount(5_774_592))).toBe('5.77 M')
  expect(plain(formatCount(8_030_261_248))).toBe('8.03 B')
  expect(plain(formatCount(999_600))).toBe('1.00 M')
  expect(plain(formatDuration(9_940))).toBe('9.9 s')
  expect(plain(formatDuration(9_960))).toBe('10 s')
  expect(plain(formatDuration(59_700))).toBe('1 min 00 s')
  expect(plain(formatDuration(7_805_000))).toBe('2 h 10 min')
  expect(plain(formatPercent(0))).toBe('0 %')
  expect(plain(formatPercent(0.0002))).toBe('<0.1 %')
  expect(plain(formatPercent(0.004))).toBe('0.4 %')
  expect(plain(formatPercent(0.273))).toBe('27 %')
  expect(formatRatio(100, 320)).toBe('3.2× smaller')
  expect(formatRatio(101, 100)).toBe('same size')
  expect(formatRatio(200, 100)).toBe('2× larger')
})

test('any name becomes one that a folder can have', () => {
  expect(folderName('sample Q4_K_M')).toBe('sample Q4_K_M')
  expect(folderName('../../etc/passwd')).toBe('-..-etc-passwd')
  expect(folderName('a/b\\c:d')).toBe('a-b-c-d')
  expect(folderName('...')).toBe('output')
  expect(folderName('Größe 模型')).toBe('Größe 模型')
  expect(folderName('x'.repeat(300))).toHaveLength(80)
})
