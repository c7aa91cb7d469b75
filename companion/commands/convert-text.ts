import { join, relative } from 'node:path'
import type { PlannedTensor, PlanSummary } from '../../src/api/wire.ts'
import { formatWhole, groupDigits } from '../../src/core/digits.ts'
import type { Report } from '../../src/core/job.ts'
import type { MetadataEntry } from '../../src/core/plan.ts'
import { findingsText } from '../findings.ts'
import { runLines } from './check-text.ts'
import { formatBytes, formatRanges, formatSeconds, table, wrap, PAGE_WIDTH } from '../text.ts'

/** Of a key's value a line shows this many characters. */
const MAX_VALUE = 60

/** What a dry run prints. `verbose` lists every tensor and every key of the header, else those that differ by their layer alone share a line. */
export function planText(plan: PlanSummary, folder: string, verbose: boolean): string {
  const lines = [
    table(verbose ? plan.tensors.map(alone) : groups(plan.tensors), HEAD),
    '',
    ...types(plan.tensors),
    '',
    ...(verbose && plan.metadata.length > 0 ? [metadataText(plan.metadata), ''] : []),
    ...(plan.findings.length === 0 ? [] : [findingsText(plan.findings, verbose)]),
    ...plan.files.map(({ path, size }) => `${shown(folder, path)}  ${formatBytes(size)} (${formatWhole(size)} bytes)`),
    `reads ${formatBytes(plan.readBytes)}, writes ${formatBytes(plan.writeBytes)}, ` +
      `holds at most ${formatBytes(plan.peakBytes)} in buffers`,
  ]
  if (plan.keptBytes > 0) lines.push(`an interrupted run has already written ${formatBytes(plan.keptBytes)} of it`)
  if (plan.freeBytes !== null) {
    const missing = plan.writeBytes - plan.keptBytes - plan.freeBytes
    const fits = missing > 0 ? `: ${formatBytes(missing)} too little` : ''
    lines.push(`${formatBytes(plan.freeBytes)} are free there${fits}`)
  }
  return `${lines.join('\n')}\n`
}

/** The keys of a header, a line each. */
export function metadataText(metadata: readonly MetadataEntry[]): string {
  const rows = metadata.map(({ key, type, value, before, removed }) => {
    const line = (text: string): string => cut(text.replaceAll(/\s+/g, ' '))
    const shown = removed === true ? `removed: ${line(value)}` : line(value)
    return [key, type, before === undefined ? shown : `${shown} (was ${line(before)})`]
  })
  return table(rows, ['KEY', 'TYPE', 'VALUE'])
}

function cut(text: string): string {
  const letters = [...text]
  return letters.length > MAX_VALUE ? `${letters.slice(0, MAX_VALUE - 3).join('')}...` : text
}

/** What a finished conversion prints. */
export function reportText(report: Report, folder: string): string {
  const seconds = report.elapsedMs / 1000
  const time = seconds < 10 ? `${seconds.toFixed(2)} s` : formatSeconds(seconds)
  const kept = report.keptBytes > 0 ? `, ${formatBytes(report.keptBytes)} of it by an interrupted run` : ''
  const lines = report.files.flatMap(({ path, size, sha256 }) => [
    `${shown(folder, path)}  ${formatBytes(size)}`,
    `  sha256 ${sha256}`,
  ])
  lines.push(
    `read ${formatBytes(report.readBytes)}, wrote ${formatBytes(report.writeBytes)}${kept}`,
    `in ${time} (${formatBytes(report.readBytes / Math.max(seconds, 1e-3))}/s)` +
      `${report.backends.length === 0 ? '' : ` by ${report.backends.join(', ')}`}` +
      `, with at most ${formatBytes(report.peakBytes)} in buffers`,
  )
  const checked = report.findings.find(({ code }) => code === 'samples-agree')
  if (checked !== undefined) lines.push(`checked: the file is well formed; ${groupDigits(checked.message)}`)
  const { check } = report
  if (check !== undefined) {
    lines.push(
      ...(check.run === null ? wrap(groupDigits(`not run: ${check.notRun ?? ''}`), PAGE_WIDTH) : runLines(check.run)),
    )
    const faults = check.findings.filter(({ severity }) => severity !== 'info')
    if (faults.length > 0) lines.push(findingsText(faults, true).trimEnd())
  }
  return `${lines.join('\n')}\n`
}

/** A written file as the user would name it from here. */
function shown(folder: string, path: string): string {
  const full = join(folder, path)
  const near = relative(process.cwd(), full)
  return near.startsWith('..') || near === '' ? full : near
}

const HEAD = ['TENSOR', 'SHAPE', 'TYPE', 'SIZE']

type Row = readonly string[]

const conversion = ({ from, to }: PlannedTensor): string => (from === to ? from : `${from} -> ${to}`)

function alone(tensor: PlannedTensor): Row {
  return [tensor.name, `[${tensor.shape.join(', ')}]`, conversion(tensor), formatBytes(tensor.bytes)]
}

/** The number of its layer in a tensor's name: the first part that is nothing but digits. */
const LAYER = /(?<=\.)\d+(?=\.)/

/** Tensors that differ by their layer alone in one line; lines of the same name stand together. */
function groups(tensors: readonly PlannedTensor[]): readonly Row[] {
  const found = new Map<string, Map<string, PlannedTensor[]>>()
  for (const tensor of tensors) {
    const name = tensor.name.replace(LAYER, '*')
    const key = `${tensor.shape.join()} ${tensor.from} ${tensor.to}`
    const alike = found.get(name) ?? new Map<string, PlannedTensor[]>()
    found.set(name, alike.set(key, [...(alike.get(key) ?? []), tensor]))
  }
  return [...found.values()].flatMap((alike) => [...alike.values()].map(together))
}

function together(tensors: readonly PlannedTensor[]): Row {
  const [first, ...others] = tensors
  if (first === undefined) return []
  if (others.length === 0) return alone(first)
  const layers = tensors.map(({ name }) => Number(LAYER.exec(name)?.[0])).sort((a, b) => a - b)
  const bytes = tensors.reduce((sum, tensor) => sum + tensor.bytes, 0)
  const name = first.name.replace(LAYER, `{${formatRanges(layers)}}`)
  return [name, `[${first.shape.join(', ')}] x ${tensors.length}`, conversion(first), formatBytes(bytes)]
}

/** How much there is of each type, the most first. */
function types(tensors: readonly PlannedTensor[]): readonly string[] {
  const found = new Map<string, { count: number; bytes: number }>()
  for (const { to, bytes } of tensors) {
    const { count, bytes: sum } = found.get(to) ?? { count: 0, bytes: 0 }
    found.set(to, { count: count + 1, bytes: sum + bytes })
  }
  const parts = [...found]
    .sort(([, a], [, b]) => b.bytes - a.bytes)
    .map(([type, { count, bytes }]) => `${formatBytes(bytes)} of ${type} in ${count}`)
  return wrap(`${tensors.length} tensors: ${parts.join(', ')}`, PAGE_WIDTH)
}
