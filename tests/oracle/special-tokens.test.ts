/** Special tokens as llama.cpp's library understands our files: what it would find by itself, and what it puts around texts. */
import { readFileSync } from 'node:fs'
import { cp, mkdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { Tokenizer } from '@huggingface/tokenizers'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Api } from '../../src/api/api.ts'
import { convertFolder, productApi, temporaryFolder } from './convert-folder.ts'
import { judge, noLlama, type Special } from './llama.ts'
import { MODELS, noModels } from './models.ts'

const TINY = path.resolve(import.meta.dirname, '../fixtures/tiny-llama')

/** How models spell what stands around a gap: prefix, suffix, middle, padding, repository, file. */
const SPELLINGS = [
  ['<|fim_prefix|>', '<|fim_suffix|>', '<|fim_middle|>', '<|fim_pad|>', '<|repo_name|>', '<|file_sep|>'],
  ['<|fim_prefix|>', '<|fim_suffix|>', '<|fim_middle|>', '<|fim_pad|>', '<|fim_repo|>', '<|file_sep|>'],
  ['<fim-prefix>', '<fim-suffix>', '<fim-middle>', '<fim-pad>', '<fim-repo>'],
  ['<fim_prefix>', '<fim_suffix>', '<fim_middle>', '<fim_pad>', '<reponame>'],
  ['<｜fim▁begin｜>', '<｜fim▁hole｜>', '<｜fim▁end｜>'],
  ['<PRE>', '<SUF>', '<MID>', '<PAD>', '<REPO>'],
  ['▁<PRE>', '▁<SUF>', '▁<MID>'],
  ['<|code_prefix|>', '<|code_suffix|>', '<|code_middle|>'],
]

interface TokenizerJson {
  added_tokens: object[]
  model: { vocab: Record<string, number>; merges: (string | [string, string])[] }
}

describe.skipIf(noLlama !== null)(`special tokens${noLlama === null ? '' : ` (${noLlama})`}`, () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>
  let api: Api
  beforeAll(async () => {
    folder = await temporaryFolder()
    api = productApi()
  })
  afterAll(async () => {
    await api.close()
    await folder.remove()
  })

  async function specialOf(file: string): Promise<Special> {
    const llama = await judge(file, { vocabularyOnly: true })
    try {
      return await llama.special()
    } finally {
      await llama.close()
    }
  }

  /** The tiny model with its last tokens called otherwise. */
  async function withTokens(texts: readonly string[]): Promise<string> {
    const input = path.join(folder.path, 'tiny')
    await mkdir(input, { recursive: true })
    await cp(TINY, input, { recursive: true })
    const json = JSON.parse(readFileSync(path.join(TINY, 'tokenizer.json'), 'utf8')) as TokenizerJson
    const names = new Map(Object.entries(json.model.vocab).map(([text, id]) => [id, text]))
    texts.forEach((text, index) => {
      const id = names.size - texts.length + index
      json.added_tokens.push({ id, content: text, special: true, normalized: false })
      names.set(id, text)
    })
    const vocab = Object.fromEntries([...names].map(([id, text]) => [text, id]))
    const known = (merge: string | [string, string]): boolean => {
      const [left = '', right = ''] = typeof merge === 'string' ? merge.split(' ') : merge
      return [left, right, left + right].every((part) => part in vocab)
    }
    json.model.vocab = vocab
    json.model.merges = json.model.merges.filter(known)
    await writeFile(path.join(input, 'tokenizer.json'), JSON.stringify(json))
    return input
  }

  test.each(SPELLINGS)('around a gap: %s, as the runtime finds them by itself', async (...texts) => {
    const given = texts.filter((text) => typeof text === 'string')
    const ours = await convertFolder(api, await withTokens(given), { 'vocab-only': true }, folder.path)
    const keys = ['fim_pre', 'fim_suf', 'fim_mid', 'fim_pad', 'fim_rep', 'fim_sep'].map(
      (name) => `tokenizer.ggml.${name}_token_id`,
    )
    const { metadata } = await api.inspect({ kind: 'path', path: ours })
    const there = new Set(metadata.map(({ key }) => key))
    const written = keys.filter((key) => there.has(key))
    expect(written.length).toBeGreaterThanOrEqual(3)
    const bare = await convertFolder(api, ours, { 'remove-metadata': written }, folder.path, {}, 'bare')
    const [found, by] = [(await specialOf(ours)).ids, (await specialOf(bare)).ids]
    expect(found).toEqual(by)
    expect([found.fim_pre, found.fim_suf, found.fim_mid]).toEqual([0, 1, 2].map((index) => 300 - given.length + index))
  })

  const models = noModels === null ? '' : ` (${noModels})`
  test.skipIf(noModels !== null).each(['bert', 'llama-spm', 'main', 't5'])(
    `%s: what is put around a text is what the tokenizers library puts there${models}`,
    async (model) => {
      const input = path.join(MODELS, model)
      const { ids, added } = await specialOf(await convertFolder(api, input, { 'vocab-only': true }, folder.path))
      const read = (name: string): object => JSON.parse(readFileSync(path.join(input, name), 'utf8')) as object
      const tokenizer = new Tokenizer(read('tokenizer.json'), read('tokenizer_config.json'))
      const [plain, whole] = [{ add_special_tokens: false }, { add_special_tokens: true }]
      const [a, b] = ['first', 'second'].map((text) => tokenizer.encode(text, plain).ids)
      const one = [...(added.bos ? [ids.bos] : []), ...a!, ...(added.eos ? [ids.eos] : [])]
      expect(one).toEqual(tokenizer.encode('first', whole).ids)
      if (model !== 'bert') return
      // as llama-server joins a question and a document for a reranker
      const two = [...one, ...(added.sep ? [ids.sep] : []), ...b!, ...(added.eos ? [ids.eos] : [])]
      expect(two).toEqual(tokenizer.encode('first', { ...whole, text_pair: 'second' }).ids)
    },
  )
})
