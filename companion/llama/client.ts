import { fork, type ChildProcess } from 'node:child_process'
import { AppError, throwIfAborted } from '../../src/core/errors.ts'
import type { Operation, Operations, Reply } from './protocol.ts'

/** Characters of what the process printed that are kept, for the message if it breaks down. */
const LOG_TAIL = 2000

interface Waiting {
  readonly resolve: (answer: unknown) => void
  readonly reject: (error: AppError) => void
}

/** The process that runs llama.cpp, as long as it lives. An abort kills it. */
export class LlamaProcess {
  readonly #child: ChildProcess
  readonly #waiting = new Map<number, Waiting>()
  readonly #exited: Promise<void>
  readonly #signal: AbortSignal
  readonly #kill = (): void => void this.#child.kill('SIGKILL')
  #log = ''
  #next = 1
  #gone: AppError | null = null

  constructor(script: string, signal: AbortSignal) {
    throwIfAborted(signal)
    this.#signal = signal
    this.#child = fork(script, {
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      execArgv: [],
    })
    this.#child.stderr?.on('data', (chunk: Buffer) => (this.#log = (this.#log + chunk.toString()).slice(-LOG_TAIL)))
    this.#child.on('message', (message) => this.#answered(message as Reply))
    this.#exited = new Promise((resolve) => {
      const end = (why: string, cause?: unknown): void => {
        this.#end(why, cause)
        resolve()
      }
      this.#child.on('error', (error) => end(error.message, error))
      // after its last words, where there are any
      this.#child.on('close', (code, name) => end(name === null ? `exit status ${code}` : `the signal ${name}`))
    })
    signal.addEventListener('abort', this.#kill)
  }

  /** Asks for something. Throws `malformed` where llama.cpp refuses, `device` where it breaks down, `cancelled`. */
  async call<K extends Operation>(op: K, ask: Operations[K]['ask']): Promise<Operations[K]['answer']> {
    throwIfAborted(this.#signal)
    if (this.#gone !== null) throw this.#gone
    const id = this.#next++
    const answer = new Promise<unknown>((resolve, reject) => this.#waiting.set(id, { resolve, reject }))
    this.#child.send({ id, op, ask })
    return (await answer) as Operations[K]['answer']
  }

  /** Ends the process. */
  async close(): Promise<void> {
    this.#signal.removeEventListener('abort', this.#kill)
    this.#kill()
    await this.#exited
  }

  #answered(reply: Reply): void {
    const one = this.#waiting.get(reply.id)
    this.#waiting.delete(reply.id)
    if ('answer' in reply) one?.resolve(reply.answer)
    else if (reply.refused) one?.reject(new AppError('malformed', `llama.cpp refuses it: ${reply.error}`))
    else one?.reject(new AppError('device', `llama.cpp failed: ${reply.error}`))
  }

  #end(how: string, cause?: unknown): void {
    const said = this.#log.trim().split('\n').at(-1) ?? ''
    const cancelled = this.#signal.aborted
    this.#gone ??= cancelled
      ? new AppError('cancelled', 'The run of llama.cpp was stopped.')
      : new AppError('device', `llama.cpp broke down (${how})${said === '' ? '' : `: ${said}`}`, {
          hint: 'The file may hold something that llama.cpp does not expect, or the memory ran out.',
          cause,
        })
    for (const { reject } of this.#waiting.values()) reject(this.#gone)
    this.#waiting.clear()
  }
}
