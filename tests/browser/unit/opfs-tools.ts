/** The private file system seen past the code under test. */

async function folderOf(root: string, path: string): Promise<[FileSystemDirectoryHandle, string]> {
  let folder = await navigator.storage.getDirectory()
  const parts = [root, ...path.split('/')]
  for (const part of parts.slice(0, -1)) folder = await folder.getDirectoryHandle(part, { create: true })
  return [folder, parts.at(-1)!]
}

export async function putFile(root: string, path: string, bytes: Uint8Array): Promise<void> {
  const [folder, name] = await folderOf(root, path)
  const handle = await folder.getFileHandle(name, { create: true })
  const stream = await handle.createWritable()
  await stream.write(Uint8Array.from(bytes))
  await stream.close()
}

/** Every file's path below a folder of the private file system, sorted; [] if there is no such folder. */
export async function allNames(root: string): Promise<string[]> {
  const names: string[] = []
  const walk = async (folder: FileSystemDirectoryHandle, prefix: string): Promise<void> => {
    for await (const [name, handle] of folder.entries()) {
      if (handle.kind === 'directory') await walk(handle, `${prefix}${name}/`)
      else names.push(prefix + name)
    }
  }
  const base = await navigator.storage.getDirectory()
  const folder = await base.getDirectoryHandle(root).catch(() => null)
  if (folder !== null) await walk(folder, '')
  return names.sort()
}

export async function clearStorage(): Promise<void> {
  const base = await navigator.storage.getDirectory()
  for await (const name of base.keys()) await base.removeEntry(name, { recursive: true }).catch(() => {})
}
