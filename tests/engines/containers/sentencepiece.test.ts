import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { AppError } from '../../../src/core/errors.ts'
import { protobufFields } from '../../../src/engines/containers/protobuf.ts'
import { parseSentencePiece } from '../../../src/engines/containers/sentencepiece.ts'

const FILE = 'tokenizer.model'

function varint(value: bigint): number[] {
  const bytes: number[] = []
  let rest = BigInt.asUintN(64, value)
  for (;;) {
    const low = Number(rest & 0x7fn)
    rest >>= 7n
    if (rest === 0n) return [...bytes, low]
    bytes.push(low | 0x80)
  }
}

const number = (field: number, value: number | bigint): number[] => [
  ...varint(BigInt(field) << 3n),
  ...varint(BigInt(value)),
]
const text = (field: number, value: string | readonly number[]): number[] => {
  const bytes = typeof value === 'string' ? [...new TextEncoder().encode(value)] : value
  return [...varint((BigInt(field) << 3n) | 2n), ...varint(BigInt(bytes.length)), ...bytes]
}
const float = (field: number, value: number): number[] => [
  ...varint((BigInt(field) << 3n) | 5n),
  ...new Uint8Array(Float32Array.of(value).buffer),
]
const piece = (value: string, score: number, type?: number): number[] =>
  text(1, [...text(1, value), ...float(2, score), ...(type === undefined ? [] : number(3, type))])
const model = (...parts: number[][]): Uint8Array => Uint8Array.from(parts.flat())

const PIECES = [piece('<unk>', 0, 2), piece('<s>', 0, 3), piece('</s>', 0, 3), piece('<0x0A>', 0, 6), piece('▁a', -1.5)]

function failure(bytes: Uint8Array): AppError {
  try {
    parseSentencePiece(bytes, FILE)
  } catch (error) {
    expect(error).toBeInstanceOf(AppError)
    return error as AppError
  }
  throw new Error('no error')
}

describe('a SentencePiece model', () => {
  it('gives pieces, and the defaults of its format', () => {
    expect(parseSentencePiece(model(...PIECES), FILE)).toEqual({
      kind: 'unigram',
      pieces: [
        { text: '<unk>', score: 0, type: 'unknown' },
        { text: '<s>', score: 0, type: 'control' },
        { text: '</s>', score: 0, type: 'control' },
        { text: '<0x0A>', score: 0, type: 'byte' },
        { text: '▁a', score: -1.5, type: 'normal' },
      ],
      addDummyPrefix: true,
      removeExtraWhitespaces: true,
      unknownId: 0,
      bosId: 1,
      eosId: 2,
      padId: null,
      charsmap: null,
    })
  })

  it('gives what it was trained with', () => {
    const trainer = text(2, [...number(3, 2), ...number(40, 3), ...number(41, 2), ...number(42, -1n), ...number(43, 1)])
    const normalizer = text(3, [...text(1, 'identity'), ...number(3, 0), ...number(4, 0)])
    expect(parseSentencePiece(model(...PIECES, trainer, normalizer), FILE)).toMatchObject({
      kind: 'bpe',
      addDummyPrefix: false,
      removeExtraWhitespaces: false,
      unknownId: 3,
      bosId: 2,
      eosId: null,
      padId: 1,
    })
  })

  it('passes over what it does not know', () => {
    const parts = [...PIECES, number(99, 5), float(98, 1), [...varint((97n << 3n) | 1n), 1, 2, 3, 4, 5, 6, 7, 8]]
    expect(parseSentencePiece(model(...parts), FILE).pieces).toHaveLength(5)
  })

  it('is not made of ids that no piece has', () => {
    expect(parseSentencePiece(model(...PIECES, text(2, number(41, 77))), FILE).bosId).toBeNull()
  })

  it.each([
    ['nothing', model(), /not a SentencePiece model/],
    ['no pieces', model(text(2, number(3, 2))), /not a SentencePiece model/],
    ['a piece without text', model(text(1, float(2, 1))), /piece 0 has no text/],
    ['a piece of no UTF-8', model(text(1, text(1, [0xff]))), /not UTF-8/],
    ['an unknown kind of piece', model(piece('a', 0, 9)), /unknown type/],
    ['a score that is no number', model(piece('a', Number.NaN)), /score NaN/],
    ['an unknown kind of model', model(...PIECES, text(2, number(3, 7))), /model type 7/],
    ['a cut field', model(PIECES[0]!.slice(0, -2)), /ends 2 bytes too soon/],
    ['a length of 2^63', model([...varint(10n), ...varint(2n ** 63n)]), /bytes too soon/],
    ['a cut number', model([0x08, 0x80]), /within a number/],
    ['a number without end', model([0x08, ...Array.from({ length: 11 }, () => 0xff)]), /too long/],
    ['a group', model([0x0b]), /unknown kind/],
  ])('is refused: %s', (_, bytes, says) => {
    const error = failure(bytes)
    expect(error).toMatchObject({ code: 'malformed', where: { file: FILE } })
    expect(error.message).toMatch(says)
    expect(error.hint).not.toBeNull()
  })

  it('throws nothing but AppErrors, whatever the bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        try {
          parseSentencePiece(bytes, FILE)
        } catch (error) {
          expect(error).toBeInstanceOf(AppError)
        }
      }),
    )
  })

  it('numbers of all 64 bits are read', () => {
    fc.assert(
      fc.property(
        fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
        fc.integer({ min: 1, max: 2 ** 29 - 1 }),
        (value, field) => {
          expect([...protobufFields(Uint8Array.from(number(field, value)), FILE)]).toEqual([
            { number: field, wire: 'varint', value },
          ])
        },
      ),
    )
  })

  const shared = fileURLToPath(new URL('../../../../shared/models/llama-spm/', import.meta.url))
  it.skipIf(!existsSync(shared))('trained by SentencePiece agrees with its tokenizer.json (needs ../shared)', () => {
    const { kind, pieces } = parseSentencePiece(Uint8Array.from(readFileSync(`${shared}tokenizer.model`)), FILE)
    const json = JSON.parse(readFileSync(`${shared}tokenizer.json`, 'utf8')) as {
      model: { vocab: Record<string, number> }
    }
    expect(kind).toBe('bpe')
    expect(pieces).toHaveLength(1024)
    expect(Object.fromEntries(pieces.map(({ text: value }, id) => [value, id]))).toEqual(json.model.vocab)
    expect(pieces.filter(({ type }) => type === 'byte')).toHaveLength(256)
  })
})
