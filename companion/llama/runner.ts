import { existsSync, readFileSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import type { Runner, RunnableModel, RunningModel } from '../../src/api/runner.ts'
import type { Place } from '../../src/core/bytes.ts'
import { AppError } from '../../src/core/errors.ts'
import { LlamaProcess } from './client.ts'

/** What to do where llama.cpp is missing. */
const INSTALL_HINT = 'Install it beside modelconvert: npm install node-llama-cpp (add -g where modelconvert is global).'

export interface LlamaRunnerOptions {
  /** Finds the built file of the process. */
  readonly script: () => string
  /** 0 for as many as llama.cpp itself would take. */
  readonly threads: number
  /** Where a place lies on the disk; throws for places that do not. */
  readonly pathOf: (place: Place) => string
}

/** llama.cpp as node-llama-cpp brings it: an optional package, which this only looks for when it is to run something. */
export function createLlamaRunner({ script: find, threads, pathOf }: LlamaRunnerOptions): Runner {
  return {
    id: 'llama.cpp',
    async limitation() {
      const script = find()
      if (!existsSync(script)) return `The program that runs llama.cpp was not built. Build it: npm run build:node.`
      return packageVersion(script) === null ? `node-llama-cpp is not installed. ${INSTALL_HINT}` : null
    },
    async load(model, { context, signal }): Promise<RunningModel> {
      const script = find()
      const process = new LlamaProcess(script, signal)
      try {
        const missing = await process.call('start', {})
        if (missing !== null) throw new AppError('unsupported', missing, { hint: INSTALL_HINT })
        const path = entryPath(pathOf(model.place), model)
        const embeddings = model.kind === 'encoder'
        const { llama, ...loaded } = await process.call('load', { path, context, threads, embeddings })
        const by = `llama.cpp ${llama} (node-llama-cpp ${packageVersion(script) ?? '?'})`
        return {
          by,
          threads: loaded.threads,
          context: loaded.context,
          loadMs: loaded.loadMs,
          async generate(prompt, count) {
            const generated = await process.call('generate', { prompt, count })
            return { ...generated, promptTokens: generated.promptIds.length }
          },
          embed: (text) => process.call('embed', { text }),
          measures: {
            first: loaded.first,
            tokenize: (text) => process.call('tokenize', { text }),
            losses: (ids) => process.call('losses', { ids }),
            logits: (ids, fresh) => process.call('logits', { ids, fresh }),
          },
          memoryBytes: () => process.call('memory', {}),
          close: () => process.close(),
        }
      } catch (error) {
        await process.close()
        throw error
      }
    },
  }
}

/** The file that llama.cpp is given: it finds the other parts of a split model by their names. */
function entryPath(root: string, { files }: RunnableModel): string {
  const [first] = files
  if (first === undefined) throw new AppError('missing-file', 'There is no file to run')
  return statSync(root, { throwIfNoEntry: false })?.isFile() === true ? root : join(root, first.path)
}

/** The version of the node-llama-cpp that the process will find; null if there is none. */
function packageVersion(script: string): string | null {
  let folder: string
  try {
    folder = dirname(createRequire(script).resolve('node-llama-cpp'))
  } catch {
    return null
  }
  for (; dirname(folder) !== folder; folder = dirname(folder)) {
    const manifest = join(folder, 'package.json')
    if (!existsSync(manifest)) continue
    const { name, version } = JSON.parse(readFileSync(manifest, 'utf8')) as { name?: string; version?: string }
    if (name === 'node-llama-cpp') return version ?? null
  }
  return null
}
