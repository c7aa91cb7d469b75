import type { Checkpoint } from '../../../core/checkpoint.ts'
import { ggufString } from '../../containers/gguf/reader.ts'
import type { Verdict } from '../../engine.ts'
import { ggufModelOf, VOCABULARY_ONLY } from './open.ts'

/** Architectures of llama.cpp that make vectors of texts and have no head to go on with. */
const ENCODERS = /bert$|^(bert|nomic-bert|modern-bert|neo-bert|eurobert|jina-bert)|^t5encoder$|^gemma-embedding$/

/** Architectures that need an encoder run before their decoder, which no binding of llama.cpp does. */
const ENCODER_DECODERS: ReadonlySet<string> = new Set(['t5'])

/** llama.cpp runs every GGUF model; what running it means is the architecture's to say. */
export function canInferGguf(checkpoint: Checkpoint): Verdict {
  const model = ggufModelOf(checkpoint)
  if (model?.tensors.length === 0) return { can: false, because: VOCABULARY_ONLY }
  const metadata = model?.metadata
  const name = (metadata === undefined ? null : ggufString(metadata, 'general.architecture')) ?? checkpoint.architecture
  if (ENCODER_DECODERS.has(name)) {
    return {
      can: false,
      because: `${name} is an encoder with a decoder, which the bindings of llama.cpp do not run`,
    }
  }
  const causal = metadata?.get(`${name}.attention.causal`)
  const isEncoder = ENCODERS.test(name) || (causal?.type === 'bool' && causal.value === false)
  return { can: true, by: 'llama.cpp', kind: isEncoder ? 'encoder' : 'decoder' }
}
