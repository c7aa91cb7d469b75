import type { Checkpoint, Role } from '../../core/checkpoint.ts'
import { NO_ARCHITECTURE } from '../../core/checkpoint.ts'
import { AppError } from '../../core/errors.ts'
import type { OptionSpec, OptionValues } from '../../core/option.ts'
import type { Finding, Plan } from '../../core/plan.ts'
import { expectedTensors } from '../../models/architecture.ts'
import { architectureFor } from '../../models/index.ts'
import {
  castStored,
  DTYPE_OPTION,
  dtypeOption,
  fileStem,
  planShards,
  readBytes,
  SHARD_OPTION,
  shardSizeOf,
  transposedBack,
  withKeptTypes,
  type NamedTensor,
} from '../containers/shards.ts'

/** What `convert` takes. */
export const WRITE_OPTIONS: readonly OptionSpec[] = [DTYPE_OPTION, SHARD_OPTION]

/** Where a source has no metadata of its own: transformers before 4.47 asks for this. */
const METADATA: ReadonlyMap<string, string> = new Map([['format', 'pt']])

/** The plan of a file of all tensors, or of shards with an index, which comes last. */
export async function planSafetensors(given: Checkpoint, options: OptionValues): Promise<Plan> {
  if (given.tensors.size === 0) {
    throw new AppError('unsupported', `${given.name} has no tensors, and safetensors files hold nothing else`, {
      hint: 'Take the file that holds the weights.',
    })
  }
  const dtype = dtypeOption(options)
  const checkpoint = withKeptTypes(given.whole ?? given, dtype)
  const limit = shardSizeOf(options)
  const findings: Finding[] = []
  const tensors = castStored(await spelled(checkpoint), dtype, findings)
  const stem = fileStem(checkpoint.name) + (dtype === null ? '' : `-${dtype.toUpperCase()}`)
  const { weights, index } = planShards(tensors, stem, limit, checkpoint.stored?.metadata ?? METADATA)
  const files = index === null ? weights : [...weights, index]
  return {
    target: 'safetensors',
    stages: [],
    files,
    findings,
    readBytes: files.reduce((sum, file) => sum + readBytes(file), 0),
    writeBytes: files.reduce((sum, { size }) => sum + size, 0),
  }
}

/** All tensors, under the names that their source or their architecture gives them, laid out as HuggingFace does. */
async function spelled({ architecture, config, tensors, stored, name }: Checkpoint): Promise<readonly NamedTensor[]> {
  const nameOf = (role: Role, otherwise: string): string => stored?.names.get(role) ?? otherwise
  if (architecture === NO_ARCHITECTURE) {
    return [...tensors].map(([role, recipe]) => ({ name: nameOf(role, role), recipe }))
  }
  const rest = new Map(tensors)
  const named: NamedTensor[] = []
  for (const { role, hf, transposed } of expectedTensors(await architectureFor(architecture, name), config)) {
    const recipe = tensors.get(role)
    if (recipe === undefined) continue
    rest.delete(role)
    named.push({ name: nameOf(role, hf), recipe: transposed ? transposedBack(recipe) : recipe })
  }
  for (const [role, recipe] of rest) named.push({ name: nameOf(role, role), recipe })
  return named
}
