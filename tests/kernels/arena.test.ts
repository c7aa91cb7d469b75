import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createArena, type WasmArena } from '../../src/kernels/wasm/arena.ts'
import { createMemory, PAGE, type WasmMemory } from '../../src/kernels/wasm/module.ts'

const BASE = 2 * PAGE
const MOST = 16 << 20

function growing(): { arena: WasmArena; memory: WasmMemory } {
  const memory = createMemory(BASE, MOST, true)
  return { arena: createArena(memory, BASE, MOST, true), memory }
}

describe('arena', () => {
  test('buffers are aligned, apart, above the base, and of the exact length', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(200_000), fc.boolean()), { maxLength: 60 }), (steps) => {
        const { arena } = growing()
        const held: Uint8Array[] = []
        for (const [bytes, drop] of steps) {
          const buffer = arena.alloc(bytes)
          expect(buffer.byteLength).toBe(bytes)
          expect(buffer.byteOffset % 64).toBe(0)
          expect(buffer.byteOffset).toBeGreaterThanOrEqual(BASE)
          for (const other of held) {
            const apart =
              buffer.byteOffset >= other.byteOffset + other.byteLength || other.byteOffset >= buffer.byteOffset + bytes
            expect(apart).toBe(true)
          }
          held.push(buffer)
          if (drop) arena.free(held.splice(bytes % held.length, 1)[0]!)
        }
        for (const buffer of held) arena.free(buffer)
        expect(arena.used).toBe(0)
        // All holes have joined: the whole of what there is can be had at once.
        arena.free(arena.alloc(MOST - BASE))
      }),
      { numRuns: 60 },
    )
  })

  test('memory grows only when it must, and buffers from before stay valid', () => {
    const { arena, memory } = growing()
    const first = arena.alloc(100)
    first.fill(7)
    const grown = memory.buffer.byteLength
    arena.free(arena.alloc(1000))
    expect(memory.buffer.byteLength).toBe(grown)
    const second = arena.alloc(8 << 20)
    expect(memory.buffer.byteLength).toBeGreaterThan(grown)
    second.fill(9)
    expect(first.every((byte) => byte === 7)).toBe(true)
    expect(new Uint8Array(memory.buffer)[first.byteOffset]).toBe(7)
    expect(arena.owns(first) && arena.owns(second) && arena.owns(second.subarray(5, 9))).toBe(true)
    expect(arena.owns(new Uint8Array(4))).toBe(false)
  })

  test('an exhausted arena throws `memory` and can go on', () => {
    const { arena } = growing()
    const half = arena.alloc(10 << 20)
    expect(() => arena.alloc(10 << 20)).toThrow(expect.objectContaining({ code: 'memory' }))
    arena.free(half)
    arena.free(arena.alloc(10 << 20))
  })

  test('memory that is not shared never grows', () => {
    const memory = createMemory(1 << 20, 1 << 20, false)
    const arena = createArena(memory, BASE, 1 << 20, false)
    const buffer = arena.alloc(1000)
    expect(() => arena.alloc(1 << 20)).toThrow(expect.objectContaining({ code: 'memory' }))
    expect(buffer.byteLength).toBe(1000)
  })

  test('freeing twice, or what is not its own, is refused', () => {
    const { arena } = growing()
    const buffer = arena.alloc(10)
    arena.free(buffer)
    expect(() => arena.free(buffer)).toThrow(expect.objectContaining({ code: 'internal' }))
    expect(() => arena.free(new Uint8Array(10))).toThrow(expect.objectContaining({ code: 'internal' }))
  })
})
