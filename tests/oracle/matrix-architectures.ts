import { cpSync, readdirSync } from 'node:fs'
import path from 'node:path'
import { expect } from 'vitest'
import { relativeError } from './convert-folder.ts'
import { FAMILIES } from './made-up.ts'
import { Decoder, UNTRAINED } from './forward.ts'
import { FamilyDecoder, MADE_UP } from './forward-families.ts'
import { judge, type Judge } from './llama.ts'
import { truthOf } from './matrix-models.ts'
import type { Kit, SourceModel } from './matrix-sources.ts'
import { MODELS, readReference, readReferenceTensors } from './models.ts'

/** Float32 of llama.cpp against float64. */
const MAX_ERROR = 1e-4
/** Of models with GELU, which llama.cpp looks up in a table of f16 (ggml_table_gelu_f16). */
const GELU_ERROR = 2e-3

interface ArchitectureModel {
  /** A HuggingFace folder of it. */
  source(kit: Kit): Promise<SourceModel>
  /** What llama.cpp must make of the GGUF file of it; null where llama.cpp does not run it. */
  readonly expectRun: ((file: string) => Promise<void>) | null
  /** Weights that GGUF has no place for. */
  readonly leftOut?: RegExp
}

const shared = (name: string): Pick<ArchitectureModel, 'source'> => ({
  source: async () => ({ path: path.join(MODELS, name), truth: truthOf(path.join(MODELS, name)) }),
})

async function withJudge(file: string, use: (llama: Judge) => Promise<void>, embeddings = false): Promise<void> {
  const llama = await judge(file, { embeddings })
  try {
    await use(llama)
  } finally {
    await llama.close()
  }
}

/** A trained model whose logits PyTorch computed. */
function trained(name: string, tolerance = MAX_ERROR): ArchitectureModel {
  return {
    ...shared(name),
    expectRun: (file) =>
      withJudge(file, async (llama) => {
        const { text, ids, logits } = readReference(name)[0]!
        expect(relativeError(await llama.logits(ids), logits)).toBeLessThan(tolerance)
        expect(await llama.tokenize(text)).toEqual(ids)
      }),
  }
}

/** One of made-up weights, whose logits are computed here. */
function untrained(type: string, tolerance = MAX_ERROR): ArchitectureModel {
  const ids = (): readonly number[] => readReference('qwen3')[0]!.ids
  const family = MADE_UP[type]
  const decoder =
    family === undefined
      ? new Decoder(UNTRAINED.find((config) => config.model_type === type)!)
      : new FamilyDecoder(family)
  let logits: readonly number[] = []
  return {
    async source(kit) {
      const to = kit.folder(type)
      logits = decoder.logits(ids())
      await decoder.save(to)
      for (const file of ['tokenizer.json', 'tokenizer_config.json'])
        cpSync(path.join(MODELS, 'qwen3', file), path.join(to, file))
      return { path: to, truth: truthOf(to) }
    },
    expectRun: (file) =>
      withJudge(file, async (llama) => {
        expect(relativeError(await llama.logits(ids()), logits)).toBeLessThan(tolerance)
      }),
  }
}

/** One whose logits are computed in made-up.ts. */
function family(name: string): ArchitectureModel {
  const { model, tolerance = MAX_ERROR } = FAMILIES.find((one) => one.name === name)!
  const ids = (): readonly number[] => readReference('qwen3')[0]!.ids
  let logits: readonly number[] = []
  return {
    async source(kit) {
      const to = kit.folder(name)
      logits = model.logits(ids())
      await model.save(to)
      for (const file of ['tokenizer.json', 'tokenizer_config.json'])
        cpSync(path.join(MODELS, 'qwen3', file), path.join(to, file))
      return { path: to, truth: truthOf(to) }
    },
    expectRun: (file) =>
      withJudge(file, async (llama) => {
        expect(relativeError(await llama.logits(ids()), logits)).toBeLessThan(tolerance)
      }),
  }
}

/** An encoder: `run` gives what the reference has under `out`. */
function encoder(
  name: string,
  out: string,
  embeddings: boolean,
  run: (llama: Judge, tensor: (name: string) => number[]) => Promise<ArrayLike<number>>,
): ArchitectureModel {
  return {
    ...shared(name),
    expectRun: (file) =>
      withJudge(
        file,
        async (llama) => {
          const tensors = readReferenceTensors(name)
          const found = await run(llama, (tensor) => tensors.get(tensor)!.values)
          expect(relativeError(found, tensors.get(out)!.values)).toBeLessThan(GELU_ERROR)
        },
        embeddings,
      ),
  }
}

const DISTILBERT = 'distilbert'

/** A real model of each architecture, by its id. One that is added needs one here: the test fails for it otherwise. */
export const ARCHITECTURES: Readonly<Record<string, ArchitectureModel>> = {
  llama: trained('llama3-tied'),
  mistral: trained('mistral'),
  mixtral: trained('mixtral'),
  qwen2: trained('qwen2'),
  qwen3: trained('qwen3'),
  qwen2moe: untrained('qwen2_moe'),
  qwen3moe: untrained('qwen3_moe'),
  gemma2: trained('gemma2', GELU_ERROR),
  gemma: untrained('gemma', GELU_ERROR),
  gemma3: untrained('gemma3_text', GELU_ERROR),
  olmo2: untrained('olmo2'),
  olmo3: untrained('olmo3'),
  smollm3: untrained('smollm3'),
  exaone4: untrained('exaone4'),
  seed_oss: untrained('seed_oss'),
  ernie4_5: untrained('ernie4_5'),
  glm: untrained('glm'),
  glm4: untrained('glm4'),
  hunyuan: untrained('hunyuan_v1_dense'),
  arcee: untrained('arcee'),
  cohere: untrained('cohere'),
  cohere2: untrained('cohere2'),
  phi3: trained('phi3'),
  gpt2: trained('gpt2', GELU_ERROR),
  minicpm: trained('minicpm'),
  granite: untrained('granite'),
  gpt_oss: family('gpt_oss'),
  olmoe: family('olmoe'),
  granitemoe: family('granitemoe'),
  deepseek_v2: family('deepseek_v2'),
  starcoder2: family('starcoder2'),
  phi: family('phi'),
  gpt_neox: family('gpt_neox'),
  stablelm: family('stablelm'),
  deepseek_v3: family('deepseek_v3'),
  opt: { ...shared('opt'), expectRun: null },
  bert: encoder('bert', 'out.logits', true, (llama, tensor) => llama.classify(tensor('in.input_ids'))),
  t5: encoder('t5', 'out.logits', false, (llama, tensor) =>
    llama.translate(tensor('in.input_ids'), tensor('in.decoder_input_ids')),
  ),
  distilbert: {
    // its classifier, which llama.cpp has no place for, is applied here
    ...encoder(DISTILBERT, 'out.logits', true, async (llama, tensor) => {
      const states = [...(await llama.encode(tensor('in.input_ids')))]
      const { tensors } = truthOf(path.join(MODELS, DISTILBERT))
      const project = (name: string, input: readonly number[]): number[] =>
        Array.from(tensors.get(`${name}.bias`)!.values, (bias, row) =>
          input.reduce(
            (sum, value, at) => sum + value * tensors.get(`${name}.weight`)!.values[row * input.length + at]!,
            bias,
          ),
        )
      const width = tensors.get('pre_classifier.bias')!.values.length
      const hidden = project('pre_classifier', states.slice(0, width)).map((value) => Math.max(0, value))
      return project('classifier', hidden)
    }),
    leftOut: /^(?:pre_)?classifier\./,
  },
}

/** The only GGUF file of a folder. */
export function ggufIn(folder: string): string {
  const [file, ...others] = readdirSync(folder).filter((name) => name.endsWith('.gguf'))
  if (file === undefined || others.length > 0) throw new Error(`${folder} holds not one GGUF file`)
  return path.join(folder, file)
}
