/** Entry of the worker that holds the API and every engine; the page talks to it through the wire. */
import * as Comlink from 'comlink'
import { createApi } from '../api.ts'
import { installTransferHandlers } from '../transfer.ts'
import { createWire } from '../wire-server.ts'
import { createBrowserHost } from './host.ts'

/** The first message that the page sends, before the wire is used. */
export interface WorkerSettings {
  /** Kernel threads; 0 for as many as suit the machine. */
  readonly threads: number
}

function start(event: MessageEvent<WorkerSettings>): void {
  installTransferHandlers()
  Comlink.expose(createWire(createApi(createBrowserHost({ threads: event.data.threads }))))
}

// Messages keep their order: whatever the page asks next finds the wire exposed.
globalThis.addEventListener('message', start as EventListener, { once: true })
