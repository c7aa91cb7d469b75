import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  joinItem,
  listItems,
  resolveOptions,
  splitItem,
  type ListPart,
  type OptionSpec,
} from '../../src/core/option.ts'

const parts: readonly ListPart[] = [
  { title: 'Key', before: '', example: '' },
  { title: 'Type', before: ':', example: '', optional: true, choices: ['u8', 'string'] },
  { title: 'Value', before: '=', example: '', lines: true },
]
const list: OptionSpec = { name: 'set', title: 'Set', help: '', kind: { kind: 'list', parts, default: null } }

test('a text of a list comes apart', () => {
  expect(splitItem(parts, 'a=b')).toEqual(['a', '', 'b'])
  expect(splitItem(parts, 'a:u8=b=c:u8')).toEqual(['a', 'u8', 'b=c:u8'])
  expect(splitItem(parts, 'a:zebra=b')).toEqual(['a:zebra', '', 'b'])
  expect(splitItem(parts, 'a:b:string=')).toEqual(['a:b', 'string', ''])
  expect(splitItem(parts, '=b\nc')).toEqual(['', '', 'b\nc'])
  expect(splitItem(parts, 'a')).toEqual(['a', '', ''])
  expect(splitItem(parts, '')).toEqual(['', '', ''])
  expect(splitItem(parts.slice(0, 1), 'a=b')).toEqual(['a=b'])
})

test('what is put together comes apart into the same', () => {
  const key = fc.string().filter((text) => !/[=:]/.test(text))
  fc.assert(
    fc.property(key, fc.constantFrom('', 'u8', 'string'), fc.string(), (...values) => {
      expect(splitItem(parts, joinItem(parts, values))).toEqual(values)
    }),
  )
})

test('a list takes one text or several, and nothing else', () => {
  const resolve = (value: Parameters<typeof listItems>[0]) => resolveOptions([list], { set: value ?? null })['set']
  expect(resolve('a=1')).toEqual(['a=1'])
  expect(resolve(['a=1', ' ', 'b=2'])).toEqual(['a=1', ' ', 'b=2'])
  expect(listItems(['a=1', ' ', 'b=2'])).toEqual(['a=1', 'b=2'])
  expect(resolve([])).toBeNull()
  expect(resolve([' '])).toBeNull()
  expect(resolve(null)).toBeNull()
  expect(() => resolve(7)).toThrow(/--set cannot be 7/)
  expect(() => resolve({ name: 'a', bytes: new Uint8Array(1) })).toThrow(/--set cannot be a file/)
})

test('a number need not be whole', () => {
  const std: OptionSpec = {
    name: 'std',
    title: 'Std',
    help: '',
    kind: { kind: 'number', min: 0.001, max: 2, default: null },
  }
  expect(resolveOptions([std], {})).toEqual({ std: null })
  expect(resolveOptions([std], { std: '0.5' })).toEqual({ std: 0.5 })
  for (const wrong of [0, 3, 'x', '', ['1']]) {
    expect(() => resolveOptions([std], { std: wrong }), String(wrong)).toThrow('--std cannot be')
  }
})
