import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, posix, relative, resolve } from 'node:path'
import { expect, test } from 'vitest'

const ROOT = resolve(import.meta.dirname, '..')

/** What each room may import from the others; first match wins. From the table in DESIGN: who may import whom. */
const RULES: readonly { from: RegExp; may: readonly RegExp[] }[] = [
  { from: /^src\/core\//, may: [/^src\/core\//] },
  { from: /^src\/models\//, may: [/^src\/(core|models)\//] },
  { from: /^src\/engines\/containers\//, may: [/^src\/core\//, /^src\/engines\/containers\//] },
  {
    from: /^src\/engines\/(?<room>[^/]+)\//,
    may: [
      /^src\/(core|models)\//,
      /^src\/engines\/(containers|transformers)\//,
      /^src\/engines\/engine\.ts$/,
      /^src\/engines\/ROOM\//,
    ],
  },
  { from: /^src\/engines\//, may: [/^src\/(core|models|engines)\//] },
  { from: /^src\/kernels\/reference\//, may: [/^src\/core\//, /^src\/kernels\/(reference\/|backend\.ts|check\.ts)/] },
  { from: /^src\/kernels\//, may: [/^src\/(core|kernels)\//] },
  { from: /^src\/api\/wire\.ts$/, may: [/^src\/core\//] },
  { from: /^src\/api\/browser\//, may: [/^src\/(core|kernels|api)\//] },
  { from: /^src\/api\//, may: [/^src\/(core|models|engines|kernels)\//, /^src\/api\/(?!browser\/)/] },
  { from: /^src\/sw\//, may: [/^src\/sw\//] },
  {
    from: /^src\/ui\//,
    may: [
      /^src\/ui\//,
      /^src\/core\//,
      /^src\/api\/(wire|transfer)\.ts$/,
      /^src\/api\/browser\/worker\.ts$/,
      /^src\/api\/browser\/save\.ts$/,
    ],
  },
  { from: /^companion\//, may: [/^src\/(core|models|engines|kernels)\//, /^src\/api\/(?!browser\/)/, /^companion\//] },
]

/** Packages each room may name; rooms without an entry may name none. */
const PACKAGES: readonly { from: RegExp; may: RegExp }[] = [
  { from: /^src\/engines\/transformers\/fingerprint\.ts$/, may: /^(@huggingface\/tokenizers|hash-wasm)$/ },
  { from: /^src\/engines\/containers\/yaml\.ts$/, may: /^yaml$/ },
  { from: /^src\/api\/transfer\.ts$/, may: /^comlink$/ },
  { from: /^src\/api\/browser\/llama\.ts$/, may: /^@wllama\/wllama\// },
  { from: /^src\/api\/browser\//, may: /^(comlink|hash-wasm|idb)$/ },
  { from: /^src\/ui\//, may: /^(svelte(\/.*)?|comlink|idb|virtual:pwa-register(\/.*)?|workbox-window)$/ },
  { from: /^src\/sw\//, may: /^workbox-/ },
  { from: /^companion\/llama\/process\.ts$/, may: /^(node:.*|node-llama-cpp)$/ },
  { from: /^companion\//, may: /^node:/ },
]

function files(folder: string): string[] {
  return readdirSync(join(ROOT, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = posix.join(folder, entry.name)
    if (entry.isDirectory()) return entry.name === 'generated' ? [] : files(path)
    return /\.(ts|svelte)$/.test(entry.name) && !entry.name.endsWith('.d.ts') ? [path] : []
  })
}

function importsOf(path: string): string[] {
  const text = readFileSync(join(ROOT, path), 'utf8')
  const found = text.matchAll(
    /(?:^|\n)\s*(?:import|export)\b[^'"`;]*?\bfrom\s*['"]([^'"]+)['"]|(?:^|\n)\s*import\s*['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]\s*\)|new URL\(\s*['"]([^'"]+\.ts)['"]/g,
  )
  return [...found].flatMap((match) => match.slice(1).filter((name) => name !== undefined))
}

function broken(path: string): string[] {
  const rule = RULES.find(({ from }) => from.test(path))
  if (rule === undefined) return [`${path} is in no room`]
  const room = rule.from.exec(path)?.groups?.['room'] ?? ''
  const may = rule.may.map((pattern) => new RegExp(pattern.source.replace('ROOM', room)))
  return importsOf(path).flatMap((name) => {
    const bare = name.replace(/\?.*$/, '')
    if (bare.startsWith('.')) {
      const target = relative(ROOT, resolve(ROOT, dirname(path), bare)).replaceAll('\\', '/')
      if (target.includes('/generated/'))
        return path.startsWith('src/kernels/wasm/') ? [] : [`${path} imports ${target}`]
      return may.some((pattern) => pattern.test(target)) ? [] : [`${path} imports ${target}`]
    }
    const allowed = PACKAGES.find(({ from }) => from.test(path))?.may.test(bare) ?? false
    return allowed ? [] : [`${path} imports the package ${bare}`]
  })
}

const all = [...files('src'), ...files('companion')]

test('rooms import only what they may', () => {
  expect(all.length).toBeGreaterThan(40)
  expect(all.flatMap(broken)).toEqual([])
})

test('the check itself finds a forbidden import', () => {
  expect(importsOf('src/api/execute.ts')).toContain('../core/bytes.ts')
  expect(importsOf('src/engines/index.ts')).toContain('./gguf/engine.ts')
})

test('engines, models and foreign runtimes are loaded lazily by the pages', () => {
  const eager = all.filter((path) => /^src\/(ui|sw)\//.test(path)).flatMap((path) => importsOf(path))
  expect(eager.filter((name) => /engines|models|onnxruntime/.test(name))).toEqual([])
})
