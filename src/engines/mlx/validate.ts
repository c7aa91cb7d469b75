import { readFile, type Folder, type Source } from '../../core/bytes.ts'
import type { DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import { isObject, parseJsonObject } from '../../core/json.ts'
import type { Finding } from '../../core/plan.ts'
import { tensorBytes } from '../../core/tensor.ts'
import { listed, type StoredTensor } from '../containers/safetensors-files.ts'
import { checkWeights } from '../containers/sample-weights.ts'
import { INDEX } from './files.ts'
import { loadMlx, type LoadedMlx } from './open.ts'

/** The index of the largest model there is has some 10 MB. */
const MAX_INDEX_BYTES = 1 << 26
/** Of the scales of a module this much is looked at. */
const SAMPLE_BYTES = 1 << 16

/** All that keeps mlx-lm from loading a folder, or its numbers from being weights. Weights are sampled. */
export async function* validateMlx(folder: Folder): AsyncGenerator<Finding, void, void> {
  let loaded: LoadedMlx
  try {
    loaded = await loadMlx(folder)
  } catch (error) {
    const { code, message, where, hint } = AppError.from(error)
    yield { severity: 'error', code, message, where, ...(hint === null ? {} : { hint }) }
    return
  }
  yield* loaded.checkpoint.findings
  for (const { code, message, where, hint } of loaded.assigned.faults) {
    yield { severity: 'error', code, message, where, hint }
  }
  yield* extraFindings(loaded)
  yield* typeFindings(loaded)
  yield* metadataFindings(loaded)
  yield* indexFindings(folder, loaded)
  yield* checkWeights(folder, loaded.stored)
  yield* scaleFindings(folder, loaded)
}

/** mlx-lm's loader is strict, but for what its classes throw away. */
function* extraFindings({ assigned, stored, architecture, checkpoint }: LoadedMlx): Generator<Finding, void, void> {
  for (const name of assigned.extra) {
    const where = { file: stored.tensors.get(name)?.file ?? '', tensor: name }
    if (name.startsWith('lm_head.') && checkpoint.config.tied) {
      yield {
        severity: 'error',
        code: 'tie-contradicts',
        message: `There is ${name}, but config.json ties the head to the embedding`,
        where,
        hint: 'If the head was trained apart, set "tie_word_embeddings": false; else remove it.',
      }
      continue
    }
    const dropped = architecture.ignored.some((pattern) => pattern.test(name))
    yield {
      severity: dropped ? 'warning' : 'error',
      code: 'extra-tensor',
      message: `${name} is no tensor of this model: mlx-lm refuses to load it`,
      where,
    }
  }
}

/** MLX computes in what it finds: one tensor of another type slows everything after it. */
function* typeFindings({ model, stored, checkpoint, folder }: LoadedMlx): Generator<Finding, void, void> {
  const floats: ReadonlySet<DType> = new Set(['f32', 'f16', 'bf16'])
  const others = new Map<DType, string[]>()
  for (const { module, name } of model.tensors) {
    for (const own of [name, `${module}.scales`, `${module}.biases`]) {
      const dtype = stored.tensors.get(own)?.dtype
      if (dtype === undefined || !floats.has(dtype) || dtype === checkpoint.config.dtype) continue
      others.set(dtype, [...(others.get(dtype) ?? []), own])
    }
  }
  for (const [dtype, names] of others) {
    yield {
      severity: 'warning',
      code: 'dtype-mismatch',
      message: `config.json says ${checkpoint.config.dtype}, but ${listed([...new Set(names)])} is ${dtype}`,
      where: { file: `${folder.model.root}config.json`, tensor: names[0] ?? '' },
    }
  }
}

function* metadataFindings({ stored, folder }: LoadedMlx): Generator<Finding, void, void> {
  const format = stored.metadata.get('format')
  if (format === 'mlx' && stored.withoutFormat.length === 0) return
  yield {
    severity: 'warning',
    code: 'no-format',
    message: `${stored.withoutFormat[0] ?? folder.weights[0] ?? ''} does not say "format": "mlx" in its metadata, by which transformers knows MLX's weights`,
    where: { file: stored.withoutFormat[0] ?? folder.weights[0] ?? '' },
  }
}

/** mlx-lm does without the index; others do not. */
async function* indexFindings(opened: Folder, loaded: LoadedMlx): AsyncGenerator<Finding, void, void> {
  const { folder, stored } = loaded
  const { root, files } = folder.model
  const file = root + INDEX
  const fault = (severity: Finding['severity'], code: string, message: string, tensor?: string): Finding => ({
    severity,
    code,
    message,
    where: { file, ...(tensor === undefined ? {} : { tensor }) },
  })
  if (!files.has(INDEX)) {
    if (stored.files.length > 1)
      yield fault('warning', 'no-index', `${file} is not there; mlx-lm needs none, others do`)
    return
  }
  let json
  try {
    json = parseJsonObject(await readFile(opened, file, MAX_INDEX_BYTES), file)
  } catch (error) {
    yield fault('error', 'bad-index', AppError.from(error).message)
    return
  }
  const map = json.get('weight_map')
  if (!isObject(map)) {
    yield fault('error', 'bad-index', `${file} has no weight_map`)
    return
  }
  const wrong = [...map].filter(([name, shard]) => stored.tensors.get(name)?.file !== root + String(shard))
  const [first] = wrong
  if (first !== undefined) {
    const names = listed(wrong.map(([name]) => name))
    yield fault('error', 'bad-index', `${file} puts ${names} where it is not`, first[0])
  }
  const unlisted = [...stored.tensors.keys()].filter((name) => !map.has(name))
  if (unlisted.length > 0) yield fault('error', 'bad-index', `${file} does not list ${listed(unlisted)}`, unlisted[0])
  const metadata = json.get('metadata')
  const total = isObject(metadata) ? metadata.get('total_size') : undefined
  const bytes = [...stored.tensors.values()].reduce((sum, tensor) => sum + tensorBytes(tensor), 0)
  if (total !== undefined && total !== bytes) {
    yield fault('error', 'total-size', `${file} says total_size ${String(total)}; the tensors have ${bytes} bytes`)
  }
}

/** Codes of a scale that mean no number: of E8M0, and of E4M3 without its sign. */
const NOT_A_NUMBER = { e8m0: 0xff, e4m3: 0x7f } as const

/** Scales that are small floats themselves, which the sampling of weights takes for plain bytes. */
async function* scaleFindings(opened: Folder, loaded: LoadedMlx): AsyncGenerator<Finding, void, void> {
  const { stored, quantization, model } = loaded
  if (quantization === null) return
  const byFile = new Map<string, { readonly name: string; readonly tensor: StoredTensor; readonly code: number }[]>()
  for (const { module } of model.tensors) {
    const name = `${module}.scales`
    const tensor = stored.tensors.get(name)
    if (tensor?.dtype !== 'u8') continue
    const own = quantization.modules.get(module) ?? quantization.all
    const mode = typeof own === 'boolean' ? quantization.all.mode : own.mode
    const code = NOT_A_NUMBER[mode === 'nvfp4' ? 'e4m3' : 'e8m0']
    byFile.set(tensor.file, [...(byFile.get(tensor.file) ?? []), { name, tensor, code }])
  }
  for (const [file, scales] of byFile) {
    const source = await opened.open(file)
    try {
      for (const { name, tensor, code } of scales) yield* checkScales(source, name, tensor, code)
    } finally {
      await source.close()
    }
  }
}

async function* checkScales(
  source: Source,
  name: string,
  tensor: StoredTensor,
  code: number,
): AsyncGenerator<Finding, void, void> {
  const size = tensorBytes(tensor)
  const starts = new Set([0, Math.max(0, Math.floor((size - SAMPLE_BYTES) / 2)), Math.max(0, size - SAMPLE_BYTES)])
  const buffer = new Uint8Array(Math.min(size, SAMPLE_BYTES))
  for (const start of starts) {
    await source.read(tensor.offset + start, buffer)
    const bad = buffer.findIndex((byte) => (byte & code) === code)
    if (bad < 0) continue
    yield {
      severity: 'error',
      code: 'bad-weights',
      message: `${name} holds a scale that is no number`,
      where: { file: source.name, offset: tensor.offset + start + bad, tensor: name },
    }
    return
  }
}
