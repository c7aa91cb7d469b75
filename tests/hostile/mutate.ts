/** Mutations of files: what a careless tool, a broken disk or an attacker does to one. */

/** Numbers from 0 to 1, the same for a seed on every machine. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Where counts, sizes and offsets go wrong. */
const EDGES = [
  0n,
  1n,
  2n,
  127n,
  128n,
  255n,
  2n ** 16n - 1n,
  2n ** 24n,
  2n ** 31n - 1n,
  2n ** 31n,
  2n ** 32n - 1n,
  2n ** 32n,
  2n ** 40n,
  2n ** 53n - 1n,
  2n ** 53n,
  2n ** 62n,
  2n ** 63n - 1n,
  2n ** 63n,
  2n ** 64n - 1n,
]

/** A copy with one to three things wrong within its first `reach` bytes. */
export function mutateBytes(bytes: Uint8Array, random: () => number, reach = bytes.length): Uint8Array {
  let out = Uint8Array.from(bytes)
  const times = 1 + Math.floor(random() * random() * 3)
  for (let i = 0; i < times && out.length > 0; i++) out = mutateOnce(out, random, Math.min(reach, out.length))
  return out
}

function mutateOnce(bytes: Uint8Array<ArrayBuffer>, random: () => number, reach: number): Uint8Array<ArrayBuffer> {
  const at = Math.floor(random() * reach)
  const length = 1 + Math.floor(random() * 8)
  switch (Math.floor(random() * 8)) {
    case 0:
      bytes[at]! ^= 1 << Math.floor(random() * 8)
      return bytes
    case 1:
      bytes[at] = Math.floor(random() * 256)
      return bytes
    case 2:
      return bytes.slice(0, at)
    case 3: {
      const edge = EDGES[Math.floor(random() * EDGES.length)]!
      const size = [1, 2, 4, 8][Math.floor(random() * 4)]!
      for (let i = 0; i < size && at + i < bytes.length; i++) bytes[at + i] = Number((edge >> BigInt(8 * i)) & 0xffn)
      return bytes
    }
    case 4:
      return joined(bytes.subarray(0, at), bytes.subarray(Math.min(bytes.length, at + length)))
    case 5: {
      const added = Uint8Array.from({ length }, () => Math.floor(random() * 256))
      return joined(bytes.subarray(0, at), added, bytes.subarray(at))
    }
    case 6: {
      const from = Math.floor(random() * reach)
      bytes.copyWithin(at, from, from + 8 * length)
      return bytes
    }
    default:
      bytes.fill(random() < 0.5 ? 0 : 0xff, at, at + length)
      return bytes
  }
}

function joined(...parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}

/** JSON as text, for values that JSON.stringify would not write. */
const VALUES = [
  'null',
  'true',
  'false',
  '0',
  '-1',
  '-0',
  '1.5',
  '1e308',
  '1e999',
  '9007199254740993',
  '4294967296',
  '100000000',
  '""',
  '"x"',
  '"__proto__"',
  '"\\ud800"',
  '[]',
  '[[]]',
  '[null]',
  '[1, 2, 3]',
  '["a"]',
  '{}',
  '{"__proto__": 1}',
  '{"type": "Sequence"}',
  `${'['.repeat(600)}${']'.repeat(600)}`,
]

/** A JSON file with one of its values replaced, taken away or said twice; or with its bytes mutated. */
export function mutateJson(bytes: Uint8Array, random: () => number): Uint8Array {
  if (random() < 0.25) return mutateBytes(bytes, random)
  const root: unknown = JSON.parse(new TextDecoder().decode(bytes))
  const places = placesIn(root)
  if (places.length === 0) return mutateBytes(bytes, random)
  const { holder, key } = places[Math.floor(random() * places.length)]!
  const marker = '@replaced@'
  const value = VALUES[Math.floor(random() * VALUES.length)]!
  const kind = random()
  if (kind < 0.15) {
    if (Array.isArray(holder)) holder.splice(Number(key), 1)
    else delete holder[key]
  } else if (kind < 0.25 && Array.isArray(holder)) holder.push(holder[Number(key)])
  else if (kind < 0.35 && !Array.isArray(holder)) {
    holder[VALUES[Math.floor(random() * VALUES.length)]!.slice(0, 20)] = holder[key]
  } else (holder as Record<string, unknown>)[key] = marker
  return new TextEncoder().encode(JSON.stringify(root).replaceAll(`"${marker}"`, value))
}

interface JsonPlace {
  readonly holder: Record<string, unknown> | unknown[]
  readonly key: string
}

/** Each key of each object with the same weight as those of the whole: a vocabulary must not hide the rest. */
function placesIn(root: unknown): readonly JsonPlace[] {
  const places: JsonPlace[] = []
  const visit = (value: unknown): void => {
    if (typeof value !== 'object' || value === null) return
    const holder = value as Record<string, unknown> | unknown[]
    const keys = Object.keys(holder)
    const some = keys.length <= 40 ? keys : keys.filter((_, index) => index % Math.ceil(keys.length / 20) === 0)
    for (const key of some) {
      places.push({ holder, key })
      visit((holder as Record<string, unknown>)[key])
    }
  }
  visit(root)
  return places
}
