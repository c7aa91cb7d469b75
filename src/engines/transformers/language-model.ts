/** The language model within a model of more than text: vision towers and projectors stand beside it. */
import { isObject, type Json, type JsonObject } from '../../core/json.ts'
import type { Finding } from '../../core/plan.ts'
import { tensorBytes } from '../../core/tensor.ts'
import type { StoredTensor, StoredWeights, Views } from '../containers/safetensors-files.ts'

/** By class: those of its `text_config`'s model types whose language model is the plain class of that type. */
const WRAPPERS: ReadonlyMap<string, readonly (readonly [modelType: string, className: string])[]> = new Map([
  ['Gemma3ForConditionalGeneration', [['gemma3_text', 'Gemma3ForCausalLM']]],
  ['Mistral3ForConditionalGeneration', [['mistral', 'MistralForCausalLM']]],
  [
    'LlavaForConditionalGeneration',
    [
      ['llama', 'LlamaForCausalLM'],
      ['mistral', 'MistralForCausalLM'],
      ['qwen2', 'Qwen2ForCausalLM'],
    ],
  ],
])

/** What a `text_config` leaves out because its class has it as a default, where the plain class asks for it. */
const DEFAULTS: ReadonlyMap<string, JsonObject> = new Map([
  [
    'gemma3_text',
    new Map<string, Json>([
      ['vocab_size', 262_208],
      ['hidden_size', 2304],
      ['intermediate_size', 9216],
      ['num_hidden_layers', 26],
      ['num_attention_heads', 8],
    ]),
  ],
  [
    'llama',
    new Map<string, Json>([
      ['vocab_size', 32_000],
      ['hidden_size', 4096],
      ['intermediate_size', 11_008],
      ['num_hidden_layers', 32],
      ['num_attention_heads', 32],
    ]),
  ],
])

/** What the whole model's configuration may say for its language model. */
const SHARED_KEYS = ['torch_dtype', 'dtype', 'bos_token_id', 'eos_token_id', 'pad_token_id', 'tie_word_embeddings']

/** How the whole model names its language model's tensors: since transformers 4.52, and before. */
const PREFIXES: readonly (readonly [prefix: string, own: string])[] = [
  ['model.language_model.', 'model.'],
  ['language_model.', ''],
]

/** The head, which stands outside of `model.language_model`. */
const HEAD = 'lm_head.weight'

/** The configuration of the language model within, as if it stood alone; the configuration itself if it is of text only. */
export function languageConfig(raw: JsonObject): JsonObject {
  const listed = raw.get('architectures')
  const [wrapper] = Array.isArray(listed) ? (listed as readonly Json[]) : []
  const types = typeof wrapper === 'string' ? WRAPPERS.get(wrapper) : undefined
  const text = raw.get('text_config')
  if (types === undefined || !isObject(text)) return raw
  // CLIP's older configurations leave it out: LlavaConfig takes Llama then
  const modelType = text.get('model_type') ?? (wrapper === 'LlavaForConditionalGeneration' ? 'llama' : null)
  const className = types.find(([type]) => type === modelType)?.[1]
  if (className === undefined || typeof modelType !== 'string') return raw
  const shared = SHARED_KEYS.flatMap((key): [string, Json][] => {
    const value = raw.get(key) ?? null
    return value === null ? [] : [[key, value]]
  })
  const said = [...text].filter(([, value]) => value !== null)
  return new Map<string, Json>([
    ...(DEFAULTS.get(modelType) ?? []),
    ...shared,
    ...said,
    ['architectures', [className]],
    ['model_type', modelType],
  ])
}

/** Whether a configuration is of more than text, with a language model that {@link languageConfig} finds. */
export function holdsLanguageModel(raw: JsonObject): boolean {
  return languageConfig(raw) !== raw
}

/** The weights of the language model under the names that it has alone, and what that leaves behind. */
export function languageWeights(stored: StoredWeights): {
  readonly own: StoredWeights
  readonly finding: Finding | null
} {
  const tensors = new Map<string, StoredTensor>()
  const views = new Map<string, NonNullable<ReturnType<Views['get']>>>()
  const left: [string, StoredTensor][] = []
  for (const [name, tensor] of stored.tensors) {
    const own = nameWithin(name)
    if (own === null) {
      left.push([name, tensor])
      continue
    }
    tensors.set(own, tensor)
    const view = stored.views.get(name)
    if (view !== undefined) views.set(own, view)
  }
  return { own: { ...stored, tensors, views }, finding: leftFinding(left) }
}

function nameWithin(name: string): string | null {
  if (name === HEAD) return name
  const found = PREFIXES.find(([prefix]) => name.startsWith(prefix))
  return found === undefined ? null : found[1] + name.slice(found[0].length)
}

function leftFinding(left: readonly (readonly [string, StoredTensor])[]): Finding | null {
  const [first] = left
  if (first === undefined) return null
  const mib = left.reduce((sum, [, tensor]) => sum + tensorBytes(tensor), 0) / 2 ** 20
  return {
    severity: 'warning',
    code: 'vision-left-out',
    message: `${left.length} tensors (${mib.toFixed(1)} MiB), ${first[0]} the first, are of no language model, but see images. HuggingFace and safetensors keep them; other formats, and models that are changed on the way, do not`,
  }
}
