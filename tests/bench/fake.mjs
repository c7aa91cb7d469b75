// What random values cost, and how fast a made-up model is written beside dd on the same disk.
import { execFile } from 'node:child_process'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { promisify } from 'node:util'
import { createApi, createNodeHost } from '../../dist/node/index.js'

const MIB = 2 ** 20
const run = promisify(execFile)
const BYTES = { f32: 4, f16: 2, bf16: 2 }
/** As in src/api: what a tile writes. */
const TILE_BYTES = 4 * MIB
const TILES = 64

/** A Llama of 70B's shape, but for its number of layers, whose weights take about `bytes` as bf16. */
function writeConfig(folder, bytes) {
  const hidden = 8192
  const wide = 28_672
  const layer = (2 * hidden * hidden + 2 * hidden * 1024 + 3 * hidden * wide) * 2
  const vocabulary = 4096
  const config = {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    hidden_size: hidden,
    num_hidden_layers: Math.max(1, Math.round(bytes / layer)),
    num_attention_heads: 64,
    num_key_value_heads: 8,
    intermediate_size: wide,
    vocab_size: vocabulary,
    torch_dtype: 'bfloat16',
  }
  mkdirSync(folder, { recursive: true })
  writeFileSync(path.join(folder, 'config.json'), JSON.stringify(config))
}

/** MB/s of the draw kernels alone, all threads. */
async function drawRates(host) {
  const [backend] = await host.backends()
  const width = backend.threads + 2
  const rates = []
  for (const how of ['uniform', 'normal']) {
    for (const to of ['f32', 'f16', 'bf16']) {
      const kernel = backend.prepareDraw({ kind: 'draw', how, to })
      const outputs = Array.from({ length: width }, () => backend.arena.alloc(TILE_BYTES))
      const table = backend.arena.alloc(65_536 * BYTES[to])
      const elements = TILE_BYTES / BYTES[to]
      const from = how === 'uniform' ? { low: -0.03, high: 0.03 } : { table }
      const draw = async (count) => {
        let next = 0
        await Promise.all(
          outputs.map(async (output) => {
            while (next < count) {
              const start = next++ * elements
              await kernel.run({ seed: 1, start, from }, output, elements)
            }
          }),
        )
      }
      await draw(TILES / 4)
      const began = performance.now()
      await draw(TILES)
      rates.push({ how, to, mbs: (TILES * TILE_BYTES) / 1e3 / (performance.now() - began) })
      for (const buffer of [...outputs, table]) backend.arena.free(buffer)
    }
  }
  return rates
}

/** Bytes written by dd, synchronised as a conversion is, in milliseconds. */
async function dd(file, bytes) {
  const began = performance.now()
  await run('dd', ['if=/dev/zero', `of=${file}`, 'bs=4M', `count=${Math.ceil(bytes / TILE_BYTES)}`, 'conv=fdatasync'])
  const ms = performance.now() - began
  rmSync(file)
  return ms
}

async function finished(job) {
  for (;;) {
    for (const event of await job.next()) {
      if (event.type === 'done') return event.report
      if (event.type === 'failed') throw new Error(`${event.error.code}: ${event.error.message}`)
    }
  }
}

/**
 * Rates of the kernels; then, for each distribution, a model of about `size` bytes written whole, in turns with dd: both in
 * MB/s, the medians of so many rounds. Everything is written below `folder`.
 */
export async function benchFake(folder, size, rounds) {
  const host = createNodeHost()
  const api = createApi(host)
  const [backend] = await host.backends()
  const median = (numbers) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1]
  const model = path.join(folder, 'fake-config')
  writeConfig(model, size)
  const whole = []
  for (const distribution of ['zeros', 'normal', 'uniform']) {
    const request = {
      input: { kind: 'path', path: model },
      target: 'huggingface',
      options: {},
      output: { kind: 'path', path: path.join(folder, 'fake') },
      name: null,
      overwrite: true,
      restart: true,
      transforms: { fakeWeights: { seed: 0, distribution, std: null, dtype: 'bf16', tensors: {} } },
    }
    const ours = []
    const disk = []
    for (let round = 0; round < rounds; round++) {
      const report = await finished(api.start(request))
      ours.push(report.writeBytes / 1e3 / report.elapsedMs)
      rmSync(path.join(folder, 'fake'), { recursive: true, force: true })
      disk.push(report.writeBytes / 1e3 / (await dd(path.join(folder, 'dd.bin'), report.writeBytes)))
    }
    whole.push({ distribution, mbs: median(ours), ddMbs: median(disk) })
  }
  const rates = await drawRates(host)
  const label = backend.label
  await api.close()
  return { label, rates, whole }
}
