/** What a model's card (README.md) says at its head, and how generation_config.json wants it sampled. */
import type { Folder } from '../../core/bytes.ts'
import type { Checkpoint } from '../../core/checkpoint.ts'
import { AppError } from '../../core/errors.ts'
import { isArray, isObject, type Json, type JsonObject } from '../../core/json.ts'
import type { Finding } from '../../core/plan.ts'
import { parseYaml } from '../containers/yaml.ts'
import type { ModelFiles } from './files.ts'

export const MODEL_CARD = 'README.md'

/** Heads with the results of many benchmarks take some 100 KB; what follows them is not read. */
const MAX_HEAD_BYTES = 1 << 20

export interface ReadCard {
  /** Empty where there is no card, or none with a head. */
  readonly card: JsonObject
  readonly findings: readonly Finding[]
}

/** Reads the head of a model's card. One that cannot be read is a finding: the model is no worse for it. */
export async function readModelCard(folder: Folder, model: ModelFiles): Promise<ReadCard> {
  const entry = model.files.get(MODEL_CARD)
  if (entry === undefined) return { card: new Map(), findings: [] }
  const path = model.root + MODEL_CARD
  const bytes = new Uint8Array(Math.min(entry.size, MAX_HEAD_BYTES))
  const source = await folder.open(path)
  try {
    await source.read(0, bytes)
  } finally {
    await source.close()
  }
  const head = headOf(new TextDecoder().decode(bytes))
  if (head === null) return { card: new Map(), findings: [] }
  try {
    const card = await parseYaml(head, path, { scalars: 'text' })
    return { card: isObject(card) ? card : new Map(), findings: [] }
  } catch (thrown) {
    const { code, message } = AppError.from(thrown)
    if (code !== 'malformed') throw thrown
    const finding: Finding = {
      severity: 'warning',
      code: 'model-card-ignored',
      message: `${message}. Its licence, tags and the like are not carried over`,
      where: { file: path },
    }
    return { card: new Map(), findings: [finding] }
  }
}

/** The lines between the first line and the next that are `---`; null if there are none. */
function headOf(text: string): string | null {
  const lines = text.split(/\r\n|\r|\n/)
  const end = lines.indexOf('---', 1)
  // tabs are no indentation in YAML, and yet cards have them
  return lines[0] === '---' && end > 0 ? lines.slice(1, end).join('\n').replaceAll('\t', '  ') : null
}

/** A card of a model that came without one; null where nothing is known to put there. */
export function modelCardText({ card, name }: Pick<Checkpoint, 'card' | 'name'>): string | null {
  if (card === undefined || card.size === 0) return null
  const title = card.get('name')
  return `---\n${[...card].map(([key, value]) => yamlEntry(key, value)).join('')}---\n\n# ${typeof title === 'string' ? title : name}\n`
}

function yamlEntry(key: string, value: Json): string {
  if (!isArray(value)) return `${key}: ${yamlText(value)}\n`
  return `${key}:\n${value.map((item) => (isObject(item) ? yamlItem(item) : `- ${yamlText(item)}\n`)).join('')}`
}

function yamlItem(item: JsonObject): string {
  return [...item].map(([key, value], index) => `${index === 0 ? '- ' : '  '}${key}: ${yamlText(value)}\n`).join('')
}

/** Words that YAML takes for something else, and what starts or holds its signs, stand in quotation marks. */
function yamlText(value: Json): string {
  const text = typeof value === 'string' ? value : String(value)
  const plain = /^[a-z][\w ./+-]*$/i.test(text) && !/^(?:y|n|yes|no|on|off|true|false|null)$/i.test(text)
  return plain && text.trim() === text ? text : JSON.stringify(text)
}
