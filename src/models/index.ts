import { AppError } from '../core/errors.ts'
import type { Architecture } from './architecture.ts'

/** One line a family: its class names, headless class, model types and last its id, and where its description is. */
const FAMILIES: readonly Family[] = [
  {
    names: ['LlamaForCausalLM', 'LLaMAForCausalLM', 'LlamaModel', 'llama'],
    load: async () => (await import('./llama.ts')).llama,
  },
  {
    names: ['MistralForCausalLM', 'MistralModel', 'mistral'],
    load: async () => (await import('./mistral.ts')).mistral,
  },
  { names: ['Qwen2ForCausalLM', 'Qwen2Model', 'qwen2'], load: async () => (await import('./qwen2.ts')).qwen2 },
  { names: ['Qwen3ForCausalLM', 'Qwen3Model', 'qwen3'], load: async () => (await import('./qwen3.ts')).qwen3 },
  {
    names: ['MixtralForCausalLM', 'MixtralModel', 'mixtral'],
    load: async () => (await import('./mixtral.ts')).mixtral,
  },
  {
    names: ['Qwen2MoeForCausalLM', 'Qwen2MoeModel', 'qwen2_moe', 'qwen2moe'],
    load: async () => (await import('./qwen-moe.ts')).qwen2moe,
  },
  {
    names: ['Qwen3MoeForCausalLM', 'Qwen3MoeModel', 'qwen3_moe', 'qwen3moe'],
    load: async () => (await import('./qwen-moe.ts')).qwen3moe,
  },
  { names: ['Gemma2ForCausalLM', 'Gemma2Model', 'gemma2'], load: async () => (await import('./gemma2.ts')).gemma2 },
  { names: ['GemmaForCausalLM', 'GemmaModel', 'gemma'], load: async () => (await import('./gemma.ts')).gemma },
  {
    names: ['Gemma3ForCausalLM', 'Gemma3TextModel', 'gemma3_text', 'gemma3'],
    load: async () => (await import('./gemma3.ts')).gemma3,
  },
  { names: ['Olmo2ForCausalLM', 'Olmo2Model', 'olmo2'], load: async () => (await import('./olmo2.ts')).olmo2 },
  { names: ['Olmo3ForCausalLM', 'Olmo3Model', 'olmo3'], load: async () => (await import('./olmo2.ts')).olmo3 },
  {
    names: ['SmolLM3ForCausalLM', 'SmolLM3Model', 'smollm3'],
    load: async () => (await import('./smollm3.ts')).smollm3,
  },
  {
    names: ['Exaone4ForCausalLM', 'Exaone4Model', 'exaone4'],
    load: async () => (await import('./exaone4.ts')).exaone4,
  },
  {
    names: ['SeedOssForCausalLM', 'SeedOssModel', 'seed_oss'],
    load: async () => (await import('./seed-oss.ts')).seedOss,
  },
  {
    names: ['Ernie4_5ForCausalLM', 'Ernie4_5_ForCausalLM', 'Ernie4_5Model', 'ernie4_5'],
    load: async () => (await import('./ernie4-5.ts')).ernie4_5,
  },
  { names: ['GlmForCausalLM', 'GlmModel', 'glm'], load: async () => (await import('./glm.ts')).glm },
  { names: ['Glm4ForCausalLM', 'Glm4Model', 'glm4'], load: async () => (await import('./glm.ts')).glm4 },
  { names: ['CohereForCausalLM', 'CohereModel', 'cohere'], load: async () => (await import('./cohere.ts')).cohere },
  { names: ['Cohere2ForCausalLM', 'Cohere2Model', 'cohere2'], load: async () => (await import('./cohere.ts')).cohere2 },
  {
    names: ['HunYuanDenseV1ForCausalLM', 'HunYuanDenseV1Model', 'hunyuan_v1_dense', 'hunyuan'],
    load: async () => (await import('./hunyuan.ts')).hunyuan,
  },
  { names: ['ArceeForCausalLM', 'ArceeModel', 'arcee'], load: async () => (await import('./arcee.ts')).arcee },
  { names: ['Phi3ForCausalLM', 'Phi3Model', 'phi3'], load: async () => (await import('./phi3.ts')).phi3 },
  { names: ['GPT2LMHeadModel', 'GPT2Model', 'gpt2'], load: async () => (await import('./gpt2.ts')).gpt2 },
  {
    names: ['BertModel', 'BertForSequenceClassification', 'BertForMaskedLM', 'bert'],
    load: async () => (await import('./bert.ts')).bert,
  },
  {
    names: ['DistilBertModel', 'DistilBertForSequenceClassification', 'DistilBertForMaskedLM', 'distilbert'],
    load: async () => (await import('./distilbert.ts')).distilbert,
  },
  { names: ['OPTForCausalLM', 'OPTModel', 'opt'], load: async () => (await import('./opt.ts')).opt },
  {
    names: ['T5ForConditionalGeneration', 'T5WithLMHeadModel', 't5'],
    load: async () => (await import('./t5.ts')).t5,
  },
  {
    names: ['MiniCPMForCausalLM', 'MiniCPMModel', 'minicpm'],
    load: async () => (await import('./minicpm.ts')).minicpm,
  },
  {
    names: ['GraniteForCausalLM', 'GraniteModel', 'granite'],
    load: async () => (await import('./granite.ts')).granite,
  },
  {
    names: ['GptOssForCausalLM', 'GptOssModel', 'gpt_oss'],
    load: async () => (await import('./gpt-oss.ts')).gptOss,
  },
  { names: ['OlmoeForCausalLM', 'OlmoeModel', 'olmoe'], load: async () => (await import('./olmoe.ts')).olmoe },
  {
    names: ['GraniteMoeForCausalLM', 'GraniteMoeModel', 'granitemoe'],
    load: async () => (await import('./granitemoe.ts')).granitemoe,
  },
  {
    names: ['DeepseekV2ForCausalLM', 'DeepseekV2Model', 'deepseek_v2'],
    load: async () => (await import('./deepseek.ts')).deepseekV2,
  },
  {
    names: ['DeepseekV3ForCausalLM', 'DeepseekV3Model', 'deepseek_v3'],
    load: async () => (await import('./deepseek.ts')).deepseekV3,
  },
  {
    names: ['Starcoder2ForCausalLM', 'Starcoder2Model', 'starcoder2'],
    load: async () => (await import('./starcoder2.ts')).starcoder2,
  },
  { names: ['PhiForCausalLM', 'PhiModel', 'phi'], load: async () => (await import('./phi.ts')).phi },
  {
    names: ['GPTNeoXForCausalLM', 'GPTNeoXModel', 'gpt_neox'],
    load: async () => (await import('./gpt-neox.ts')).gptNeox,
  },
  {
    names: ['StableLmForCausalLM', 'StableLMEpochForCausalLM', 'StableLmModel', 'stablelm_epoch', 'stablelm'],
    load: async () => (await import('./stablelm.ts')).stablelm,
  },
]

interface Family {
  readonly names: readonly string[]
  readonly load: () => Promise<Architecture>
}

/** Every class name that can be converted, for `formats` and for messages. */
export function supportedClassNames(): readonly string[] {
  return FAMILIES.flatMap(({ names }) => names.filter(hasHead))
}

/** The id of every architecture that is described, with its class names, the usual one first. */
export function supportedArchitectures(): readonly { readonly id: string; readonly classNames: readonly string[] }[] {
  return FAMILIES.map(({ names }) => ({
    id: names.at(-1) ?? '',
    classNames: names.filter((name, at) => at === 0 || hasHead(name)),
  }))
}

function hasHead(className: string): boolean {
  return /For|LMHead/.test(className)
}

/** Whether there is a description of a class name, a `model_type` or an architecture id. */
export function isKnownArchitecture(name: string): boolean {
  return FAMILIES.some((family) => family.names.includes(name))
}

/** The description of a class name, a `model_type` or an architecture id. Throws `unsupported`, naming it. */
export async function architectureFor(name: string, file: string): Promise<Architecture> {
  const family = FAMILIES.find((candidate) => candidate.names.includes(name))
  if (family !== undefined) return family.load()
  throw new AppError('unsupported', `The architecture ${name} is not supported yet`, {
    where: { file },
    hint: `These are: ${supportedClassNames().join(', ')}.`,
  })
}
