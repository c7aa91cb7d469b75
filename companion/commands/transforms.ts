import { existsSync } from 'node:fs'
import { AppError } from '../../src/core/errors.ts'
import type { AdapterChoice, Transforms } from '../../src/core/transform.ts'
import { DEFAULT_FAKE } from '../../src/models/fake.ts'
import { inputPlace, type Flags, type FlagSpec } from '../arguments.ts'
import { textFile, textOrFile } from './option-files.ts'

/** Flags that say what else belongs to a model. */
export const SOURCE_FLAGS: readonly FlagSpec[] = [
  {
    name: 'adapter',
    value: 'PATH[=WEIGHT]',
    many: true,
    help: 'merge a LoRA adapter into the model, times a weight (1). Can be given several times',
  },
  { name: 'base', value: 'PATH', help: 'the base model of INPUT, where that is a LoRA adapter' },
  {
    name: 'hf-config',
    value: 'FILE|JSON',
    help: 'the config.json of a Megatron checkpoint, for what its own files do not say',
  },
]

/** Flags of what is done to a model before it is written. */
export const TRANSFORM_FLAGS: readonly FlagSpec[] = [
  ...SOURCE_FLAGS,
  {
    name: 'mup2llama',
    help: 'fold the multipliers of a muP model (MiniCPM, Granite) into the weights of a plain Llama',
  },
  { name: 'keep-tied', help: 'with --mup2llama: keep the head tied to the embedding' },
  { name: 'force', help: 'with --mup2llama: fold a Llama that has only some of the keys of MiniCPM too' },
  { name: 'fake-weight', help: 'make the weights up, from config.json alone: random numbers, the same everywhere' },
  {
    name: 'fake-weight-config',
    value: 'FILE|JSON|YAML',
    help: 'what says seed, distribution, type and shapes of made-up weights: JSON or YAML',
  },
]

/** Larger than any list of tensors with their shapes. */
const MAX_FAKE_CONFIG_BYTES = 1 << 26

/** What the flags ask for. Throws `bad-option`, and what reading their files throws. */
export async function transformsOf(flags: Flags): Promise<Transforms> {
  const file = flags.get('fake-weight-config')
  const fake = flags.has('fake-weight') || file !== undefined
  const config = flags.get('hf-config')
  const base = flags.get('base')
  const adapters = adaptersOf(flags)
  return {
    ...(typeof config === 'string' ? { hfConfig: await textOrFile(config) } : {}),
    ...(typeof base === 'string' ? { base: inputPlace(base) } : {}),
    ...(adapters.length === 0 ? {} : { adapters }),
    mup2llama: flags.has('mup2llama'),
    keepTied: flags.has('keep-tied'),
    forceMup: flags.has('force'),
    ...(fake ? { fakeWeights: DEFAULT_FAKE } : {}),
    ...(typeof file === 'string'
      ? { fakeConfig: await textFile(file, MAX_FAKE_CONFIG_BYTES, '--fake-weight-config') }
      : {}),
  }
}

/** `PATH`, or `PATH=WEIGHT` where nothing has that whole name. */
function adaptersOf(flags: Flags): readonly AdapterChoice[] {
  const given = flags.get('adapter')
  return (Array.isArray(given) ? given : []).map((text: string) => {
    const [, path, number] = /^(.+)=([-+\d.eE]+)$/.exec(text) ?? []
    if (path === undefined || existsSync(text)) return { place: inputPlace(text), weight: 1 }
    const weight = Number(number)
    if (Number.isFinite(weight) && weight !== 0) return { place: inputPlace(path), weight }
    throw new AppError('bad-option', `--adapter cannot be ${JSON.stringify(text)}`, {
      hint: 'A weight is a number other than 0, such as 0.5.',
    })
  })
}
