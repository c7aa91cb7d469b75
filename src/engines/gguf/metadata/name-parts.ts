/**
 * What llama.cpp's converter reads out of a model's name. Source: gguf-py/gguf/metadata.py of llama.cpp (2026).
 */

/** The parts of a name such as "meta-llama/Llama-3.1-8B-Instruct"; null for those that it does not have. */
export interface NameParts {
  readonly name: string
  readonly organization: string | null
  readonly basename: string | null
  readonly finetune: string | null
  readonly version: string | null
  readonly sizeLabel: string | null
}

type Kind = 'basename' | 'sizeLabel' | 'finetune' | 'version' | 'type'

interface Part {
  text: string
  readonly kinds: Set<Kind>
}

const VERSION = /^(?:v|iter)?\d+(?:\.\d+)*$/i
/** A quantised type, which a base model's name should not have. */
const TYPE = /^(?:i?q\d(?:_\w)*|b?fp?(?:16|32))$/i
const SIZE = /^(?:(?:A|\d+x)?\d+(?:[._]\d+)?[KMBT]\d?|small|mini|medium|large|x?xl)$/i
const ACTIVE_SIZE = /^A\d+(?:[._]\d+)?[KMBT]\d?$/i
const FINETUNE = /^(?:chat|instruct|vision|lora)$/i

/** Takes a name apart. A size that is far from the number of `parameters` is a length of context. */
export function nameParts(id: string, parameters: number): NameParts {
  const none = { organization: null, basename: null, finetune: null, version: null, sizeLabel: null }
  // a sentence, and no name as repositories have them
  if (id.includes(' ')) return { ...none, name: id }
  const slash = id.indexOf('/')
  const [owner, name] = slash < 0 ? [null, id] : [id.slice(0, slash), id.slice(slash + 1)]
  const parts = name.split('-').flatMap((text): Part[] => (text === '' ? [] : [{ text, kinds: new Set() }]))
  parts.forEach((part, index) => annotate(part, index, parts[index + 1]?.text ?? null, parameters))
  dropSizeWords(parts)
  findBasename(parts)
  const joined = (kind: Kind): string | null =>
    parts.flatMap(({ text, kinds }) => (kinds.has(kind) ? text : [])).join('-') || null
  const sizes = parts.flatMap(({ text, kinds }) => (kinds.has('sizeLabel') ? text : []))
  const sizeLabel = [...new Set(sizes)].join('-') || null
  const version = parts.flatMap(({ text, kinds }) => (kinds.has('version') && !kinds.has('basename') ? text : []))
  const found = { finetune: joined('finetune'), version: version.join('-') || null, sizeLabel }
  const ambiguous = Object.values(found).every((value) => value === null)
  return {
    ...found,
    name,
    organization: owner?.startsWith('.') === true ? null : owner,
    basename: ambiguous ? null : joined('basename'),
  }
}

function annotate(part: Part, index: number, next: string | null, parameters: number): void {
  if (VERSION.test(part.text)) part.kinds.add('version')
  else if (TYPE.test(part.text)) {
    part.kinds.add('type')
    part.text = part.text.toUpperCase()
  } else if (index > 0 && SIZE.test(part.text)) {
    part.text = normalSize(part.text)
    const size = parametersOf(part.text)
    const far = size !== null && parameters > 0 && Math.abs(size - parameters) > tolerance(parameters)
    if (far && !isActiveSize(next, parameters)) {
      part.kinds.add('finetune')
      part.text = part.text.slice(0, -1) + part.text.slice(-1).toLowerCase()
    } else part.kinds.add('sizeLabel')
  } else if (index > 0 && FINETUNE.test(part.text)) part.kinds.add('finetune')
}

function tolerance(parameters: number): number {
  return Math.floor((7 * parameters) / 8)
}

/** The size before "A4B" is that of all experts, where this is the number of parameters that are active. */
function isActiveSize(next: string | null, parameters: number): boolean {
  if (next === null) return false
  const label = normalSize(next)
  if (!ACTIVE_SIZE.test(label)) return false
  const size = parametersOf(label.slice(1))
  return size !== null && Math.abs(size - parameters) <= tolerance(parameters)
}

function normalSize(label: string): string {
  let text = label.replaceAll('_', '.')
  // bloom-7b1
  if (/\d$/.test(text)) text = `${text.slice(0, -2)}.${text.slice(-1)}${text.slice(-2, -1)}`
  return /\d[kmbt]$/.test(text) ? text.slice(0, -1) + text.slice(-1).toUpperCase() : text
}

/** The count that a size stands for; null for words and for "8x7B". */
function parametersOf(label: string): number | null {
  const digits = label.slice(0, -1)
  return /^\d+(?:\.\d+)?$/.test(digits) ? Number(digits) * 1000 ** ' KMBT'.indexOf(label.slice(-1)) : null
}

/** "small" is no size where another part says it in numbers. */
function dropSizeWords(parts: readonly Part[]): void {
  const sizes = parts.filter(({ kinds }) => kinds.has('sizeLabel'))
  if (!sizes.some(({ text }) => /\d/.test(text))) return
  for (const { text, kinds } of sizes) if (/^\p{L}+$/u.test(text)) kinds.delete('sizeLabel')
}

/** The words that a name starts with, and what else is of no other kind is a finetune's. */
function findBasename(parts: readonly Part[]): void {
  let atStart = true
  for (const { text, kinds } of parts) {
    if (atStart && ((kinds.size === 0 && /^\p{L}/u.test(text)) || kinds.has('version'))) kinds.add('basename')
    else {
      atStart = false
      if (kinds.size === 0) kinds.add('finetune')
    }
  }
  for (const { kinds } of parts.toReversed()) {
    if (!kinds.has('basename') || kinds.size < 2) break
    kinds.delete('basename')
  }
}

/** A name as a title: words in lower case get a capital letter, versions and sizes stay. */
export function titleOf(name: string): string {
  return name
    .replaceAll('-', ' ')
    .split(/\s+/)
    .filter((word) => word !== '')
    .map((word) => (isLower(word) && !/^(?:v\d+(?:\.\d+)*$|\d)/.test(word) ? capitalised(word) : word))
    .join(' ')
}

function isLower(word: string): boolean {
  return word !== word.toUpperCase() && word === word.toLowerCase()
}

/** Each run of letters by itself: "llama2b" is "Llama2B". */
function capitalised(word: string): string {
  return word.replaceAll(/\p{L}+/gu, (run) => run.slice(0, 1).toUpperCase() + run.slice(1))
}

/** A count of parameters in short: 5.8M, 560M, 8.0B. */
export function shortCount(parameters: number): string {
  const [unit, letter] =
    parameters >= 1e12 ? [1e-12, 'T'] : parameters >= 1e9 ? [1e-9, 'B'] : parameters >= 1e6 ? [1e-6, 'M'] : [1e-3, 'K']
  const scaled = parameters * unit
  const whole = halfEven(scaled)
  return `${fixed(scaled, whole === 0 ? 2 : whole < 10 ? 1 : 0)}${letter}`
}

/** As Python prints a number: the exact value rounded, halves to the even neighbour. */
function fixed(value: number, digits: number): string {
  // what lies exactly between two neighbours is an odd number of such halves
  const isHalf = (value * 2 ** (digits + 1)) % 2 === 1
  return isHalf ? (halfEven(value * 10 ** digits) / 10 ** digits).toFixed(digits) : value.toFixed(digits)
}

function halfEven(value: number): number {
  const floor = Math.floor(value)
  const over = value - floor
  return over > 0.5 || (over === 0.5 && floor % 2 === 1) ? floor + 1 : floor
}

/** The size of a model from its tensors: "8x7.2B" where there are experts, one of which is counted. */
export function sizeLabelOf(tensors: readonly { readonly name: string; readonly shape: readonly number[] }[]): string {
  let [all, experts, stacks] = [0, 0, 0]
  for (const { name, shape } of tensors) {
    const size = shape.reduce((product, axis) => product * axis, 1)
    const count = shape.at(name.includes('.bias') ? -2 : -3)
    if (!name.includes('_exps.') || shape.length < 3 || count === undefined) all += size
    else {
      all += Math.floor(size / count)
      experts += count
      stacks++
    }
  }
  const count = stacks === 0 ? 0 : Math.floor(experts / stacks)
  return `${count > 0 ? `${count}x` : ''}${shortCount(all)}`
}
