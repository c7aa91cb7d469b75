import { expect, test } from 'vitest'
import type { OptionSpec, OptionValues } from '../../src/core/option.ts'
import {
  changed,
  codeOf,
  faultOf,
  furtherOptions,
  offeredTransforms,
  openTransforms,
  transformsOf,
  type Transformable,
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

test('an option that is for other sources, or means nothing without another, is not offered', () => {
  const own: OptionSpec = { ...text, name: 'config', sources: ['safetensors'] }
  const hanging: OptionSpec = { ...text, name: 'part', needs: 'n' }
  const format = { id: 'x', title: 'X', reads: true, writes: true, options: [count, own, hanging], architectures: [] }
  const offered = (source: string, values: OptionValues): readonly string[] =>
    furtherOptions(format, source, values).map(({ name }) => name)
  expect(offered('gguf', {})).toEqual(['n'])
  expect(offered('safetensors', { n: null })).toEqual(['n', 'config'])
  expect(offered('gguf', { n: 3 })).toEqual(['n', 'part'])
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

test('transforms follow from their switches', () => {
  expect(transformsOf({})).toBeUndefined()
  expect(transformsOf({ 'keep-tied': true, 'fake-seed': 7 })).toBeUndefined()
  expect(transformsOf({ mup2llama: true, 'keep-tied': true })).toEqual({ mup2llama: true, keepTied: true })
  expect(transformsOf({ 'fake-weight': true, 'fake-seed': 7, 'fake-type': 'bf16' })).toEqual({
    fakeWeights: { seed: 7, distribution: 'normal', std: null, dtype: 'bf16', tensors: {} },
  })
  const file = { name: 'fake.json', bytes: new TextEncoder().encode('{"seed": 3}') }
  expect(transformsOf({ 'fake-weight': true, 'fake-seed': 7, 'fake-config': file })).toEqual({
    fakeConfig: { name: 'fake.json', text: '{"seed": 3}' },
  })
})

const MUP: Transformable = { mup: { folds: 'yes', because: null }, tied: true, madeUp: false }
const shown = (values: OptionValues, model: Transformable): readonly string[] =>
  openTransforms(values, model).map(({ name }) => name)

test('what hangs on a switch shows only with it, and only where it means something', () => {
  expect(shown({}, MUP)).toEqual(['mup2llama', 'fake-weight'])
  expect(shown({ mup2llama: true }, MUP)).toEqual(['mup2llama', 'keep-tied', 'fake-weight'])
  expect(shown({ mup2llama: true }, { ...MUP, tied: false })).toEqual(['mup2llama', 'fake-weight'])
  const some: Transformable = { ...MUP, mup: { folds: 'forced', because: 'It has scale_emb' } }
  expect(shown({ mup2llama: true }, some)).toContain('force')
  expect(transformsOf({ mup2llama: true, force: true })).toMatchObject({ mup2llama: true, forceMup: true })
  expect(shown({ 'fake-weight': true }, MUP).slice(-6)).toEqual([
    'fake-weight',
    'fake-config',
    'fake-seed',
    'fake-distribution',
    'fake-std',
    'fake-type',
  ])
  const file = { name: 'fake.json', bytes: new Uint8Array(2) }
  expect(shown({ 'fake-weight': true, 'fake-config': file }, MUP).slice(-2)).toEqual(['fake-weight', 'fake-config'])
})

test('a transform that cannot be says why', () => {
  const plain: Transformable = { ...MUP, mup: { folds: 'no', because: 'It is a Llama' }, madeUp: true }
  const locked = Object.fromEntries(offeredTransforms({}, plain).map(({ spec, locked }) => [spec.name, locked]))
  expect(locked['mup2llama']).toBe('Not for this model: It is a Llama.')
  expect(locked['fake-weight']).toMatch(/only a configuration/)
  expect(offeredTransforms({}, MUP).every(({ locked }) => locked === null)).toBe(true)
})

test('the code of a place differs where the values do', () => {
  const file = (...bytes: number[]): OptionValues => ({ x: { name: 'a', bytes: Uint8Array.from(bytes) } })
  const codes = [{}, { a: 1 }, { a: 2 }, { a: '1' }, { b: 1 }, file(1, 2), file(1, 3)].map(codeOf)
  expect(new Set(codes).size).toBe(codes.length)
  expect(codes.every((code) => /^[a-z0-9]{5}$/.test(code))).toBe(true)
})
