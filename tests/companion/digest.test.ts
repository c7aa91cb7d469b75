import { createHash } from 'node:crypto'
import { expect, test } from 'vitest'
import { NodeCrc32, NodeDigest } from '../../companion/digest.ts'

const sha256 = (...parts: readonly Uint8Array[]): string => {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(part)
  return hash.digest('hex')
}

function bytes(length: number, shared = false): Uint8Array {
  const made = new Uint8Array(shared ? new SharedArrayBuffer(length) : new ArrayBuffer(length))
  for (let i = 0; i < length; i++) made[i] = (i * 31 + (i >>> 8)) & 255
  return made
}

test.each([
  ['nothing', []],
  ['little', [3, 0, 1000]],
  ['just what is hashed inline', [1 << 20]],
  ['much', [10, 3 << 20, 7, (1 << 20) + 1, 0, 5 << 20]],
])('%s, plain and shared, with the digest so far at each step', async (_, lengths) => {
  for (const shared of [false, true]) {
    const digest = new NodeDigest()
    const parts: Uint8Array[] = []
    expect(await digest.hex()).toBe(sha256())
    for (const length of lengths) {
      const part = bytes(length, shared)
      parts.push(Uint8Array.from(part))
      await digest.update(part)
      // the buffer is the caller's again
      part.fill(0)
      expect(await digest.hex()).toBe(sha256(...parts))
    }
    digest.close()
  }
})

test('updates that nobody awaits in between keep their order', async () => {
  const digest = new NodeDigest()
  const parts = [bytes(100), bytes(2 << 20).fill(1), bytes(50), bytes(3 << 20).fill(2)]
  const all = Promise.all(parts.map((part) => digest.update(part)))
  const hex = digest.hex()
  await all
  expect(await hex).toBe(sha256(...parts))
  digest.close()
})

test('what is due when it is closed fails, and nothing hangs', async () => {
  const digest = new NodeDigest()
  const due = digest.update(bytes(8 << 20)).catch((error: unknown) => error)
  digest.close()
  expect(await due).toMatchObject({ code: 'device' })
  await expect(digest.update(bytes(2 << 20))).rejects.toMatchObject({ code: 'device' })
})

test('CRC-32, plain and shared, of the bytes since it was last asked', () => {
  const crc = new NodeCrc32()
  const text = new TextEncoder().encode('123456789')
  const shared = new Uint8Array(new SharedArrayBuffer(text.length))
  shared.set(text)
  expect(crc.take()).toBe(0)
  for (let turn = 0; turn < 2; turn++) {
    crc.update(shared.subarray(0, 4))
    crc.update(text.subarray(4))
    // the check value of the catalogue of CRC algorithms
    expect(crc.take()).toBe(0xcbf4_3926)
  }
})
