/** Numbers for people. Binary units throughout; the exact count goes beside them in a title. */
import { formatWhole } from '../../core/digits.ts'

export { formatWhole }

const NBSP = '\u00a0'
const UNITS = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB'] as const

/** Three significant digits at most: "3.04 MiB", "812 KiB", "11 bytes". */
export function formatBytes(bytes: number): string {
  let value = bytes
  let unit = 0
  // From here on three digits would round up to four.
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1024
    unit++
  }
  return `${unit === 0 ? formatWhole(value) : significant(value)}${NBSP}${UNITS[unit] ?? ''}`
}

/** "3,187,456 bytes". */
export function formatExactBytes(bytes: number): string {
  return `${formatWhole(bytes)}${NBSP}bytes`
}

/** As models are spoken of: "5.77 M", "8.03 B". */
export function formatCount(value: number): string {
  if (value < 1000) return formatWhole(value)
  const steps = ['K', 'M', 'B', 'T'] as const
  let scaled = value / 1000
  let step = 0
  while (scaled >= 999.5 && step < steps.length - 1) {
    scaled /= 1000
    step++
  }
  return `${significant(scaled)}${NBSP}${steps[step] ?? ''}`
}

/** "0.8 s", "42 s", "3 min 05 s", "2 h 10 min". */
export function formatDuration(ms: number): string {
  const seconds = ms / 1000
  if (seconds < 9.95) return `${seconds.toFixed(1)}${NBSP}s`
  const whole = Math.floor(seconds + 0.5)
  if (whole < 60) return `${whole}${NBSP}s`
  const two = (part: number): string => String(part).padStart(2, '0')
  if (whole < 3600) return `${Math.floor(whole / 60)}${NBSP}min ${two(whole % 60)}${NBSP}s`
  return `${Math.floor(whole / 3600)}${NBSP}h ${two(Math.floor((whole % 3600) / 60))}${NBSP}min`
}

/** "182 MiB/s". */
export function formatRate(bytesPerSecond: number): string {
  return `${formatBytes(bytesPerSecond)}/s`
}

/** "27 %", "0.4 %", "<0.1 %". */
export function formatPercent(ratio: number): string {
  const percent = ratio * 100
  if (percent > 0 && percent < 0.1) return `<0.1${NBSP}%`
  return `${percent > 0 && percent < 1 ? percent.toFixed(1) : percent.toFixed(0)}${NBSP}%`
}

/** How an output compares with its source: "3.5× smaller", "same size", "2× larger". */
export function formatRatio(output: number, source: number): string {
  if (output <= 0 || source <= 0) return ''
  const ratio = source / output
  if (ratio > 0.97 && ratio < 1.03) return 'same size'
  return ratio > 1 ? `${times(ratio)} smaller` : `${times(1 / ratio)} larger`
}

/** "Q4_K", "BF16": types as the field writes them. Words of whole bits are what codes of a few bits are packed into. */
export function formatDType(dtype: string): string {
  return dtype === 'u32' ? 'packed' : dtype.toUpperCase()
}

function times(ratio: number): string {
  return `${ratio.toFixed(ratio < 10 ? 1 : 0).replace(/\.0$/, '')}×`
}

function significant(value: number): string {
  if (value >= 99.95) return value.toFixed(0)
  return value.toFixed(value >= 9.995 ? 1 : 2)
}
