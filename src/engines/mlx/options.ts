import { AppError } from '../../core/errors.ts'
import { isObject, parseJson } from '../../core/json.ts'
import type { Choice, OptionSpec, OptionValues } from '../../core/option.ts'
import { SHARD_OPTION } from '../containers/shards.ts'
import type { MlxModel, MlxTensor } from './names.ts'
import { GROUPS, MODES, parseQuantization, sameQuant, type MlxQuant, type Quantization } from './quantization.ts'

/** Low and high bits of a recipe that gives some layers more. */
interface Recipe {
  readonly low: number
  readonly high: number
}

type Quant = Choice & {
  /** Null for weights as they are. */
  readonly base: MlxQuant | null
  readonly recipe?: Recipe
}

const affine = (bits: number): MlxQuant => ({ ...MODES.affine, bits })

function bitsChoice(bits: number, help: string): Quant {
  return { value: `${bits}bit`, title: `${bits}-bit`, help, base: affine(bits) }
}

function mixed(low: number, high: number, help: string): Quant {
  const value = `mixed_${low}_${high}`
  return { value, title: `${low}/${high}-bit mix`, help, base: affine(MODES.affine.bits), recipe: { low, high } }
}

/** What `--quant` offers; the first is the default. */
const QUANTS: readonly Quant[] = [
  { ...bitsChoice(4, 'The usual choice: a quarter of the size, close to the original.'), featured: true },
  { ...bitsChoice(8, 'Hardly to be told from the original.'), featured: true },
  { ...bitsChoice(6, 'Near the 8-bit model in quality, a quarter smaller.'), featured: true },
  bitsChoice(5, 'Between 4 and 6 bits.'),
  bitsChoice(3, 'Small, with a loss that shows.'),
  bitsChoice(2, 'The smallest; small models fall apart.'),
  mixed(4, 6, '4 bits, and 6 for the layers that suffer most.'),
  mixed(3, 6, '3 bits, and 6 for the layers that suffer most.'),
  mixed(3, 4, '3 bits, and 4 for the layers that suffer most.'),
  mixed(2, 6, '2 bits, and 6 for the layers that suffer most.'),
  { value: 'mxfp4', title: 'MXFP4', help: 'Microscaling floats of 4 bits (the OCP standard).', base: MODES.mxfp4 },
  { value: 'mxfp8', title: 'MXFP8', help: 'Microscaling floats of 8 bits (the OCP standard).', base: MODES.mxfp8 },
  { value: 'nvfp4', title: 'NVFP4', help: 'NVIDIA’s floats of 4 bits, in groups of 16.', base: MODES.nvfp4 },
  { value: 'none', title: 'Unquantised', help: 'The weights as they are, under MLX’s names.', base: null },
]

const AUTO = 'auto'

/** What `convert` takes. */
export const OPTIONS: readonly OptionSpec[] = [
  {
    name: 'quant',
    title: 'Weights',
    help: 'How the weights are stored: fewer bits make a smaller and faster model that is a little less exact.',
    kind: {
      kind: 'choice',
      choices: QUANTS.map(({ value, title, help, featured }) => ({
        value,
        title,
        help,
        ...(featured === true ? { featured } : {}),
      })),
      default: '4bit',
    },
  },
  {
    name: 'group-size',
    title: 'Group size',
    help: 'How many weights share a scale: smaller groups are more exact and take more room.',
    kind: {
      kind: 'choice',
      choices: [
        { value: AUTO, title: 'Usual', help: '64, or what the mode of the weights asks for.' },
        { value: '32', title: '32', help: 'More exact; 0.5 bits more for each weight.' },
        { value: '64', title: '64', help: 'The usual size.' },
        { value: '128', title: '128', help: 'Smaller; 0.25 bits less for each weight.' },
      ],
      default: AUTO,
    },
  },
  {
    name: 'dtype',
    title: 'Other tensors',
    help: 'The type of what is not quantised, and of scales.',
    kind: {
      kind: 'choice',
      choices: [
        { value: AUTO, title: 'As the model', help: 'The type that config.json names, as mlx-lm takes it.' },
        { value: 'bf16', title: 'BF16', help: 'The range of F32 in two bytes.' },
        { value: 'f16', title: 'F16', help: 'Finer than BF16, and faster before the M3; beyond 65504 is an error.' },
        { value: 'f32', title: 'F32', help: 'Four bytes, exact.' },
      ],
      default: AUTO,
    },
  },
  {
    name: 'quant-config',
    title: 'Layers by name',
    help: 'JSON as the "quantization" of an MLX config.json: bits and group_size of single modules, or false.',
    kind: { kind: 'text', default: null, file: true },
  },
  // mlx-lm's own limit
  { ...SHARD_OPTION, kind: { kind: 'text', default: '5GiB' } },
]

/** `--dtype` if it names one. */
export function dtypeChoice(options: OptionValues): 'bf16' | 'f16' | 'f32' | null {
  const value = options['dtype']
  return value === 'bf16' || value === 'f16' || value === 'f32' ? value : null
}

/** What a conversion does to each module. */
export interface Quantizer {
  /** For config.json; null where nothing is quantised. */
  readonly quantization: Quantization | null
  /** Null for a module that stays as it is. */
  of(tensor: MlxTensor): MlxQuant | null
}

/** What the options say of this model. Throws `bad-option` for what contradicts itself or names no module. */
export function quantizerFor(model: MlxModel, layers: number, options: OptionValues): Quantizer {
  const quant = QUANTS.find(({ value }) => value === (options['quant'] ?? '4bit'))
  if (quant === undefined) throw new AppError('bad-option', `--quant cannot be ${JSON.stringify(options['quant'])}`)
  const given = configOption(options, model)
  const base = given?.all ?? (quant.base === null ? null : withGroup(quant.base, options['group-size']))
  if (base === null) return { quantization: null, of: () => null }
  const matrices = model.tensors.filter(({ matrix }) => matrix)
  const fits = ({ shape }: MlxTensor, { group }: MlxQuant): boolean => (shape.at(-1) ?? 0) % group === 0
  const modules = new Map<string, MlxQuant | boolean>(given?.modules)
  const wish = quant.recipe === undefined || given !== null ? null : mixer(quant.recipe, base, layers, matrices)
  for (const tensor of matrices) {
    const own = modules.get(tensor.module)
    if (own !== undefined) {
      requireFit(tensor, own === true ? base : own)
      continue
    }
    const wanted = wish === null ? sensitiveQuant(model, tensor) : wish(tensor.module)
    // mlx-lm asks whether a row is whole groups of the model's size before it asks for the module's own
    if (wanted !== null && fits(tensor, base) && fits(tensor, wanted)) modules.set(tensor.module, wanted)
  }
  const quantization = { all: base, modules }
  return {
    quantization,
    of(tensor) {
      if (!tensor.matrix) return null
      const own = modules.get(tensor.module) ?? true
      const chosen = own === true ? base : own
      return chosen !== false && fits(tensor, chosen) ? chosen : null
    },
  }
}

function requireFit({ module, shape }: MlxTensor, quant: MlxQuant | false): void {
  const columns = shape.at(-1) ?? 0
  if (quant === false || columns % quant.group === 0) return
  throw new AppError(
    'bad-option',
    `--quant-config gives ${module} groups of ${quant.group}; its rows have ${columns}`,
    {
      where: { tensor: `${module}.weight` },
      hint: 'Give it a group_size that divides its rows, or false.',
    },
  )
}

function withGroup(base: MlxQuant, option: OptionValues[string] | undefined): MlxQuant {
  if (option === undefined || option === null || option === AUTO) return base
  const group = Number(option)
  if (base.mode === 'affine' && GROUPS.includes(group)) return { ...base, group }
  if (group === base.group) return base
  throw new AppError('bad-option', `--group-size cannot be ${group} with ${base.mode}`, {
    hint: `${base.mode} always has groups of ${base.group}: leave --group-size out.`,
  })
}

function configOption(options: OptionValues, model: MlxModel): Quantization | null {
  const text = options['quant-config']
  if (typeof text !== 'string' || text === '') return null
  const fail = (why: string): AppError =>
    new AppError('bad-option', `--quant-config: ${why}`, {
      hint: 'Give JSON such as {"group_size": 64, "bits": 4, "lm_head": {"group_size": 64, "bits": 8}}.',
    })
  const json = parseJson(text, '--quant-config')
  if (!isObject(json)) throw fail('it is not a JSON object')
  const known = new Set(model.tensors.filter(({ matrix }) => matrix).map(({ module }) => module))
  const quantization = parseQuantization(json, fail)
  for (const key of json.keys()) {
    if (['bits', 'group_size', 'mode'].includes(key)) continue
    if (!known.has(key)) throw fail(`${key} is no module of this model that can be quantised`)
    if (!quantization.modules.has(key)) throw fail(`${key} must be an object, true or false`)
  }
  return quantization
}

/** What mlx-lm's own class gives a module, for routers. */
function sensitiveQuant({ sensitive }: MlxModel, { module }: MlxTensor): MlxQuant | null {
  if (sensitive === null || !module.endsWith(sensitive.suffix)) return null
  return { ...MODES.affine, bits: sensitive.bits }
}

/** mlx-lm's mixed recipes: more bits for values and down projections of some layers, and for the head. */
function mixer(
  { low, high }: Recipe,
  base: MlxQuant,
  layers: number,
  matrices: readonly MlxTensor[],
): (module: string) => MlxQuant {
  const down = matrices.find(({ module }) => module.includes('down_proj'))
  if (down === undefined) {
    throw new AppError('unsupported', 'A mix needs modules named down_proj, which this model has not', {
      hint: 'Take a fixed number of bits.',
    })
  }
  const at = down.module.split('.').findIndex((part) => /^\d+$/.test(part))
  const eighth = Math.floor(layers / 8)
  return (module) => {
    const layer = Number(module.split('.')[at] ?? 0)
    const more = layer < eighth || layer >= Math.floor((7 * layers) / 8) || (layer - eighth) % 3 === 2
    // by substring, as mlx-lm does it: a fused qkv_proj counts as a v_proj
    const sensitive = module.includes('v_proj') || module.includes('down_proj')
    return { ...base, bits: (sensitive && more) || module.includes('lm_head') ? high : low }
  }
}

/** Whether a quantisation says of a module what it would be without its key. */
export function isDefault(quantization: Quantization, module: string): boolean {
  const own = quantization.modules.get(module)
  return own === undefined || own === true || (own !== false && sameQuant(own, quantization.all))
}
