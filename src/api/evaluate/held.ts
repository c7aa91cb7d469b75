/**
 * Parts of quantised matrices that lie across: an input's outputs side by side, where tiles have an output's inputs. Each
 * tile needs a piece of every row of such a part, so the whole is read once and held while the tensor's tiles are computed.
 */
import { bytesOf } from '../../core/dtype.ts'
import { inputsOf, isGroupScheme, tensorBytes, type Recipe } from '../../core/tensor.ts'
import { matrixLayoutOf } from './matrix-layout.ts'
import { stackBytes, type Run } from './node.ts'

/** The codes of 2^28 weights of 4 bits; what is larger is read in the short runs that each tile needs. */
const MOST_BYTES = 128 << 20
/** Bytes read at a time: a job that is cancelled does not wait for all. */
const PIECE_BYTES = 8 << 20

type Read = Recipe & { readonly op: 'read' }

/** Some columns of a part. */
export interface HeldPiece {
  readonly bytes: number
  fill(into: Uint8Array): void
}

/** The parts of one tensor that are held, together. */
export class HeldParts {
  /** Bytes of memory for all of them. */
  readonly bytes: number
  /** Bytes read from files, once. */
  readonly reads: number
  readonly #parts: ReadonlyMap<Recipe, number>
  #buffer: Uint8Array | null = null
  #loaded: Promise<void> | null = null

  private constructor(parts: ReadonlyMap<Recipe, number>, bytes: number) {
    this.#parts = parts
    this.bytes = bytes
    this.reads = [...parts.keys()].reduce((sum, part) => sum + tensorBytes(part), 0)
  }

  /** Those of a recipe; null if there are none, or too many. */
  static of(recipe: Recipe): HeldParts | null {
    const parts = new Map<Recipe, number>()
    let bytes = 0
    for (const part of partsAcross(recipe)) {
      if (parts.has(part)) continue
      parts.set(part, bytes)
      bytes += stackBytes(tensorBytes(part))
      if (bytes > MOST_BYTES) return null
    }
    return bytes === 0 ? null : new HeldParts(parts, bytes)
  }

  /** Takes the memory, unless it was taken before. */
  take(give: (bytes: number) => Uint8Array): void {
    this.#buffer ??= give(this.bytes)
  }

  /** Reads them, unless that was done before. */
  load(run: Pick<Run, 'inputs' | 'signal'>): Promise<void> {
    this.#loaded ??= this.#read(run)
    return this.#loaded
  }

  async #read({ inputs, signal }: Pick<Run, 'inputs' | 'signal'>): Promise<void> {
    for (const part of this.#parts.keys()) {
      if (part.op !== 'read') continue
      const into = this.#bytesOf(part)
      for (let at = 0; at < into.length; at += PIECE_BYTES)
        await inputs.read(part.file, part.offset + at, into.subarray(at, at + PIECE_BYTES), signal)
    }
  }

  #bytesOf(part: Recipe): Uint8Array {
    const start = this.#parts.get(part)
    if (this.#buffer === null || start === undefined) throw new RangeError('parts were used before they were held')
    return this.#buffer.subarray(start, start + tensorBytes(part))
  }

  /** Outputs (columns) `start` to `start + count` of a part that is held, or null. */
  cut(part: Recipe, start: number, count: number): HeldPiece | null {
    if (!this.#parts.has(part)) return null
    const [rows = 0, width = 0] = part.shape
    const size = bytesOf(part.dtype, 1)
    return {
      bytes: rows * count * size,
      fill: (into) => {
        const whole = this.#bytesOf(part)
        for (let row = 0; row < rows; row++) {
          const at = (row * width + start) * size
          into.set(whole.subarray(at, at + count * size), row * count * size)
        }
      },
    }
  }
}

/** Every part below a recipe that lies across, is stored as it is, and is needed as a whole. */
function* partsAcross(recipe: Recipe): Generator<Read, void, void> {
  if (recipe.op === 'dequantize' && !isGroupScheme(recipe.scheme)) {
    for (const { name, axis } of matrixLayoutOf(recipe.scheme, recipe.shape[0] ?? 0).fields) {
      const part = recipe.parts[name]
      if (axis === 1 && part?.op === 'read') yield part
    }
    return
  }
  // a rank's share, say: the others have theirs in files of their own
  if (recipe.op === 'slice' || recipe.op === 'gather') return
  for (const input of inputsOf(recipe)) yield* partsAcross(input)
}
