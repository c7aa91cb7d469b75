import type { Place } from '../core/bytes.ts'
import { AppError } from '../core/errors.ts'
import type { FakeWeights, Transforms } from '../core/transform.ts'
import { parseJsonOrYaml } from '../engines/containers/json-or-yaml.ts'
import { parseFakeConfig } from '../models/fake-config.ts'
import { fakeWeights } from '../models/fake.ts'
import { foldMup } from '../models/mup.ts'
import { requireAdapter, withAdapters } from './adapters.ts'
import { detect, open, type Opened } from './api.ts'
import type { Host } from './host.ts'

/**
 * Opens a source and transforms it: made-up weights first, so that they can be changed like real ones; adapters before
 * multipliers are folded, as they were trained on the model as it was.
 */
export async function openTransformed(host: Host, place: Place, transforms: Transforms = {}): Promise<Opened> {
  const { mup2llama = false, keepTied = false, forceMup = false, hfConfig, base, adapters = [] } = transforms
  const fake = await fakeOf(transforms)
  if ((keepTied || forceMup) && !mup2llama) {
    const what = keepTied ? 'Keeping the head tied' : '--force'
    throw new AppError('bad-option', `${what} is for folding muP models`, {
      hint: 'Give --mup2llama as well.',
    })
  }
  if (base !== undefined) await requireAdapter(host, place)
  const model = base ?? place
  const opened =
    fake === undefined
      ? await open(host, model, hfConfig === undefined ? {} : { hfConfig })
      : await openFake(host, model, fake)
  const choices = base === undefined ? adapters : [{ place, weight: 1 }, ...adapters]
  const source = choices.length === 0 ? opened : changed(await withAdapters(host, opened, choices))
  if (!mup2llama) return source
  return changed({ ...source, checkpoint: foldMup(source.checkpoint, { keepTied, force: forceMup }) })
}

/** What was stored besides the language model is not of the model any more. */
function changed(source: Opened): Opened {
  const { whole, ...checkpoint } = source.checkpoint
  return whole === undefined ? source : { ...source, checkpoint }
}

async function fakeOf({ fakeWeights, fakeConfig }: Transforms): Promise<FakeWeights | undefined> {
  if (fakeConfig === undefined) return fakeWeights
  const { name, text } = fakeConfig
  return parseFakeConfig(await parseJsonOrYaml(text, name), name)
}

async function openFake(host: Host, place: Place, fake: FakeWeights): Promise<Opened> {
  const folder = await host.open(place)
  const { engine, match } = await detect(folder)
  if (engine.outline === undefined) {
    throw new AppError('unsupported', `${engine.title} has no configuration to make weights from`, {
      where: { file: match.entry },
      hint: 'Give a folder with the config.json of the model.',
    })
  }
  return { folder, engine, match, checkpoint: await fakeWeights(await engine.outline(folder, match), fake) }
}
