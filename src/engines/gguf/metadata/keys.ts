import type { Checkpoint, ModelConfig, RopeScaling } from '../../../core/checkpoint.ts'
import { AppError } from '../../../core/errors.ts'
import { log, pow } from '../../../core/math.ts'
import type { Finding } from '../../../core/plan.ts'
import type { GgufNumberType, GgufValue } from '../../containers/gguf/types.ts'
import type { Mix } from '../weights/mixes.ts'
import type { GgufArchitecture } from '../arch/contract.ts'

/** ggml's version of its quantised formats. */
const QUANTIZATION_VERSION = 2

/** Of `modelconvert.recipe`: raised when the same input and options give other bytes. */
const RECIPE_VERSION = 1

/** A string value. */
export function text(value: string): GgufValue {
  return { type: 'string', value }
}

/** A value of a fixed-size number type. Throws `unsupported` if a count does not fit. */
export function numeric(type: GgufNumberType, value: number, key: string): GgufValue {
  const integer = type !== 'f32' && type !== 'f64'
  if (!Number.isFinite(value) || (integer && !(Number.isInteger(value) && value >= 0 && value <= 0xffff_ffff))) {
    throw new AppError('unsupported', `GGUF cannot hold ${value} as ${key}`, {
      hint: 'Check this value in config.json.',
    })
  }
  return { type, value }
}

/** Tokens that llama.cpp looks up, and stops if one is not there, in every model whose name has phi-3 or phi3 in it. */
const PHI3_TOKENS = ['</s>', '<unk>', '<s>', '<|endoftext|>']

/** A model's name, spelled so that llama.cpp does not take it for what it is not. */
function harmlessName(name: string, { tokenizer }: Checkpoint): string {
  if (!/phi-?3/i.test(name) || tokenizer === null) return name
  const texts = new Set(tokenizer.tokens.map(({ text: token }) => token))
  return PHI3_TOKENS.every((token) => texts.has(token)) ? name : name.replaceAll(/(phi)-?(3)/gi, '$1 $2')
}

/** The `general.*` keys and those of the architecture, in llama.cpp's order. `about` is the model's authorship, `rotary` whether heads turn. */
export function modelMetadata(
  checkpoint: Checkpoint,
  architecture: GgufArchitecture,
  mix: Mix,
  about: ReadonlyMap<string, GgufValue>,
  rotary: boolean,
): Map<string, GgufValue> {
  const { config } = checkpoint
  const metadata = new Map<string, GgufValue>([
    ['general.architecture', text(architecture.name)],
    ['general.type', text('model')],
    ...about,
  ])
  const name = about.get('general.name')
  if (name?.type === 'string') metadata.set('general.name', text(harmlessName(name.value, checkpoint)))
  const set = (type: GgufNumberType, key: string, value: number): void => {
    const full = `${architecture.name}.${key}`
    metadata.set(full, numeric(type, value, full))
  }
  set('u32', 'block_count', config.layers)
  set('u32', 'context_length', config.contextLength)
  set('u32', 'embedding_length', config.hiddenSize)
  set('u32', 'feed_forward_length', config.intermediateSize)
  set('u32', 'attention.head_count', config.heads)
  set('u32', 'attention.head_count_kv', config.kvHeads)
  set('u32', 'attention.key_length', config.headDim)
  set('u32', 'attention.value_length', config.headDim)
  for (const key of architecture.epsilonKeys) set('f32', key, config.normEpsilon)
  if (rotary) {
    set('f32', 'rope.freq_base', raisedBase(config))
    set('u32', 'rope.dimension_count', config.rope.dim ?? config.headDim)
    setRopeScaling(config.rope.scaling, architecture.name, metadata, set)
  }
  set('u32', 'vocab_size', config.vocabSize)
  for (const [key, value] of architecture.keys?.(config) ?? []) {
    const full = key.replace('{arch}', architecture.name)
    const isNumber = value.type === 'u32' || value.type === 'f32'
    metadata.set(full, isNumber ? numeric(value.type, value.value, full) : value)
  }
  const pooling = `${architecture.name}.pooling_type`
  if (config.pooling !== undefined && !metadata.has(pooling))
    metadata.set(pooling, { type: 'u32', value: POOLING[config.pooling] })
  metadata.set('general.file_type', numeric('u32', mix.fileType, 'general.file_type'))
  metadata.set('general.quantization_version', numeric('u32', QUANTIZATION_VERSION, 'general.quantization_version'))
  return metadata
}

/** The rotary base, which some models raise for long contexts. */
function raisedBase({ rope, headDim }: ModelConfig): number {
  const { theta, scaling, dim = headDim } = rope
  return scaling.kind === 'alpha' ? theta * pow(scaling.alpha, dim / (dim - 2)) : theta
}

/** llama.cpp's numbers of the ways to make one vector of a text. */
export const POOLING = { mean: 1, cls: 2, last: 3 } as const

function setRopeScaling(
  scaling: RopeScaling,
  prefix: string,
  metadata: Map<string, GgufValue>,
  set: (type: GgufNumberType, key: string, value: number) => void,
): void {
  // llama3 is a tensor, rope_freqs.weight, and alpha lies in the base
  if (scaling.kind === 'none' || scaling.kind === 'llama3' || scaling.kind === 'alpha') return
  metadata.set(`${prefix}.rope.scaling.type`, text(scaling.kind))
  if (scaling.kind === 'longrope') {
    // the divisors are tensors
    set('u32', 'rope.scaling.original_context_length', scaling.originalContext)
    set('f32', 'rope.scaling.attn_factor', scaling.attentionFactor)
    return
  }
  set('f32', 'rope.scaling.factor', scaling.factor)
  if (scaling.kind === 'linear') return
  set('u32', 'rope.scaling.original_context_length', scaling.originalContext)
  // llama.cpp multiplies its own 1 + ln(factor) / 10 by this; HuggingFace's attention_factor replaces that term
  if (scaling.attentionFactor !== null)
    set('f32', 'rope.scaling.attn_factor', scaling.attentionFactor / (1 + 0.1 * log(scaling.factor)))
  if (scaling.betaFast !== null) set('f32', 'rope.scaling.yarn_beta_fast', scaling.betaFast)
  if (scaling.betaSlow !== null) set('f32', 'rope.scaling.yarn_beta_slow', scaling.betaSlow)
}

/** llama.cpp's own values, which its llama and qwen loaders do not let a file change. */
const YARN_BETA_FAST = 32
const YARN_BETA_SLOW = 1

/** What of a configuration the runtime will not honour. */
export function configFindings(config: ModelConfig, architecture: GgufArchitecture): readonly Finding[] {
  const findings: Finding[] = []
  if (config.slidingWindow !== null && config.slidingWindow < config.contextLength && architecture.ignoresWindow) {
    findings.push({
      severity: 'warning',
      code: 'window-ignored',
      message:
        `The model attends to the last ${config.slidingWindow} tokens; llama.cpp has no such window for ` +
        `${architecture.name} models and attends to all`,
      hint: `Answers agree up to ${config.slidingWindow} tokens of context.`,
    })
  }
  const { scaling } = config.rope
  if (
    scaling.kind === 'yarn' &&
    ((scaling.betaFast ?? YARN_BETA_FAST) !== YARN_BETA_FAST || (scaling.betaSlow ?? YARN_BETA_SLOW) !== YARN_BETA_SLOW)
  ) {
    findings.push({
      severity: 'warning',
      code: 'yarn-beta-ignored',
      message: `llama.cpp uses beta_fast ${YARN_BETA_FAST} and beta_slow ${YARN_BETA_SLOW} whatever the model says`,
      hint: 'Long contexts may come out slightly differently.',
    })
  }
  if (scaling.kind === 'yarn' && scaling.truncate === false) {
    findings.push({
      severity: 'info',
      code: 'yarn-truncate-ignored',
      message: 'The model does not round the bounds of its YaRN (truncate false); llama.cpp always does',
      hint: 'Logits differ a little from those of transformers, as with every GGUF file of such a model.',
    })
  }
  return findings
}

/** How the file was made, for whoever finds it: no date and no path, so that the same input gives the same bytes. */
export function provenance(checkpoint: Checkpoint, mix: Mix): GgufValue {
  return text(
    JSON.stringify({
      version: RECIPE_VERSION,
      from: checkpoint.format,
      class: checkpoint.config.className,
      to: 'gguf',
      quant: mix.id,
    }),
  )
}
