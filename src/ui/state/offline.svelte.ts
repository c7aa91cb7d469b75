/** The install prompt of Chromium browsers. */
interface InstallPrompt extends Event {
  prompt(): Promise<{ outcome: 'accepted' | 'dismissed' }>
}

const RELOADED = 'modelconvert.reloaded-for-isolation'

/** What the service worker and the browser offer: offline work, updates, installation, isolation. */
export class Offline {
  /** Everything was stored just now. */
  ready = $state(false)
  /** Everything is stored: the page works without a network. */
  works = $state(false)
  /** A newer version waits. */
  update = $state(false)
  installable = $state(false)
  /** A reload would let the page use all cores. */
  wantsReload = $state(false)
  #prompt: InstallPrompt | null = null
  #waiting: ServiceWorker | null = null

  /** Registers the service worker. `idle` says whether a reload would disturb nobody. */
  async start(url: string, idle: () => boolean): Promise<void> {
    window.addEventListener('beforeinstallprompt', (event) => {
      event.preventDefault()
      this.#prompt = event as InstallPrompt
      this.installable = true
    })
    window.addEventListener('appinstalled', () => {
      this.installable = false
    })
    if (!('serviceWorker' in navigator)) return
    const container = navigator.serviceWorker
    const first = container.controller === null
    if (!first && sessionStorage.getItem(RELOADED) === 'just') {
      sessionStorage.setItem(RELOADED, 'yes')
      this.ready = true
    }
    this.works = !first
    container.addEventListener('controllerchange', () => {
      if (this.update) location.reload()
      else if (first) this.#isolate(idle)
    })
    // A host that forbids it (or a browser that blocks it) only costs offline work.
    const registration: ServiceWorkerRegistration | null | undefined = await container.register(url).catch(() => null)
    if (registration === null || registration === undefined) return
    if (registration.waiting !== null && !first) this.#offer(registration.waiting)
    registration.addEventListener('updatefound', () => this.#watch(registration.installing, first))
    this.#watch(registration.installing, first)
  }

  #watch(worker: ServiceWorker | null, first: boolean): void {
    worker?.addEventListener('statechange', () => {
      if (worker.state === 'installed' && !first) this.#offer(worker)
      if (worker.state === 'activated' && first) this.ready = this.works = true
    })
  }

  #offer(worker: ServiceWorker): void {
    this.#waiting = worker
    this.update = true
  }

  /** The first load on a static host has no isolation headers; the service worker adds them to the second. */
  #isolate(idle: () => boolean): void {
    if (globalThis.crossOriginIsolated) return
    if (idle() && sessionStorage.getItem(RELOADED) === null) {
      sessionStorage.setItem(RELOADED, 'just')
      location.reload()
    } else {
      this.wantsReload = sessionStorage.getItem(RELOADED) === null
    }
  }

  /** Lets the newer version take over; the page reloads once it has. */
  applyUpdate(): void {
    this.#waiting?.postMessage('skip-waiting')
  }

  async install(): Promise<void> {
    await this.#prompt?.prompt()
    this.#prompt = null
    this.installable = false
  }
}
