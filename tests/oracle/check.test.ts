import { writeFile } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createNodeHost } from '../../companion/host.ts'
import { createApi, type Api } from '../../src/api/api.ts'
import type { Control } from '../../src/api/control.ts'
import type { CheckRequest } from '../../src/api/wire.ts'
import { SHORT_TEXT } from '../../src/api/check-text.ts'
import type { CheckReport, Comparison } from '../../src/core/check.ts'
import { convertByProduct, readFileAndHeader, temporaryFolder } from './gguf-files.ts'
import { judge, noLlama, type Judge } from './llama.ts'
import { evaluationText, noModels, readReference } from './models.ts'

const reason = noLlama ?? noModels

/** Windows of the text that are measured: the beginning is as good as the whole. */
const WINDOWS = 2
const WINDOW = 512

/** The end of a job; throws its error. */
async function end(control: Control): Promise<{ check: CheckReport | null; comparison: Comparison | null }> {
  for (;;) {
    for (const event of await control.next()) {
      if (event.type === 'checked') return { check: event.report, comparison: null }
      if (event.type === 'compared') return { check: null, comparison: event.comparison }
      if (event.type === 'failed') throw new Error(`${event.error.code}: ${event.error.message}`)
    }
  }
}

/** The text as the figures of docs/GGUF.md take it: paragraphs tokenised without special tokens, joined, cut up. */
async function plainWindows(llama: Judge, text: string, count: number, size = WINDOW): Promise<number[][]> {
  const tokens: number[] = []
  for (const paragraph of text.split('\n\n')) {
    if (tokens.length >= count * size) break
    if (paragraph.trim() !== '') tokens.push(...(await llama.tokenizePlainly(paragraph)))
  }
  return Array.from({ length: count }, (_, i) => tokens.slice(i * size, (i + 1) * size))
}

describe.skipIf(reason !== null)(`checks by llama.cpp${reason === null ? '' : ` (${reason})`}`, () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>
  let api: Api
  beforeAll(async () => {
    folder = await temporaryFolder()
    // threads that wait for each other would wait for whatever else the machine does
    api = createApi(createNodeHost({ threads: 1 }))
  })
  afterAll(async () => {
    await api.close()
    await folder.remove()
  })

  const converted = new Map<string, Promise<string>>()
  function convert(model: string, quant: string): Promise<string> {
    const name = `${model} ${quant}`
    const file = converted.get(name) ?? convertByProduct(api, model, quant, folder.path)
    converted.set(name, file)
    return file
  }

  async function check(file: string, more: Partial<CheckRequest> = {}): Promise<CheckReport> {
    const { check } = await end(api.check({ input: { kind: 'path', path: file }, ...more }))
    return check!
  }

  async function withJudge<T>(file: string, use: (llama: Judge) => Promise<T>, embeddings = false): Promise<T> {
    const llama = await judge(file, { threads: 1, embeddings })
    try {
      return await use(llama)
    } finally {
      await llama.close()
    }
  }

  test('main in F32 goes on as PyTorch does', async () => {
    const file = await convert('main', 'f32')
    for (const { text, ids, greedy } of readReference('main')) {
      const { run, passed } = await check(file, { prompt: text })
      expect(passed).toBe(true)
      expect(run?.promptIds).toEqual(ids)
      expect(run?.generated?.ids).toEqual(greedy)
      expect(run?.generated?.logProbs.every((logProb) => logProb < 0)).toBe(true)
    }
  })

  test.each(['f16', 'q4_k_m'])('main in %s: the perplexity and the words of the judge', async (quant) => {
    const file = await convert('main', quant)
    const text = evaluationText()
    const { run, passed, findings, judges, validated } = await check(file, { text, windows: WINDOWS })
    expect({ passed, validated }).toEqual({ passed: true, validated: true })
    expect(findings).toEqual([expect.objectContaining({ severity: 'info', code: 'runs' })])
    expect(judges).toEqual(['validation', expect.stringMatching(/^llama\.cpp 0\.5\.0 \(node-llama-cpp 3\.\d+\.\d+\)$/)])
    await withJudge(file, async (llama) => {
      let loss = 0
      for (const window of await plainWindows(llama, text, WINDOWS)) loss += await llama.loss(window)
      const tokens = WINDOWS * (WINDOW - 1)
      expect(run?.perplexity).toMatchObject({ tokens, builtIn: false })
      expect(run!.perplexity!.meanLoss).toBeCloseTo(loss / tokens, 4)
      expect(run!.perplexity!.value).toBeCloseTo(Math.exp(loss / tokens), 2)
      expect(run?.generated?.ids).toEqual(await llama.greedy(run!.promptIds!, 16))
    })
    expect(run!.loadMs).toBeGreaterThan(0)
    expect(run!.memoryBytes!).toBeGreaterThan(10_000_000)
    expect(run!.generated!.tokensPerSecond!).toBeGreaterThan(0)
  })

  test('the short text is one window, all of it measured', async () => {
    const file = await convert('main', 'f16')
    const { run } = await check(file)
    await withJudge(file, async (llama) => {
      const ids: number[] = []
      for (const paragraph of SHORT_TEXT.split('\n\n')) ids.push(...(await llama.tokenizePlainly(paragraph)))
      expect(run?.perplexity).toMatchObject({ tokens: ids.length - 1, builtIn: true })
      expect(run!.perplexity!.meanLoss).toBeCloseTo((await llama.loss(ids)) / (ids.length - 1), 4)
    })
  })

  test('gemma2, which is lost without its first token, is measured behind it', async () => {
    const file = await convert('gemma2', 'f32')
    const text = evaluationText().slice(0, 4000)
    const { run } = await check(file, { text, windows: 1 })
    await withJudge(file, async (llama) => {
      const bos = (await llama.tokenize('a'))[0]!
      // it sees 512 tokens, of which the first one is taken
      const [window] = await plainWindows(llama, text, 1, WINDOW - 1)
      const tokens = window!.length - 1
      const behind = (await llama.loss([bos, ...window!])) - (await llama.loss([bos, window![0]!]))
      expect(Math.abs(behind - (await llama.loss(window!))) / tokens).toBeGreaterThan(1e-3)
      expect(run!.perplexity!.tokens).toBe(tokens)
      expect(run!.perplexity!.meanLoss).toBeCloseTo(behind / tokens, 4)
    })
  })

  test('a split model does as the whole one', async () => {
    const whole = await check(await convert('main', 'q4_k_m'))
    const parts = await temporaryFolder()
    await convertByProduct(api, 'main', 'q4_k_m', parts.path, { 'split-max-tensors': 20 })
    const split = await check(parts.path)
    await parts.remove()
    expect(split.files).toHaveLength(3)
    expect(split.passed).toBe(true)
    expect(split.run?.generated).toMatchObject({ ids: whole.run!.generated!.ids, text: whole.run!.generated!.text })
    expect(split.run!.perplexity!.value).toBeCloseTo(whole.run!.perplexity!.value, 6)
  })

  test('an encoder makes the vector that the judge makes', async () => {
    const file = await convert('bert', 'f32')
    const { run, passed } = await check(file, { prompt: 'The quick brown fox.' })
    expect(passed).toBe(true)
    expect(run).toMatchObject({ kind: 'encoder', generated: null, perplexity: null })
    const classes = await withJudge(
      file,
      async (llama) => llama.classify(await llama.tokenize('The quick brown fox.')),
      true,
    )
    expect(run?.embedding?.width).toBe(classes.length)
    expect(run!.embedding!.norm).toBeCloseTo(Math.hypot(...classes), 4)
  })

  test('an encoder with a decoder is not run, and says why', async () => {
    const { run, notRun, judges, passed } = await check(await convert('t5', 'f16'))
    expect({ run, judges, passed }).toEqual({ run: null, judges: ['validation'], passed: true })
    expect(notRun).toContain('encoder with a decoder')
  })

  /** The file of main in F32 with some values of a tensor replaced. */
  async function damaged(name: string, tensor: string, value: (index: number) => number | null): Promise<string> {
    const file = await convert('main', 'f32')
    const { header, bytes } = await readFileAndHeader(file)
    const { offset, size } = header.tensors.find((one) => one.name === tensor)!
    for (let at = 0; at < size; at += 4) {
      const written = value(at / 4)
      if (written !== null) bytes.writeFloatLE(written, offset + at)
    }
    const target = file.replace(/[^/\\]+$/, `${name}.gguf`)
    await writeFile(target, bytes)
    return target
  }

  test('one NaN among five million weights, where validation does not look, is found by running', async () => {
    const file = await damaged('one-nan', 'output.weight', (index) => (index === 5 * 256 + 3 ? Number.NaN : null))
    const { findings, passed, run } = await check(file)
    expect(passed).toBe(false)
    expect(findings).toContainEqual(expect.objectContaining({ severity: 'error', code: 'bad-logits' }))
    expect(findings.map(({ code }) => code)).not.toContain('runs')
    expect(run?.perplexity?.value).toBeNaN()
  })

  test('a NaN where validation looks is found by both', async () => {
    const { findings } = await check(await damaged('nan', 'output_norm.weight', (i) => (i === 7 ? Number.NaN : null)))
    expect(findings.map(({ code }) => code)).toEqual(['bad-weights', 'bad-logits'])
  })

  test('a model that says nothing is found', async () => {
    const { findings, passed } = await check(await damaged('zero', 'output_norm.weight', () => 0))
    expect(passed).toBe(false)
    expect(findings).toContainEqual(expect.objectContaining({ severity: 'error', code: 'equal-logits' }))
  })

  test('a model whose head is turned round foretells worse than chance', async () => {
    const file = await convert('main', 'f32')
    const { bytes, header } = await readFileAndHeader(file)
    const { offset, size } = header.tensors.find(({ name }) => name === 'output.weight')!
    const negated = await damaged('negated', 'output.weight', (index) => -bytes.readFloatLE(offset + index * 4))
    expect(size).toBeGreaterThan(0)
    const { findings } = await check(negated)
    expect(findings).toContainEqual(expect.objectContaining({ severity: 'warning', code: 'worse-than-chance' }))
  })

  test('a truncated file does not run', async () => {
    const file = await convert('main', 'f16')
    const { bytes } = await readFileAndHeader(file)
    const target = file.replace(/[^/\\]+$/, 'short.gguf')
    await writeFile(target, bytes.subarray(0, bytes.length / 2))
    const { findings, passed, run, notRun } = await check(target)
    expect({ passed, run, notRun }).toEqual({ passed: false, run: null, notRun: 'it cannot be opened' })
    expect(findings).toEqual([expect.objectContaining({ severity: 'error', code: 'truncated' })])
  })

  test('what llama.cpp refuses, it refuses in its own words', async () => {
    const file = await convert('main', 'f16')
    const { bytes } = await readFileAndHeader(file)
    const at = bytes.indexOf('blk.2.ffn_norm.weight')
    bytes.write('blk.2.ffn_nerm.weight', at)
    const target = file.replace(/[^/\\]+$/, 'misnamed.gguf')
    await writeFile(target, bytes)
    const { findings, passed, run } = await check(target, { validate: false })
    expect({ passed, run }).toEqual({ passed: false, run: null })
    expect(findings).toEqual([expect.objectContaining({ severity: 'error', code: 'malformed' })])
    expect(findings[0]?.message).toMatch(/^llama\.cpp refuses it: .*blk\.2\.ffn_norm/)
  })

  test('a check that is cancelled stops at once', async () => {
    const job = api.check({ input: { kind: 'path', path: await convert('main', 'f16') }, text: evaluationText() })
    const running = end(job)
    for (;;) {
      if (job.progress.phase === 'run' && job.progress.item?.startsWith('measuring') === true) break
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    const began = performance.now()
    job.cancel(false)
    await expect(running).rejects.toThrow(/^cancelled: /)
    expect(performance.now() - began).toBeLessThan(5000)
  })

  test('comparison: KL, agreement and perplexities as computed from the judge’s logits', async () => {
    const [a, b] = [await convert('main', 'f32'), await convert('main', 'q4_k_m')]
    const text = evaluationText()
    const request = { a: { kind: 'path', path: a }, b: { kind: 'path', path: b }, text, windows: 1 } as const
    const { comparison } = await end(api.compare(request))
    const read = (file: string): Promise<Naive> => withJudge(file, (llama) => naively(llama, text))
    const [p, q] = [await read(a), await read(b)]
    const kls = p.rows.map((row, i) => row.reduce((sum, logP, j) => sum + Math.exp(logP) * (logP - q.rows[i]![j]!), 0))
    const mean = (values: readonly number[]): number => values.reduce((x, y) => x + y, 0) / values.length
    const best = (row: readonly number[]): number => row.indexOf(Math.max(...row))
    expect(comparison?.tokens).toBe(WINDOW - 1)
    expect(comparison!.meanKl).toBeCloseTo(mean(kls), 5)
    expect(comparison!.largestKl).toBeCloseTo(Math.max(...kls), 4)
    expect(comparison!.topAgreement).toBeCloseTo(
      mean(p.rows.map((row, i) => Number(best(row) === best(q.rows[i]!)))),
      10,
    )
    expect(comparison!.a.perplexity).toBeCloseTo(Math.exp(mean(p.losses)), 2)
    expect(comparison!.b.perplexity).toBeCloseTo(Math.exp(mean(q.losses)), 2)
    expect(comparison!.meanKl).toBeGreaterThan(1e-3)
    expect(comparison!.topAgreement).toBeLessThan(1)
  })

  test('a model is no distance from itself', async () => {
    const path = await convert('main', 'q4_k_m')
    const { comparison } = await end(api.compare({ a: { kind: 'path', path }, b: { kind: 'path', path } }))
    expect(comparison).toMatchObject({ meanKl: 0, largestKl: 0, topAgreement: 1, builtIn: true })
  })

  test('models of different tokens are not compared', async () => {
    const [a, b] = [await convert('main', 'f16'), await convert('llama-spm', 'f16')]
    const job = api.compare({ a: { kind: 'path', path: a }, b: { kind: 'path', path: b } })
    await expect(end(job)).rejects.toThrow(/^unsupported: .* different tokens/)
  })

  interface Naive {
    readonly rows: readonly (readonly number[])[]
    readonly losses: readonly number[]
  }

  /** Log-probabilities and losses of the first window, position by position. */
  async function naively(llama: Judge, text: string): Promise<Naive> {
    const [ids] = await plainWindows(llama, text, 1)
    const logits = await llama.logits(ids!)
    const rows: number[][] = []
    const losses: number[] = []
    for (let i = 0; i + 1 < ids!.length; i++) {
      const row = [...logits.subarray(i * llama.vocabSize, (i + 1) * llama.vocabSize)]
      const sum = Math.log(row.reduce((total, logit) => total + Math.exp(logit), 0))
      rows.push(row.map((logit) => logit - sum))
      losses.push(-rows[i]![ids![i + 1]!]!)
    }
    return { rows, losses }
  }
})
