/** YAML 1.2 as JSON's values. Source: https://yaml.org/spec/1.2.2/ */
import type { CST, LineCounter, Node, Pair, Scalar } from 'yaml'
import { AppError } from '../../core/errors.ts'
import type { Json } from '../../core/json.ts'

/** Written by hand. The package takes up to 800 bytes of memory for each character. */
const MAX_CHARACTERS = 1 << 20
/** As deep as JSON may be. */
const MAX_DEPTH = 64
/** Values after every alias is put in the place where it stands: a few lines of aliases of aliases make billions. */
const MAX_VALUES = 1 << 21

export interface YamlOptions {
  /** `text`: what stands there, but for null. In a model's card `no` is a language and `1.10` a version. */
  readonly scalars: 'typed' | 'text'
}

/** A value, and how many it is made of once its aliases are put in. */
interface Counted {
  readonly json: Json
  readonly values: number
}

/**
 * The one document of a text. Maps keep their order and any key that is text, `__proto__` too. Throws `malformed` with
 * line and column for bad syntax, keys given twice, tags, and what is too large, too deep or holds itself.
 */
export async function parseYaml(
  text: string,
  file: string,
  { scalars }: YamlOptions = { scalars: 'typed' },
): Promise<Json> {
  if (text.length > MAX_CHARACTERS) {
    const message = `${file} has ${text.length} characters: of YAML no more than ${MAX_CHARACTERS} are read`
    throw new AppError('malformed', message, { where: { file }, hint: 'Give it as JSON.' })
  }
  const { Composer, isAlias, isMap, isScalar, isSeq, LineCounter, Parser } = await import('yaml')
  const lines = new LineCounter()
  const fail = (why: string, offset: number): AppError => failure(why, offset, lines, file)
  const tokens = [...new Parser(lines.addNewLine).parse(text)]
  const deep = tooDeep(tokens)
  if (deep !== null) throw fail(`more than ${MAX_DEPTH} levels`, deep)
  // its own search for keys given twice takes the square of their number
  const schema = scalars === 'typed' ? 'core' : 'failsafe'
  const composer = new Composer({ prettyErrors: false, version: '1.2', schema, uniqueKeys: false })
  const [document, another] = composer.compose(tokens, true, text.length)
  if (document === undefined) return null
  const [odd] = [...document.errors, ...document.warnings]
  if (odd !== undefined) throw fail(clauseOf(odd.message), odd.pos[0])
  if (another !== undefined) throw fail('a second document', another.range[0])

  const anchors = new Map<string, Counted>()
  let values = 0
  const count = (more: number, offset: number): void => {
    values += more
    if (values > MAX_VALUES) throw fail(`more than ${MAX_VALUES} values, with aliases put in`, offset)
  }
  const startOf = (node: Node | null): number => node?.range?.[0] ?? 0
  const keyOf = ({ key }: Pair<Node, Node | null>): string => {
    if (isScalar(key) && typeof key.value === 'string') return key.value
    throw fail('a key that is not text (put it in quotes)', startOf(key))
  }
  const convert = (node: Node | null): Json => {
    const offset = startOf(node)
    if (isAlias(node)) {
      const target = anchors.get(node.source)
      if (target === undefined) throw fail(`*${node.source} stands for nothing that ended before it`, offset)
      count(target.values, offset)
      return target.json
    }
    const before = values
    count(1, offset)
    let json: Json
    if (isMap<Node, Node | null>(node)) {
      const entries = new Map<string, Json>()
      for (const pair of node.items) {
        const key = keyOf(pair)
        if (entries.has(key)) throw fail(`the key ${JSON.stringify(key)} occurs twice`, startOf(pair.key))
        entries.set(key, convert(pair.value))
      }
      json = entries
    } else if (isSeq<Node>(node)) {
      json = node.items.map(convert)
    } else {
      json = isScalar(node) && !isNull(node) ? plain(node.value, offset, fail) : null
    }
    if (node?.anchor !== undefined) anchors.set(node.anchor, { json, values: values - before })
    return json
  }
  return convert(document.contents)
}

/** What the core schema takes for null; the failsafe one has none. */
function isNull({ type, source }: Scalar): boolean {
  return type === 'PLAIN' && /^(?:~|null|Null|NULL)?$/.test(source ?? '')
}

/** A scalar of the core schema. */
function plain(value: unknown, offset: number, fail: (why: string, offset: number) => AppError): Json {
  if (value === null || typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean')
    return value
  throw fail('a value that is neither text, number, true, false nor null', offset)
}

function failure(why: string, offset: number, lines: LineCounter, file: string): AppError {
  const { line, col } = lines.linePos(offset)
  return new AppError(
    'malformed',
    `${file} is not valid YAML: ${why} at line ${Math.max(line, 1)}, column ${Math.max(col, 1)}`,
    {
      where: { file, offset },
      hint: 'One document of maps, lists, texts and numbers is read, without tags.',
    },
  )
}

/** What the package says, as the middle of a sentence. */
function clauseOf(message: string): string {
  return message.replace(/\.$/, '').replace(/^[A-Z](?=[a-z])/, (letter) => letter.toLowerCase())
}

/**
 * Where collections nest deeper than they may, or null. The package's composer calls itself for each level: it would run
 * out of stack, or end the whole process where that befalls it in a regular expression.
 */
function tooDeep(tokens: readonly CST.Token[]): number | null {
  let level: (CST.Token | null | undefined)[] = [...tokens]
  // a document is a level of its own
  for (let depth = -1; level.length > 0; depth++) {
    if (depth > MAX_DEPTH) return level.find((token) => token !== undefined && token !== null)?.offset ?? 0
    const below: (CST.Token | null | undefined)[] = []
    for (const token of level) {
      if (token === undefined || token === null) continue
      if (token.type === 'document') below.push(token.value)
      else if ('items' in token) for (const { key, value } of token.items) below.push(key, value)
    }
    level = below
  }
  return null
}
