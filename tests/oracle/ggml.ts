import { fork } from 'node:child_process'
import path from 'node:path'
import type { DType } from '../../src/core/dtype.ts'
import { libraryFolder } from './library.mjs'

/** Why ggml cannot judge here, or null. */
export const noGgml: string | null = libraryFolder().reason

/** ggml's own conversions. */
export interface Ggml {
  /**
   * f32 values as the bytes of a type (f16, bf16 and the block types). With importances the values are rows of that many
   * columns, else one row.
   */
  encode(type: DType, values: Float32Array, importance?: Float32Array): Promise<Uint8Array>
  /** The bytes of a type as f32 values. */
  decode(type: DType, bytes: Uint8Array): Promise<Float32Array>
  close(): void
}

type Reply = { readonly id: number; readonly value?: unknown; readonly error?: string }

/** Starts ggml in a process of its own. */
export function startGgml(): Ggml {
  const child = fork(path.join(import.meta.dirname, 'ggml.mjs'), { serialization: 'advanced', execArgv: [] })
  const waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>()
  let next = 0
  child.on('message', (message) => {
    const { id, value, error } = message as Reply
    const one = waiting.get(id)
    waiting.delete(id)
    if (error === undefined) one?.resolve(value)
    else one?.reject(new Error(error))
  })
  child.on('exit', (code, signal) => {
    for (const one of waiting.values()) one.reject(new Error(`ggml died (${signal ?? code})`))
    waiting.clear()
  })
  const call = (
    op: string,
    type: DType,
    data: Uint8Array | Float32Array,
    importance?: Float32Array,
  ): Promise<unknown> =>
    new Promise((resolve, reject) => {
      const id = next++
      waiting.set(id, { resolve, reject })
      child.send({ id, op, type, data, importance })
    })
  return {
    encode: async (type, values, importance) =>
      new Uint8Array((await call('encode', type, values, importance)) as Uint8Array),
    decode: async (type, bytes) => (await call('decode', type, bytes)) as Float32Array,
    close: () => void child.kill(),
  }
}
