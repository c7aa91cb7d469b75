import { describe, expect, test } from 'vitest'
import { poolingFiles } from '../../../src/engines/transformers/sentence-transformers.ts'
import { formatJson } from '../../../src/core/json.ts'
import { jsonBytes, openFiles, tinyLlama, utf8, type Files } from '../hf/folder.ts'

const TRANSFORMER = { idx: 0, name: '0', path: '', type: 'sentence_transformers.models.Transformer' }
const POOLING = { idx: 1, name: '1', path: '1_Pooling', type: 'sentence_transformers.models.Pooling' }
const DENSE = { idx: 2, name: '2', path: '2_Dense', type: 'sentence_transformers.models.Dense' }

function embedder(pooling: Record<string, unknown>, modules: readonly unknown[] = [TRANSFORMER, POOLING]): Files {
  return { ...tinyLlama(), 'modules.json': jsonBytes(modules), '1_Pooling/config.json': jsonBytes(pooling) }
}

describe('how a model of sentence-transformers pools', () => {
  test.each([
    [{ pooling_mode_mean_tokens: true, pooling_mode_cls_token: false }, 'mean'],
    [{ pooling_mode_cls_token: true, pooling_mode_mean_tokens: false }, 'cls'],
    [{ pooling_mode_lasttoken: true }, 'last'],
    [{ pooling_mode: 'mean' }, 'mean'],
    [{ pooling_mode: 'lasttoken' }, 'last'],
  ])('%j', async (config, pooling) => {
    const checkpoint = await openFiles(embedder(config))
    expect(checkpoint.config.pooling).toBe(pooling)
    expect([...checkpoint.extras.keys()]).toEqual(expect.arrayContaining(['modules.json', '1_Pooling/config.json']))
    expect(checkpoint.sources.map(({ path }) => path)).toContain('1_Pooling/config.json')
  })

  test.each([
    { pooling_mode_max_tokens: true },
    { pooling_mode_mean_tokens: true, pooling_mode_cls_token: true },
    { pooling_mode: 'weightedmean' },
  ])('%j is told, not guessed', async (config) => {
    const { config: read, findings } = await openFiles(embedder(config))
    expect(read.pooling).toBeUndefined()
    expect(findings).toContainEqual(expect.objectContaining({ code: 'pooling', severity: 'warning' }))
  })

  test('layers behind the pooling are told', async () => {
    const { findings } = await openFiles(
      embedder({ pooling_mode_mean_tokens: true }, [TRANSFORMER, POOLING, DENSE, DENSE]),
    )
    expect(findings.find(({ code }) => code === 'dense-modules')?.message).toMatch(/^2 linear layers/)
  })

  test('a plain model pools in no way, and a folder that is named but not there is none', async () => {
    expect((await openFiles(tinyLlama())).config.pooling).toBeUndefined()
    const outside = { ...POOLING, path: '../secret' }
    expect((await openFiles(embedder({ pooling_mode: 'mean' }, [outside]))).config.pooling).toBeUndefined()
  })

  test.each(['mean', 'cls', 'last'] as const)('the files made for %s are read back as that', async (pooling) => {
    const made = [...poolingFiles(pooling, 64)].map(([path, json]) => [path, utf8(formatJson(json))])
    expect((await openFiles({ ...tinyLlama(), ...Object.fromEntries(made) })).config.pooling).toBe(pooling)
  })

  test('modules.json that is no JSON names itself', async () => {
    const files = { ...tinyLlama(), 'modules.json': utf8('[') }
    await expect(openFiles(files)).rejects.toMatchObject({ code: 'malformed', where: { file: 'modules.json' } })
  })
})
