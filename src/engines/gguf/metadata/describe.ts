import type { MetadataEntry } from '../../../core/plan.ts'
import type { GgufArray, GgufValue } from '../../containers/gguf/types.ts'
import { shortestF32 } from './shortest.ts'

/** A chat template has thousands of characters, of which the first say which it is. */
const MAX_TEXT = 240
/** Of a vocabulary the first tokens say enough. */
const SHOWN_ITEMS = 6

/** What is told of a header. */
export interface Described {
  readonly metadata: readonly MetadataEntry[]
}

/** A header's keys for people: long texts and lists are cut. */
export function describeMetadata(metadata: ReadonlyMap<string, GgufValue>): readonly MetadataEntry[] {
  return [...metadata].map(([key, value]) => ({ key, type: typeText(value), value: valueText(value) }))
}

/** The keys of an edited header, with what they were before. */
export function describeEdited(
  metadata: ReadonlyMap<string, GgufValue>,
  edited: ReadonlyMap<string, GgufValue>,
): readonly MetadataEntry[] {
  const before = describeMetadata(metadata)
  const values = new Map(before.map(({ key, value }) => [key, value]))
  const after = describeMetadata(edited).map((entry): MetadataEntry => {
    const old = values.get(entry.key)
    return old === undefined || old === entry.value ? entry : { ...entry, before: old }
  })
  return [...after, ...before.flatMap((entry) => (edited.has(entry.key) ? [] : { ...entry, removed: true as const }))]
}

function typeText(value: GgufValue): string {
  return value.type === 'array' ? `${value.of}[${value.value.length}]` : value.type
}

function valueText(value: GgufValue): string {
  switch (value.type) {
    case 'array':
      return arrayText(value)
    case 'string':
      return cut(value.value)
    case 'f32':
      return String(shortestF32(value.value))
    default:
      return String(value.value)
  }
}

function arrayText({ of, value }: GgufArray): string {
  const shown = Array.from({ length: Math.min(SHOWN_ITEMS, value.length) }, (_, index) => {
    const item = value[index]
    if (typeof item === 'string') return JSON.stringify(cut(item))
    if (typeof item === 'object') return arrayText(item)
    return of === 'f32' && typeof item === 'number' ? String(shortestF32(item)) : String(item)
  })
  return cut(`[${shown.join(', ')}${value.length > SHOWN_ITEMS ? ', ...' : ''}]`)
}

function cut(text: string): string {
  const letters = Array.from(text.slice(0, 2 * MAX_TEXT))
  return letters.length > MAX_TEXT ? `${letters.slice(0, MAX_TEXT).join('')}...` : text
}
