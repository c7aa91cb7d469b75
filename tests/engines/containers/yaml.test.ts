import { describe, expect, test } from 'vitest'
import { AppError } from '../../../src/core/errors.ts'
import { formatJson, parseJson } from '../../../src/core/json.ts'
import { parseYaml } from '../../../src/engines/containers/yaml.ts'

const parsed = async (text: string): Promise<unknown> => JSON.parse(formatJson(await parseYaml(text, 'a.yaml')))

async function refused(text: string): Promise<AppError> {
  const error = await parseYaml(text, 'a.yaml').catch((thrown: unknown) => thrown)
  if (!(error instanceof AppError)) throw new Error(`no AppError, but ${String(error).slice(0, 100)}`)
  return error
}

describe('YAML', () => {
  test('is what its specification says, not YAML 1.1', async () => {
    const text = `
# comments
text: plain  # and here
quoted: "a\\tb"
off: no
date: 2026-11-30
octal: 0o17
zeros: 010
hex: 0x10
small: 1e-3
none: ~
empty:
block: |
  two
  lines
flow: {list: [1, 2.5, true], "__proto__": [4]}
list:
- 1
- - nested
`
    expect(await parsed(text)).toEqual({
      text: 'plain',
      quoted: 'a\tb',
      off: 'no',
      date: '2026-11-30',
      octal: 15,
      zeros: 10,
      hex: 16,
      small: 0.001,
      none: null,
      empty: null,
      block: 'two\nlines\n',
      flow: JSON.parse('{"list": [1, 2.5, true], "__proto__": [4]}') as unknown,
      list: [1, ['nested']],
    })
  })

  test('takes JSON as it is', async () => {
    const text = '{"a": [1, -2.5e-7, "x\\u00e9", null, {"b": false}], "": {}}'
    expect(await parseYaml(text, 'a.yaml')).toEqual(parseJson(text, 'a.json'))
  })

  test('keeps scalars as they stand where they are to be text', async () => {
    const text = 'language: [no, en]\nversion: 1.10\nnone: ~\nempty:\nquoted: "null"\n1: true\ntext: >-\n  one\n  line'
    const read = await parseYaml(text, 'README.md', { scalars: 'text' })
    expect(Object.fromEntries(read as ReadonlyMap<string, unknown>)).toEqual({
      language: ['no', 'en'],
      version: '1.10',
      none: null,
      empty: null,
      quoted: 'null',
      '1': 'true',
      text: 'one line',
    })
  })

  test('puts in what anchors hold', async () => {
    expect(await parsed('a: &s [4, 8]\nb: *s\nc: [*s, *s]\nd: &s 1\ne: *s')).toEqual({
      a: [4, 8],
      b: [4, 8],
      c: [
        [4, 8],
        [4, 8],
      ],
      d: 1,
      e: 1,
    })
  })

  test('a name like __proto__ is a key like any other', async () => {
    const json = await parseYaml('__proto__: {a: 1}\nconstructor: 2', 'a.yaml')
    expect([...(json as ReadonlyMap<string, unknown>).keys()]).toEqual(['__proto__', 'constructor'])
    expect(({} as Record<string, unknown>)['a']).toBeUndefined()
  })

  test.each([
    ['a: 1\nb: [1,\n', 'at line 3, column 1'],
    ['a: 1\nb: 2\na: 3', 'the key "a" occurs twice at line 3, column 1'],
    ['a: "x\n', 'missing closing "quote at line'],
    ['a:\n\tb: 1', 'tabs are not allowed as indentation at line 2, column 1'],
    ['a: 1\n---\nb: 2', 'a second document at line 2, column 1'],
    ['a: !mine 1', 'unresolved tag: !mine at line 1, column 4'],
    ['a: !!binary aGk=', 'a value that is neither text, number, true, false nor null at line 1'],
    ['a: 1\n2: 3', 'a key that is not text (put it in quotes) at line 2, column 1'],
    ['[a, b]: 3', 'a key that is not text (put it in quotes) at line 1, column 1'],
    ['a: *b\nb: &b 1', '*b stands for nothing that ended before it at line 1, column 4'],
    ['a: &a [1, *a]', '*a stands for nothing that ended before it at line 1, column 11'],
  ])('refuses %j, saying where', async (text, message) => {
    const error = await refused(text)
    expect(error.code).toBe('malformed')
    expect(error.message).toContain(`a.yaml is not valid YAML: `)
    expect(error.message).toContain(message)
  })

  test('refuses aliases of aliases that would make billions of values', async () => {
    const tens = (name: string): string => Array.from({ length: 10 }, () => name).join(', ')
    const lines = Array.from({ length: 20 }, (_, i) => `a${i}: &a${i} [${tens(i === 0 ? '1' : `*a${i - 1}`)}]`)
    expect((await refused(lines.join('\n'))).message).toMatch(/more than \d+ values, with aliases put in at line 7/)
  })

  // the package itself runs out of stack here, in such a way that the process ends
  test.each(['[', '{a: ', '- ', '? ', 'a: &x ['])('refuses %j nested without end', async (opening) => {
    expect((await refused(opening.repeat(20_000))).message).toContain('more than 64 levels at line 1')
  })

  test('refuses what is too large', async () => {
    expect((await refused(`a: ${'b'.repeat(2 ** 20)}`)).message).toContain('no more than 1048576 are read')
  })

  test('takes many keys in their number’s time, not in its square', async () => {
    const text = Array.from({ length: 12_000 }, (_, i) => `model.layers.${i}.mlp.up_proj.weight: [128, 4096]`).join(
      '\n',
    )
    const started = performance.now()
    expect((await parseYaml(text, 'a.yaml')) as ReadonlyMap<string, unknown>).toHaveProperty('size', 12_000)
    // the square takes a quarter of a minute
    expect(performance.now() - started).toBeLessThan(8000)
  })
})
