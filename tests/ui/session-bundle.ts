export { AppError } from '../../src/core/errors.ts'
export { Check } from '../../src/ui/state/check.svelte.ts'
export { Session } from '../../src/ui/state/session.svelte.ts'
export { createFakeWire } from './fake-wire.ts'
