import { describe, expect, test } from 'vitest'
import { detect } from '../../src/api/api.ts'
import { kernels } from '../../src/api/kernels.ts'
import { tilesOf } from '../../src/api/tiles.ts'
import { resolveOptions, type OptionValues } from '../../src/core/option.ts'
import { loadEngine } from '../../src/engines/index.ts'
import type { FormatId } from '../../src/engines/engine.ts'
import { createReferenceBackend } from '../../src/kernels/reference/index.ts'
import { memoryFolder } from '../contracts/memory.ts'
import { edit, jsonOf, rawTensors, safetensors, tinyLlama, type Files, type RawTensor } from '../engines/hf/folder.ts'
import { convert, madeUp } from '../engines/megatron/folder.ts'

/** Matrices of more than a strip's values (2^20), so that each is computed in several tiles. */
const CONFIG = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: 512,
  intermediate_size: 2560,
  num_attention_heads: 8,
  num_key_value_heads: 8,
  num_hidden_layers: 1,
  vocab_size: Number(jsonOf(tinyLlama(), 'config.json')['vocab_size']),
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  torch_dtype: 'bfloat16',
  tie_word_embeddings: false,
}
const GROUP = 128

/** Bytes of no pattern. */
function bytes(count: number): Uint8Array {
  let state = 1
  return Uint8Array.from({ length: count }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state >>> 24
  })
}

/** F16 from 1 to 2. */
function scales(name: string, ...shape: readonly number[]): RawTensor {
  const count = shape.reduce((a, b) => a * b, 1)
  const values = Uint16Array.from({ length: count }, (_, i) => 0x3c00 + (i % 1024))
  return { name, dtype: 'f16', shape: [...shape], data: new Uint8Array(values.buffer) }
}

const words = (name: string, ...shape: readonly number[]): RawTensor => ({
  name,
  dtype: 'i32',
  shape: [...shape],
  data: bytes(shape.reduce((a, b) => a * b, 4)),
})

type Pack = (module: string, outputs: number, inputs: number) => RawTensor[]

const order = (name: string, inputs: number): RawTensor => ({
  name,
  dtype: 'i32',
  shape: [inputs],
  data: new Uint8Array(Int32Array.from({ length: inputs }, (_, i) => Math.floor(i / GROUP)).buffer),
})

const PACKED: Record<string, readonly [config: Record<string, unknown>, pack: Pack]> = {
  GPTQ: [
    { quant_method: 'gptq', bits: 4, group_size: GROUP, desc_act: true, sym: false },
    (module, n, k) => [
      words(`${module}.qweight`, k / 8, n),
      words(`${module}.qzeros`, k / GROUP, n / 8),
      scales(`${module}.scales`, k / GROUP, n),
      order(`${module}.g_idx`, k),
    ],
  ],
  AWQ: [
    { quant_method: 'awq', bits: 4, group_size: GROUP, zero_point: true, version: 'gemm' },
    (module, n, k) => [
      words(`${module}.qweight`, k, n / 8),
      words(`${module}.qzeros`, k / GROUP, n / 8),
      scales(`${module}.scales`, k / GROUP, n),
    ],
  ],
  FP8: [
    { quant_method: 'fp8', weight_block_size: [128, 128] },
    (module, n, k) => [
      // of 0 to 1.875: no NaN
      { name: `${module}.weight`, dtype: 'f8_e4m3', shape: [n, k], data: bytes(n * k).map((byte) => byte & 0x3f) },
      scales(`${module}.weight_scale_inv`, n / 128, k / 128),
    ],
  ],
}

async function packed(name: string): Promise<Files> {
  const [config, pack] = PACKED[name]!
  const files = await madeUp(CONFIG)
  const tensors = rawTensors(files['model.safetensors']!).flatMap((tensor) => {
    const [n = 0, k = 0] = tensor.shape
    return tensor.name.endsWith('_proj.weight') ? pack(tensor.name.replace(/\.weight$/, ''), n, k) : [tensor]
  })
  return edit({ ...files, 'model.safetensors': safetensors(tensors) }, 'config.json', { quantization_config: config })
}

/** How often each byte of the input's weights is read while all tiles of a plan are computed, three at once. */
async function countReads(
  files: Files,
  target: FormatId,
  given: OptionValues,
): Promise<{ counts: Map<string, Uint8Array>; tiles: number }> {
  const folder = memoryFolder(files)
  const { engine, match } = await detect(folder)
  const checkpoint = await engine.open!(folder, match)
  const writer = await loadEngine(target)
  const plan = await writer.convert!(checkpoint, resolveOptions(writer.options, given), new Map())
  const counts = new Map<string, Uint8Array>()
  const inputs = {
    async read(file: string, offset: number, into: Uint8Array) {
      into.set(files[file]!.subarray(offset, offset + into.length))
      const seen = counts.get(file) ?? new Uint8Array(files[file]!.length)
      counts.set(file, seen)
      for (let at = offset; at < offset + into.length; at++) seen[at]!++
    },
    product: () => Promise.reject(new Error('no products')),
  }
  const run = { ...kernels([createReferenceBackend()]), inputs, signal: undefined }
  let done = 0
  for (const file of plan.files) {
    const tiles = [...tilesOf(file, (size) => new Uint8Array(size))]
    for (let at = 0; at < tiles.length; at += 3) {
      await Promise.all(tiles.slice(at, at + 3).map((tile) => tile.compute(new Uint8Array(tile.slab), run)))
    }
    done += tiles.filter(({ tensor }) => tensor !== null).length
  }
  return { counts, tiles: done }
}

/** Bytes that each tensor of a safetensors file takes, from first to last. */
function* places(file: Uint8Array): Generator<{ name: string; from: number; to: number }> {
  const size = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true))
  const header = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + size))) as Record<
    string,
    { data_offsets: [number, number] }
  >
  for (const [name, { data_offsets }] of Object.entries(header)) {
    if (name === '__metadata__') continue
    yield { name, from: 8 + size + data_offsets[0], to: 8 + size + data_offsets[1] }
  }
}

async function expectOnce(files: Files, target: FormatId, options: OptionValues): Promise<void> {
  const { counts, tiles } = await countReads(files, target, options)
  let tensors = 0
  for (const [path, file] of Object.entries(files)) {
    if (!path.endsWith('.safetensors')) continue
    for (const { name, from, to } of places(file)) {
      const seen = counts.get(path)!.subarray(from, to)
      // the groups of a matrix's inputs, 4 KiB, go for each of its tiles
      if (name.endsWith('.g_idx')) continue
      tensors++
      expect([Math.min(...new Set(seen)), Math.max(...new Set(seen))], `${name} to ${target}`).toEqual([1, 1])
    }
  }
  // F32's matrices are cut
  if (target === 'huggingface') expect(tiles).toBeGreaterThanOrEqual(12 + 3)
  expect(tensors).toBeGreaterThanOrEqual(12)
}

const F32: readonly [FormatId, OptionValues] = ['huggingface', { dtype: 'f32' }]
const Q8: readonly [FormatId, OptionValues] = ['gguf', { quant: 'q8_0' }]
const MLX: readonly [FormatId, OptionValues] = ['mlx', { quant: '4bit' }]

describe('each byte of a source is read once', { timeout: 120_000 }, () => {
  test.each([
    ['GPTQ', [Q8, MLX]],
    ['AWQ', [F32]],
    ['FP8', [F32]],
  ] as const)('%s', async (name, targets) => {
    const files = await packed(name)
    for (const [target, options] of targets) await expectOnce(files, target, options)
  })

  test('a plain model to MLX, and MLX to others', async () => {
    const plain = await madeUp(CONFIG)
    await expectOnce(plain, ...MLX)
    const { files } = await convert(plain, ...MLX)
    await expectOnce(files, ...F32)
  })
})
