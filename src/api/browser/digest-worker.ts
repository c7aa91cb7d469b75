/** Entry of the worker that hashes for one {@link WorkerDigest}. */
import { createSHA256 } from 'hash-wasm'
import type { FromDigest, ToDigest } from './digest.ts'

const hasher = createSHA256()

async function answer(message: ToDigest): Promise<void> {
  const sha = await hasher
  if (message.kind === 'update') {
    sha.update(new Uint8Array(message.buffer, 0, message.length))
    postMessage({ kind: 'hashed', buffer: message.buffer } satisfies FromDigest, { transfer: [message.buffer] })
    return
  }
  // Asking for the digest ends it, so it goes on from where it was.
  const state = sha.save()
  const hex = sha.digest('hex')
  sha.load(state)
  postMessage({ kind: 'hex', hex } satisfies FromDigest)
}

addEventListener('message', (event: MessageEvent<ToDigest>) => {
  answer(event.data).catch((error: unknown) => {
    postMessage({
      kind: 'failed',
      message: error instanceof Error ? error.message : String(error),
    } satisfies FromDigest)
  })
})
