import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect, test } from 'vitest'
import { rawTensors } from '../hf/folder.ts'
import { convert, madeUp } from './folder.ts'

const PYTHON = '/usr/bin/python3'
const noTorch = spawnSync(PYTHON, ['-c', 'import torch']).status !== 0

interface Loaded {
  readonly model: Record<string, [dtype: string, shape: number[], sum: number]>
  readonly args: Record<string, string>
  readonly version: number
}

/** The sum that torch-loads.py makes, of rows of 16-bit values. */
function sum(rows: readonly Int16Array[]): number {
  let index = 0
  let total = 0
  for (const row of rows) for (const value of row) total += value * ((index++ % 251) + 1)
  return total
}

// Debian: apt-get install python3-torch
test.skipIf(noTorch)(
  'torch.load reads what is written, rows where Megatron has them',
  { timeout: 120_000 },
  async () => {
    const heads = { num_attention_heads: 8, num_key_value_heads: 2, head_dim: 4 }
    const files = await madeUp({
      architectures: ['Qwen2ForCausalLM'],
      model_type: 'qwen2',
      hidden_size: 32,
      intermediate_size: 48,
      num_hidden_layers: 2,
      vocab_size: 300,
      torch_dtype: 'bfloat16',
      tie_word_embeddings: true,
      ...heads,
    })
    const { files: ranks } = await convert(files, 'megatron', { tp: 2, pp: 2 })
    const folder = mkdtempSync(path.join(tmpdir(), 'megatron-'))
    try {
      const names = ['00_000', '01_000', '00_001', '01_001'].map(
        (rank) => `iter_0000001/mp_rank_${rank}/model_optim_rng.pt`,
      )
      for (const name of names) {
        mkdirSync(path.dirname(path.join(folder, name)), { recursive: true })
        writeFileSync(path.join(folder, name), ranks[name]!)
      }
      const script = path.join(import.meta.dirname, 'torch-loads.py')
      const { stdout, stderr } = spawnSync(PYTHON, [script, ...names.map((name) => path.join(folder, name))], {
        encoding: 'utf8',
      })
      expect(stderr).not.toContain('Error')
      const loaded = JSON.parse(stdout) as Loaded[]
      const stored = new Map(rawTensors(files['model.safetensors']!).map((tensor) => [tensor.name, tensor]))
      /** One row of a tensor. */
      const row = (name: string, index: number): Int16Array => {
        const { data, shape } = stored.get(name)!
        const columns = shape[1] ?? 1
        const bytes = data.slice(index * columns * 2, (index + 1) * columns * 2)
        return new Int16Array(bytes.buffer)
      }
      const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i)
      for (const [stage, rank] of [0, 1].flatMap((pp) => [0, 1].map((tp) => [pp, tp] as const))) {
        const { model, args, version } = loaded[stage * 2 + rank]!
        expect(version).toBe(3)
        expect(args).toMatchObject({
          tensor_model_parallel_size: '2',
          padded_vocab_size: '512',
          params_dtype: 'torch.bfloat16',
        })
        const layer = `model.layers.${stage}`
        const own = 'decoder.layers.0'
        // a rank has one of two groups: four heads of queries, one of keys, one of values, of four channels each
        for (const field of ['weight', 'bias']) {
          const part = (name: string, from: number, to: number): Int16Array[] =>
            range(from, to).map((index) => row(`${layer}.self_attn.${name}_proj.${field}`, index))
          const qkv = [
            ...part('q', rank * 16, rank * 16 + 16),
            ...part('k', rank * 4, rank * 4 + 4),
            ...part('v', rank * 4, rank * 4 + 4),
          ]
          const shape = field === 'weight' ? [24, 32] : [24]
          expect(model[`${own}.self_attention.linear_qkv.${field}`]).toEqual(['torch.bfloat16', shape, sum(qkv)])
        }
        const half = (name: string): Int16Array[] =>
          range(rank * 24, rank * 24 + 24).map((index) => row(`${layer}.mlp.${name}_proj.weight`, index))
        const fc1 = sum([...half('gate'), ...half('up')])
        expect(model[`${own}.mlp.linear_fc1.weight`]).toEqual(['torch.bfloat16', [48, 32], fc1])
        const columns = range(0, 32).map((index) =>
          row(`${layer}.mlp.down_proj.weight`, index).subarray(rank * 24, rank * 24 + 24),
        )
        expect(model[`${own}.mlp.linear_fc2.weight`]).toEqual(['torch.bfloat16', [32, 24], sum(columns)])
        // the second rank has the last 44 rows and copies of the last; both ends of the pipeline have the embedding
        const embedding = range(rank * 256, rank * 256 + 256).map((index) =>
          row('model.embed_tokens.weight', Math.min(index, 299)),
        )
        const name = stage === 0 ? 'embedding.word_embeddings.weight' : 'output_layer.weight'
        expect(model[name]).toEqual(['torch.bfloat16', [256, 32], sum(embedding)])
        expect('decoder.final_layernorm.weight' in model).toBe(stage === 1)
      }
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  },
)

test.skipIf(noTorch)('torch.load finds experts on the ranks that have them', { timeout: 120_000 }, async () => {
  const files = await madeUp({
    architectures: ['MixtralForCausalLM'],
    model_type: 'mixtral',
    hidden_size: 16,
    intermediate_size: 24,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    num_hidden_layers: 2,
    num_local_experts: 6,
    num_experts_per_tok: 2,
    vocab_size: 300,
    torch_dtype: 'bfloat16',
    tie_word_embeddings: false,
  })
  const { files: ranks } = await convert(files, 'megatron', { tp: 2, pp: 2, ep: 3 })
  const positions = [0, 1].flatMap((tp) => [0, 1].flatMap((pp) => [0, 1, 2].map((ep) => ({ tp, pp, ep }))))
  const folder = mkdtempSync(path.join(tmpdir(), 'megatron-'))
  try {
    const names = positions.map(({ tp, pp, ep }) => `iter_0000001/mp_rank_0${tp}_00${pp}_00${ep}/model_optim_rng.pt`)
    for (const name of names) {
      mkdirSync(path.dirname(path.join(folder, name)), { recursive: true })
      writeFileSync(path.join(folder, name), ranks[name]!)
    }
    const script = path.join(import.meta.dirname, 'torch-loads.py')
    const { stdout, stderr } = spawnSync(PYTHON, [script, ...names.map((name) => path.join(folder, name))], {
      encoding: 'utf8',
    })
    expect(stderr).not.toContain('Error')
    const loaded = JSON.parse(stdout) as Loaded[]
    const stored = new Map(rawTensors(files['model.safetensors']!).map((tensor) => [tensor.name, tensor]))
    const rows = (name: string, from: number, to: number): Int16Array[] => {
      const { data, shape } = stored.get(name)!
      const columns = shape[1] ?? 1
      return Array.from({ length: to - from }, (_, index) => {
        return new Int16Array(data.slice((from + index) * columns * 2, (from + index + 1) * columns * 2).buffer)
      })
    }
    for (const [index, { tp, pp, ep }] of positions.entries()) {
      const { model, args } = loaded[index]!
      expect(args).toMatchObject({
        expert_model_parallel_size: '3',
        expert_tensor_parallel_size: '2',
        num_experts: '6',
      })
      // two experts a rank, numbered from 0; each divided in two as an MLP is
      expect(Object.keys(model).filter((name) => name.includes('.experts.'))).toHaveLength(4)
      for (const local of [0, 1]) {
        const expert = `model.layers.${pp}.block_sparse_moe.experts.${ep * 2 + local}`
        const own = `decoder.layers.0.mlp.experts.local_experts.${local}`
        const [gate, up] = ['w1', 'w3'].map((part) => rows(`${expert}.${part}.weight`, tp * 12, tp * 12 + 12))
        expect(model[`${own}.linear_fc1.weight`]).toEqual(['torch.bfloat16', [24, 16], sum([...gate!, ...up!])])
        const down = rows(`${expert}.w2.weight`, 0, 16).map((row) => row.subarray(tp * 12, tp * 12 + 12))
        expect(model[`${own}.linear_fc2.weight`]).toEqual(['torch.bfloat16', [16, 12], sum(down)])
      }
      // what is no expert is on all of their ranks
      const router = rows(`model.layers.${pp}.block_sparse_moe.gate.weight`, 0, 6)
      expect(model['decoder.layers.0.mlp.router.weight']).toEqual(['torch.bfloat16', [6, 16], sum(router)])
      const norm = rows(`model.layers.${pp}.post_attention_layernorm.weight`, 0, 16)
      expect(model['decoder.layers.0.pre_mlp_layernorm.weight']).toEqual(['torch.bfloat16', [16], sum(norm)])
      expect('output_layer.weight' in model).toBe(pp === 1)
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})
