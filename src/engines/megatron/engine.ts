/** Megatron-LM checkpoints. Source: https://github.com/NVIDIA/Megatron-LM */
import type { Folder } from '../../core/bytes.ts'
import { AppError } from '../../core/errors.ts'
import type { Engine, InputKind, Match, Verdict } from '../engine.ts'
import { findMegatron, type MegatronFolder } from './files.ts'
import { refusesArchitecture } from './layout.ts'
import { loadMegatron } from './open.ts'
import { validateMegatron } from './validate.ts'
import { planMegatron, WRITE_OPTIONS } from './write.ts'

/** Above that of other folders with a config.json: nothing else has files of these names. */
const CONFIDENCE = 0.95
/** Of a folder that opening will refuse with a reason better than "not a model". */
const REFUSED = 0.9

const KINDS = {
  ranks: {
    id: 'megatron',
    title: 'Megatron ranks',
    help: 'mp_rank_XX folders of a tensor, pipeline and expert parallel run, old names or new.',
  },
  dist: {
    id: 'megatron-dist',
    title: 'Megatron torch_dist',
    help: 'A distributed checkpoint: .metadata and .distcp files.',
  },
  single: {
    id: 'megatron-single',
    title: 'Megatron model.pt',
    help: 'All weights in model.pt, the arguments in metadata.json.',
  },
} satisfies Record<string, InputKind>

async function detect(folder: Folder): Promise<Match | null> {
  let found: MegatronFolder | null
  try {
    found = await findMegatron(folder)
  } catch (error) {
    // opening says what is wrong with it
    return {
      format: 'megatron',
      kind: 'megatron',
      confidence: REFUSED,
      because: AppError.from(error).message,
      entry: '',
    }
  }
  if (found === null) return null
  const { weights } = found
  const entry = weights.kind === 'ranks' ? (weights.files[0]?.path ?? '') : weights.metadata
  return {
    format: 'megatron',
    kind: KINDS[found.weights.kind].id,
    confidence: CONFIDENCE,
    because: describe(found),
    entry,
  }
}

function describe({ weights }: MegatronFolder): string {
  if (weights.kind === 'ranks') return `${weights.files.length} ranks of Megatron (mp_rank)`
  return weights.kind === 'dist' ? 'a distributed checkpoint' : 'model.pt with metadata.json'
}

function canInfer(): Verdict {
  return { can: false, because: 'only GGUF files can be run so far' }
}

/** Megatron-LM and Megatron-Core. */
export const megatron: Engine = {
  id: 'megatron',
  title: 'Megatron-LM',
  options: WRITE_OPTIONS,
  inputs: Object.values(KINDS),
  refuses: refusesArchitecture,
  detect,
  open: async (folder, _match, given) => (await loadMegatron(folder, given?.hfConfig ?? null)).checkpoint,
  needs: () => [],
  convert: (checkpoint, options) => planMegatron(checkpoint, options),
  validate: validateMegatron,
  canInfer,
}
