/** Bytes for people, in binary units: `4.00 GiB`. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let value = bytes
  let unit = 0
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  return unit === 0 ? `${bytes} B` : `${value.toFixed(2)} ${units[unit]}`
}

/** Seconds for people: `7 s`, `3 min 20 s`, `2 h 05 min`. */
export function formatSeconds(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds))
  if (whole < 60) return `${whole} s`
  const minutes = Math.floor(whole / 60)
  if (minutes < 60) return `${minutes} min ${String(whole % 60).padStart(2, '0')} s`
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`
}

/** Large counts for people: `5.77 M`. */
export function formatCount(count: number): string {
  if (count >= 1e9) return `${(count / 1e9).toFixed(2)} B`
  if (count >= 1e6) return `${(count / 1e6).toFixed(2)} M`
  if (count >= 1e3) return `${(count / 1e3).toFixed(1)} K`
  return String(count)
}

/** Rows of cells as aligned columns, those of numbers (all cells begin with a digit or are empty) to the right. */
export function table(body: readonly (readonly string[])[], head: readonly string[] | null = null): string {
  const rows = head === null ? body : [head, ...body]
  const columns = Math.max(0, ...rows.map((row) => row.length))
  const widths = Array.from({ length: columns }, (_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)))
  const right = widths.map((_, i) => body.every((row) => /^(\d|$)/.test(row[i] ?? '')))
  const align = (cell: string, i: number): string =>
    right[i] === true ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0)
  return rows.map((row) => row.map(align).join('  ').trimEnd()).join('\n')
}

/** Text in lines of at most `width` characters, broken at blanks. */
export function wrap(text: string, width: number): readonly string[] {
  const lines: string[] = []
  let line = ''
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line)
      line = word
    } else {
      line = line === '' ? word : `${line} ${word}`
    }
  }
  return [...lines, line]
}

/** Pairs of a term and what it means: the terms to the left, the meanings wrapped beside them. */
export function definitions(rows: readonly (readonly [string, string])[], options: DefinitionOptions = {}): string {
  const { indent = 2, column = 26, width = PAGE_WIDTH } = options
  const left = ' '.repeat(indent)
  const lines = rows.flatMap(([term, meaning]) => {
    const [first = '', ...rest] = wrap(meaning, Math.max(20, width - indent - column))
    const beside = term.length + 2 <= column
    return [
      ...(beside ? [`${left}${term.padEnd(column)}${first}`] : [left + term, left + ' '.repeat(column) + first]),
      ...rest.map((line) => left + ' '.repeat(column) + line),
    ]
  })
  return lines.map((line) => line.trimEnd()).join('\n')
}

export interface DefinitionOptions {
  /** Blanks before each line. */
  readonly indent?: number
  /** Where the meanings begin, from the indent. */
  readonly column?: number
  readonly width?: number
}

/** Characters of a line of help: fits half a wide screen, and is still easy to read on it. */
export const PAGE_WIDTH = 100

/** Numbers in ascending order as ranges: `0-3,7`. */
export function formatRanges(numbers: readonly number[]): string {
  const ranges: [number, number][] = []
  for (const number of numbers) {
    const last = ranges.at(-1)
    if (last !== undefined && number === last[1] + 1) last[1] = number
    else ranges.push([number, number])
  }
  return ranges.map(([from, to]) => (from === to ? String(from) : `${from}-${to}`)).join(',')
}
