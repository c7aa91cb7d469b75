/** MLX folders as mlx-lm reads and writes them. Source: https://github.com/ml-explore/mlx-lm */
import type { Folder } from '../../core/bytes.ts'
import type { Engine, Match, Verdict } from '../engine.ts'
import { findMlx } from './files.ts'
import { planMlx } from './layout.ts'
import { refusesArchitecture } from './names.ts'
import { openMlx } from './open.ts'
import { OPTIONS } from './options.ts'
import { validateMlx } from './validate.ts'

/** Above that of a HuggingFace folder, which looks the same but for what is asked for here. */
const CONFIDENCE = 0.95

async function detect(folder: Folder): Promise<Match | null> {
  // a config.json that cannot be read is for the engine to report that takes the folder
  const found = await findMlx(folder).catch(() => null)
  if (found === null) return null
  return { format: 'mlx', kind: 'mlx', confidence: CONFIDENCE, because: found.because, entry: found.weights[0] ?? '' }
}

function canInfer(): Verdict {
  return { can: false, because: 'only GGUF files can be run so far' }
}

/** MLX, for Apple's own processors. */
export const mlx: Engine = {
  id: 'mlx',
  title: 'MLX (Apple silicon)',
  options: OPTIONS,
  inputs: [
    { id: 'mlx', title: 'MLX folder', help: 'As mlx-lm writes it: 2 to 8 bits, mixed, mxfp4, mxfp8, nvfp4 or whole.' },
  ],
  refuses: refusesArchitecture,
  detect,
  open: openMlx,
  needs: () => [],
  convert: (checkpoint, options) => planMlx(checkpoint, options),
  validate: validateMlx,
  canInfer,
}
