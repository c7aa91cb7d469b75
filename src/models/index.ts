import { AppError } from '../core/errors.ts'
import type { Architecture } from './architecture.ts'

/** One line a family: its class names, headless class and model types, and where its description is. */
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
]

interface Family {
  readonly names: readonly string[]
  readonly load: () => Promise<Architecture>
}

/** Every class name that can be converted, for `formats` and for messages. */
export function supportedClassNames(): readonly string[] {
  return FAMILIES.flatMap((family) => family.names.filter((name) => name.includes('For')))
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
