import { AppError } from '../../../core/errors.ts'
import { bert, distilbert } from './bert.ts'
import { cohere, cohere2 } from './cohere.ts'
import type { GgufArchitecture } from './contract.ts'
import { deepseek } from './deepseek.ts'
import { gemma, gemma2, gemma3 } from './gemma.ts'
import { glm, glm4 } from './glm.ts'
import { gpt2 } from './gpt2.ts'
import { gptOss } from './gpt-oss.ts'
import {
  arcee,
  ernie4_5,
  granite,
  granitemoe,
  hunyuan,
  llama,
  minicpm,
  mixtral,
  olmoe,
  qwen2,
  qwen2moe,
  qwen3,
  qwen3moe,
  seedOss,
} from './llama.ts'
import { gptNeox, phi, stablelm, starcoder2 } from './layer-norms.ts'
import { phi3 } from './phi3.ts'
import { exaone4, olmo2, olmo3 } from './post-norms.ts'
import { smollm3 } from './smollm3.ts'
import { t5 } from './t5.ts'

/** By id of our architecture. */
const ARCHITECTURES: ReadonlyMap<string, GgufArchitecture> = new Map([
  ['llama', llama],
  ['mistral', llama],
  ['mixtral', mixtral],
  ['qwen2', qwen2],
  ['qwen3', qwen3],
  ['qwen2moe', qwen2moe],
  ['qwen3moe', qwen3moe],
  ['gemma', gemma],
  ['gemma2', gemma2],
  ['gemma3', gemma3],
  ['olmo2', olmo2],
  ['olmo3', olmo3],
  ['smollm3', smollm3],
  ['exaone4', exaone4],
  ['seed_oss', seedOss],
  ['ernie4_5', ernie4_5],
  ['glm', glm],
  ['glm4', glm4],
  ['cohere', cohere],
  ['cohere2', cohere2],
  ['hunyuan', hunyuan],
  ['arcee', arcee],
  ['phi3', phi3],
  ['gpt2', gpt2],
  ['bert', bert],
  ['distilbert', distilbert],
  ['t5', t5],
  ['minicpm', minicpm],
  ['granite', granite],
  ['gpt_oss', gptOss],
  ['olmoe', olmoe],
  ['granitemoe', granitemoe],
  ['deepseek_v2', deepseek],
  ['starcoder2', starcoder2],
  ['phi', phi],
  ['gpt_neox', gptNeox],
  ['stablelm', stablelm],
  ['deepseek_v3', deepseek],
])

/** What BERT has and DistilBERT lacks. */
const TOKEN_TYPES = 'token_types.weight'

/** Why an architecture cannot be GGUF, or null if it can. */
export function refusesArchitecture(id: string): string | null {
  return ARCHITECTURES.has(id) ? null : 'not run by llama.cpp'
}

/** Throws `unsupported` for an architecture that GGUF does not cover. */
export function ggufArchitecture(id: string): GgufArchitecture {
  const found = ARCHITECTURES.get(id)
  if (found !== undefined) return found
  throw new AppError('unsupported', `${id} models cannot be GGUF: llama.cpp does not run them`, {
    hint: `These can: ${[...ARCHITECTURES.keys()].join(', ')}.`,
  })
}

/** What tells architectures of one name from each other. */
export interface GgufTraits {
  /** `expert_count` */
  readonly experts?: number | null
  /** `attention.sliding_window` */
  readonly window?: number | null
  /** `expert_gating_func` */
  readonly gating?: number | null
  readonly has?: (tensor: string) => boolean
}

/** llama.cpp's number of sigmoid scores. */
const SIGMOID = 2

/**
 * The id of our architecture for a `general.architecture`; null if none has that name. llama.cpp's llama
 * with experts is Mixtral, its olmo2 with windows OLMo 3, its deepseek2 with sigmoid scores V3, and its bert without token types DistilBERT.
 */
export function architectureIdOf(
  ggufName: string,
  { experts = null, window = null, gating = null, has }: GgufTraits = {},
): string | null {
  if (ggufName === mixtral.name && experts !== null && experts > 0) return 'mixtral'
  if (ggufName === deepseek.name && gating === SIGMOID) return 'deepseek_v3'
  if (ggufName === olmo3.name && window !== null && window > 0) return 'olmo3'
  if (ggufName === distilbert.name && has?.(TOKEN_TYPES) === false) return 'distilbert'
  for (const [id, { name }] of ARCHITECTURES) if (name === ggufName) return id
  return null
}

/** The ids of all our architectures with this `general.architecture`: llama.cpp has one name for Llama and Mistral. */
export function architectureIdsOf(ggufName: string): readonly string[] {
  return [...ARCHITECTURES].flatMap(([id, { name }]) => (name === ggufName ? [id] : []))
}
