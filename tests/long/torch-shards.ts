import { closeSync, openSync, readdirSync, readSync, renameSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import path from 'node:path'
import {
  ascii,
  call,
  EMPTY_DICT,
  global,
  int,
  pickle,
  SETITEM,
  text,
  tuple,
  u16,
  u32,
  type Bytes,
} from '../hostile/pickle-bytes.ts'

/** Bytes copied at a time. */
const PIECE = 2 ** 20

interface Entry {
  readonly name: string
  readonly size: number
  write(out: number): void
}

/** Turns a folder's safetensors shards in BF16 into shards as torch.save writes them, under 4 GiB each. */
export function toTorchShards(folder: string): void {
  const map: Record<string, string> = {}
  let total = 0
  for (const file of readdirSync(folder).filter((name) => name.endsWith('.safetensors'))) {
    const target = file.replace(/^model/, 'pytorch_model').replace(/\.safetensors$/, '.bin')
    const source = openSync(path.join(folder, file), 'r')
    try {
      const head = Buffer.alloc(8)
      readSync(source, head, 0, 8, 0)
      const length = Number(head.readBigUInt64LE())
      const json = Buffer.alloc(length)
      readSync(source, json, 0, length, 8)
      const tensors = Object.entries(
        JSON.parse(json.toString()) as Record<string, { shape: number[]; data_offsets: [number, number] }>,
      ).filter(([name]) => name !== '__metadata__')
      const state: Bytes[] = [EMPTY_DICT]
      const entries = tensors.map(
        (
          [
            name,
            {
              shape,
              data_offsets: [begin, end],
            },
          ],
          index,
        ): Entry => {
          map[name] = target
          total += end - begin
          state.push(text(name), rebuilt(String(index), shape), SETITEM)
          return {
            name: `archive/data/${index}`,
            size: end - begin,
            write: (out) => copy(source, 8 + length + begin, end - begin, out),
          }
        },
      )
      const data = pickle(...state)
      const pickled: Entry = { name: 'archive/data.pkl', size: data.length, write: (out) => void writeSync(out, data) }
      const version = Buffer.from('3\n')
      const last: Entry = { name: 'archive/version', size: 2, write: (out) => void writeSync(out, version) }
      writeZip(path.join(folder, target), [pickled, ...entries, last])
    } finally {
      closeSync(source)
    }
    rmSync(path.join(folder, file))
  }
  const index = { metadata: { total_size: total }, weight_map: map }
  writeFileSync(path.join(folder, 'pytorch_model.bin.index.json'), JSON.stringify(index))
  rmSync(path.join(folder, 'model.safetensors.index.json'), { force: true })
}

/** One contiguous tensor of a storage of its own. */
function rebuilt(key: string, shape: readonly number[]): Bytes {
  const count = shape.reduce((a, b) => a * b, 1)
  const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((a, b) => a * b, 1))
  const id = tuple(text('storage'), global('torch', 'BFloat16Storage'), text(key), text('cpu'), int(count))
  const sizes = (values: readonly number[]): Bytes => tuple(...values.map((value) => int(value)))
  const hooks = call(global('collections', 'OrderedDict'))
  // 0x51: the storage is looked up by its id; 0x89: no gradient
  return call(
    global('torch._utils', '_rebuild_tensor_v2'),
    [...id, 0x51],
    int(0),
    sizes(shape),
    sizes(strides),
    [0x89],
    hooks,
  )
}

function copy(source: number, from: number, length: number, out: number): void {
  const piece = Buffer.alloc(PIECE)
  for (let done = 0; done < length; done += PIECE) {
    const size = readSync(source, piece, 0, Math.min(PIECE, length - done), from + done)
    writeSync(out, piece, 0, size)
  }
}

/** A zip archive of stored entries without checksums, which PyTorch does not look at. */
function writeZip(file: string, entries: readonly Entry[]): void {
  const out = openSync(`${file}.tmp`, 'w')
  try {
    const central: Bytes = []
    let at = 0
    for (const { name, size, write } of entries) {
      const sizes = [...u32(0), ...u32(size), ...u32(size)]
      const local = [...u32(0x04034b50), ...u16(20), ...u16(0), ...u16(0), ...u32(0), ...sizes]
      const names = [...u16(ascii(name).length), ...u16(0)]
      central.push(...u32(0x02014b50), ...u16(20), ...u16(20), ...u16(0), ...u16(0), ...u32(0), ...sizes, ...names)
      central.push(...u16(0), ...u16(0), ...u16(0), ...u32(0), ...u32(at), ...ascii(name))
      const head = Uint8Array.from([...local, ...names, ...ascii(name)])
      writeSync(out, head)
      write(out)
      at += head.length + size
    }
    const end = [...u32(0x06054b50), ...u16(0), ...u16(0), ...u16(entries.length), ...u16(entries.length)]
    writeSync(out, Uint8Array.from([...central, ...end, ...u32(central.length), ...u32(at), ...u16(0)]))
  } finally {
    closeSync(out)
  }
  renameSync(`${file}.tmp`, file)
}
