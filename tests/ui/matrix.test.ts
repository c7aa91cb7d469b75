import { expect, test } from 'vitest'
import type { Matrix } from '../../src/api/wire.ts'
import { architectureRows, inputRows, refusals } from '../../src/ui/state/matrix.ts'

const MATRIX: Matrix = {
  inputs: [
    { id: 'hf', title: 'HuggingFace folder', help: 'With config.json.', format: 'hf', otherwise: null },
    { id: 'gguf', title: 'GGUF file', help: 'Split or whole.', format: 'gguf', otherwise: 'Others become GGUF only.' },
  ],
  outputs: [
    { id: 'hf', title: 'HuggingFace (transformers)' },
    { id: 'gguf', title: 'GGUF (llama.cpp)' },
    { id: 'onnx', title: 'ONNX' },
  ],
  architectures: [
    { id: 'llama', classNames: ['LlamaForCausalLM', 'LLaMAForCausalLM'], refused: [] },
    { id: 'gpt2', classNames: ['GPT2LMHeadModel'], refused: [{ format: 'gguf', reason: 'not run there' }] },
    { id: 'bert', classNames: ['BertModel'], refused: [{ format: 'gguf', reason: 'not run there' }] },
  ],
  cells: [
    { input: 'hf', output: 'hf', architectures: ['llama', 'gpt2', 'bert'], reason: null },
    { input: 'hf', output: 'gguf', architectures: ['llama'], reason: null },
    { input: 'hf', output: 'onnx', architectures: [], reason: 'ONNX cannot be written yet' },
    { input: 'gguf', output: 'hf', architectures: ['llama'], reason: null },
    { input: 'gguf', output: 'gguf', architectures: ['llama'], reason: null },
    { input: 'gguf', output: 'onnx', architectures: [], reason: 'ONNX cannot be written yet' },
  ],
}

test('inputs: all, so many of them, or nothing with the reason', () => {
  expect(inputRows(MATRIX)).toEqual([
    {
      title: 'HuggingFace folder',
      help: 'With config.json.',
      crossings: [
        { to: 'HuggingFace', open: 'all', count: '', why: '' },
        { to: 'GGUF', open: 'some', count: '1 of 3', why: 'not GPT2 or Bert' },
        { to: 'ONNX', open: 'none', count: '', why: 'ONNX cannot be written yet' },
      ],
    },
    {
      title: 'GGUF file',
      help: 'Split or whole. Others become GGUF only.',
      crossings: [
        { to: 'HuggingFace', open: 'some', count: '1 of 3', why: 'not GPT2 or Bert' },
        { to: 'GGUF', open: 'some', count: '1 of 3', why: 'not GPT2 or Bert' },
        { to: 'ONNX', open: 'none', count: '', why: 'ONNX cannot be written yet' },
      ],
    },
  ])
})

test('architectures by the names that people know, with each reason once', () => {
  expect(architectureRows(MATRIX).map(({ title }) => title)).toEqual(['Llama', 'GPT2', 'Bert'])
  expect(architectureRows(MATRIX)[1]!.crossings).toEqual([
    { to: 'HuggingFace', open: 'all', count: '', why: '' },
    { to: 'GGUF', open: 'none', count: '', why: 'not run there' },
    { to: 'ONNX', open: 'all', count: '', why: '' },
  ])
  expect(refusals(MATRIX)).toEqual([{ to: 'GGUF', why: 'not run there' }])
})
