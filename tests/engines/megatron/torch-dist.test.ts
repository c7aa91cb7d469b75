import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { noShared, rawTensors, sharedFiles, type Files } from '../hf/folder.ts'
import { convert, madeUp, megatronFiles, noMegatron } from './folder.ts'

/** Debian's (apt-get install python3-torch), and one of PyTorch 2, whose own reader of these checkpoints judges too. */
const PYTHONS = ['/usr/bin/python3', process.env['TORCH2_PYTHON'] ?? ''].filter(
  (python) => python !== '' && spawnSync(python, ['-c', 'import torch']).status === 0,
)

interface Loaded {
  readonly tensors: Record<string, [dtype: string, shape: number[], sum: number]>
  readonly built: unknown
  readonly args: Record<string, string>
  readonly common: Record<string, unknown>
  readonly backend: unknown
  readonly dcp: boolean
}

let folder = ''
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'torch-dist-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** What Python makes of the iteration among files. */
function load(python: string, files: Files, iteration: string): Loaded {
  const root = mkdtempSync(path.join(folder, 'x-'))
  for (const [name, bytes] of Object.entries(files)) {
    if (!name.startsWith(iteration)) continue
    mkdirSync(path.dirname(path.join(root, name)), { recursive: true })
    writeFileSync(path.join(root, name), bytes)
  }
  const script = path.join(import.meta.dirname, 'dist-loads.py')
  const { status, stdout, stderr } = spawnSync(python, [script, path.join(root, iteration)], { encoding: 'utf8' })
  if (status !== 0) throw new Error(stderr)
  return (JSON.parse(stdout) as Loaded[])[0]!
}

/** The sum that dist-loads.py makes of 16-bit values. */
function sum(...parts: readonly Uint8Array[]): number {
  let index = 0
  let total = 0
  for (const part of parts) {
    for (const value of new Int16Array(part.slice().buffer)) total += value * ((index++ % 251) + 1)
  }
  return total
}

describe.skipIf(PYTHONS.length === 0).each(PYTHONS)(
  'torch_dist, judged by PyTorch (%s; skipped without it)',
  (python) => {
    test.skipIf(noMegatron || noShared)(
      'has the tensors, and the metadata, that PyTorch wrote of the same model (../shared)',
      { timeout: 60_000 },
      async () => {
        const { files } = await convert(sharedFiles('llama-spm'), 'megatron', { 'checkpoint-format': 'torch_dist' })
        const ours = load(python, files, 'iter_0000001')
        const real = load(python, megatronFiles('llama-dist'), 'iter_0000100')
        expect(ours.tensors).toEqual(real.tensors)
        expect(ours.built).toEqual(real.built)
        expect(ours.backend).toEqual(real.backend)
        expect(ours.common['checkpoint_version']).toBe(3)
        for (const key of [
          'num_layers',
          'hidden_size',
          'num_query_groups',
          'padded_vocab_size',
          'params_dtype',
          'swiglu',
        ])
          expect(ours.args[key], key).toBe(real.args[key])
        expect(ours.args['ckpt_format']).toBe('torch_dist')
        if (python !== '/usr/bin/python3') expect(ours.dcp).toBe(true)
      },
    )

    test.each(['stacked', 'numbered'])('experts, layers %s', { timeout: 60_000 }, async (keys) => {
      const source = await madeUp(MIXTRAL)
      const { files } = await convert(source, 'megatron', { 'checkpoint-format': 'torch_dist', 'layer-keys': keys })
      const { tensors, common } = load(python, files, 'iter_0000001')
      expect(common['content_metadata']).toMatchObject({ non_homogeneous_layers: keys === 'numbered' })
      const stored = new Map(rawTensors(source['model.safetensors']!).map(({ name, data }) => [name, data]))
      const of = (layer: number, expert: number, part: number): Uint8Array =>
        stored.get(`model.layers.${layer}.block_sparse_moe.experts.${expert}.w${part}.weight`)!
      const gates = (layer: number, expert: number): Uint8Array[] => [of(layer, expert, 1), of(layer, expert, 3)]
      const [layers, experts] = [
        [0, 1, 2],
        [0, 1, 2, 3],
      ]
      const router = (layer: number): Uint8Array => stored.get(`model.layers.${layer}.block_sparse_moe.gate.weight`)!
      if (keys === 'stacked') {
        expect(tensors['decoder.layers.mlp.experts.experts.linear_fc1.weight']).toEqual([
          'torch.bfloat16',
          [3, 4, 64, 16],
          sum(...layers.flatMap((layer) => experts.flatMap((expert) => gates(layer, expert)))),
        ])
        expect(tensors['decoder.layers.mlp.experts.experts.linear_fc2.weight']).toEqual([
          'torch.bfloat16',
          [3, 4, 16, 32],
          sum(...layers.flatMap((layer) => experts.map((expert) => of(layer, expert, 2)))),
        ])
        expect(tensors['decoder.layers.mlp.router.weight']).toEqual([
          'torch.bfloat16',
          [3, 4, 16],
          sum(...layers.map(router)),
        ])
        expect(Object.keys(tensors).sort()).toEqual([
          'decoder.final_layernorm.weight',
          'decoder.layers.mlp.experts.experts.linear_fc1.weight',
          'decoder.layers.mlp.experts.experts.linear_fc2.weight',
          'decoder.layers.mlp.router.weight',
          'decoder.layers.pre_mlp_layernorm.weight',
          'decoder.layers.self_attention.linear_proj.weight',
          'decoder.layers.self_attention.linear_qkv.layer_norm_weight',
          'decoder.layers.self_attention.linear_qkv.weight',
          'embedding.word_embeddings.weight',
          'output_layer.weight',
        ])
        return
      }
      expect(Object.keys(tensors)).toHaveLength(3 * 7 + 3)
      for (const layer of layers) {
        const name = `decoder.layers.${layer}.mlp.experts.experts`
        const [fc1, fc2] = [
          experts.flatMap((expert) => gates(layer, expert)),
          experts.map((expert) => of(layer, expert, 2)),
        ]
        expect(tensors[`${name}.linear_fc1.weight`]).toEqual(['torch.bfloat16', [4, 64, 16], sum(...fc1)])
        expect(tensors[`${name}.linear_fc2.weight`]).toEqual(['torch.bfloat16', [4, 16, 32], sum(...fc2)])
      }
      expect(tensors['decoder.layers.2.mlp.router.weight']).toEqual(['torch.bfloat16', [4, 16], sum(router(2))])
    })
  },
)

const MIXTRAL = {
  architectures: ['MixtralForCausalLM'],
  model_type: 'mixtral',
  hidden_size: 16,
  intermediate_size: 32,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  num_hidden_layers: 3,
  num_local_experts: 4,
  num_experts_per_tok: 2,
  vocab_size: 300,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  torch_dtype: 'bfloat16',
  tie_word_embeddings: false,
}
