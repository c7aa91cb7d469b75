import type { AppError } from '../../core/errors.ts'
import type { PickleValue } from './pickle-value.ts'

/** Lists, tuples, dicts and calls: some 100 bytes of memory each. */
const MAX_CONTAINERS = 1 << 21
/** Unclosed marks: as deep as values can nest. */
const MAX_MARKS = 1000

/** The stack of a pickle's machine with its marks and its memo. What the pickle asks of them in vain is `malformed`. */
export class PickleStack {
  readonly #values: PickleValue[] = []
  /** Heights at the marks. */
  readonly #marks: number[] = []
  readonly #memo = new Map<number, PickleValue>()
  readonly #malformed: (why: string) => AppError
  #containers = 0

  constructor(malformed: (why: string) => AppError) {
    this.#malformed = malformed
  }

  get isEmpty(): boolean {
    return this.#values.length === 0 && this.#marks.length === 0
  }

  /** Puts down a value that takes no memory of its own to speak of, or that is there already. */
  push(value: PickleValue): void {
    this.#values.push(value)
  }

  /** Puts down a new object. */
  make(value: PickleValue): void {
    this.count()
    this.#values.push(value)
  }

  /** Counts a new object. */
  count(): void {
    if (++this.#containers > MAX_CONTAINERS) throw this.#malformed(`it has more than ${MAX_CONTAINERS} objects`)
  }

  pop(): PickleValue {
    const value = this.top()
    this.#values.pop()
    return value
  }

  /** The topmost value above the last mark. */
  top(): PickleValue {
    const value = this.#values.at(-1)
    if (value === undefined || this.#values.length <= (this.#marks.at(-1) ?? 0)) {
      throw this.#malformed('it takes from an empty stack')
    }
    return value
  }

  mark(): void {
    if (this.#marks.length >= MAX_MARKS) throw this.#malformed(`more than ${MAX_MARKS} marks are open`)
    this.#marks.push(this.#values.length)
  }

  /** Takes the last mark and all values above it. */
  popMark(): PickleValue[] {
    const mark = this.#marks.pop()
    if (mark === undefined) throw this.#malformed('it looks for a mark that is not there')
    return this.#values.splice(mark)
  }

  /** Drops the topmost value, or the mark if that is topmost. */
  drop(): void {
    if (this.#marks.at(-1) === this.#values.length) this.#marks.pop()
    else this.pop()
  }

  /** Remembers the topmost value, under the next number if none is given. */
  memoize(index = this.#memo.size): void {
    this.#memo.set(index, this.top())
  }

  /** Puts down what was remembered. */
  recall(index: number): void {
    const value = this.#memo.get(index)
    if (value === undefined) throw this.#malformed(`it recalls memo ${index}, which was never set`)
    this.#values.push(value)
  }
}
