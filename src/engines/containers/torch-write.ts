/** Plans files of torch.save: a stored zip of a pickle and of each tensor's bytes. */
import { elementCount, type DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import type { PlannedFile } from '../../core/plan.ts'
import type { Recipe } from '../../core/tensor.ts'
import type { PickleValue } from './pickle.ts'
import { pickledCall, pickledGlobal, pickledTuple, writePickle } from './pickle-write.ts'
import { planZip, type PlannedZip } from './zip-write.ts'

const STORAGES: ReadonlyMap<DType, string> = new Map([
  ['f32', 'FloatStorage'],
  ['f16', 'HalfStorage'],
  ['bf16', 'BFloat16Storage'],
])

/** Collects the tensors of a file while its pickle is put together. */
export class TorchFileWriter {
  readonly #tensors: { readonly name: string; readonly recipe: Recipe }[] = []

  /** What stands for a tensor in the pickle. Throws `unsupported` for types without a storage. */
  tensor(name: string, recipe: Recipe): PickleValue {
    const storage = STORAGES.get(recipe.dtype)
    if (storage === undefined) {
      throw new AppError('unsupported', `${name} is ${recipe.dtype}, which is not written for PyTorch`, {
        where: { tensor: name },
        hint: 'Choose --dtype bf16, f16 or f32.',
      })
    }
    const { shape } = recipe
    const key = String(this.#tensors.length)
    this.#tensors.push({ name, recipe })
    const strides = shape.map((_, axis) => elementCount(shape.slice(axis + 1)))
    const id = pickledTuple('storage', pickledGlobal('torch', storage), key, 'cpu', elementCount(shape))
    return pickledCall(pickledGlobal('torch._utils', '_rebuild_tensor_v2'), [
      { kind: 'persistent', id },
      0,
      pickledTuple(...shape),
      pickledTuple(...strides),
      false,
      pickledCall(pickledGlobal('collections', 'OrderedDict'), []),
    ])
  }

  /** The file with `root` as its pickle; `stem` is the folder of all entries. */
  plan(path: string, stem: string, root: PickleValue): PlannedFile {
    return { path, ...this.planAt(0, stem, root) }
  }

  /** The same as a part of a file, from `start` on. */
  planAt(start: number, stem: string, root: PickleValue): PlannedZip {
    const text = (string: string): Uint8Array => new TextEncoder().encode(string)
    const entries = [
      { name: `${stem}/data.pkl`, bytes: writePickle(root) },
      { name: `${stem}/byteorder`, bytes: text('little') },
      ...this.#tensors.map(({ name, recipe }, key) => ({ name: `${stem}/data/${key}`, tensor: name, recipe })),
      { name: `${stem}/version`, bytes: text('3\n') },
    ]
    return planZip(entries, start)
  }
}
