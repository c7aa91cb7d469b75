/** The weights on which kernels are compared: the ten distributions of the specification, and some nastier ones. */

/** Reproducible numbers in [0, 1). */
export function randoms(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let word = Math.imul(state ^ (state >>> 15), state | 1)
    word ^= word + Math.imul(word ^ (word >>> 7), word | 61)
    return ((word ^ (word >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Normally distributed values. */
export function gaussian(random: () => number): number {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
}

type Make = (g: number, random: () => number, index: number) => number

const scratch = new DataView(new ArrayBuffer(4))
function roundToBf16(value: number): number {
  scratch.setFloat32(0, value)
  const bits = scratch.getUint32(0)
  scratch.setUint32(0, (bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000)
  return scratch.getFloat32(0)
}

const MAKERS: Readonly<Record<string, Make>> = {
  gaussian: (g) => g * 0.02,
  'heavy-tailed': (g, random) => (g * 0.01) / (random() + 0.003),
  'bf16-rounded': (g) => roundToBf16(g * 0.02),
  'all-negative': (g) => -Math.abs(g),
  'all-positive': (g) => Math.abs(g),
  'sparse, zeros of both signs': (g, random) => (random() < 0.85 ? (random() < 0.5 ? 0 : -0) : g),
  subnormal: (g) => g * 1e-40,
  'mixed scale': (g, random, i) => g * 10 ** ((((i >> 5) * 7) % 9) - 6 + random()),
  ties: (g) => Math.round(g * 4) / 4,
  'near-constant': (g, _, i) => (i & 512 ? -1 : 1) * (1 + g * 1e-6),
  // beyond the specification's ten
  'mixed scale inside sub-blocks': (g, random) => g * 10 ** (random() * 8 - 6),
  'all scales there are': (g, _, i) => g * 10 ** -((i >> 6) % 45),
  'whole blocks of one value': (_, __, i) => [1, -1, 0, 3e-9, -0, 1e-38, -65000][(i >> 8) % 7] ?? 0,
  'large and nearly equal': (g, _, i) => -1000 + g * 10 ** -((i >> 5) % 9),
  'one large value a sub-block': (g, _, i) => (i % 32 === (i >> 5) % 32 ? g : g * 1e-5),
  uniform: (_, random) => random() - 0.5,
  'nearly all zeros': (g, random) => (random() < 0.99 ? 0 : g),
  'odd multiples, nearly': (g, random) =>
    0.01 * Math.sign(g) * (2 * Math.floor(random() * 8) + 1) * (1 + (random() < 0.5 ? 0 : g * 1e-7)),
}

/** Every distribution by name, `elements` f32 values of each. */
export function distributions(elements: number): ReadonlyMap<string, Float32Array> {
  return new Map(
    Object.entries(MAKERS).map(([name, make], n) => {
      const random = randoms(n + 1)
      return [name, Float32Array.from({ length: elements }, (_, i) => make(gaussian(random), random, i))]
    }),
  )
}

type MakeImportance = (random: () => number) => number

const IMPORTANCES: Readonly<Record<string, MakeImportance>> = {
  plain: (random) => random() ** 2,
  'half of them zero': (random) => (random() < 0.5 ? 0 : random() * 100),
  'nearly all zero': (random) => (random() < 0.98 ? 0 : random()),
  'of all magnitudes': (random) => 10 ** (random() * 60 - 40),
  'all equal': () => 1,
  'all zero': () => 0,
}

/** Importances of a row of so many columns, by name. */
export function importances(columns: number): ReadonlyMap<string, Float32Array> {
  return new Map(
    Object.entries(IMPORTANCES).map(([name, make], n) => {
      const random = randoms(n + 100)
      return [name, Float32Array.from({ length: columns }, () => make(random))]
    }),
  )
}
