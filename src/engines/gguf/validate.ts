import type { Folder, Source } from '../../core/bytes.ts'
import { AppError, type ErrorPlace } from '../../core/errors.ts'
import type { Finding } from '../../core/plan.ts'
import type { Architecture } from '../../models/architecture.ts'
import { architectureFor } from '../../models/index.ts'
import { ggufNumber, ggufString, type GgufHeader, type GgufTensor } from '../containers/gguf/reader.ts'
import { alignUp, GGUF_ALIGNMENT } from '../containers/gguf/types.ts'
import type { Thorough } from '../engine.ts'
import { architectureIdOf, ggufArchitecture } from './arch/index.ts'
import { configOf, implausibleCounts, REQUIRED_KEYS } from './read/sizes.ts'
import { readModel, SPLIT_KEYS, type GgufModel } from './files.ts'
import { ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT, ROPE_FREQS } from './names.ts'
import { sampleTensor, scanTensor } from './sample.ts'
import { ggufTensors } from './tensors.ts'
import { tokenizerFindings } from './vocabulary.ts'

/** Configuration flags that add tensors which llama.cpp takes but does not ask for. */
const OPTIONAL_FLAGS: readonly string[] = ['attention_bias', 'mlp_bias']

/** Tensors that llama.cpp takes for any rotary model. */
const OPTIONAL_TENSORS: readonly string[] = [ROPE_FREQS, ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT]

/** Beyond this the rest is one finding: a wrong architecture would otherwise name every tensor. */
const MAX_FINDINGS = 100

/** What is wrong with a GGUF file, as llama.cpp would see it; reads the header, and some rows of each tensor or all. */
export async function* validateGguf(
  folder: Folder,
  path: string,
  thorough: Thorough | null = null,
): AsyncGenerator<Finding, void, void> {
  let count = 0
  for await (const finding of allFindings(folder, path, thorough)) {
    if (count++ < MAX_FINDINGS) {
      yield finding
      continue
    }
    yield error('too-many-findings', `${path} has more than ${MAX_FINDINGS} findings; the rest is left out`, {
      file: path,
    })
    return
  }
}

function error(code: string, message: string, where: ErrorPlace, hint?: string): Finding {
  return { severity: 'error', code, message, where, ...(hint === undefined ? {} : { hint }) }
}

async function* allFindings(
  folder: Folder,
  path: string,
  thorough: Thorough | null,
): AsyncGenerator<Finding, void, void> {
  let source: Source | null = null
  try {
    const model = await readModel(folder, path)
    for (const [index, header] of model.headers.entries())
      yield* layoutFindings(header, model.files[index]?.path ?? path)
    yield* splitFindings(model, path)
    yield* await modelFindings(model, path)
    yield* tokenizerFindings(model, path)
    for (const [index, { tensors }] of model.headers.entries()) {
      const file = model.files[index]?.path ?? path
      source = await folder.open(file)
      for (const tensor of tensors) yield* await weightFindings(source, tensor, file, thorough)
      await source.close()
      source = null
    }
  } catch (thrown) {
    if (!(thrown instanceof AppError) || thrown.code === 'cancelled') throw thrown
    yield error(thrown.code, thrown.message, { file: path, ...thrown.where }, thrown.hint ?? undefined)
  } finally {
    await source?.close()
  }
}

/** What a model's keys and tensor infos say, of whichever file they are. */
export interface ModelHeader extends Pick<GgufHeader, 'metadata'> {
  readonly tensors: readonly (GgufTensor & { readonly file?: string })[]
}

/** What llama.cpp would refuse a model for, as far as its header tells. */
export async function headerFaults(header: ModelHeader): Promise<readonly Finding[]> {
  const findings = [...(await modelFindings(header, 'the model')), ...tokenizerFindings(header, 'the model')]
  return findings.filter(({ severity }) => severity === 'error')
}

/** llama.cpp reads how a model is split from keys of certain types, and stops without them. */
function* splitFindings({ headers, files }: GgufModel, path: string): Generator<Finding, void, void> {
  if (headers.length < 2) return
  for (const [index, { metadata, alignment }] of headers.entries()) {
    const where = { file: files[index]?.path ?? path }
    for (const [key, type] of SPLIT_TYPES) {
      const found = metadata.get(key)?.type
      if (found === undefined) yield error('missing-key', `${where.file} has no ${key}, which every part needs`, where)
      else if (found !== type) yield error('bad-split', `${key} is of the type ${found} instead of ${type}`, where)
    }
    if (index > 0 && alignment !== GGUF_ALIGNMENT) {
      const message = `${where.file} has the alignment ${alignment}; parts after the first have the usual one`
      yield { severity: 'warning', code: 'split-alignment', message, where }
    }
  }
}

const SPLIT_TYPES = [
  [SPLIT_KEYS.no, 'u16'],
  [SPLIT_KEYS.count, 'u16'],
  [SPLIT_KEYS.tensors, 'i32'],
] as const

/** llama.cpp wants each tensor right behind the one before, in the order of the infos. */
function* layoutFindings(header: GgufHeader, path: string): Generator<Finding, void, void> {
  let expected = header.dataOffset
  for (const { name, offset, size } of header.tensors) {
    if (offset !== expected) {
      const where = { file: path, tensor: name, offset }
      yield error('gap', `${name} lies at byte ${offset}, where llama.cpp expects it at ${expected}`, where)
    }
    expected = alignUp(offset + size, header.alignment)
  }
  if (header.fileSize === expected || header.tensors.length === 0) return
  const extra = header.fileSize - expected
  yield {
    severity: 'warning',
    code: extra > 0 ? 'trailing-bytes' : 'last-padding',
    message:
      extra > 0 ? `${extra} bytes follow the last tensor` : `The last tensor lacks ${-extra} bytes of its padding`,
    where: { file: path, offset: Math.min(expected, header.fileSize) },
  }
}

/** Divisors and bases: zero, negative or no number, they make every logit NaN. */
const POSITIVE_KEYS = ['rope.freq_base', 'rope.scaling.factor', 'rope.scaling.original_context_length'] as const

async function modelFindings(header: ModelHeader, path: string): Promise<readonly Finding[]> {
  const where = { file: path }
  const name = ggufString(header.metadata, 'general.architecture')
  if (name === null) return [error('missing-key', 'There is no general.architecture', where)]
  const findings: Finding[] = []
  const id = architectureIdOf(name, {
    gating: ggufNumber(header.metadata, `${name}.expert_gating_func`),
    experts: ggufNumber(header.metadata, `${name}.expert_count`),
    window: ggufNumber(header.metadata, `${name}.attention.sliding_window`),
    has: (tensor) => header.tensors.some((found) => found.name === tensor),
  })
  if (id === null) {
    const message = `The architecture ${name} is not known here: its tensors are not compared with what it needs`
    findings.push({ severity: 'info', code: 'unknown-architecture', message, where })
    return findings
  }
  for (const key of [...REQUIRED_KEYS, ...ggufArchitecture(id).epsilonKeys]) {
    if (ggufNumber(header.metadata, `${name}.${key}`) === null)
      findings.push(error('missing-key', `There is no number ${name}.${key}, which llama.cpp needs`, where))
  }
  for (const key of [...POSITIVE_KEYS, ...ggufArchitecture(id).epsilonKeys]) {
    const value = ggufNumber(header.metadata, `${name}.${key}`)
    if (value !== null && !(value > 0 && Number.isFinite(value)))
      findings.push(error('bad-key', `${name}.${key} is ${value}, which no computation can use`, where))
  }
  if (findings.length > 0) return findings
  return tensorFindings(header, await architectureFor(id, path), name, path)
}

function tensorFindings(header: ModelHeader, architecture: Architecture, prefix: string, path: string): Finding[] {
  const findings: Finding[] = []
  const required = configOf(header, prefix, [])
  const allowed = configOf(header, prefix, OPTIONAL_FLAGS)
  if (required === null || allowed === null) return findings
  const implausible = header.tensors.length === 0 ? null : implausibleCounts(required, header.tensors.length)
  if (implausible !== null) {
    const message = `The file's keys do not fit its tensors: ${implausible}`
    return [error('missing-tensor', message, { file: path }, 'The file is incomplete. Convert it again.')]
  }
  if (header.tensors.length === 0) {
    const message = 'The file holds no tensors: it is for programs that only tokenise'
    return [{ severity: 'warning', code: 'vocabulary-only', message, where: { file: path } }]
  }
  const found = new Map(header.tensors.map((tensor) => [tensor.name, tensor]))
  const target = ggufArchitecture(architecture.id)
  for (const { name, optional } of ggufTensors(target, architecture, required)) {
    if (optional || found.has(name)) continue
    const message = `There is no tensor ${name}, which ${prefix} models need`
    findings.push(error('missing-tensor', message, { file: path, tensor: name }))
  }
  const shapes = new Map(ggufTensors(target, architecture, allowed).map(({ name, shape }) => [name, shape]))
  for (const name of OPTIONAL_TENSORS) shapes.set(name, [(required.rope.dim ?? required.headDim) / 2])
  for (const { name, shape, offset, file = path } of header.tensors) {
    const expected = shapes.get(name)
    const where = { file, tensor: name, offset }
    if (expected === undefined)
      findings.push(
        error('extra-tensor', `${name} is no tensor of ${prefix} models; llama.cpp will not load it`, where),
      )
    else if (expected.join() !== shape.join()) {
      const message = `${name} has the shape [${shape.join(', ')}] instead of [${expected.join(', ')}]`
      findings.push(error('bad-tensor', message, where))
    }
  }
  return findings
}

async function weightFindings(
  source: Source,
  tensor: GgufTensor,
  path: string,
  thorough: Thorough | null,
): Promise<readonly Finding[]> {
  const { badOffset, allZero } =
    thorough === null ? await sampleTensor(source, tensor) : await scanTensor(source, tensor, thorough.signal)
  const { name, shape, type, offset } = tensor
  if (badOffset !== null) {
    const what = type.block === 1 ? 'value' : `scale of a ${type.name} block`
    const message = `${name} holds a ${what} that is NaN or infinite, at byte ${badOffset}`
    return [error('bad-weights', message, { file: path, tensor: name, offset: badOffset })]
  }
  if (!allZero || shape.length < 2) return []
  const message = `${name} looks empty: every row that was looked at holds zeros only`
  return [{ severity: 'warning', code: 'all-zero', message, where: { file: path, tensor: name, offset } }]
}
