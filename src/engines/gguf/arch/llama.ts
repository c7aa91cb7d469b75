import type { ModelConfig } from '../../../core/checkpoint.ts'
import type { GgufValue } from '../../containers/gguf/types.ts'
import { f32, RMS, u32, type GgufArchitecture } from './contract.ts'
import { stretchRefused } from './shared.ts'

/** What a router's loader asks for. */
function expertKeys({ experts }: ModelConfig): readonly (readonly [string, GgufValue])[] {
  if (experts === undefined) return []
  const keys: (readonly [string, GgufValue])[] = [
    ['{arch}.expert_count', u32(experts.count)],
    ['{arch}.expert_used_count', u32(experts.used)],
  ]
  return keys
}

/** The keys of experts that say how wide they are. */
export function expertWidthKeys(config: ModelConfig): readonly (readonly [string, GgufValue])[] {
  const { experts } = config
  if (experts === undefined) return []
  const shared = experts.sharedIntermediateSize
  return [
    ...expertKeys(config),
    ['{arch}.expert_feed_forward_length', u32(experts.intermediateSize)],
    ...(shared === undefined ? [] : [['{arch}.expert_shared_feed_forward_length', u32(shared)] as const]),
  ]
}

/** Llama and Mistral, which has no name of its own in llama.cpp. */
export const llama: GgufArchitecture = {
  name: 'llama',
  interleavedRotary: true,
  ignoresWindow: true,
  epsilonKeys: RMS,
}

/** Mixtral: Llama with experts. */
export const mixtral: GgufArchitecture = { ...llama, keys: expertKeys }

export const qwen2: GgufArchitecture = {
  name: 'qwen2',
  interleavedRotary: false,
  ignoresWindow: true,
  epsilonKeys: RMS,
}

export const qwen3: GgufArchitecture = { ...qwen2, name: 'qwen3' }

export const qwen2moe: GgufArchitecture = {
  ...qwen2,
  name: 'qwen2moe',
  keys: expertWidthKeys,
  // a vector here, a matrix of one row there
  transforms: [
    {
      role: /\.mlp\.shared_gate\.weight$/,
      steps: (c) => [{ kind: 'reshape', from: [1, c.hiddenSize], to: [c.hiddenSize] }],
    },
  ],
}

export const qwen3moe: GgufArchitecture = { ...qwen2, name: 'qwen3moe', keys: expertWidthKeys }

/** The scales of muP models, which minicpm's and granite's graphs apply. */
function scaleKeys(config: ModelConfig): readonly (readonly [string, GgufValue])[] {
  return [
    ['{arch}.embedding_scale', f32(config.embeddingScale ?? 1)],
    ['{arch}.residual_scale', f32(config.residualScale ?? 1)],
    ['{arch}.logit_scale', f32(config.logitDivisor ?? 1)],
  ]
}

export const minicpm: GgufArchitecture = { ...llama, name: 'minicpm', keys: scaleKeys }

export const granite: GgufArchitecture = {
  ...llama,
  name: 'granite',
  keys: (config) => [
    ...scaleKeys(config),
    ['{arch}.attention.scale', f32(config.attentionScale ?? 1 / Math.sqrt(config.headDim))],
  ],
}

/** Seed-OSS: the norm before the MLP has another name. */
export const seedOss: GgufArchitecture = {
  ...qwen2,
  name: 'seed_oss',
  names: { 'blocks.{i}.mlp_norm': 'blk.{i}.post_attention_norm' },
  refuses: stretchRefused,
}

/** ERNIE 4.5, dense, whose heads turn neighbouring channels on both sides. */
export const ernie4_5: GgufArchitecture = { ...llama, name: 'ernie4_5', refuses: stretchRefused }

/** Hunyuan, dense: its raised rotary base is the file's. */
export const hunyuan: GgufArchitecture = {
  ...qwen2,
  name: 'hunyuan-dense',
  refuses: (config) => stretchRefused(config, ['linear', 'yarn', 'alpha']),
}

/** Arcee's AFM, whose MLP has no gate. */
export const arcee: GgufArchitecture = { ...llama, name: 'arcee' }

/** OLMoE: the width of an expert is that of the MLP. */
export const olmoe: GgufArchitecture = { ...qwen2, name: 'olmoe', keys: expertKeys }

/** Granite with experts. */
export const granitemoe: GgufArchitecture = {
  ...granite,
  name: 'granitemoe',
  keys: (config) => [...(granite.keys?.(config) ?? []), ...expertKeys(config)],
}
