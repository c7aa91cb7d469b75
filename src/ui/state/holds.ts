/** Which conversions run in some tab right now: an unfinished one that runs is not an interrupted one. */
export interface Holds {
  /** Marks a conversion as running until the function returned is called, or the tab is gone. */
  hold(key: string): () => Promise<void>
  /** The keys that some tab holds. */
  held(): Promise<ReadonlySet<string>>
}

const PREFIX = 'modelconvert-page:'

/** Holds by Web Locks, which end with their tab. */
export function createHolds(): Holds {
  return {
    hold(key) {
      let release = (): void => undefined
      const released = new Promise<void>((resolve) => {
        release = resolve
      })
      const ended = navigator.locks.request(PREFIX + key, { mode: 'shared' }, () => released)
      return async () => {
        release()
        await ended
      }
    },
    async held() {
      const { held = [] } = await navigator.locks.query()
      const names = held.map(({ name = '' }) => name).filter((name) => name.startsWith(PREFIX))
      return new Set(names.map((name) => name.slice(PREFIX.length)))
    },
  }
}
