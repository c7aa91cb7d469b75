import { expect, test } from 'vitest'
import { CONFIGS } from '../../models/configs.ts'
import { madeUp } from '../megatron/folder.ts'
import { editWeights, openFiles } from './folder.ts'

test('blocks that predict further tokens are left out, and it is said', async () => {
  const files = await madeUp({ ...CONFIGS['deepseek_v3'], num_nextn_predict_layers: 1 })
  const more = editWeights(files, (tensors) => [
    ...tensors,
    ...tensors
      .filter(({ name }) => name.startsWith('model.layers.1.'))
      .map((tensor) => ({ ...tensor, name: tensor.name.replace('.1.', '.2.') })),
  ])
  const { tensors, findings } = await openFiles(more)
  expect([...tensors.keys()].some((role) => role.startsWith('blocks.2.'))).toBe(false)
  expect(findings.filter(({ code }) => code === 'prediction-left-out')).toHaveLength(1)
  expect(findings.filter(({ code }) => code === 'tensor-ignored')).toEqual([])
})
