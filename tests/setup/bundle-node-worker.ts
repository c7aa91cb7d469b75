import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { build } from 'vite'
import { buildKernels } from '../../wasm/build.mjs'

const ROOT = path.resolve(import.meta.dirname, '../..')
const ENTRY = 'companion/kernel-worker.ts'
/** All that ends up in the bundle. */
const SOURCES = [ENTRY, 'src/kernels/wasm/worker.ts', 'src/kernels/wasm/module.ts', 'src/core/errors.ts']

/**
 * Builds the kernels if they are out of date, and Node's kernel worker as one JavaScript file, since Node 20 cannot start
 * a TypeScript one. Cached by content. Returns the file's path.
 */
export async function bundleNodeWorker(): Promise<string> {
  await buildKernels()
  const sources = await Promise.all(SOURCES.map((file) => readFile(path.join(ROOT, file), 'utf8')))
  const hash = createHash('sha256').update(JSON.stringify(sources)).digest('hex').slice(0, 16)
  const folder = path.join(ROOT, 'node_modules/.cache/modelconvert')
  const target = path.join(folder, `kernel-worker-${hash}.mjs`)
  if (existsSync(target)) return target

  const result = await build({
    root: ROOT,
    configFile: false,
    logLevel: 'error',
    build: { ssr: ENTRY, write: false, target: 'node20' },
  })
  const [bundle] = Array.isArray(result) ? result : [result]
  if (bundle === undefined || !('output' in bundle)) throw new Error('vite built no kernel worker')
  await mkdir(folder, { recursive: true })
  const part = `${target}.${process.pid}.part`
  await writeFile(part, bundle.output[0].code)
  await rename(part, target)
  return target
}
