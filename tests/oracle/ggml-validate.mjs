// What ggml_validate_row_data says of blocks: JSON [[type, [base64, ...]], ...] on stdin, [[true, ...], ...] on stdout.
import { text } from 'node:stream/consumers'
import { loadGgml } from './ggml.mjs'

const ggml = loadGgml()
const verdicts = JSON.parse(await text(process.stdin)).map(([type, blocks]) =>
  blocks.map((block) => ggml.valid(type, Buffer.from(block, 'base64'))),
)
process.stdout.write(JSON.stringify(verdicts))
