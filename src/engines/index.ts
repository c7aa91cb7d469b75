import type { Engine, FormatId } from './engine.ts'

/** One line a format: an engine is loaded when it is first needed. */
const ENGINES: ReadonlyMap<FormatId, () => Promise<Engine>> = new Map([
  ['huggingface', async () => (await import('./hf/engine.ts')).huggingface],
  ['safetensors', async () => (await import('./safetensors/engine.ts')).safetensors],
  ['gguf', async () => (await import('./gguf/engine.ts')).gguf],
  ['mlx', async () => (await import('./mlx/engine.ts')).mlx],
  ['megatron', async () => (await import('./megatron/engine.ts')).megatron],
] satisfies [FormatId, () => Promise<Engine>][])

/** Short names that people type. */
const ALIASES: ReadonlyMap<string, FormatId> = new Map([['hf', 'huggingface']])

/** The ids of all engines, in the order they are shown. */
export function formatIds(): readonly FormatId[] {
  return [...ENGINES.keys()]
}

/** The id behind a name as typed; null if there is no such engine. */
export function formatId(name: string): FormatId | null {
  const lower = name.toLowerCase()
  const alias = ALIASES.get(lower)
  return alias ?? formatIds().find((id) => id === lower) ?? null
}

/** Loads one engine. */
export async function loadEngine(id: FormatId): Promise<Engine> {
  const load = ENGINES.get(id)
  if (load === undefined) throw new RangeError(`no engine ${id}`)
  return load()
}
