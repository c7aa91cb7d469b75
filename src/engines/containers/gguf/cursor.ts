import type { Source } from '../../../core/bytes.ts'
import { AppError } from '../../../core/errors.ts'

/** Bytes read at a time: a header of a few MiB takes a dozen reads, and no more than this is ever held. */
const WINDOW_BYTES = 256 * 1024

/** Reads a Source from front to back through a small window, little endian. Values that the file ends in throw `truncated`. */
export class Cursor {
  private readonly source: Source
  private readonly signal: AbortSignal | undefined
  private readonly limit: number
  private readonly window: Uint8Array<ArrayBuffer>
  private readonly view: DataView
  /** Of the window within the file. */
  private start = 0
  private filled = 0
  /** Within the window. */
  private at = 0
  private readonly strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  private readonly lenient = new TextDecoder('utf-8', { fatal: false, ignoreBOM: true })

  /** Refuses to go beyond `limit` bytes, so that a header that lies about its size costs no more than that. */
  constructor(source: Source, limit: number, signal?: AbortSignal) {
    this.source = source
    this.limit = limit
    this.signal = signal
    this.window = new Uint8Array(Math.min(WINDOW_BYTES, source.size))
    this.view = new DataView(this.window.buffer)
  }

  /** The name of the file. */
  get file(): string {
    return this.source.name
  }

  get position(): number {
    return this.start + this.at
  }

  /** Bytes between here and the end of the file. */
  get remaining(): number {
    return this.source.size - this.position
  }

  fail(why: string, at: number = this.position, tensor?: string): never {
    const where = { file: this.source.name, offset: at, ...(tensor === undefined ? {} : { tensor }) }
    throw new AppError('malformed', `${this.source.name}: ${why} (at byte ${at})`, {
      where,
      hint: 'The file is damaged or was made to do harm. Download or convert it again.',
    })
  }

  /** Throws `truncated` if fewer than `count` bytes are left. */
  require(count: number, what: string): void {
    if (count <= this.remaining) {
      if (this.position + count > this.limit) this.fail(`the header is larger than ${this.limit} bytes`)
      return
    }
    throw new AppError(
      'truncated',
      `${this.source.name} ends within ${what}: ${count} bytes needed at byte ${this.position}, ${this.remaining} left`,
      {
        where: { file: this.source.name, offset: this.position },
        hint: 'The file is incomplete. Download or convert it again.',
      },
    )
  }

  /** Whether `count` bytes are at hand without a read: the fast path of loops. */
  has(count: number): boolean {
    return this.at + count <= this.filled
  }

  /** Brings `count` bytes (a window at most) into the window. */
  async fill(count: number, what: string): Promise<void> {
    if (this.has(count)) return
    this.require(count, what)
    const position = this.position
    const size = Math.min(this.window.length, this.source.size - position)
    await this.source.read(position, this.window.subarray(0, size), this.signal)
    this.start = position
    this.filled = size
    this.at = 0
  }

  /** The next bytes of the window, which {@link fill} or {@link has} vouched for; a view. */
  private take(count: number): number {
    const at = this.at
    this.at += count
    return at
  }

  u8(): number {
    return this.view.getUint8(this.take(1))
  }
  i8(): number {
    return this.view.getInt8(this.take(1))
  }
  u16(): number {
    return this.view.getUint16(this.take(2), true)
  }
  i16(): number {
    return this.view.getInt16(this.take(2), true)
  }
  u32(): number {
    return this.view.getUint32(this.take(4), true)
  }
  i32(): number {
    return this.view.getInt32(this.take(4), true)
  }
  f32(): number {
    return this.view.getFloat32(this.take(4), true)
  }
  f64(): number {
    return this.view.getFloat64(this.take(8), true)
  }
  u64(): bigint {
    return this.view.getBigUint64(this.take(8), true)
  }
  i64(): bigint {
    return this.view.getBigInt64(this.take(8), true)
  }

  /** A count or size of 64 bits, refused beyond `limit`. */
  count(limit: number, what: string, tensor?: string): number {
    const at = this.position
    const value = this.u64()
    if (value > BigInt(limit)) this.fail(`${what} is ${value}, at most ${limit} are believed`, at, tensor)
    return Number(value)
  }

  /** The next bytes: a view of the window if they fit, else read on their own. */
  async bytes(count: number, what: string): Promise<Uint8Array<ArrayBuffer>> {
    if (count <= this.window.length) {
      await this.fill(count, what)
      const at = this.take(count)
      return this.window.subarray(at, at + count)
    }
    this.require(count, what)
    const own = new Uint8Array(count)
    await this.source.read(this.position, own, this.signal)
    this.start = this.position + count
    this.filled = 0
    this.at = 0
    return own
  }

  /** A string of up to `limit` bytes. Not UTF-8: refused if `strict`, else read with replacement characters. */
  async string(limit: number, what: string, strict: boolean): Promise<string> {
    if (!this.has(8)) await this.fill(8, what)
    const length = this.count(limit, `the length of ${what}`)
    const at = this.position
    if (length === 0) return ''
    const bytes = await this.bytes(length, what)
    if (!strict) return this.lenient.decode(bytes)
    try {
      return this.strict.decode(bytes)
    } catch {
      return this.fail(`${what} is not UTF-8`, at)
    }
  }
}
