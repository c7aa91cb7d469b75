import type { Place } from '../../core/bytes.ts'
import type { TextFile } from '../../core/transform.ts'
import { canAddFiles, filesOf, looksLikeAdapter, onlyFile, withDropped, withFiles, type NamedPlace } from './places.ts'
import type { Session } from './session.svelte.ts'
import { withAdapter } from './source.ts'

/** What weights are stored in, and what stands beside them. */
const MODEL_FILES = /\.(?:safetensors|bin|json|jinja|txt|model)$/i

/** Takes what was dropped: for what is asked for, for the model that is open, or as another model. */
export async function takeDrop(session: Session, dropped: NamedPlace): Promise<void> {
  const { need, lacking, model } = session
  if (need?.kind === 'base') return session.openBase(dropped, dropped.name)
  const file = await onlyFile(dropped)
  const config = file?.name.endsWith('.json') === true ? file : null
  if (need?.kind === 'config' && config !== null) return configure(session, config)
  if (lacking !== null) {
    const files = need?.kind === 'weights' && canAddFiles(lacking.place) ? await filesOf(dropped) : []
    const added = files.some(({ name }) => isWeights(name))
      ? await withFiles(lacking.place, files, lacking.files)
      : await withDropped(lacking.place, dropped, lacking.files)
    if (added !== null) return supplement(session, added)
  }
  if (session.screen === 'model' && model !== null) {
    const { source, inspection } = model
    if (config?.name === 'config.json') {
      if (inspection.format === 'megatron') return configure(session, config)
      if (inspection.format === 'safetensors') {
        const whole = await withFiles(source.place, [config], [])
        if (whole !== null) return supplement(session, whole)
        session.notice = 'Put config.json into the folder of the weights, and open the folder again.'
        return
      }
    }
    const spec = file === null ? null : session.optionFor(file.name)
    if (file !== null && spec !== null) return session.give(spec, file)
    if (await looksLikeAdapter(dropped)) {
      return session.reopen((source) => withAdapter(source, dropped, dropped.name))
    }
  }
  return session.open(dropped, dropped.name)
}

/** Gives a config.json for what the files of a model do not say. */
export async function configure(session: Session, file: File): Promise<void> {
  const config: TextFile = { name: file.name, text: await file.text() }
  await session.reopen((source) => ({ ...source, config }))
}

/** Opens what lacked files once more, as the place that has them. */
export async function supplement(session: Session, place: Place): Promise<void> {
  await session.reopen((source) => ({ ...source, place, madeUp: false }))
}

/** Whether a file can hold weights, or belongs beside them. */
function isWeights(name: string): boolean {
  return MODEL_FILES.test(name) && name.toLowerCase() !== 'config.json'
}
