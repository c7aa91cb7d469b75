import { expect, test } from 'vitest'
import type { FormatInfo, Target } from '../../src/api/wire.ts'
import {
  featuredRows,
  groupTargets,
  listWords,
  matchingRows,
  preferred,
  readableThings,
  sourceKind,
  splitTitle,
  writableNames,
} from '../../src/ui/state/formats.ts'

interface Given {
  readonly value: string
  readonly size: number | null
  readonly featured?: true
  readonly keeps?: true
  readonly reason?: string
}

function format(id: string, title: string, choices: readonly Given[], more: FormatInfo['options'] = []) {
  const info: FormatInfo = {
    id,
    title,
    reads: true,
    writes: true,
    options: [
      {
        name: 'quant',
        title: 'Weights',
        help: '',
        kind: {
          kind: 'choice',
          choices: choices.map(({ value, featured, keeps }) => ({
            value,
            title: value.toUpperCase(),
            help: '',
            ...(featured === undefined ? {} : { featured }),
            ...(keeps === undefined ? {} : { keeps }),
          })),
          default: choices[0]?.value ?? '',
        },
      },
      ...more,
    ],
    architectures: [],
  }
  const targets = choices.map(({ value, size, reason }): Target => ({
    format: id,
    formatTitle: title,
    title: value.toUpperCase(),
    help: `about ${value}`,
    options: { quant: value },
    cost: size === null ? null : { writeBytes: size, readBytes: 0, peakBytes: 0, bitsPerWeight: 0 },
    reason: reason ?? null,
    findings: [],
  }))
  return { info, targets }
}

const from = (format: string) => ({ format, quantised: false })

const hf = format('huggingface', 'HuggingFace (transformers)', [
  { value: 'keep', size: 100, featured: true },
  { value: 'f32', size: 200 },
])
const gguf = format(
  'gguf',
  'GGUF (llama.cpp)',
  [
    { value: 'q4', size: 30, featured: true },
    { value: 'f32', size: 200 },
    { value: 'q2', size: 10 },
    { value: 'q8', size: 60, featured: true },
    { value: 'iq1', size: null, reason: 'It needs a matrix. Give one with --imatrix.' },
    { value: 'f16', size: null, reason: 'A weight is too large.' },
  ],
  [{ name: 'imatrix', title: 'Importance matrix', help: '', kind: { kind: 'file', maxBytes: 1, default: null } }],
)
const mlx = format('mlx', 'MLX (Apple silicon)', [{ value: '4bit', size: 30 }])
const strange = format('zzz', 'Strange', [{ value: 'x', size: null, reason: 'Not this one.' }])
const all = [strange, hf, gguf, mlx]
const targets = all.flatMap((one) => one.targets)
const formats = all.map(({ info }) => info)

test('formats come in a fixed order, that of the source behind, what cannot be reached last', () => {
  const order = (format: string) => groupTargets(targets, formats, from(format)).map((group) => group.format)
  expect(order('huggingface')).toEqual(['gguf', 'mlx', 'huggingface', 'zzz'])
  expect(order('mlx')).toEqual(['gguf', 'huggingface', 'mlx', 'zzz'])
  expect(groupTargets(targets, formats, from('mlx')).at(-1)).toMatchObject({
    reachable: false,
    reason: 'Not this one.',
  })
})

test('the recommended choice comes first, then the featured ones and the chosen one by size', () => {
  const [group] = groupTargets(targets, formats, from('huggingface'))
  const titles = (chosen: number) => featuredRows(group!, chosen).map(({ target }) => target.title)
  expect(titles(-1)).toEqual(['Q4', 'Q8'])
  expect(titles(targets.indexOf(gguf.targets[2]!))).toEqual(['Q4', 'Q2', 'Q8'])
  expect(group?.rows.map(({ target }) => target.title)).toEqual(['Q2', 'Q4', 'Q8', 'F32', 'IQ1', 'F16'])
  expect(matchingRows(group!.rows, ' q8').map(({ target }) => target.title)).toEqual(['Q8'])
  expect(matchingRows(group!.rows, 'about F').map(({ target }) => target.title)).toEqual(['F32', 'F16'])
})

test('what an option can remedy stays open, other things are closed with their reason', () => {
  const [group] = groupTargets(targets, formats, from('huggingface'))
  const closed = new Map(group!.rows.map(({ target, closed }) => [target.title, closed]))
  expect(closed.get('IQ1')).toBeNull()
  expect(closed.get('F16')).toBe('A weight is too large.')
  const needy = format(
    'gguf',
    'GGUF',
    [{ value: 'q4', size: null, reason: 'Give --config first.' }],
    [{ name: 'config', title: 'Configuration', help: '', kind: { kind: 'text', default: null, file: true } }],
  )
  expect(groupTargets(needy.targets, [needy.info], from('x'))[0]).toMatchObject({
    reachable: false,
    remedy: { spec: { name: 'config' }, index: 0 },
  })
})

test('what is preselected is what the first reachable format recommends', () => {
  const at = (format: string) => targets[preferred(groupTargets(targets, formats, from(format)))]
  expect(at('huggingface')).toBe(gguf.targets[0])
  expect(at('mlx')).toBe(gguf.targets[0])
  expect(preferred(groupTargets(strange.targets, [strange.info], from('')))).toBe(-1)
})

test('a format that can leave its own weights alone comes first, and is recommended so where they are quantised', () => {
  const able = format('mlx', 'MLX', [
    { value: '4bit', size: 30 },
    { value: 'copy', size: 40, keeps: true },
  ])
  const some = [gguf, able]
  const groups = (quantised: boolean) =>
    groupTargets(
      some.flatMap((one) => one.targets),
      some.map(({ info }) => info),
      { format: 'mlx', quantised },
    )
  for (const [quantised, title] of [
    [true, 'COPY'],
    [false, '4BIT'],
  ] as const) {
    const [first] = groups(quantised)
    expect(first?.format).toBe('mlx')
    expect(featuredRows(first!, -1)[0]?.target.title).toBe(title)
    expect(preferred(groups(quantised))).toBe(first?.rows.find(({ usual }) => usual)?.index)
  }
  const dtypes = (q8: number) =>
    [
      { dtype: 'q8_0', bytes: q8 },
      { dtype: 'f32', bytes: 50 },
    ] as const
  expect(sourceKind({ format: 'gguf', dtypes: dtypes(60) }).quantised).toBe(true)
  expect(sourceKind({ format: 'gguf', dtypes: dtypes(40) }).quantised).toBe(false)
})

test('formats that the page knows nothing of are shown all the same', () => {
  const [, , , group] = groupTargets(targets, [], from('huggingface'))
  expect(group?.title).toBe('Strange')
  expect(featuredRows(groupTargets(targets, [], from(''))[0]!, -1)).toHaveLength(5)
})

test('what can be read and written is told from the engines', () => {
  expect(readableThings(formats)).toEqual(['HuggingFace folder', 'pytorch_model.bin', '.gguf', 'MLX folder', 'Strange'])
  expect(readableThings(formats.map((info) => ({ ...info, reads: info.id === 'gguf' })))).toEqual(['.gguf'])
  expect(writableNames(formats)).toEqual(['GGUF', 'MLX', 'HuggingFace', 'Strange'])
  expect(listWords(['a', 'b', 'c'], 'or')).toBe('a, b or c')
  expect(listWords([], 'or')).toBe('')
  expect(splitTitle('Plain')).toEqual({ name: 'Plain', by: '' })
})
