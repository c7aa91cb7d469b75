import { expect, test } from 'vitest'
import { AppError } from '../../../src/core/errors.ts'
import { readGguf } from '../../../src/engines/containers/gguf/reader.ts'
import { writeImatrix, type ImatrixEntry } from '../../../src/engines/containers/imatrix.ts'
import { gguf } from '../../../src/engines/gguf/engine.ts'
import { memoryFolder } from '../../contracts/memory.ts'
import { filesOf, planOf } from './folder.ts'
import { madeUpCheckpoint } from './made-up.ts'

const SHAPE = { layers: 2, hidden: 256, intermediate: 512, heads: 4, kvHeads: 4, tied: false } as const

/** Importances of every block's matrices, but for those that are left out. */
async function importances(without: readonly string[] = []): Promise<Uint8Array<ArrayBuffer>> {
  const { checkpoint, folder } = madeUpCheckpoint(SHAPE)
  const files = await filesOf(checkpoint, folder, { quant: 'q8_0' })
  const [path = ''] = Object.keys(files)
  const { tensors } = await readGguf(await memoryFolder(files).open(path))
  const entries = tensors.flatMap(({ name, shape }): [string, ImatrixEntry][] => {
    const left = !name.startsWith('blk.') || shape.length < 2 || without.includes(name)
    return left ? [] : [[name, { sums: new Float32Array(shape[1]!).fill(512), counts: [512] }]]
  })
  const about = { form: 'gguf', datasets: ['wiki.txt'], chunkCount: 100, chunkSize: 512 } as const
  return writeImatrix({ ...about, entries: new Map(entries) }, 'gguf')
}

test('what a file of importances holds is told, and which matrices it lacks', async () => {
  const bytes = await importances(['blk.1.ffn_down.weight'])
  const { checkpoint } = madeUpCheckpoint(SHAPE)
  const { findings } = await planOf(checkpoint, { quant: 'q4_k_m', imatrix: { name: 'a.gguf', bytes } })
  const own = findings.filter(({ option }) => option === 'imatrix')
  expect(own.map(({ severity, code, message }) => `${severity} ${code}: ${message}`)).toEqual([
    'info importance: a.gguf has 13 entries, measured on 100 chunks of 512 tokens from wiki.txt: 13 matrices are rounded by it',
    'info no-importance: token_embd.weight has no entry in a.gguf, as is usual, and is rounded without',
    'warning no-importance: blk.1.ffn_down.weight has no entry in a.gguf and is rounded without',
    'info no-importance: output.weight has no entry in a.gguf, as is usual, and is rounded without',
  ])
})

test('a file of another model is a warning, with what may be wrong', async () => {
  const sums = new Float32Array(64).fill(1)
  const entries = new Map([['blk.7.attn_q.weight', { sums, counts: [1] }]])
  const bytes = writeImatrix({ form: 'legacy', datasets: [], chunkCount: 0, chunkSize: 0, entries }, 'legacy')
  const { checkpoint } = madeUpCheckpoint(SHAPE)
  const { findings } = await planOf(checkpoint, { quant: 'q4_k_m', imatrix: { name: 'a.dat', bytes } })
  const own = findings.filter(({ option }) => option === 'imatrix')
  expect(own).toMatchObject([{ severity: 'warning', hint: expect.stringMatching(/of this model/) as string }])
})

test('importances beside a model are none of its files; alone they are no model', async () => {
  const { checkpoint, folder } = madeUpCheckpoint(SHAPE)
  const model = await filesOf(checkpoint, folder, { quant: 'q8_0' })
  const bytes = await importances()
  const both = memoryFolder({ ...model, 'a-imatrix.gguf': bytes, 'mmproj-b.gguf': bytes })
  const match = (await gguf.detect(both))!
  expect(Object.keys(model)).toEqual([match.entry])
  expect((await gguf.open!(both, match)).sources.map(({ path }) => path)).toEqual([match.entry])

  const alone = memoryFolder({ 'a-imatrix.gguf': bytes })
  const error: unknown = await gguf.open!(alone, (await gguf.detect(alone))!).catch((thrown: unknown) => thrown)
  expect(error).toBeInstanceOf(AppError)
  expect(error).toMatchObject({ code: 'unsupported', hint: expect.stringMatching(/--imatrix/) as string })
})
