import { describe, expect, test } from 'vitest'
import {
  editJson,
  formatJson,
  isObject,
  parseJson,
  withFloats,
  type Json,
  type JsonObject,
} from '../../src/core/json.ts'

function parsed(text: string): JsonObject {
  const json = parseJson(text, 'test.json')
  if (!isObject(json)) throw new Error('no object')
  return json
}

describe('JSON that is written again', () => {
  const PYTHON = `{
  "a": 30.0,
  "eps": 1e-06,
  "list": [
    1.0,
    1,
    {
      "x": 10000.0,
      "inf": Infinity
    }
  ],
  "empty": {},
  "none": [],
  "text": "é \\"quoted\\"",
  "null": null,
  "big": 1e+30
}`

  test('keeps the spelling of numbers, the order and the layout', () => {
    expect(formatJson(parsed(PYTHON))).toBe(PYTHON)
  })

  test('keeps them through an edit, but for what changed', () => {
    const edited = editJson(
      parsed(PYTHON),
      new Map<string, Json | undefined>([
        ['a', 5],
        ['list', undefined],
        ['new', true],
      ]),
    )
    expect([...edited.keys()]).toEqual(['a', 'eps', 'empty', 'none', 'text', 'null', 'big', 'new'])
    expect(formatJson(edited)).toContain('"a": 5,\n  "eps": 1e-06,')
  })

  test('writes Python floats where asked', () => {
    const json = new Map<string, Json>([
      ['theta', 10_000],
      ['n', 4],
      ['half', 0.5],
    ])
    expect(formatJson(withFloats(json, new Set(['theta', 'half', 'absent'])))).toBe(
      '{\n  "theta": 10000.0,\n  "n": 4,\n  "half": 0.5\n}',
    )
  })

  test('refuses numbers that JSON lacks', () => {
    expect(() => formatJson([Number.NaN])).toThrow(RangeError)
  })
})
