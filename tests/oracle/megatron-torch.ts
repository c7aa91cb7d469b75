import { spawn, spawnSync } from 'node:child_process'
import { readFileSync, rmSync } from 'node:fs'
import path from 'node:path'
import { createInterface } from 'node:readline'
import type { Values } from './matrix-models.ts'

const PYTHON = '/usr/bin/python3'

/** Why PyTorch cannot judge here, or null. Debian: apt-get install python3-torch */
export const noTorch: string | null =
  spawnSync(PYTHON, ['-c', 'import torch']).status === 0 ? null : 'PyTorch (python3-torch) is not installed'

/** PyTorch in a process of its own, which reads one Megatron checkpoint after another. */
export interface MegatronReader {
  /** The weights of a folder of ranks under HuggingFace's names. */
  read(folder: string): Promise<ReadonlyMap<string, Values>>
  close(): void
}

type Answer =
  | { readonly error: string }
  | { readonly tensors: Readonly<Record<string, readonly [shape: readonly number[], offset: number]>> }

export function megatronReader(): MegatronReader {
  const child = spawn(PYTHON, [path.join(import.meta.dirname, 'megatron-read.py')], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]()
  return {
    async read(folder) {
      const out = `${folder}.values`
      child.stdin.write(`${JSON.stringify({ folder, out })}\n`)
      const { value, done } = await lines.next()
      if (done === true) throw new Error('PyTorch ended')
      const answer = JSON.parse(value) as Answer
      if ('error' in answer) throw new Error(answer.error)
      const { buffer } = Uint8Array.from(readFileSync(out))
      rmSync(out)
      return new Map(
        Object.entries(answer.tensors).map(([name, [shape, offset]]) => {
          const values = new Float32Array(
            buffer,
            offset,
            shape.reduce((a, b) => a * b, 1),
          )
          return [name, { shape, values }]
        }),
      )
    },
    close: () => void child.kill(),
  }
}
