import { expect, test } from 'vitest'
import type { FormatInfo, Target } from '../../src/api/wire.ts'
import {
  featuredRows,
  groupTargets,
  listWords,
  matchingRows,
  preferred,
  readableThings,
  splitTitle,
  writableNames,
} from '../../src/ui/state/formats.ts'

interface Given {
  readonly value: string
  readonly size: number | null
  readonly featured?: true
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
          choices: choices.map(({ value, featured }) => ({
            value,
            title: value.toUpperCase(),
            help: '',
            ...(featured === undefined ? {} : { featured }),
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
  const order = (source: string) => groupTargets(targets, formats, source).map((group) => group.format)
  expect(order('huggingface')).toEqual(['gguf', 'mlx', 'huggingface', 'zzz'])
  expect(order('gguf')).toEqual(['mlx', 'huggingface', 'gguf', 'zzz'])
  expect(groupTargets(targets, formats, 'gguf').at(-1)).toMatchObject({ reachable: false, reason: 'Not this one.' })
})

test('the recommended choice comes first, then the featured ones and the chosen one by size', () => {
  const [group] = groupTargets(targets, formats, 'huggingface')
  const titles = (chosen: number) => featuredRows(group!, chosen).map(({ target }) => target.title)
  expect(titles(-1)).toEqual(['Q4', 'Q8'])
  expect(titles(targets.indexOf(gguf.targets[2]!))).toEqual(['Q4', 'Q2', 'Q8'])
  expect(group?.rows.map(({ target }) => target.title)).toEqual(['Q2', 'Q4', 'Q8', 'F32', 'IQ1', 'F16'])
  expect(matchingRows(group!.rows, ' q8').map(({ target }) => target.title)).toEqual(['Q8'])
  expect(matchingRows(group!.rows, 'about F').map(({ target }) => target.title)).toEqual(['F32', 'F16'])
})

test('what an option can remedy stays open, other things are closed with their reason', () => {
  const [group] = groupTargets(targets, formats, 'huggingface')
  const closed = new Map(group!.rows.map(({ target, closed }) => [target.title, closed]))
  expect(closed.get('IQ1')).toBeNull()
  expect(closed.get('F16')).toBe('A weight is too large.')
  const needy = format(
    'gguf',
    'GGUF',
    [{ value: 'q4', size: null, reason: 'Give --config first.' }],
    [{ name: 'config', title: 'Configuration', help: '', kind: { kind: 'text', default: null, file: true } }],
  )
  expect(groupTargets(needy.targets, [needy.info], 'x')[0]).toMatchObject({
    reachable: false,
    remedy: { spec: { name: 'config' }, index: 0 },
  })
})

test('what is preselected is what the first reachable format recommends', () => {
  const at = (source: string) => targets[preferred(groupTargets(targets, formats, source))]
  expect(at('huggingface')).toBe(gguf.targets[0])
  expect(at('gguf')).toBe(mlx.targets[0])
  expect(preferred(groupTargets(strange.targets, [strange.info], ''))).toBe(-1)
})

test('formats that the page knows nothing of are shown all the same', () => {
  const [, , , group] = groupTargets(targets, [], 'huggingface')
  expect(group?.title).toBe('Strange')
  expect(featuredRows(groupTargets(targets, [], '')[0]!, -1)).toHaveLength(5)
})

test('what can be read and written is told from the engines', () => {
  expect(readableThings(formats)).toEqual(['HuggingFace folder', 'pytorch_model.bin', '.gguf', 'MLX folder', 'Strange'])
  expect(readableThings(formats.map((info) => ({ ...info, reads: info.id === 'gguf' })))).toEqual(['.gguf'])
  expect(writableNames(formats)).toEqual(['GGUF', 'MLX', 'HuggingFace', 'Strange'])
  expect(listWords(['a', 'b', 'c'], 'or')).toBe('a, b or c')
  expect(listWords([], 'or')).toBe('')
  expect(splitTitle('Plain')).toEqual({ name: 'Plain', by: '' })
})
