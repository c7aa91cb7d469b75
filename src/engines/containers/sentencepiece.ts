/**
 * SentencePiece models (tokenizer.model, spiece.model): a protocol buffer of pieces and of how they were trained.
 * https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
 */
import type { TokenType } from '../../core/checkpoint.ts'
import { AppError } from '../../core/errors.ts'
import { protobufFields, type ProtobufField } from './protobuf.ts'

export interface SentencePiece {
  readonly text: string
  readonly score: number
  readonly type: TokenType
}

export interface SentencePieceModel {
  readonly kind: 'unigram' | 'bpe' | 'word' | 'char'
  /** By id. */
  readonly pieces: readonly SentencePiece[]
  /** Whether a space is put before the text. */
  readonly addDummyPrefix: boolean
  readonly removeExtraWhitespaces: boolean
  /** The compiled table of replacements; null if text is taken as it is. */
  readonly charsmap: Uint8Array | null
  /** Token ids; -1 (none) is null. */
  readonly unknownId: number | null
  readonly bosId: number | null
  readonly eosId: number | null
  readonly padId: number | null
}

/** As many as config.json may have. */
const MAX_PIECES = 1 << 24

const KINDS: ReadonlyMap<number, SentencePieceModel['kind']> = new Map([
  [1, 'unigram'],
  [2, 'bpe'],
  [3, 'word'],
  [4, 'char'],
])

const TYPES: ReadonlyMap<number, TokenType> = new Map([
  [1, 'normal'],
  [2, 'unknown'],
  [3, 'control'],
  [4, 'user'],
  [5, 'unused'],
  [6, 'byte'],
])

/** Parses a model. Throws `malformed`, also for bytes that are no such model. */
export function parseSentencePiece(bytes: Uint8Array, file: string): SentencePieceModel {
  const pieces: SentencePiece[] = []
  let trainer: ReadonlyMap<number, ProtobufField> = new Map()
  let normalizer: ReadonlyMap<number, ProtobufField> = new Map()
  for (const field of protobufFields(bytes, file)) {
    if (field.wire !== 'bytes') continue
    if (field.number === 1) {
      if (pieces.length === MAX_PIECES) throw malformed(file, `it has more than ${MAX_PIECES} pieces`)
      pieces.push(parsePiece(field.bytes, pieces.length, file))
    } else if (field.number === 2) trainer = lastFields(field.bytes, file)
    else if (field.number === 3) normalizer = lastFields(field.bytes, file)
  }
  if (pieces.length === 0) throw malformed(file, 'it is not a SentencePiece model')
  const kind = KINDS.get(integer(trainer, 3, 1))
  if (kind === undefined) throw malformed(file, `its model type ${integer(trainer, 3, 1)} is unknown`)
  const id = (number: number, fallback: number): number | null => {
    const value = integer(trainer, number, fallback)
    return value >= 0 && value < pieces.length ? value : null
  }
  return {
    kind,
    pieces,
    addDummyPrefix: integer(normalizer, 3, 1) !== 0,
    removeExtraWhitespaces: integer(normalizer, 4, 1) !== 0,
    charsmap: charsmap(normalizer),
    unknownId: id(40, 0),
    bosId: id(41, 1),
    eosId: id(42, 2),
    padId: id(43, -1),
  }
}

function charsmap(normalizer: ReadonlyMap<number, ProtobufField>): Uint8Array | null {
  const field = normalizer.get(2)
  return field?.wire === 'bytes' && field.bytes.length > 0 ? field.bytes.slice() : null
}

function parsePiece(bytes: Uint8Array, id: number, file: string): SentencePiece {
  const fields = lastFields(bytes, file)
  const text = fields.get(1)
  if (text?.wire !== 'bytes') throw malformed(file, `piece ${id} has no text`)
  const score = fields.get(2)
  const view = score?.wire === 'fixed' && score.bytes.length === 4 ? score.bytes : null
  const value = view === null ? 0 : new DataView(view.buffer, view.byteOffset, 4).getFloat32(0, true)
  if (!Number.isFinite(value)) throw malformed(file, `piece ${id} has the score ${value}`)
  const type = TYPES.get(integer(fields, 3, 1))
  if (type === undefined) throw malformed(file, `piece ${id} has an unknown type`)
  try {
    return { text: new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(text.bytes), score: value, type }
  } catch {
    throw malformed(file, `piece ${id} is not UTF-8`)
  }
}

/** As the specification has it, the last of a repeated scalar counts. */
function lastFields(message: Uint8Array, file: string): ReadonlyMap<number, ProtobufField> {
  return new Map([...protobufFields(message, file)].map((field) => [field.number, field]))
}

function integer(fields: ReadonlyMap<number, ProtobufField>, number: number, fallback: number): number {
  const field = fields.get(number)
  return field?.wire === 'varint' ? Number(BigInt.asIntN(32, field.value)) : fallback
}

function malformed(file: string, why: string): AppError {
  return new AppError('malformed', `${file}: ${why}`, {
    where: { file },
    hint: 'Check that it is the model’s own tokenizer file, and download it again.',
  })
}
