/*
 * Compiles the kernels with @yowasp/clang (LLVM as WebAssembly: `npm ci` is the whole toolchain) and writes two modules
 * of the same code as base64 in TypeScript, which loads alike in a page, a bundled worker, Node and Vitest:
 *   generated/shared.ts   memory shared among threads
 *   generated/single.ts   memory of its own, for pages without SharedArrayBuffer
 * Nothing is done when sources and flags are those of the last build, and an object is kept until its source, a header
 * or a flag changes. `--force` builds everything anyway.
 */
import { createHash } from 'node:crypto'
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))
const target = join(here, '../src/kernels/wasm/generated')

/** 1 GiB, in pages: what kernels may ever need at once is far less. */
const MAX_PAGES = 16384
/** Of the thread that instantiates first, and of memory that is not shared; workers bring stacks of their own. */
const STACK_BYTES = 65536

const COMPILE = [
  '--target=wasm32',
  '-O3',
  '-msimd128',
  '-mbulk-memory',
  '-matomics',
  '-nostdlib',
  '-ffreestanding',
  '-fno-builtin-memset',
  '-ffp-contract=off',
  '-fno-strict-aliasing',
  '-fno-math-errno',
  '-Wall',
  '-Wextra',
  '-Werror',
  '-std=c17',
]
const LINK = [
  '--no-entry',
  '--import-memory',
  `--max-memory=${MAX_PAGES * 65536}`,
  '--export=__heap_base',
  '--export=__stack_pointer',
  '--strip-all',
  '-z',
  `stack-size=${STACK_BYTES}`,
  '--stack-first',
]

async function sources() {
  const names = (await readdir(here)).filter((name) => /\.[ch]$/.test(name)).toSorted()
  return Object.fromEntries(
    await Promise.all(names.map(async (name) => [name, await readFile(join(here, name), 'utf8')])),
  )
}

/** A data segment would need a start function and, if memory is shared, a lock: the kernels have none. */
function refuseData(wasm) {
  const module = new WebAssembly.Module(wasm)
  const [imported] = WebAssembly.Module.imports(module)
  if (imported?.kind !== 'memory' || WebAssembly.Module.imports(module).length !== 1)
    throw new Error('only memory may be imported')
  let at = 8
  while (at < wasm.length) {
    const id = wasm[at++]
    let size = 0
    for (let shift = 0; ; shift += 7) {
      const byte = wasm[at++]
      size |= (byte & 127) << shift
      if (byte < 128) break
    }
    if (id === 11) throw new Error('the module has data segments: make the constant table an expression')
    at += size
  }
}

/** The module of one build as TypeScript. */
function moduleText(wasm) {
  return `// Made by wasm/build.mjs. Do not edit.\nexport const base64 =\n  '${Buffer.from(wasm).toString('base64')}'\n`
}

/** The hash of the texts that an object or a module is made from. */
function hashOf(...parts) {
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex')
}

/** A source and the headers that it includes, and these: what its object depends on. */
function withIncludes(name, files, tree = {}) {
  if (tree[name] !== undefined || files[name] === undefined) return tree
  tree[name] = files[name]
  for (const [, header] of files[name].matchAll(/^#include "(.+)"/gm)) withIncludes(header, files, tree)
  return tree
}

/** Renamed into place: another process may be reading. */
async function writeWhole(file, content) {
  const part = `${file}.${process.pid}.part`
  await writeFile(part, content)
  await rename(part, file)
}

/** Builds what is out of date; true if anything was. */
export async function buildKernels({ force = false } = {}) {
  const files = await sources()
  const own = await readFile(fileURLToPath(import.meta.url), 'utf8')
  const compiler = JSON.parse(await readFile(join(here, '../node_modules/@yowasp/clang/package.json'), 'utf8')).version
  const hash = hashOf(files, own, compiler)
  const stamp = join(target, 'stamp')
  if (!force && (await readFile(stamp, 'utf8').catch(() => '')) === hash) return false

  const { commands, runLLVM } = await import('@yowasp/clang')
  // Loads the compiler without reporting how far it is.
  await runLLVM(undefined, undefined, { fetchProgress: () => {} })
  // The compiler's own error carries all files along, as text: what it printed says enough.
  const run = async (tool, args, tree) => {
    try {
      return await commands[tool](args, tree, quiet)
    } catch {
      throw new Error(`${tool} failed`)
    }
  }
  const quiet = { stdout: () => {}, stderr: (bytes) => bytes && process.stderr.write(bytes) }
  const objects = {}
  const kept = join(target, 'objects')
  await mkdir(kept, { recursive: true })
  for (const unit of Object.keys(files).filter((name) => name.endsWith('.c'))) {
    const tree = withIncludes(unit, files)
    const object = unit.replace(/c$/, 'o')
    const file = `${hashOf(tree, own, compiler)}.${object}`
    const old = (await readdir(kept)).filter((name) => name.endsWith(`.${object}`))
    objects[object] = old.includes(file) && !force ? await readFile(join(kept, file)) : undefined
    if (objects[object] !== undefined) continue
    objects[object] = (await run('clang', [...COMPILE, '-c', unit, '-o', object], tree))[object]
    await writeWhole(join(kept, file), objects[object])
    await Promise.all(old.filter((name) => name !== file).map((name) => rm(join(kept, name), { force: true })))
  }
  for (const [name, flags] of [
    ['shared', ['--shared-memory']],
    ['single', []],
  ]) {
    const linked = await run('wasm-ld', [...Object.keys(objects), ...LINK, ...flags, '-o', 'out.wasm'], objects)
    refuseData(linked['out.wasm'])
    await writeWhole(join(target, `${name}.ts`), moduleText(linked['out.wasm']))
  }
  await writeFile(stamp, hash)
  return true
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const started = performance.now()
  const built = await buildKernels({ force: process.argv.includes('--force') })
  console.log(
    built ? `kernels built in ${((performance.now() - started) / 1000).toFixed(1)} s` : 'kernels are up to date',
  )
}
