import type { Terminal } from '../main.ts'

/** Exit status of a shell command that was interrupted from the keyboard. */
const INTERRUPTED = 130

/** The first Ctrl-C stops a job, saying `word`; a second one ends the process at once. */
export function onInterrupt(stop: () => void, terminal: Terminal, word: string): { dispose(): void } {
  let asked = false
  const listener = (): void => {
    if (asked) process.exit(INTERRUPTED)
    asked = true
    terminal.stderr.write(`\n${word}\n`)
    stop()
  }
  process.on('SIGINT', listener)
  process.on('SIGTERM', listener)
  return {
    dispose() {
      process.off('SIGINT', listener)
      process.off('SIGTERM', listener)
    },
  }
}
