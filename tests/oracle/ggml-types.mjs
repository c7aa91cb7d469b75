// Prints ggml's element types as JSON: [{ id, name, block, bytes }], in a process of its own.
import { createRequire } from 'node:module'
import path from 'node:path'
import { libraryFolder } from './library.mjs'

const { folder, reason } = libraryFolder()
if (folder === null) throw new Error(reason)
const ggml = createRequire(import.meta.url)('koffi').load(path.join(folder, 'libggml-base.so'))
const name = ggml.func('const char *ggml_type_name(int type)')
const block = ggml.func('int64_t ggml_blck_size(int type)')
const bytes = ggml.func('size_t ggml_type_size(int type)')
/** GGML_TYPE_COUNT of llama.cpp v0.5.0. */
const COUNT = 43
const types = Array.from({ length: COUNT }, (_, id) => ({
  id,
  name: name(id),
  block: Number(block(id)),
  bytes: Number(bytes(id)),
}))
// removed types keep their number with a size of nothing
process.stdout.write(JSON.stringify(types.filter((type) => type.bytes > 0)))
