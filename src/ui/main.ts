import { mount } from 'svelte'
import App from './app.svelte'
import { connect } from './state/client.ts'
import { createHolds } from './state/holds.ts'
import { Offline } from './state/offline.svelte.ts'
import { allowed, pickFolder } from './state/places.ts'
import { createRecords } from './state/records.ts'
import { Session } from './state/session.svelte.ts'
import { createShelf } from './state/storage.ts'
import './style.css'

const target = document.getElementById('app')
if (target === null) throw new Error('index.html has no #app')

// ?threads=1 in the address limits the kernel threads: to measure, or to spare a machine.
const wire = connect(Number(new URLSearchParams(location.search).get('threads') ?? 0) || 0)
const session = new Session({
  wire,
  records: createRecords(),
  shelf: createShelf(),
  holds: createHolds(),
  allowed,
  pickFolder,
})
const offline = new Offline()
mount(App, { target, props: { session, offline } })
void session.begin()
if (import.meta.env.PROD) void offline.start('./sw.js', () => session.screen === 'start')
