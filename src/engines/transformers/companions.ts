/** Plans what stands beside a model's weights. */
import type { Checkpoint } from '../../core/checkpoint.ts'
import { AppError } from '../../core/errors.ts'
import { formatJson, type Json } from '../../core/json.ts'
import type { Finding, PlannedFile } from '../../core/plan.ts'
import { bytesFile, copiedFile } from '../containers/shards.ts'
import { CONFIG_FILE } from './files.ts'
import { GENERATION_CONFIG } from './outline.ts'
import { generationJson } from './write-config.ts'
import { MODEL_CARD, modelCardText } from './model-card.ts'
import { poolingFiles } from './sentence-transformers.ts'
import { tokenizerFiles } from './write-tokenizer.ts'

/** Files that hold a vocabulary. */
const VOCABULARIES = ['tokenizer.json', 'tokenizer.model', 'spiece.model', 'vocab.json', 'vocab.txt']

/** A file of JSON as transformers writes it. */
export function jsonFile(path: string, json: Json): PlannedFile {
  return bytesFile(path, `${formatJson(json)}\n`)
}

/** What is carried over as it is. */
export function carriedFiles(extras: Checkpoint['extras']): readonly PlannedFile[] {
  return [...extras]
    .filter(([path]) => path !== CONFIG_FILE && !/\.safetensors(?:\.index\.json)?$/.test(path))
    .map(([path, recipe]) => copiedFile(path, recipe))
}

/** What goes beside the weights: carried over where the source has it, made where it is known, told where it is not. */
export function companionFiles(checkpoint: Checkpoint, findings: Finding[]): readonly PlannedFile[] {
  const { config, extras, generation, tokenizer } = checkpoint
  const files = [...carriedFiles(extras)]
  const card = extras.has(MODEL_CARD) ? null : modelCardText(checkpoint)
  if (card !== null) files.push(bytesFile(MODEL_CARD, card))
  if (!extras.has(GENERATION_CONFIG)) files.push(jsonFile(GENERATION_CONFIG, generationJson(config, generation)))
  const pooled = config.pooling === undefined ? [] : poolingFiles(config.pooling, config.hiddenSize)
  for (const [path, json] of pooled) if (!extras.has(path)) files.push(jsonFile(path, json))
  if (VOCABULARIES.some((path) => extras.has(path))) return files
  if (tokenizer === null) {
    findings.push({
      severity: 'warning',
      code: 'no-tokenizer',
      message: 'The source has no tokenizer, so the folder will have none',
      hint: 'Put the tokenizer files of the original model into it.',
    })
    return files
  }
  try {
    const made = tokenizerFiles(tokenizer, config)
    findings.push(...made.findings)
    for (const [path, json] of made.files) if (!extras.has(path)) files.push(jsonFile(path, json))
  } catch (error) {
    const { code, message, hint } = AppError.from(error)
    if (code !== 'unsupported') throw error
    findings.push({
      severity: 'warning',
      code: 'no-tokenizer',
      message: `${message}. The folder will have no tokenizer`,
      ...(hint === null ? {} : { hint }),
    })
  }
  return files
}
