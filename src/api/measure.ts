import { dtypeInfo, elementCount } from '../core/dtype.ts'
import { cast, reduce, reshape, type Recipe } from '../core/tensor.ts'
import type { Evidence, Measurement } from '../engines/engine.ts'
import type { Opened } from './api.ts'
import { kernels } from './kernels.ts'
import { stackBytes, Stack, type Run } from './evaluate/node.ts'
import type { Host } from './host.ts'
import { JobInputs } from './sources.ts'
import { compile } from './evaluate/compile.ts'
import { tensorTiles } from './tiles.ts'

/** Answers what an engine must know of the weights before it can plan, in bounded memory. */
export async function measure(
  host: Host,
  source: Pick<Opened, 'folder' | 'checkpoint'>,
  needed: readonly Measurement[],
  signal?: AbortSignal,
): Promise<Evidence> {
  const evidence = new Map<string, boolean | number>()
  if (needed.length === 0) return evidence
  const kernel = kernels(await host.backends())
  const inputs = new JobInputs(source.folder, source.checkpoint.sources, null)
  const context = { inputs, kernel, signal }
  try {
    for (const one of needed) {
      const answer = one.kind === 'equal' ? await equal(one.a, one.b, context) : await absmax(one.of, context)
      evidence.set(one.id, answer)
    }
  } finally {
    await inputs.close()
  }
  return evidence
}

type Context = Omit<Run, 'stack'>

/** Whether two recipes have the same shape and the same values, bit for bit once both are in the first one's type. */
async function equal(a: Recipe, b: Recipe, context: Context): Promise<boolean> {
  if (a.shape.join() !== b.shape.join()) return false
  const left = tensorTiles('a', a, 0)
  const right = compile(cast(b, a.dtype))
  const { block, bytes } = dtypeInfo(a.dtype)
  let start = 0
  for (const tile of left) {
    const count = (tile.size / bytes) * block
    const one = await tile.compute(new Uint8Array(tile.slab), context)
    const slab = new Uint8Array(stackBytes(tile.size) + right.scratch(start, count))
    const stack = new Stack(slab)
    const two = stack.take(tile.size)
    await right.fill(start, count, two, { ...context, stack })
    if (one.some((byte, index) => byte !== two[index])) return false
    start += count
  }
  return true
}

async function absmax(of: Recipe, context: Context): Promise<number> {
  const flat = reshape(of, [elementCount(of.shape)])
  const [tile] = tensorTiles('absmax', reduce(flat, 0, 'absmax'), 0)
  if (tile === undefined) return 0
  const bytes = await tile.compute(new Uint8Array(tile.slab), context)
  return new Float32Array(bytes.buffer, bytes.byteOffset, 1)[0] ?? 0
}
