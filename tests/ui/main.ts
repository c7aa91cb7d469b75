import { mount } from 'svelte'
import App from '../../src/ui/app.svelte'
import { Offline } from '../../src/ui/state/offline.svelte.ts'
import type { JobRecord } from '../../src/ui/state/records.ts'
import { Session } from '../../src/ui/state/session.svelte.ts'
import { createFakeWire } from './fake-wire.ts'
import '../../src/ui/style.css'

const asked = new URLSearchParams(location.search)
const fail = asked.get('fail')
const interrupted = asked.has('interrupted')
const wire = createFakeWire({
  ...(fail === 'open' || fail === 'job' ? { fail } : {}),
  interrupted,
  jobMs: Number(asked.get('ms') ?? 6000),
})
const record: JobRecord = {
  key: 'k0',
  title: 'Q4_K_M',
  modelName: 'Qwen3-4B',
  request: {
    input: { kind: 'sample' },
    target: 'gguf',
    options: { quant: 'q4_k_m' },
    output: { kind: 'scratch', path: 'outputs' },
    name: null,
    overwrite: true,
  },
  startedAt: Date.now() - 3_600_000,
}
const session = new Session({
  wire,
  records: {
    all: () => Promise.resolve([record]),
    put: () => Promise.resolve(),
    remove: () => Promise.resolve(),
  },
  shelf: {
    place: (name) => ({ kind: 'scratch', path: `outputs/${name}` }),
    places: () => Promise.resolve([{ kind: 'scratch', path: 'outputs/Qwen3-4B Q4_K_M' }]),
    list: () =>
      Promise.resolve(
        interrupted
          ? [
              {
                place: { kind: 'scratch', path: 'outputs/main Q8_0' },
                name: 'main-Q8_0.gguf',
                size: 6_301_888,
                files: ['main-Q8_0.gguf'],
              },
            ]
          : [],
      ),
    download: () => Promise.resolve(),
    copy: () => Promise.resolve(),
    tidy: () => Promise.resolve(),
    stages: () => Promise.resolve([]),
    sweep: () => Promise.resolve(),
    remove: () => Promise.resolve(),
  },
  holds: { hold: () => () => Promise.resolve(), held: () => Promise.resolve(new Set<string>()) },
  allowed: () => Promise.resolve(true),
  pickFolder: () => Promise.resolve({ kind: 'handle', handle: null, name: 'models' }),
})
const offline = new Offline()
offline.ready = asked.has('ready')
offline.update = asked.has('update')
offline.installable = asked.has('install')
mount(App, { target: document.getElementById('app')!, props: { session, offline } })
void session.begin()
