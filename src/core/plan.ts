import type { ErrorPlace } from './errors.ts'
import type { Producer, Recipe } from './tensor.ts'

/** Something worth saying, with its reason: about a model, a plan, or an output. */
export interface Finding {
  readonly severity: 'info' | 'warning' | 'error'
  /** A stable name for tests and the UI: `row-fallback`, `tie-ignored`, `one-thread`. */
  readonly code: string
  readonly message: string
  readonly where?: ErrorPlace
  readonly hint?: string
  /** The name of the option that it is about. */
  readonly option?: string
}

/**
 * What will be done, as pure data: made from headers and options, before any weight is read. It is the preview, the
 * dry run, the golden file in tests, and half the key for resume.
 */
export interface Plan {
  readonly target: string
  /** What must be solved or materialised first, into scratch. */
  readonly stages: readonly Stage[]
  /** In the order they are written and published: the file that completes the output comes last. */
  readonly files: readonly PlannedFile[]
  readonly findings: readonly Finding[]
  /** Bytes that will be read, each time they are. */
  readonly readBytes: number
  readonly writeBytes: number
  /** What the output says of itself, where its format has a list of keys for that. */
  readonly metadata?: readonly MetadataEntry[]
}

/** A key of a file's header, for people: long values are cut. */
export interface MetadataEntry {
  readonly key: string
  /** As the format names it. */
  readonly type: string
  readonly value: string
  /** What it was in the source, or would be without an edit; absent where that is the same, or there was none. */
  readonly before?: string
  /** Whether an edit takes it away: it is then told with the value that it had. */
  readonly removed?: true
}

/** A plan measured against a host: how wide it may run. */
export interface CostedPlan extends Plan {
  /** High water of the buffers that the run holds. */
  readonly peakBytes: number
}

/** Tensors computed ahead of the layout and left in scratch under `stage/key`, for `product` recipes to read. */
export interface Stage {
  readonly id: string
  readonly products: readonly { readonly key: string; readonly recipe: Recipe }[]
}

export interface PlannedFile {
  readonly path: string
  readonly size: number
  /** By ascending offset, without gap or overlap, together `size` bytes. */
  readonly segments: readonly Segment[]
}

export type Segment =
  /** Bytes known now: headers, padding, whole small files. */
  | { readonly kind: 'bytes'; readonly offset: number; readonly bytes: Uint8Array }
  /** One tensor. `name` is its name in this file. */
  | {
      readonly kind: 'tensor'
      readonly offset: number
      readonly size: number
      readonly name: string
      readonly recipe: Recipe
    }
  /** The fields of one producer, back to back in the order given. */
  | {
      readonly kind: 'outputs'
      readonly offset: number
      readonly size: number
      readonly producer: Producer
      readonly outputs: readonly { readonly name: string; readonly field: string }[]
    }
  /** Bytes known now but for checksums of what stands before them: a zip's directory. */
  | {
      readonly kind: 'seal'
      readonly offset: number
      readonly bytes: Uint8Array
      readonly checksums: readonly Checksum[]
    }

/**
 * A CRC-32 (zip's), as 4 bytes little-endian at `at` of a seal's bytes, of `size` bytes of the file from `start`, all
 * before the seal. The ranges of a file are the same or do not overlap.
 */
export interface Checksum {
  readonly at: number
  readonly start: number
  readonly size: number
}

/** Bytes of a segment. */
export function segmentSize(segment: Segment): number {
  return segment.kind === 'bytes' || segment.kind === 'seal' ? segment.bytes.length : segment.size
}
