import { expect, test } from 'vitest'
import { groupDigits } from '../../src/core/digits.ts'
import type { OptionSpec } from '../../src/core/option.ts'
import type { Finding } from '../../src/core/plan.ts'
import { errorHint, groupFindings, pageText } from '../../src/ui/state/words.ts'

test.each([
  ['926720 bytes, sampled over the output', '926,720 bytes, sampled over the output'],
  ['byte-level BPE, 2048 tokens', 'byte-level BPE, 2,048 tokens'],
  ['A weight beyond 65504 is an error.', 'A weight beyond 65,504 is an error.'],
  ['its rows of 1000 are not whole blocks', 'its rows of 1,000 are not whole blocks'],
  ['at byte 1048576, in (16384)', 'at byte 1,048,576, in (16,384)'],
])('%s: numbers are grouped', (text, grouped) => {
  expect(groupDigits(text)).toBe(grouped)
})

test.each([
  'model-00001-of-00004.safetensors',
  'model-10001-of-20004.safetensors',
  'blk.1024.ffn_down.weight',
  'already 1,024 and 0.12345',
  'error 0x12345678, #123456',
  'seed=123456, "1234567"',
  'checkpoints/12345/config.json and 12345.gguf',
  'sha256 9f86d081884c7d659a2feaa0c55ad015',
  '999 of them',
])('%s stays as it is', (text) => {
  expect(groupDigits(text)).toBe(text)
})

const imatrix: OptionSpec = {
  name: 'imatrix',
  title: 'Importance matrix',
  help: '',
  kind: { kind: 'file', maxBytes: 10, default: null },
}

test('options are called by their titles', () => {
  expect(pageText('Give one with --imatrix: or not.', [imatrix])).toBe('Give one with “Importance matrix”: or not.')
  expect(pageText('Start it afresh (--restart), or wait')).toBe('Start it afresh, or wait')
  expect(pageText('--imatrix-more is another', [imatrix])).toBe('--imatrix-more is another')
})

test('hints of the command are replaced where the page does it otherwise', () => {
  expect(errorHint('output-exists', 'Choose another name, or ask for overwriting (--overwrite).')).not.toMatch(/--/)
  expect(errorHint('bad-option', 'Leave --imatrix out.', [imatrix])).toBe('Leave “Importance matrix” out.')
  expect(errorHint('not-a-model', 'These can be read: GGUF (llama.cpp). Give the file.')).not.toMatch(/GGUF/)
  expect(errorHint('not-a-model', 'Open one of them: a, b.')).toBe('Open one of them: a, b.')
  expect(errorHint('internal', null)).toBeNull()
})

test('findings of one code are summed up, with a hint that they share', () => {
  const fallback = (index: number): Finding => ({
    severity: 'warning',
    code: 'row-fallback',
    message: `blk.${index}.ffn_down.weight is Q8_0`,
    hint: 'llama.cpp does the same.',
  })
  const odd: Finding = { severity: 'info', code: 'custom-code', message: 'It has code of its own' }
  const findings = [fallback(0), odd, ...Array.from({ length: 1199 }, (_, index) => fallback(index + 1))]
  const [first, second, ...others] = groupFindings(findings)
  expect(others).toEqual([])
  expect(first?.message).toBe('1,200 tensors get another type, since their rows are not whole blocks')
  expect(first?.hint).toBe('llama.cpp does the same.')
  expect(first?.findings).toHaveLength(1200)
  expect(second).toMatchObject({ message: odd.message, hint: null, findings: [odd] })
})

test('codes without a sum of their own say how many more there are; differing hints stay with each', () => {
  const [group] = groupFindings([
    { severity: 'info', code: 'other', message: 'One', hint: 'a' },
    { severity: 'info', code: 'other', message: 'Two', hint: 'b' },
    { severity: 'info', code: 'other', message: 'Three' },
  ])
  expect(group).toMatchObject({ message: 'One, and 2 more like it', hint: null })
  expect(groupFindings([group!.findings[0]!, { severity: 'warning', code: 'other', message: 'Worse' }])).toHaveLength(2)
})
