/// <reference lib="webworker" />
import { PrecacheController, type PrecacheEntry } from 'workbox-precaching'

/**
 * Keeps the whole app (and the sample) for offline use, and gives every response the headers that make the page
 * cross-origin isolated, so that threads work on hosts that cannot be told to send them.
 */
declare const self: ServiceWorkerGlobalScope & { readonly __WB_MANIFEST: (PrecacheEntry | string)[] }

const precache = new PrecacheController()
precache.addToCacheList(self.__WB_MANIFEST)

self.addEventListener('install', (event) => void precache.install(event))

self.addEventListener('activate', (event) => {
  void precache.activate(event)
  event.waitUntil(self.clients.claim())
})

self.addEventListener('message', (event) => {
  if (event.data === 'skip-waiting') void self.skipWaiting()
})

self.addEventListener('fetch', (event) => {
  const { request } = event
  if (request.method !== 'GET' || new URL(request.url).origin !== self.location.origin) return
  event.respondWith(respond(request))
})

async function respond(request: Request): Promise<Response> {
  const url = request.mode === 'navigate' ? new URL('index.html', self.registration.scope).href : request.url
  const isAppPage = request.mode !== 'navigate' || samePage(request.url)
  const cached = isAppPage ? await precache.matchPrecache(url) : undefined
  return isolated(cached ?? (await fetch(request)))
}

/** Whether a navigation goes to the app itself: its folder or its index.html, whatever the query. */
function samePage(url: string): boolean {
  const { pathname } = new URL(url)
  const home = new URL(self.registration.scope).pathname
  return pathname === home || pathname === `${home}index.html`
}

function isolated(response: Response): Response {
  // Status 0 is an opaque answer and 304 has no body to wrap; neither can carry headers of ours.
  if (response.status === 0 || response.body === null) return response
  const headers = new Headers(response.headers)
  headers.set('Cross-Origin-Opener-Policy', 'same-origin')
  headers.set('Cross-Origin-Embedder-Policy', 'require-corp')
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers })
}
