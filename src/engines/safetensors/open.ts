import type { Folder } from '../../core/bytes.ts'
import { NO_ARCHITECTURE, NO_CONFIG, type Checkpoint, type Role } from '../../core/checkpoint.ts'
import type { DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import type { Finding } from '../../core/plan.ts'
import { read, transpose, type Recipe } from '../../core/tensor.ts'
import { expectedTensors } from '../../models/architecture.ts'
import { recogniseModel, type RecognisedModel } from '../../models/recognise.ts'
import { isExtra } from '../containers/extras.ts'
import { readStoredWeights, readWeightSet, type StoredWeights } from '../containers/safetensors-files.ts'
import { findTensorFiles, requireWholeSet, type TensorFiles } from './files.ts'

/** What weights are read as; a model of other types is none that is known here. */
const WEIGHT_TYPES: ReadonlySet<DType> = new Set(['f32', 'f16', 'bf16'])

/** Files and their headers. */
export interface LoadedTensors {
  readonly found: TensorFiles
  readonly stored: StoredWeights
}

/** Reads the headers of a folder's safetensors files. Throws `not-a-model`, `missing-file`, and what headers do. */
export async function loadTensors(folder: Folder): Promise<LoadedTensors> {
  const found = await findTensorFiles(folder)
  if (found === null) {
    throw new AppError('not-a-model', `${folder.name} holds no safetensors files of its own`, {
      hint: 'Open a .safetensors file, or a folder of shards.',
    })
  }
  const { root, weights } = found
  if (weights.kind !== 'set') return { found, stored: await readStoredWeights(folder, found, weights) }
  requireWholeSet(weights.paths, folder.name)
  const paths = weights.paths.map((path) => root + path)
  return { found, stored: await readWeightSet(folder, paths) }
}

/** Opens bare tensors: as the model that they are found to be, or as no more than names and shapes. */
export async function openTensors(folder: Folder): Promise<Checkpoint> {
  const { found, stored } = await loadTensors(folder)
  const { root, files } = found
  const extras = [...files.keys()].filter(isExtra)
  const sources = [...stored.files, ...extras.map((path) => root + path)].flatMap((path) => {
    const entry = files.get(path.slice(root.length))
    return entry === undefined ? [] : [{ path, size: entry.size, modified: entry.modified }]
  })
  const plain = [...stored.tensors.values()].every(({ dtype }) => WEIGHT_TYPES.has(dtype))
  const model = plain ? await recogniseModel(stored.tensors) : null
  const named = model === null ? unnamed(stored) : byRoles(stored, model)
  return {
    format: 'safetensors',
    name: nameOf(folder, root),
    architecture: model?.architecture.id ?? NO_ARCHITECTURE,
    config: model?.config ?? NO_CONFIG,
    tokenizer: null,
    ...named,
    extras: new Map(
      extras.map((path): [string, Recipe] => {
        const size = files.get(path)?.size ?? 0
        return [path, read({ dtype: 'u8', shape: [size] }, root + path, 0)]
      }),
    ),
    sources,
    findings: [...stored.findings, ...(model === null ? [unknownModel()] : foundModel(model))],
  }
}

function nameOf(folder: Folder, root: string): string {
  const name = root === '' ? folder.name : (root.split('/').at(-2) ?? folder.name)
  return name.replace(/\.safetensors$/i, '')
}

type Named = Pick<Checkpoint, 'tensors' | 'stored'>

/** Each tensor under its own name. */
function unnamed({ tensors, metadata }: StoredWeights): Named {
  return { tensors, stored: { names: new Map([...tensors.keys()].map((name) => [name, name])), metadata } }
}

/** Tensors by role; what the model does not use (buffers) stays under its own name. */
function byRoles({ tensors, metadata }: StoredWeights, { architecture, config, names }: RecognisedModel): Named {
  const byRole = new Map<Role, Recipe>()
  const used = new Set<string>()
  const spelled = new Map(names)
  for (const { role, transposed } of expectedTensors(architecture, config)) {
    const name = names.get(role)
    const tensor = name === undefined ? undefined : tensors.get(name)
    if (name === undefined || tensor === undefined) continue
    byRole.set(role, transposed ? transpose(tensor) : tensor)
    used.add(name)
  }
  for (const [name, tensor] of tensors) {
    if (used.has(name)) continue
    byRole.set(`stored:${name}`, tensor)
    spelled.set(`stored:${name}`, name)
  }
  return { tensors: byRole, stored: { names: spelled, metadata } }
}

const GIVE_CONFIG =
  'Put the config.json of the model beside the weights, or give it with --config when converting to HuggingFace.'

function unknownModel(): Finding {
  return {
    severity: 'warning',
    code: 'architecture-unknown',
    message:
      'The names and shapes of the tensors are of no model known here: they can be cast and split, but not become another format',
    hint: GIVE_CONFIG,
  }
}

function foundModel({ config, alike, assumed }: RecognisedModel): readonly Finding[] {
  const others = alike.length > 0 ? ` (models of ${alike.join(', ')} have the same tensors)` : ''
  return [
    {
      severity: 'info',
      code: 'architecture-found',
      message:
        `By names and shapes this is ${config.className}${others}: ${config.layers} layers of ${config.hiddenSize} ` +
        `channels, ${config.intermediateSize} in the MLP, a vocabulary of ${config.vocabSize}`,
    },
    {
      severity: 'warning',
      code: 'config-assumed',
      message: `Weights do not say everything. It is assumed that ${assumed.join('; ')}`,
      hint: GIVE_CONFIG,
    },
  ]
}
