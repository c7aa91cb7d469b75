import type { Place, PlacedFile } from '../../core/bytes.ts'

/** A place that has a name: one that was picked or dropped. */
export type NamedPlace = Extract<Place, { readonly name: string }>

/** The parts of File System Access that TypeScript's DOM library does not know yet. */
interface PermissionHandle {
  queryPermission?(descriptor: { mode: 'read' | 'readwrite' }): Promise<PermissionState>
  requestPermission?(descriptor: { mode: 'read' | 'readwrite' }): Promise<PermissionState>
}
interface HandleItem {
  getAsFileSystemHandle?(): Promise<FileSystemHandle | null>
}
type DirectoryPicker = (options: { id: string; mode: 'read' | 'readwrite' }) => Promise<FileSystemDirectoryHandle>

function directoryPicker(): DirectoryPicker | null {
  const picker: unknown = Reflect.get(globalThis, 'showDirectoryPicker')
  return typeof picker === 'function' ? (options) => Reflect.apply(picker, globalThis, [options]) : null
}

/** Whether this browser can pick a folder and write into it. */
export function canPickFolder(): boolean {
  return directoryPicker() !== null
}

/** Asks for a folder. Null if the user changed their mind; throws what the picker throws otherwise. */
export async function pickFolder(mode: 'read' | 'readwrite'): Promise<NamedPlace | null> {
  const picker = directoryPicker()
  if (picker === null) return null
  try {
    const handle = await picker({ id: mode === 'read' ? 'model' : 'output', mode })
    return { kind: 'handle', handle, name: handle.name }
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') return null
    throw error
  }
}

/** Asks again for a permission that the browser may have withdrawn. Must run in a click. */
export async function allowed(place: Place, mode: 'read' | 'readwrite'): Promise<boolean> {
  if (place.kind !== 'handle') return true
  const handle = place.handle as PermissionHandle
  if (handle.queryPermission === undefined || handle.requestPermission === undefined) return true
  if ((await handle.queryPermission({ mode })) === 'granted') return true
  return (await handle.requestPermission({ mode })) === 'granted'
}

/** The place that an `<input type=file>` chose; null for none. */
export function placeOfFiles(files: readonly File[]): NamedPlace | null {
  const first = files[0]
  if (first === undefined) return null
  const root = first.webkitRelativePath.split('/')[0] ?? ''
  const placed = files.map((file) => {
    const path = file.webkitRelativePath === '' ? file.name : file.webkitRelativePath.split('/').slice(1).join('/')
    return { path, file }
  })
  return { kind: 'files', name: root === '' ? nameOf(files) : root, files: placed }
}

/**
 * The place that was dropped; null if nothing usable was. Must be called in the drop event itself: its items are gone
 * after the first await.
 */
export async function placeOfDrop(transfer: DataTransfer): Promise<NamedPlace | null> {
  const items = [...transfer.items].filter((item) => item.kind === 'file')
  const handles = items.map((item) => (item as DataTransferItem & HandleItem).getAsFileSystemHandle?.() ?? null)
  const entries = items.map((item) => item.webkitGetAsEntry())
  const files = [...transfer.files]
  const only = items.length === 1 ? await handles[0]?.catch(() => null) : null
  if (only !== null && only !== undefined) return { kind: 'handle', handle: only, name: only.name }
  const directory = entries.find((entry) => entry?.isDirectory === true)
  if (directory !== null && directory !== undefined) {
    const placed: PlacedFile[] = []
    await walk(directory as FileSystemDirectoryEntry, '', placed)
    return { kind: 'files', name: directory.name, files: placed }
  }
  return placeOfFiles(files)
}

/** The file of a place that is one file; null for a folder, or several. */
export async function onlyFile(place: Place): Promise<File | null> {
  if (place.kind === 'handle') {
    return place.handle instanceof FileSystemFileHandle ? place.handle.getFile().catch(() => null) : null
  }
  const [only, ...others] = place.kind === 'files' ? place.files : []
  return others.length === 0 && only?.file instanceof File ? only.file : null
}

/** Whether files can be added to a place: a folder is complete as it is picked, a choice of files is not. */
export function canAddFiles(place: Place): boolean {
  return place.kind === 'files' || (place.kind === 'handle' && place.handle instanceof FileSystemFileHandle)
}

/**
 * A place with more files in it; those that have the name of one in `wanted` come to its path. Null for a place that
 * nothing can be added to.
 */
export async function withFiles(
  place: Place,
  files: readonly File[],
  wanted: readonly string[],
): Promise<Place | null> {
  const only = place.kind === 'handle' ? await onlyFile(place) : null
  const before = place.kind === 'files' ? place.files : only === null ? null : [{ path: only.name, file: only }]
  if (before === null || !('name' in place)) return null
  const added = files.map((file): PlacedFile => {
    const path = wanted.find((name) => name.split('/').at(-1)?.toLowerCase() === file.name.toLowerCase())
    return { path: path ?? file.name, file }
  })
  const fresh = new Set(added.map(({ path }) => path))
  const name = only === null ? place.name : nameOf([only, ...files])
  return { kind: 'files', name, files: [...before.filter(({ path }) => !fresh.has(path)), ...added] }
}

/** The File objects of a place that is made of them, or of one file; none of a folder. */
export async function filesOf(place: Place): Promise<readonly File[]> {
  const only = await onlyFile(place)
  if (only !== null) return [only]
  return place.kind === 'files' ? place.files.flatMap(({ file }) => (file instanceof File ? file : [])) : []
}

/** A place with what was dropped, if some of that is wanted there; null otherwise. */
export async function withDropped(place: Place, dropped: Place, wanted: readonly string[]): Promise<Place | null> {
  const all = await filesOf(dropped)
  const names = new Set(wanted.map((path) => path.split('/').at(-1)?.toLowerCase()))
  if (!all.some(({ name }) => names.has(name.toLowerCase()))) return null
  return withFiles(place, all, wanted)
}

/** The files that make a folder one of an adapter. */
const ADAPTER_FILES = ['adapter_config.json', 'adapter_model.safetensors', 'adapter_model.bin']

/** Whether a place looks like a LoRA adapter, by the names at its top. What it is, opening it will say. */
export async function looksLikeAdapter(place: Place): Promise<boolean> {
  const names = await topNames(place, [...ADAPTER_FILES, 'config.json'])
  return !names.includes('config.json') && names.some((name) => ADAPTER_FILES.includes(name))
}

/** Which of some names a place has at its top. */
async function topNames(place: Place, names: readonly string[]): Promise<readonly string[]> {
  if (place.kind === 'files') return names.filter((name) => place.files.some(({ path }) => path === name))
  if (place.kind !== 'handle') return []
  const { handle } = place
  if (!(handle instanceof FileSystemDirectoryHandle)) return names.filter((name) => name === place.name)
  const found = names.map((name) =>
    handle.getFileHandle(name).then(
      () => [name],
      () => [],
    ),
  )
  return (await Promise.all(found)).flat()
}

async function walk(directory: FileSystemDirectoryEntry, prefix: string, into: PlacedFile[]): Promise<void> {
  const reader = directory.createReader()
  for (;;) {
    const batch = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject))
    if (batch.length === 0) return
    for (const entry of batch) {
      if (entry.isDirectory) {
        await walk(entry as FileSystemDirectoryEntry, `${prefix}${entry.name}/`, into)
      } else {
        const file = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject))
        into.push({ path: prefix + entry.name, file })
      }
    }
  }
}

/** What loose files are called together: as the largest, which is the weights or a part of them, without its ending. */
function nameOf(files: readonly File[]): string {
  const size = files.reduce((most, file) => Math.max(most, file.size), 0)
  const largest = files.find((file) => file.size === size)?.name ?? ''
  const dot = largest.lastIndexOf('.')
  return (dot > 0 ? largest.slice(0, dot) : largest).replace(/(?<=.)-\d{5}-of-\d{5}$/, '')
}
