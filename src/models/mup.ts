/**
 * muP models as plain Llamas: the multipliers of embeddings, residuals, attention scores and logits go into the weights,
 * exactly. With x0 = s_e E, x += s_r f(norm(x)) and logits = W norm(x) / s_l, the folded model has E' = s_e E,
 * o' = s_r o, down' = s_r down and W' = W / s_l; scores scaled by m in place of 1 / sqrt(d) give q' = m sqrt(d) q.
 * Sources: modeling_minicpm.py and modeling_granite.py.
 */
import type { Checkpoint, ModelConfig, Role } from '../core/checkpoint.ts'
import { AppError } from '../core/errors.ts'
import type { Json, JsonObject } from '../core/json.ts'
import type { Finding } from '../core/plan.ts'
import { affine, type Recipe } from '../core/tensor.ts'
import { llama, numberAt } from './llama.ts'
import { MINICPM_DEFAULTS, minicpmScales } from './minicpm.ts'

/** How a fold treats a head that is the embedding. */
export interface FoldOptions {
  /**
   * Keep the head tied, with the final norm taking up what head and embedding disagree in: no memory more, the same
   * logits. False: the head becomes a tensor of its own.
   */
  readonly keepTied: boolean
  /** Fold a Llama that has only some of MiniCPM's keys too: those it lacks are what MiniCPM's class takes for them. */
  readonly force?: boolean
}

/** The four multipliers of a model. */
export interface MupScales {
  /** Of embeddings. */
  readonly embedding: number
  /** Of each block's two outputs. */
  readonly residual: number
  /** Of the query, so that scores scaled by 1 / sqrt(headDim) are what they were. */
  readonly query: number
  /** What logits are divided by. */
  readonly logits: number
}

/** The keys of config.json that make a MiniCPM one. */
const MINICPM_KEYS = ['scale_emb', 'scale_depth', 'dim_model_base'] as const
const GRANITE_KEYS = ['embedding_multiplier', 'residual_multiplier', 'attention_multiplier', 'logits_scaling'] as const

/** What a Llama's config has no place for. */
const DROPPED: ReadonlySet<string> = new Set([
  ...MINICPM_KEYS,
  ...GRANITE_KEYS,
  'mup_denominator',
  'auto_map',
  'sparse_config',
])

/** Says that a config was folded, and with what. */
const FOLDED_KEY = 'mup_folded'

const EMBEDDING: Role = 'embed.weight'
const HEAD: Role = 'lm_head.weight'
const FINAL_NORM: Role = 'final_norm.weight'
const RESIDUAL = /^blocks\.\d+\.(?:attn\.o|mlp\.down)\.(?:weight|bias)$/
const QUERY = /^blocks\.\d+\.attn\.q\.(?:weight|bias)$/

/** The families whose folded form is a Llama, by architecture. */
const FAMILIES: ReadonlySet<string> = new Set(['minicpm', 'granite'])

/** Why a model cannot become a Llama though it is of muP, by `model_type`. */
const REFUSED: readonly { readonly type: RegExp; readonly why: string }[] = [
  { type: /^minicpm3/, why: 'its attention is compressed (MLA), which a Llama has no tensors for' },
  { type: /^granitemoe/, why: 'it has experts, which a Llama has not' },
  { type: /^(?:btlm|cerebras|jais)/, why: 'its blocks are those of GPT-2, not of a Llama' },
  { type: /^falcon_h1/, why: 'its blocks are not those of a Llama' },
  { type: /^cohere/, why: 'its blocks run attention and MLP side by side, which a Llama does not' },
]

/**
 * A muP model (MiniCPM, Granite) as a Llama with the same logits. Scaled tensors are in f32, rounded once. Throws
 * `bad-option` for a model that is not of muP or was folded before, `unsupported` for one whose blocks are no Llama's,
 * `malformed` where multipliers are no positive numbers.
 */
export function foldMup(checkpoint: Checkpoint, options: FoldOptions = { keepTied: false }): Checkpoint {
  const { config } = checkpoint
  const scales = mupScales(checkpoint, options.force === true)
  const keepTied = config.tied && options.keepTied
  const tensors = new Map<Role, Recipe>()
  const kept = new Map(checkpoint.kept)
  const factors: number[] = []
  const scaled = (role: Role, recipe: Recipe, factor: number): void => {
    if (factor !== 1) {
      factors.push(factor)
      kept.delete(role)
    }
    tensors.set(role, factor === 1 ? recipe : affine(recipe, factor))
  }
  const embedding = checkpoint.tensors.get(EMBEDDING)
  for (const [role, recipe] of checkpoint.tensors) {
    if (role === EMBEDDING) scaled(role, recipe, scales.embedding)
    else if (role === HEAD) scaled(role, recipe, 1 / scales.logits)
    else if (role === FINAL_NORM && keepTied) scaled(role, recipe, 1 / (scales.logits * scales.embedding))
    else if (RESIDUAL.test(role)) scaled(role, recipe, scales.residual)
    else if (QUERY.test(role)) scaled(role, recipe, scales.query)
    else tensors.set(role, recipe)
  }
  // the head is made of the embedding as it was: the scaled one would be off by s_e
  if (config.tied && !keepTied && embedding !== undefined) scaled(HEAD, embedding, 1 / scales.logits)
  return {
    ...checkpoint,
    architecture: llama.id,
    config: llamaConfig(config, scales, keepTied),
    tensors,
    kept,
    findings: [
      ...checkpoint.findings,
      ...findingsOf(checkpoint, scales, keepTied, factors),
      ...(options.keepTied && !keepTied ? [neverTied()] : []),
    ],
  }
}

/** Whether a model can be folded: as it is, only if that is insisted on, or not; `because` says why not. */
export interface MupVerdict {
  readonly folds: 'yes' | 'forced' | 'no'
  readonly because: string | null
}

/** What {@link foldMup} would say to a checkpoint. */
export function mupVerdict(checkpoint: Checkpoint): MupVerdict {
  const because = refusal(checkpoint, false)
  if (because === null) return { folds: 'yes', because }
  return { folds: refusal(checkpoint, true) === null ? 'forced' : 'no', because }
}

function refusal(checkpoint: Checkpoint, force: boolean): string | null {
  try {
    mupScales(checkpoint, force)
    return null
  } catch (error) {
    return AppError.from(error).message
  }
}

/** The multipliers of a checkpoint. Throws as {@link foldMup}. */
export function mupScales({ architecture, config: given }: Checkpoint, force = false): MupScales {
  const config = architecture === llama.id ? asMinicpm(given, force) : given
  const { raw, modelType, className } = config
  if (raw.has(FOLDED_KEY)) {
    throw new AppError('bad-option', 'The multipliers of this model were folded into its weights before', {
      where: { file: 'config.json' },
      hint: 'It is a plain Llama already: convert it without --mup2llama.',
    })
  }
  const refused = REFUSED.find(({ type }) => type.test(modelType))
  if (refused !== undefined) {
    throw new AppError('unsupported', `${className} cannot become a Llama: ${refused.why}`, {
      hint: 'Convert it without --mup2llama.',
    })
  }
  if (!FAMILIES.has(architecture) && config === given) throw notMup(config, architecture === llama.id)
  if (config.experts !== undefined) {
    throw new AppError('unsupported', `${className} with experts cannot become a Llama`, {
      hint: 'Convert it without --mup2llama.',
    })
  }
  const scales: MupScales = {
    embedding: config.embeddingScale ?? 1,
    residual: config.residualScale ?? 1,
    query: (config.attentionScale ?? 1 / Math.sqrt(config.headDim)) * Math.sqrt(config.headDim),
    logits: config.logitDivisor ?? 1,
  }
  for (const [name, value] of Object.entries(scales)) {
    if (Number.isFinite(value) && value > 0) continue
    throw new AppError('malformed', `The multiplier of ${name} in config.json comes to ${value}`, {
      where: { file: 'config.json' },
      hint: 'Compare it with the config.json that the model was published with.',
    })
  }
  return scales
}

/**
 * A Llama with MiniCPM's three keys is a MiniCPM under another name: its own class does not know them. With only some of
 * them it is one if that is insisted on.
 */
function asMinicpm(config: ModelConfig, force: boolean): ModelConfig {
  const { raw, hiddenSize, layers } = config
  const present = MINICPM_KEYS.filter((key) => numberAt(raw, key) !== null)
  if (present.length < (force ? 1 : MINICPM_KEYS.length) || raw.has(FOLDED_KEY)) return config
  return { ...config, ...minicpmScales(raw, hiddenSize, layers) }
}

/** A model of another family: none, or one that only has some of the keys, which nobody can interpret. */
function notMup({ raw, className }: ModelConfig, isLlama: boolean): AppError {
  const present = [...MINICPM_KEYS, ...GRANITE_KEYS].filter((key) => raw.has(key))
  if (present.length === 0) {
    return new AppError('bad-option', `${className} is not a muP model: there is nothing to fold`, {
      where: { file: 'config.json' },
      hint: 'Convert it without --mup2llama. Models that are: MiniCPM, Granite.',
    })
  }
  return new AppError('unsupported', `${className} has ${present.join(', ')}, but is not known to use muP`, {
    where: { file: 'config.json' },
    hint: isLlama
      ? `Name the right class in config.json, or take the keys for MiniCPM's with --force: what is missing then counts as its class has it (${MINICPM_KEYS.map((key) => `${key} ${MINICPM_DEFAULTS[key]}`).join(', ')}).`
      : 'Convert it without --mup2llama, or name the right class in config.json. Models of muP: MiniCPM, Granite.',
  })
}

function llamaConfig(config: ModelConfig, scales: MupScales, tied: boolean): ModelConfig {
  const { embeddingScale: _e, residualScale: _r, attentionScale: _a, logitDivisor: _l, ...plain } = config
  const className = llama.classNames[0] ?? 'LlamaForCausalLM'
  const modelType = llama.modelTypes[0] ?? 'llama'
  const raw = new Map<string, Json>([...config.raw].filter(([key]) => !DROPPED.has(key)))
  // of another format than HuggingFace's: whoever writes a config.json makes it of all that is known
  if (!raw.has('architectures') && !raw.has('model_type')) {
    raw.set(FOLDED_KEY, new Map<string, Json>([['from', config.modelType], ...Object.entries(scales)]))
    return { ...plain, className, modelType, tied, raw }
  }
  raw.set('architectures', [className])
  raw.set('model_type', modelType)
  raw.set('tie_word_embeddings', tied)
  raw.set(FOLDED_KEY, new Map<string, Json>([['from', config.modelType], ...Object.entries(scales)]))
  // Llama's class has other defaults than MiniCPM's: what was left out is said
  const said: readonly (readonly [string, Json])[] = [
    ['rms_norm_eps', config.normEpsilon],
    ['max_position_embeddings', config.contextLength],
    ['num_key_value_heads', config.kvHeads],
    ['hidden_act', config.activation],
  ]
  for (const [key, value] of said) if ((raw.get(key) ?? null) === null) raw.set(key, value)
  if (!raw.has('rope_parameters') && !raw.has('rope_theta')) raw.set('rope_theta', config.rope.theta)
  return { ...plain, className, modelType, tied, raw: raw satisfies JsonObject }
}

function neverTied(): Finding {
  return {
    severity: 'info',
    code: 'mup-never-tied',
    message: 'Head and embedding of this model are two tensors, and stay so: there is no tie to be kept',
  }
}

function findingsOf(
  { architecture, config, tensors }: Checkpoint,
  scales: MupScales,
  keepTied: boolean,
  factors: readonly number[],
): readonly Finding[] {
  const { embedding, residual, query, logits } = scales
  const shown = [embedding, residual, query, 1 / logits].map((value) => Number(value.toPrecision(6))).join(', ')
  const findings: Finding[] = [
    {
      severity: 'info',
      code: 'mup-folded',
      message:
        factors.length === 0
          ? `${config.className} has neutral multipliers: it only changes its name to LlamaForCausalLM`
          : `Folded into the weights: embeddings, residuals, queries and head times ${shown}`,
    },
  ]
  if (architecture === llama.id) {
    const assumed = MINICPM_KEYS.filter((key) => numberAt(config.raw, key) === null)
    findings.push({
      severity: 'warning',
      code: 'mup-assumed',
      message:
        `${config.className} has MiniCPM's keys, which its own class does not know: it is taken for a MiniCPM` +
        (assumed.length === 0
          ? ''
          : `, with ${assumed.map((key) => `${key} ${MINICPM_DEFAULTS[key]}`).join(', ')} as its class has them`),
    })
  }
  if (config.tied && !keepTied) {
    findings.push({
      severity: 'info',
      code: 'mup-untied',
      message: `Head and embedding are scaled differently, so the head becomes a tensor of its own, of ${config.vocabSize} x ${config.hiddenSize} weights`,
    })
  }
  const type = tensors.get(EMBEDDING)?.dtype
  if (type !== undefined && type !== 'f32' && factors.some((factor) => !isPowerOfTwo(factor))) {
    findings.push({
      severity: 'info',
      code: 'mup-rounding',
      message: `The scaled weights were ${type}; stored as such again, each is rounded once more. In F32 nothing is lost`,
    })
  }
  if (config.raw.has('sparse_config')) {
    findings.push({
      severity: 'warning',
      code: 'mup-sparse',
      message: 'The sparse attention of this model (sparse_config) is left out: long texts give other results',
    })
  }
  return findings
}

function isPowerOfTwo(value: number): boolean {
  let rest = value
  while (rest > 1) rest /= 2
  while (rest < 1) rest *= 2
  return rest === 1
}
