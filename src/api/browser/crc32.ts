import { createCRC32 } from 'hash-wasm'
import type { Crc32 } from '../host.ts'

/** In WASM, at some 2 GB/s: where the bytes are. */
export async function createCrc32(): Promise<Crc32> {
  const hasher = await createCRC32()
  hasher.init()
  return {
    update(bytes) {
      hasher.update(bytes)
    },
    take() {
      const value = Number.parseInt(hasher.digest('hex'), 16)
      hasher.init()
      return value
    },
  }
}
