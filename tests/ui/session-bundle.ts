export { AppError } from '../../src/core/errors.ts'
export { Session } from '../../src/ui/state/session.svelte.ts'
export { createFakeWire } from './fake-wire.ts'
