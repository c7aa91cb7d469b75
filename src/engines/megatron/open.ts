import { readFile, type Folder } from '../../core/bytes.ts'
import type { Checkpoint, ModelConfig, Role } from '../../core/checkpoint.ts'
import type { DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import { editJson, isArray, isObject, parseJson, parseJsonObject, type Json, type JsonObject } from '../../core/json.ts'
import type { Finding } from '../../core/plan.ts'
import { affine, cast, slice, type Recipe } from '../../core/tensor.ts'
import type { Architecture } from '../../models/architecture.ts'
import { readTorchFile, torchRecipe } from '../containers/torch.ts'
import { architectureOf, normalizeConfig } from '../transformers/config.ts'
import { CONFIG_FILE, type ModelFiles } from '../transformers/files.ts'
import { commonType, MAX_CONFIG_BYTES, outlineOf } from '../transformers/outline.ts'
import { configFromArgs, requireAgreement } from './config.ts'
import { readDist } from './dist.ts'
import { findMegatron, type MegatronFolder } from './files.ts'
import { slotsOf, takeApart, type Slot } from './layout.ts'
import { canonicalName, isState, layerOf } from './names.ts'
import type { Args } from './pickled.ts'
import { readRanks } from './ranks.ts'
import { fileOf, type MegatronWeights, type StoredPart } from './stored.ts'

/** What kernels convert from. */
const WEIGHT_TYPES: ReadonlySet<DType> = new Set(['f32', 'f16', 'bf16'])
/** The largest tokenizer.json has some 35 MB. */
const MAX_TOKENIZER_BYTES = 1 << 26

/** What a configuration that was given is called. */
const HF_CONFIG = '--hf-config'

/** A checkpoint, and what it was made from. */
export interface LoadedMegatron {
  readonly checkpoint: Checkpoint
  readonly found: MegatronFolder
  readonly weights: MegatronWeights
}

/** Opens a folder: reads pickles and headers, and no weights. `hfConfig` is the text of a config.json. */
export async function loadMegatron(folder: Folder, hfConfig: string | null = null): Promise<LoadedMegatron> {
  const found = await findMegatron(folder)
  if (found === null) {
    throw new AppError('not-a-model', `${folder.name} holds no Megatron checkpoint`, {
      hint: 'Open the folder with latest_checkpointed_iteration.txt, or the one of an iteration.',
    })
  }
  const weights = await readWeights(folder, found)
  const findings: Finding[] = []
  const given = await givenConfig(folder, found, hfConfig)
  if (given === null && weights.args.size === 0) {
    const file = weights.argsFile
    throw new AppError('missing-file', `The arguments of the run, which ${file} has, are not there`, {
      where: { file },
      hint: 'Copy it, or give the config.json of the model with --hf-config.',
    })
  }
  const observed = {
    tensors: weights.tensors,
    tokens: given === null ? await countTokens(folder, found) : null,
    file: weights.argsFile,
  }
  const raw = given?.json ?? configFromArgs(weights.args, observed, findings)
  const file = given?.file ?? weights.argsFile
  const architecture = await architectureOf(raw, file)
  const normalized = normalizeConfig(raw, file, architecture)
  if (given !== null) requireAgreement(normalized.config, weights.args, weights.argsFile, given.file)
  const roles = assign(weights, architecture, normalized.config, findings)
  const config = normalized.dtypeDeclared ? normalized.config : { ...normalized.config, dtype: commonType(roles) }
  const beside = given !== null && given.file !== HF_CONFIG ? [given.file] : []
  const outline = await outlineOf(folder, modelFiles(found), architecture, config, [...weights.files, ...beside])
  const checkpoint: Checkpoint = {
    ...outline,
    format: 'megatron',
    config: given === null ? withTokens(outline.config, outline.tokenizer) : outline.config,
    tensors: roles,
    findings: [
      ...(given === null ? [assumed(normalized.config)] : []),
      ...normalized.findings,
      ...findings,
      ...outline.findings,
    ],
  }
  return { checkpoint, found, weights }
}

async function readWeights(folder: Folder, { weights, dir }: MegatronFolder): Promise<MegatronWeights> {
  switch (weights.kind) {
    case 'ranks':
      return readRanks(folder, weights.files)
    case 'dist':
      return readDist(folder, dir, weights.metadata)
    case 'single': {
      const args: Args = parseJsonObject(await readFile(folder, weights.metadata, MAX_CONFIG_BYTES), weights.metadata)
      const source = await folder.open(weights.path)
      try {
        const parts: StoredPart[] = []
        for (const tensor of (await readTorchFile(source)).tensors) {
          if (isState(tensor.name)) continue
          parts.push({ name: tensor.name, recipe: torchRecipe({ ...tensor, file: weights.path }) })
        }
        return {
          // all are whole, whatever was the layout of the run
          tensors: new Map(parts.map(({ name, recipe }) => [canonicalName(name), recipe])),
          args,
          files: [weights.path, weights.metadata],
          argsFile: weights.metadata,
          parts,
          copies: [],
        }
      } finally {
        await source.close()
      }
    }
  }
}

/** The config.json that was given, or that lies beside the checkpoint. */
async function givenConfig(
  folder: Folder,
  { root, dir, files }: MegatronFolder,
  text: string | null,
): Promise<{ readonly json: JsonObject; readonly file: string } | null> {
  if (text !== null) {
    const json = parseJson(text, HF_CONFIG)
    if (isObject(json)) return { json, file: HF_CONFIG }
    throw new AppError('bad-option', '--hf-config is not a JSON object', { hint: 'Give the config.json of the model.' })
  }
  const path = [dir + CONFIG_FILE, root + CONFIG_FILE].find((candidate) => files.has(candidate.slice(root.length)))
  if (path === undefined) return null
  return { json: parseJsonObject(await readFile(folder, path, MAX_CONFIG_BYTES), path), file: path }
}

function modelFiles({ root, files }: MegatronFolder): ModelFiles {
  return { root, files, hasConfig: false, weights: null }
}

/** One more than the highest id of tokenizer.json; null if there is none. */
async function countTokens(folder: Folder, { root, files }: MegatronFolder): Promise<number | null> {
  if (!files.has('tokenizer.json')) return null
  const path = `${root}tokenizer.json`
  const json = parseJsonObject(await readFile(folder, path, MAX_TOKENIZER_BYTES), path)
  const model = json.get('model')
  const vocabulary = isObject(model) ? model.get('vocab') : undefined
  const added = json.get('added_tokens')
  let count = isArray(vocabulary) ? vocabulary.length : 0
  const see = (id: Json | undefined): void => {
    if (typeof id === 'number' && Number.isSafeInteger(id)) count = Math.max(count, id + 1)
  }
  if (isObject(vocabulary)) for (const id of vocabulary.values()) see(id)
  if (isArray(added)) for (const token of added) if (isObject(token)) see(token.get('id'))
  return count === 0 ? null : count
}

/** Arguments name no special tokens: those of the tokenizer are taken. */
function withTokens(config: ModelConfig, tokenizer: Checkpoint['tokenizer']): ModelConfig {
  if (tokenizer === null) return config
  const { bos, eos, pad } = tokenizer.ids
  const raw = editJson(
    config.raw,
    new Map<string, Json | undefined>([
      ['bos_token_id', bos],
      ['eos_token_id', eos],
      ['pad_token_id', pad],
    ]),
  )
  return { ...config, bosId: bos, eosIds: eos === null ? [] : [eos], padId: pad, raw }
}

function assumed({ className }: ModelConfig): Finding {
  return {
    severity: 'info',
    code: 'config-assumed',
    message: `By its arguments this is ${className}. They do not tell it from models with the same tensors, and know neither sliding windows nor scales`,
    hint: 'Give the config.json of the model with --hf-config if it is another.',
  }
}

const HEAD = 'output_layer.weight'
const LISTED = 4

/** Tensors by role. Throws `missing-tensor` and `bad-tensor`. */
function assign(
  { tensors, args, argsFile }: MegatronWeights,
  architecture: Architecture,
  config: ModelConfig,
  findings: Finding[],
): ReadonlyMap<Role, Recipe> {
  const roles = new Map<Role, Recipe>()
  const slots = slotsOf(architecture, config)
  const missing = slots.filter(({ name }) => !tensors.has(name))
  const [first] = missing
  if (first !== undefined) {
    const names = missing.slice(0, LISTED).map(({ name }) => name)
    const rest = missing.length - names.length
    throw new AppError(
      'missing-tensor',
      `The checkpoint lacks ${names.join(', ')}${rest > 0 ? ` and ${rest} more` : ''}`,
      {
        where: { file: neighbourOf(first.name, tensors) ?? argsFile, tensor: first.name },
        hint: `${config.className} needs them: copy all files of one iteration, or give the right config.json with --hf-config.`,
      },
    )
  }
  for (const slot of slots) {
    const stored = tensors.get(slot.name)
    if (stored === undefined) continue
    const recipe = fitted(slot, centred(stored, slot, args), args, argsFile)
    for (const [role, part] of takeApart(slot, recipe, config)) roles.set(role, part)
  }
  const used = new Set([...slots.map(({ name }) => name), HEAD])
  const ignored = [...tensors.keys()].filter((name) => !used.has(name))
  const [odd] = ignored
  if (odd !== undefined) {
    findings.push({
      severity: 'warning',
      code: 'tensor-ignored',
      message: `${config.className} has no place for ${ignored.slice(0, LISTED).join(', ')}${ignored.length > LISTED ? ` and ${ignored.length - LISTED} more` : ''}: left out`,
      where: { file: fileOf(tensors.get(odd)) ?? argsFile, tensor: odd },
    })
  }
  return roles
}

/** A file where a tensor that is missing should be: one that has others of its layer. */
function neighbourOf(name: string, tensors: ReadonlyMap<string, Recipe>): string | null {
  const layer = layerOf(name)
  for (const [other, recipe] of tensors) if (layerOf(other) === layer) return fileOf(recipe)
  return null
}

/** Norms that are stored as their difference from 1. */
function centred(recipe: Recipe, { name }: Slot, args: Args): Recipe {
  if (args.get('apply_layernorm_1p') !== true || !name.endsWith('layernorm.weight')) return recipe
  return cast(affine(recipe, 1, 1), recipe.dtype)
}

/** A tensor without the rows that pad it, once it is known to have the right shape. */
function fitted({ name, shape, vocabulary }: Slot, recipe: Recipe, args: Args, file: string): Recipe {
  const [rows = 0, ...rest] = shape
  const [found = 0, ...others] = recipe.shape
  const fail = (why: string): AppError =>
    new AppError('bad-tensor', `${name} is [${recipe.shape.join(', ')}], ${why}`, {
      where: { file: fileOf(recipe) ?? file, tensor: name },
      hint: 'The arguments, or the config.json, are of another model or of another parallel layout.',
    })
  if (!WEIGHT_TYPES.has(recipe.dtype)) {
    throw new AppError('unsupported', `${name} is ${recipe.dtype}, which is not converted`, {
      where: { file: fileOf(recipe) ?? file, tensor: name },
      hint: 'Save the weights as float32, float16 or bfloat16.',
    })
  }
  const whole = vocabulary ? found >= rows : found === rows
  if (!whole || rest.join() !== others.join()) throw fail(`where the model has [${shape.join(', ')}]`)
  if (!vocabulary) return recipe
  const padded = args.get('padded_vocab_size')
  if (typeof padded === 'number' && padded !== found) throw fail(`but padded_vocab_size is ${padded}`)
  return slice(recipe, 0, 0, rows)
}
