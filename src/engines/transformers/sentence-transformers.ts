/** The files of sentence-transformers, which say how a text's tokens become one vector. */
import { readFile, type Folder } from '../../core/bytes.ts'
import type { ModelConfig } from '../../core/checkpoint.ts'
import { isArray, isObject, parseJson, parseJsonObject, type Json, type JsonObject } from '../../core/json.ts'
import type { Finding } from '../../core/plan.ts'
import type { ModelFiles } from './files.ts'

const MODULES = 'modules.json'
const CONFIG = '1_Pooling/config.json'
/** They list a handful of modules, or of flags. */
const MAX_BYTES = 1 << 20

type Pooling = NonNullable<ModelConfig['pooling']>

/** By the flag of older versions; newer ones name the mode, with the same words. */
const MODES: readonly (readonly [flag: string, mode: string, pooling: Pooling])[] = [
  ['pooling_mode_mean_tokens', 'mean', 'mean'],
  ['pooling_mode_cls_token', 'cls', 'cls'],
  ['pooling_mode_lasttoken', 'lasttoken', 'last'],
]
const OTHER_FLAGS = ['pooling_mode_max_tokens', 'pooling_mode_mean_sqrt_len_tokens', 'pooling_mode_weightedmean_tokens']

/** How a folder's model pools; absent if it is no model of sentence-transformers, or pools in a way that has no name here. */
export interface PoolingFound {
  readonly pooling?: Pooling
  readonly findings: readonly Finding[]
}

/** Reads `modules.json` and the configuration of the pooling that it names. */
export async function readPooling(folder: Folder, { root, files }: ModelFiles): Promise<PoolingFound> {
  if (!files.has(MODULES)) return { findings: [] }
  const bytes = await readFile(folder, root + MODULES, MAX_BYTES)
  const modules = parseJson(new TextDecoder().decode(bytes), root + MODULES)
  const listed = isArray(modules) ? modules.filter((module) => isObject(module)) : []
  const pooling = listed.find((module) => typeOf(module).endsWith('Pooling'))
  const path = `${String(pooling?.get('path') ?? '')}/config.json`
  if (pooling === undefined || !files.has(path)) return { findings: [] }
  const json = parseJsonObject(await readFile(folder, root + path, MAX_BYTES), root + path)
  const found = poolingOf(json)
  const findings: Finding[] = []
  if (found === null) {
    findings.push({
      severity: 'warning',
      code: 'pooling',
      message: `The model pools its tokens in a way that only sentence-transformers knows (${path}). It is left to the program that runs the output`,
      where: { file: root + path },
    })
  }
  const dense = listed.filter((module) => typeOf(module).endsWith('Dense')).length
  if (dense > 0) {
    findings.push({
      severity: 'warning',
      code: 'dense-modules',
      message: `${dense} linear ${dense === 1 ? 'layer' : 'layers'} after the pooling (${MODULES}) ${dense === 1 ? 'is' : 'are'} not converted: the output gives the vectors before`,
      where: { file: root + MODULES },
    })
  }
  return found === null ? { findings } : { pooling: found, findings }
}

function typeOf(module: JsonObject): string {
  return String(module.get('type') ?? '')
}

/** Null for several at once, and for those without a name here. */
function poolingOf(json: JsonObject): Pooling | null {
  if (OTHER_FLAGS.some((flag) => json.get(flag) === true)) return null
  const found = MODES.filter(([flag, mode]) => json.get(flag) === true || json.get('pooling_mode') === mode)
  return found.length === 1 && found[0] !== undefined ? found[0][2] : null
}

/** The two files for a model that pools in this way, as sentence-transformers 3 reads them. */
export function poolingFiles(pooling: Pooling, hiddenSize: number): ReadonlyMap<string, Json> {
  const module = (idx: number, path: string, type: string): Json =>
    new Map<string, Json>([
      ['idx', idx],
      ['name', String(idx)],
      ['path', path],
      ['type', `sentence_transformers.models.${type}`],
    ])
  const flags = MODES.map(([flag, , mode]): [string, Json] => [flag, mode === pooling])
  return new Map<string, Json>([
    [MODULES, [module(0, '', 'Transformer'), module(1, '1_Pooling', 'Pooling')]],
    [
      CONFIG,
      new Map<string, Json>([
        ['word_embedding_dimension', hiddenSize],
        ...flags,
        ...OTHER_FLAGS.map((flag): [string, Json] => [flag, false]),
      ]),
    ],
  ])
}
