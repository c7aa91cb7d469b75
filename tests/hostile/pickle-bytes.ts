/** Builds pickles and zip archives byte by byte: nothing of the code under test, and nothing that could be run. */

export type Bytes = number[]

export const ascii = (text: string): Bytes => [...new TextEncoder().encode(text)]
const le = (value: number, length: number): Bytes =>
  Array.from({ length }, (_, i) => Math.floor(value / 2 ** (8 * i)) % 256)

export const u16 = (value: number): Bytes => le(value, 2)
export const u32 = (value: number): Bytes => le(value, 4)
export const u64 = (value: number): Bytes => le(value, 8)

export const PROTO: Bytes = [0x80, 2]
export const STOP: Bytes = [0x2e]
export const MARK: Bytes = [0x28]
export const TUPLE: Bytes = [0x74]
export const REDUCE: Bytes = [0x52]
export const EMPTY_LIST: Bytes = [0x5d]
export const EMPTY_DICT: Bytes = [0x7d]
export const EMPTY_TUPLE: Bytes = [0x29]
export const NONE: Bytes = [0x4e]
export const BUILD: Bytes = [0x62]
export const SETITEM: Bytes = [0x73]

export const text = (value: string): Bytes => [0x58, ...u32(ascii(value).length), ...ascii(value)]
export const int = (value: number): Bytes =>
  value >= -(2 ** 31) && value < 2 ** 31
    ? [0x4a, ...u32(value < 0 ? value + 2 ** 32 : value)]
    : [0x8a, 8, ...u64(value)]
export const global = (module: string, name: string): Bytes => [0x63, ...ascii(`${module}\n${name}\n`)]
/** STACK_GLOBAL, as protocol 4 imports. */
export const stackGlobal = (module: string, name: string): Bytes => [...text(module), ...text(name), 0x93]
export const tuple = (...items: Bytes[]): Bytes => [...MARK, ...items.flat(), ...TUPLE]
export const call = (callee: Bytes, ...args: Bytes[]): Bytes => [...callee, ...tuple(...args), ...REDUCE]
export const pickle = (...parts: Bytes[]): Uint8Array => Uint8Array.from([...PROTO, ...parts.flat(), ...STOP])

export interface TensorLies {
  readonly storage?: string
  readonly key?: string
  readonly numel?: Bytes
  readonly offset?: Bytes
  readonly shape?: Bytes
  readonly strides?: Bytes
}

/** One 2 x 3 f32 tensor `w` of storage 0, but for what is said otherwise. */
export function stateDict(lies: TensorLies = {}): Uint8Array {
  const id = tuple(
    text('storage'),
    global('torch', lies.storage ?? 'FloatStorage'),
    text(lies.key ?? '0'),
    text('cpu'),
    lies.numel ?? int(6),
  )
  const tensor = call(
    global('torch._utils', '_rebuild_tensor_v2'),
    [...id, 0x51],
    lies.offset ?? int(0),
    lies.shape ?? tuple(int(2), int(3)),
    lies.strides ?? tuple(int(3), int(1)),
    [0x89],
    call(global('collections', 'OrderedDict')),
  )
  return pickle(EMPTY_DICT, text('w'), tensor, SETITEM)
}

export interface ZipItem {
  readonly name: string
  readonly data: Uint8Array
  /** What the directory says where it differs from what is true. */
  readonly central?: Partial<Record<'flags' | 'method' | 'packed' | 'size' | 'offset' | 'disk', number>>
  readonly local?: Partial<Record<'flags' | 'method' | 'packed' | 'size', number>> & { readonly name?: string }
  readonly extra?: Bytes
}

export interface ZipLies {
  readonly entries?: number
  readonly directorySize?: number
  readonly directoryOffset?: number
  readonly disk?: number
  readonly comment?: Bytes
  /** Between the last payload and the directory, and after the directory. */
  readonly gap?: Bytes
  readonly behind?: Bytes
}

/** A zip archive of stored entries. CRCs are zero: PyTorch does not check them, nor do we. */
export function zip(items: readonly ZipItem[], lies: ZipLies = {}): Uint8Array {
  const out: Bytes = []
  const central: Bytes = []
  for (const { name, data, central: said = {}, local = {}, extra = [] } of items) {
    const offset = out.length
    const localName = ascii(local.name ?? name)
    out.push(...u32(0x04034b50), ...u16(20), ...u16(local.flags ?? 0), ...u16(local.method ?? 0), ...u32(0), ...u32(0))
    out.push(...u32(local.packed ?? data.length), ...u32(local.size ?? data.length))
    out.push(...u16(localName.length), ...u16(0), ...localName, ...data)
    central.push(...u32(0x02014b50), ...u16(20), ...u16(20), ...u16(said.flags ?? 0), ...u16(said.method ?? 0))
    central.push(...u32(0), ...u32(0), ...u32(said.packed ?? data.length), ...u32(said.size ?? data.length))
    central.push(...u16(ascii(name).length), ...u16(extra.length), ...u16(0), ...u16(said.disk ?? 0), ...u16(0))
    central.push(...u32(0), ...u32(said.offset ?? offset), ...ascii(name), ...extra)
  }
  out.push(...(lies.gap ?? []))
  const start = out.length
  out.push(...central, ...(lies.behind ?? []))
  const count = lies.entries ?? items.length
  out.push(...u32(0x06054b50), ...u16(lies.disk ?? 0), ...u16(lies.disk ?? 0), ...u16(count), ...u16(count))
  out.push(...u32(lies.directorySize ?? central.length), ...u32(lies.directoryOffset ?? start))
  out.push(...u16(lies.comment?.length ?? 0), ...(lies.comment ?? []))
  return Uint8Array.from(out)
}

/** A file of torch.save with this pickle and the storage of six floats. */
export function torchZip(data: Uint8Array, storage = new Uint8Array(24), others: readonly ZipItem[] = []): Uint8Array {
  return zip([
    { name: 'm/data.pkl', data },
    { name: 'm/data/0', data: storage },
    { name: 'm/version', data: Uint8Array.from(ascii('3\n')) },
    ...others,
  ])
}
