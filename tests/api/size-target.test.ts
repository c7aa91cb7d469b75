import { existsSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createNodeHost } from '../../companion/host.ts'
import { createApi, open, type Api, type Opened } from '../../src/api/api.ts'
import type { Host } from '../../src/api/host.ts'
import { measure } from '../../src/api/measure.ts'
import type { PlanSummary } from '../../src/api/wire.ts'
import type { OptionValues } from '../../src/core/option.ts'
import type { Evidence } from '../../src/engines/engine.ts'
import { writeImatrix, type ImatrixEntry } from '../../src/engines/containers/imatrix.ts'
import { gguf } from '../../src/engines/gguf/engine.ts'

const MAIN = path.resolve(import.meta.dirname, '../../../shared/models/main')
const there = existsSync(MAIN)

describe.skipIf(!there)(`sizes of models/main${there ? '' : ' (../shared/models is not here)'}`, () => {
  const input = { kind: 'path', path: MAIN } as const
  let host: Host
  let api: Api
  let source: Opened
  beforeAll(async () => {
    host = createNodeHost({ threads: 1 })
    api = createApi(host)
    source = await open(host, input)
  })
  afterAll(() => api.close())

  const plan = (options: OptionValues): Promise<PlanSummary> =>
    api.plan({
      input,
      target: 'gguf',
      options,
      output: { kind: 'path', path: '/nowhere' },
      name: null,
      overwrite: false,
    })

  const evidenceFor = async (options: OptionValues): Promise<Evidence> =>
    measure(host, source, await gguf.needs(source.checkpoint, options))

  /** The sum of the errors that were measured for a plan's types, by weights. */
  function errorOf({ tensors }: PlanSummary, evidence: Evidence): number {
    return tensors.reduce((sum, { name, shape, to }) => {
      const error = evidence.get(`${name} ${to}`)
      return sum + (typeof error === 'number' ? error * shape.reduce((a, b) => a * b, 1) : 0)
    }, 0)
  }

  function importances(tensors: PlanSummary['tensors']): Uint8Array {
    const entries = new Map<string, ImatrixEntry>()
    for (const { name, shape } of tensors) {
      if (!/^blk.*[a-z]\.weight$/.test(name) || shape.length !== 2) continue
      entries.set(name, { sums: Float32Array.from({ length: shape[1]! }, (_, i) => 1 + 50 * (i % 7)), counts: [8] })
    }
    return writeImatrix({ form: 'gguf', entries, datasets: [], chunkCount: 1, chunkSize: 512 }, 'gguf')
  }

  test.each(['q3_k_m', 'q4_k_m', 'q5_k_m'])('at the size of %s the errors are no larger', async (quant) => {
    const fixed = await plan({ quant })
    const options = { 'target-size': String(fixed.writeBytes) }
    const chosen = await plan(options)
    expect(chosen.writeBytes).toBeLessThanOrEqual(fixed.writeBytes)
    expect(chosen.writeBytes).toBeGreaterThan(fixed.writeBytes * 0.98)
    const evidence = await evidenceFor(options)
    expect(evidence.size).toBeGreaterThan(200)
    expect(errorOf(chosen, evidence)).toBeLessThan(errorOf(fixed, evidence))
    expect(chosen.findings.find(({ code }) => code === 'size-target')?.message).toMatch(/^Types chosen for \d+: /)
    expect((await plan(options)).key).toBe(chosen.key)
  })

  test('with importances they count', async () => {
    const fixed = await plan({ quant: 'q4_k_s' })
    const imatrix = { name: 'made-up', bytes: importances(fixed.tensors) }
    const options = { 'target-bpw': '4.5', imatrix }
    const chosen = await plan(options)
    const weights = chosen.tensors.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0)
    const bits = (chosen.tensors.reduce((sum, { bytes }) => sum + bytes, 0) * 8) / weights
    expect(bits).toBeLessThanOrEqual(4.5)
    expect(bits).toBeGreaterThan(4.41)
    const [plain, weighted] = [await evidenceFor({ 'target-bpw': '4.5' }), await evidenceFor(options)]
    expect(weighted.get('blk.0.attn_q.weight q4_k')).not.toBe(plain.get('blk.0.attn_q.weight q4_k'))
    expect(weighted.get('output.weight q4_k')).toBe(plain.get('output.weight q4_k'))
  })

  test('types that are given stay', async () => {
    const chosen = await plan({ 'target-bpw': '4', 'tensor-type': 'attn_v=q8_0', 'output-tensor-type': 'q6_k' })
    for (const { name, to } of chosen.tensors) {
      if (name.includes('attn_v')) expect(to).toBe('q8_0')
      if (name === 'output.weight') expect(to).toBe('q6_k')
    }
  })

  test('what cannot be is refused, with the least that can', async () => {
    await expect(plan({ 'target-bpw': '1.5' })).rejects.toThrow(
      /does not fit into 1.5bpw: the smallest types make 2\.\d\d bits a weight/,
    )
    await expect(plan({ 'target-size': '10KB' })).rejects.toThrow(/the smallest types make \d+ bytes/)
  })
})
