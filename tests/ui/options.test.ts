import { expect, test } from 'vitest'
import type { OptionSpec } from '../../src/core/option.ts'
import {
  changed,
  codeOf,
  faultOf,
  openTransforms,
  TRANSFORM_OPTIONS,
  transformsOf,
} from '../../src/ui/state/options.ts'

const count: OptionSpec = { name: 'n', title: 'N', help: '', kind: { kind: 'integer', min: 1, max: 9, default: null } }
const text: OptionSpec = { name: 't', title: 'T', help: '', kind: { kind: 'text', default: '5GB' } }
const flag: OptionSpec = { name: 'f', title: 'F', help: '', kind: { kind: 'flag', default: false } }
const file: OptionSpec = { name: 'x', title: 'X', help: '', kind: { kind: 'file', maxBytes: 3, default: null } }

test('only what differs from the defaults is asked for', () => {
  const specs = [count, text, flag, file]
  expect(changed(specs, { n: null, t: '', f: false, x: null })).toEqual({})
  expect(changed(specs, { n: 3, t: '5GB', f: true })).toEqual({ n: 3, f: true })
})

test('a value is checked before it is sent', () => {
  expect(faultOf(count, 3)).toBeNull()
  expect(faultOf(count, null)).toBeNull()
  expect(faultOf(count, 10)).toMatch(/1 to 9/)
  expect(faultOf(count, 1.5)).toMatch(/whole number/)
  expect(faultOf(file, { name: 'a', bytes: new Uint8Array(3) })).toBeNull()
  expect(faultOf(file, { name: 'a', bytes: new Uint8Array(4) })).toMatch(/3/)
})

test('rows of a list: empty ones are not sent, unfinished ones are told', () => {
  const list: OptionSpec = {
    name: 'types',
    title: 'Types',
    help: '',
    kind: {
      kind: 'list',
      parts: [
        { title: 'Pattern', before: '', example: 'attn_v' },
        { title: 'Type', before: '=', example: 'q8_0', choices: ['q8_0', 'f16'] },
      ],
      default: null,
    },
  }
  expect(changed([list], { types: ['=q8_0', ''] })).toEqual({})
  expect(changed([list], { types: ['=q8_0', 'a=f16'] })).toEqual({ types: ['a=f16'] })
  expect(faultOf(list, ['=q8_0', 'a=f16'])).toBeNull()
  expect(faultOf(list, ['a=f16', 'b='])).toBe('Row 2 lacks the type: give it, or take the row away.')
})

test('transforms follow from their switches; what hangs on one shows only with it', () => {
  expect(transformsOf({})).toBeUndefined()
  expect(transformsOf({ 'keep-tied': true, 'fake-seed': 7 })).toBeUndefined()
  expect(transformsOf({ mup2llama: true, 'keep-tied': true })).toEqual({ mup2llama: true, keepTied: true })
  expect(transformsOf({ 'fake-weight': true, 'fake-seed': 7, 'fake-type': 'bf16' })).toEqual({
    fakeWeights: { seed: 7, distribution: 'normal', std: null, dtype: 'bf16', tensors: {} },
  })
  const open = openTransforms({ 'fake-weight': true }).map(({ name }) => name)
  expect(open).toContain('fake-seed')
  expect(open).not.toContain('keep-tied')
  expect(openTransforms(Object.fromEntries(TRANSFORM_OPTIONS.map(({ name }) => [name, true])))).toEqual(
    TRANSFORM_OPTIONS,
  )
})

test('the code of a place differs where the values do', () => {
  const codes = [{}, { a: 1 }, { a: 2 }, { a: '1' }, { b: 1 }, { x: { name: 'a', bytes: new Uint8Array(9) } }].map(
    codeOf,
  )
  expect(new Set(codes).size).toBe(codes.length)
  expect(codes.every((code) => /^[a-z0-9]{5}$/.test(code))).toBe(true)
})
